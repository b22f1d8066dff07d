r"""Label generation by two processes of one thread each, beside one: make_pseudo_labels.py, alone and under torchrun.

    python -m benchmarks.label_processes
    python -m benchmarks.label_processes --load_path experiments/classifier/last.pth --data_dir data/voc12 \
        --list voc12/train_id.txt --image_labels voc12/cls_labels.npy \
        --saliency_dir experiments/saliency/ours/VOC2012 -- --batch 1

CAMs from a classifier at four scales with mirror images, labels from them, and the selector. Scenes are drawn and the
classifier has random weights unless flags name others: neither changes the time. Start-up, which is constant, is what a
run on `--few` images takes; work is the rest. A process computes by one thread, but others of it read and write files,
on a second core where there is one: so one process also stands there on one core alone. All take turns, and the
fastest of each counts. What follows `--` are flags of make_pseudo_labels.py.
"""

import argparse
import shlex
import sys
import tempfile
from operator import attrgetter
from pathlib import Path

from benchmarks.commands import Cost, run_measured
from benchmarks.label_trees import LabelTree, add_tree_flags, repeated_tree, source_tree
from benchmarks.report import device_kind, environment_line, keep
from formats.voc_layout import find_voc_root, load_class_names
from metrics.tables import markdown_table
from models.cam_classifier import build_cam_classifier
from utils.checkpoint import save_checkpoint

RUNS = {"one process on one core": (1, 1), "one process": (1, None), "two": (2, None)}  # processes, cores
TURNS = 2


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Label generation by two processes beside one.")
    add_tree_flags(parser, needs_cams=False)
    parser.add_argument("--load_path", metavar="FILE", help="classifier (default: mobilenetv2_035 of random weights)")
    parser.add_argument("--images", type=int, default=240, help="to label; files are used repeatedly")
    parser.add_argument("--few", type=int, default=8, help="images of the run that tells what the start takes")
    parser.add_argument("--name", default="label_processes", help="of the file in benchmarks/results")
    parser.add_argument("flags", nargs="*", help="flags of make_pseudo_labels.py, after --")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = source_tree(args, folder / "source")
        checkpoint = args.load_path or random_classifier(source, folder / "classifier.pth")
        costs = {}
        for count in (args.few, args.images):
            tree = repeated_tree(source, folder / str(count), args.files, count, with_cams=False)
            turns = [[label(tree, checkpoint, args.flags, *run) for run in RUNS.values()] for _ in range(TURNS)]
            costs[count] = [min(costs_of_one, key=attrgetter("seconds")) for costs_of_one in zip(*turns)]
    command = f"python -m benchmarks.label_processes {shlex.join(argv)}".rstrip()
    keep(f"{args.name}_{device_kind()}", command, [table(costs, args.few, args.images), environment_line()])


def random_classifier(source: LabelTree, path: Path) -> Path:
    """A checkpoint of a small classifier that has learned nothing."""
    classes = list(load_class_names(find_voc_root(source.data_dir)))
    settings = {"backbone": "mobilenetv2_035", "backbone_args": {}, "pixel_mean": None, "pixel_std": None}
    settings["classes"] = classes
    save_checkpoint(path, "classification", settings, build_cam_classifier(settings), {})
    return path


def label(tree: LabelTree, checkpoint: Path, more_flags: list[str], processes: int, cores: int | None) -> Cost:
    """Labels a tree, from nothing, by so many processes of one thread, on so many cores."""
    made = Path(tempfile.mkdtemp(prefix=f"by_{processes}_", dir=tree.data_dir))
    flags = tree.flags("data_dir", "list", "image_labels", "saliency_dir")
    flags += ["--load_path", str(checkpoint), "--selector", "sos"]
    flags += ["--cam_dir", f"{made}/cams", "--label_name", f"{made}/labels", *more_flags]
    return run_measured("make_pseudo_labels.py", flags, processes, threads=1, cores=cores)


def table(costs: dict[int, list[Cost]], few: int, many: int) -> str:
    """Rows of times and memory of all `RUNS`, and how many times as fast as each of the others the last is."""
    start, whole = ([cost.seconds for cost in costs[count]] for count in (few, many))
    work = [all_s - start_s for all_s, start_s in zip(whole, start)]
    times = {f"{few} images: start-up": start, f"{many} images: whole": whole, f"{many - few} images: work": work}
    rows = [[name, *(f"{one:.2f} ({one / each[-1]:.2f} ×)" for one in each)] for name, each in times.items()]
    rows.append(["peak memory, MB", *(f"{cost.peak_mb:.0f}" for cost in costs[many])])
    return markdown_table(["wall time, s (times that of two)", *RUNS], rows)


if __name__ == "__main__":
    main(sys.argv[1:])
