r"""Label generation by two processes of one thread each, beside one: make_pseudo_labels.py, alone and under torchrun.

    python -m benchmarks.label_processes
    python -m benchmarks.label_processes --load_path experiments/classifier/last.pth --data_dir data/voc12 \
        --list voc12/train_id.txt --image_labels voc12/cls_labels.npy \
        --saliency_dir experiments/saliency/ours/VOC2012 -- --batch 1

CAMs from a classifier at four scales with mirror images, labels from them, and the selector. Scenes are drawn and the
classifier has random weights unless flags name others: neither changes the time. Start-up, which is constant, is what a
run on `--few` images takes; work is the rest. One process and two take turns, and the fastest counts. What follows
`--` are flags of make_pseudo_labels.py.
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
from metrics.tables import markdown_table
from models.cam_classifier import build_cam_classifier
from utils.checkpoint import save_checkpoint
from voc_layout import find_voc_root, load_class_names

PROCESSES = (1, 2)
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
            turns = [[label(tree, checkpoint, args.flags, each) for each in PROCESSES] for _ in range(TURNS)]
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


def label(tree: LabelTree, checkpoint: Path, more_flags: list[str], processes: int) -> Cost:
    """Labels a tree, from nothing, by so many processes of one thread."""
    made = Path(tempfile.mkdtemp(prefix=f"by_{processes}_", dir=tree.data_dir))
    flags = tree.flags("data_dir", "list", "image_labels", "saliency_dir")
    flags += ["--load_path", str(checkpoint), "--selector", "sos"]
    flags += ["--cam_dir", f"{made}/cams", "--label_name", f"{made}/labels", *more_flags]
    return run_measured("make_pseudo_labels.py", flags, processes, threads=1)


def table(costs: dict[int, list[Cost]], few: int, many: int) -> str:
    """Rows of times, all of one process, of two, and how many times as fast these are."""
    start, whole = ([cost.seconds for cost in costs[count]] for count in (few, many))
    work = [all_s - start_s for all_s, start_s in zip(whole, start)]
    times = {f"{few} images: start-up": start, f"{many} images: whole": whole, f"{many - few} images: work": work}
    rows = [
        [name, *(f"{seconds:.2f}" for seconds in pair), f"{pair[0] / pair[1]:.2f} ×"] for name, pair in times.items()
    ]
    memory = [cost.peak_mb for cost in costs[many]]
    rows.append(["peak memory, MB", *(f"{held:.0f}" for held in memory), f"{memory[1] / memory[0]:.2f} ×"])
    return markdown_table(["wall time, s", "one process", "two", "times as fast"], rows)


if __name__ == "__main__":
    main(sys.argv[1:])
