r"""What the files of an image take: size on disk, processor time to read and to write.

    python -m benchmarks.file_costs
    python -m benchmarks.file_costs --data_dir data/voc12 --list voc12/train_id.txt \
        --image_labels voc12/cls_labels.npy --saliency_dir experiments/saliency/ours/VOC2012 \
        --cam_dir experiments/cams/default

One core; the files are in the system's memory after their first turn, which does not count.
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from benchmarks.label_trees import add_tree_flags, source_tree
from benchmarks.report import environment_line, keep
from formats.cams import load_cams, save_cams
from formats.images import image_size, load_grey, load_image, save_grey
from formats.labels import load_label, save_label
from formats.voc_layout import files_of_ids, find_voc_root, load_ids, truth_folder
from metrics.tables import markdown_table


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Size and time of the files of an image.")
    add_tree_flags(parser, needs_cams=True)
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        tree = source_tree(args, Path(folder) / "source")
        voc_root, ids = find_voc_root(tree.data_dir), load_ids(tree.list)[: args.files]
        photographs = files_of_ids(voc_root / "JPEGImages", ids, ".jpg")
        rows = [
            ["photograph, its header alone", "", f"{mean_ms(image_size, photographs):.2f}", ""],
            ["photograph, JPEG", *costs(photographs, load_image)],
            ["saliency map, PNG", *costs(files_of_ids(tree.saliency_dir, ids, ".png"), load_grey, save_grey)],
            ["CAMs, npz", *costs(files_of_ids(tree.cam_dir, ids, ".npz"), load_cams, save_maps)],
            ["label map, PNG", *costs(files_of_ids(truth_folder(voc_root, ids), ids, ".png"), load_label, save_label)],
        ]
    command = f"python -m benchmarks.file_costs {shlex.join(argv)}".rstrip()
    table = markdown_table([f"mean of {len(ids)} files", "KB", "read, ms", "write, ms"], rows)
    keep("file_costs", command, [table, environment_line()])


def save_maps(path: Path, maps_and_classes: tuple) -> None:
    save_cams(path, *maps_and_classes)


def costs(files, load: Callable, save: Callable | None = None) -> list[str]:
    """Cells: size in KB, time to read in ms, time to write in ms."""
    kb = sum(path.stat().st_size for path in files) / len(files) / 1e3
    cells = [f"{kb:.1f}", f"{mean_ms(load, files):.2f}"]
    if save is None:
        return [*cells, ""]
    contents = {place: load(path) for place, path in enumerate(files)}
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder)
        return [
            *cells,
            f"{mean_ms(lambda place: save(new / f'{place}{files[0].suffix}', contents[place]), contents):.2f}",
        ]


def mean_ms(work: Callable, items) -> float:
    """Processor time of `work(item)`, after a turn over all items that does not count."""
    for item in items:
        work(item)
    started = time.process_time()
    for item in items:
        work(item)
    return 1e3 * (time.process_time() - started) / len(items)


if __name__ == "__main__":
    main(sys.argv[1:])
