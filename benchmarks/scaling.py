r"""Time and memory of label generation and evaluation as the number of images grows.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --data_dir data/voc12 --list voc12/train_id.txt --image_labels voc12/cls_labels.npy \
        --saliency_dir experiments/saliency/ours/VOC2012 --cam_dir experiments/cams/default

Fusion (rule oaa) and selection are make_pseudo_labels.py from stored CAMs, evaluation is evaluate.py labels on its
result; each in new processes. A few files, drawn unless flags name others, are repeated as links under new ids: the
system has them in memory, so times are those of the processor and of writing. Of several turns the fastest counts, and
the largest memory: that of all processes together, without libraries.
"""

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.commands import Cost, run_measured
from benchmarks.label_trees import LabelTree, add_tree_flags, repeated_tree, source_tree
from benchmarks.report import environment_line, keep
from metrics.tables import markdown_table

STAGES = ("fusion and selection", "evaluation")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Growth of time and memory with the number of images.")
    add_tree_flags(parser, needs_cams=True)
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[100, 1000, 10000], help="numbers of images, three or more"
    )
    parser.add_argument("--turns", type=int, default=3, help="runs of each")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        source = source_tree(args, Path(temporary) / "source")
        costs = {}
        for count in sorted(args.counts):
            tree = repeated_tree(source, Path(temporary) / str(count), args.files, count, with_cams=True)
            turns = [label_and_evaluate(tree, tree.data_dir / f"labels{turn}") for turn in range(args.turns)]
            costs[count] = [best(stage) for stage in zip(*turns)]
            print(f"{count} images: {', '.join(f'{cost.seconds:.1f} s' for cost in costs[count])}", flush=True)
    command = f"python -m benchmarks.scaling {shlex.join(argv)}".rstrip()
    parts = []
    for place, stage in enumerate(STAGES):
        parts += growth(stage, {count: of_stages[place] for count, of_stages in costs.items()})
    keep("scaling", command, [*parts, environment_line()])


def best(turns: tuple[Cost, ...]) -> Cost:
    """The time of the fastest, and the largest memory."""
    return Cost(min(cost.seconds for cost in turns), max(cost.peak_mb for cost in turns))


def label_and_evaluate(tree: LabelTree, labels: Path) -> tuple[Cost, Cost]:
    """What the two stages cost on a tree; the labels go to a new folder."""
    flags = tree.flags("data_dir", "list", "image_labels")
    maps = ["--selector", "sos", "--fusion", "oaa", *tree.flags("saliency_dir", "cam_dir")]
    made = run_measured("make_pseudo_labels.py", [*flags, *maps, "--label_name", str(labels)], threads=1)
    return made, run_measured("evaluate.py", ["labels", *flags, "--pred", str(labels)], threads=1)


def growth(stage: str, costs: dict[int, Cost]) -> list[str]:
    """A table with a row for each number of images, rising, and a line that tells how time and memory grow."""
    (fewest, first), *others = costs.items()
    rows = [[fewest, f"{first.seconds:.2f}", "", "", f"{first.peak_mb:.0f}", ""]]
    for count, cost in others:
        more_ms = 1e3 * (cost.seconds - first.seconds) / (count - fewest)
        ratios = cost.seconds / first.seconds, cost.peak_mb / first.peak_mb
        times, memory = (f"{ratio:.2f} ×" for ratio in ratios)
        rows.append([count, f"{cost.seconds:.2f}", times, f"{more_ms:.2f}", f"{cost.peak_mb:.0f}", memory])
    header = [f"{stage}: images", "s", f"of {fewest}", f"ms/image beyond {fewest}", "peak memory, MB", f"of {fewest}"]
    more = {count - fewest: cost.seconds - first.seconds for count, cost in others}
    last, largest = others[-1]
    kb_each = 1e3 * (largest.peak_mb - first.peak_mb) / (last - fewest)
    line = (
        f"Time beyond that of {fewest} images grows with the power {exponent(more):.2f} of the images beyond {fewest}; "
        f"memory by {kb_each:.2f} KB for each."
    )
    return [markdown_table(header, rows), line]


def exponent(seconds: dict[int, float]) -> float:
    """p of the power law that is nearest to times by count, on logarithmic scales."""
    counts, times = np.array(list(seconds)), np.maximum(list(seconds.values()), 1e-3)
    return float(np.polyfit(np.log(counts), np.log(times), 1)[0])


if __name__ == "__main__":
    main(sys.argv[1:])
