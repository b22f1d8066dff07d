"""One table and one JSON file of a GPU, for benchmarks/results: trainings, CAMs and segmentations beside plain loops.

Called by gpu_check.sh. Scenes are drawn, weights random. The peak is that of one large product of bfloat16 matrices.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import inference, training_step
from benchmarks.report import RESULTS, device_kind, environment_line, time_cells
from benchmarks.timing import milliseconds
from benchmarks.training_step import DRAWN_HW
from datasets.drawn_scenes import write_saliency_scenes
from formats.atomic_files import write_text
from metrics.tables import markdown_table

RESNEST = "--backbone resnest14 --backbone_args channels=8,8,16,32 stem_width=8 --crop_size 48 --head_width 16"
SWIN = "--backbone swin_tiny_patch4_window7_224 --decoder_width 8 --image_size 64"
SMALL = {"segmentation": RESNEST, "saliency": f"{SWIN} --backbone_args embed_dim=16 depths=1,1,1,1 num_heads=1,1,2,2"}
HEADER = [
    "",
    "plain loop, ms",
    "ours, ms",
    "speed-up",
    "plain loop, GB",
    "ours, GB",
    "ours, TFLOPS",
    "share of the peak",
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of a GPU.")
    parser.add_argument("--tests", required=True, help="the result of `pytest -m gpu`")
    parser.add_argument("--train_batch", help="images per step, if the default does not fit into memory")
    parser.add_argument("--small", action="store_true", help="tiny networks, as a rehearsal on CPUs")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR", help="folder of the two files")
    args = parser.parse_args()
    rows, peak = [], measure_peak(256 if args.small else 8192)
    for network in training_step.TASKS:
        flags = SMALL[network].split() if args.small else []
        flags += ["--train_batch", args.train_batch] if args.train_batch else []
        rows.append(training_step.measure(network, flags, turns=5))
    backbone, count, size_hw = ("mobilenetv2_035", 2, (64, 80)) if args.small else ("resnest101", 16, DRAWN_HW)
    with tempfile.TemporaryDirectory() as folder:
        write_saliency_scenes(Path(folder) / "DRAWN", count, 0, *size_hw)
        photographs = {"input": f"{folder}/DRAWN/Images", "images": count}
        how = {"backbone": backbone, "batch": "0", "onnx": False, "amp": "True"}
        rows += inference.measure(argparse.Namespace(**photographs, **how))
    name, content = f"gpu_check_{device_kind()}", {"environment": environment_line(), "tests": args.tests}
    write_text(args.output / f"{name}.json", json.dumps(content | {"peak_tflops": peak, "rows": rows}, indent=1) + "\n")
    table = markdown_table(HEADER, [table_row(row, peak) for row in rows])
    parts = [f"# {name}", "    recipes/gpu_check.sh", f"pytest -m gpu: {args.tests}", table, f"peak: {peak:.1f} TFLOPS"]
    write_text(args.output / f"{name}.md", "\n\n".join([*parts, environment_line()]) + "\n")
    print((args.output / f"{name}.md").read_text())


def measure_peak(side: int) -> float:
    """TFLOPS of a product of two bfloat16 matrices of this side."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    ms = milliseconds({"product": lambda _: (matrix @ matrix)[0, 0].item()}, [["product"]], turns=10)
    return 2 * side**3 / 1e9 / ms["product"]


def table_row(row: dict, peak: float) -> list[str]:
    """Cells of the table: times per step or image; memory and TFLOPS of trainings."""
    cells = time_cells(row)
    if "tflop" not in row:
        return [*cells, "", "", "", ""]
    tflops = row["tflop"] / row["ours_ms"] * 1e3
    return [*cells, f"{row['plain_gb']:.1f}", f"{row['ours_gb']:.1f}", f"{tflops:.1f}", f"{100 * tflops / peak:.0f} %"]


if __name__ == "__main__":
    main()
