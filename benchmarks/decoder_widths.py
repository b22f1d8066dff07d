"""Decoder widths of the saliency network side by side: quality after the same training, size, speed.

    python -m benchmarks.decoder_widths --train_root dataset/ECSSD --val_root dataset/benchmark/ECSSD \\
        --widths 16 32 paper -- --backbone mobilenetv2_035 --pretrained none --max_epoch 5

What follows `--` are flags of SOD_train.py, the same for every width. Prints a table, kept in benchmarks/results/.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import options
from benchmarks.report import environment_line, keep
from metrics.tables import markdown_table
from models.saliency_losses import saliency_objective
from models.saliency_net import build_saliency_net

PROJECT = Path(__file__).resolve().parent.parent
TIMED_BATCH = 4
REPEATS = 3


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Compare decoder widths.", allow_abbrev=False)
    parser.add_argument("--train_root", required=True, help="saliency data set to train on")
    parser.add_argument("--val_root", required=True, help="data set to score the last checkpoint on")
    parser.add_argument("--widths", nargs="+", required=True, help="`paper` or numbers of channels")
    parser.add_argument("flags", nargs="*", help="flags of SOD_train.py, after --")
    args = parser.parse_args(argv)
    rows, scored = [], []
    for width in args.widths:
        flags = [*args.flags, "--decoder_width", width]
        scores = train(flags, args.train_root, args.val_root)
        millions, train_ms, predict_ms = measure(options.SOD_train().parse_args(flags))
        scored.append((width, train_ms, predict_ms))
        quality = [f"{scores[f'val/{name}']:.4f}" for name in ("MAE", "maxF", "S")]
        rows.append([width, f"{millions:.2f}", *quality, f"{train_ms:.0f}", f"{predict_ms:.0f}"])
        print(f"width {width}: {' '.join(rows[-1][1:])}", flush=True)
    header = ["decoder", "parameters, M", "MAE ↓", "max F ↑", "S ↑", "training step, ms/image", "prediction, ms/image"]
    slowest, fastest = (choose(scored, key=lambda row: row[1]) for choose in (max, min))
    ratios = (
        f"{fastest[0]} against {slowest[0]}: training steps {slowest[1] / fastest[1]:.1f} times as fast, "
        f"prediction {slowest[2] / fastest[2]:.1f} times"
    )
    command = f"python -m benchmarks.decoder_widths {' '.join(argv)}"
    keep("decoder_widths", command, [markdown_table(header, rows), ratios, environment_line()])


def train(flags: list[str], train_root: str, val_root: str) -> dict[str, float]:
    """Trains a network in a folder of its own; returns the scores of the last checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        places = ["--train_root", train_root, "--val_root", val_root, "--val_every", "1000000"]
        command = [sys.executable, str(PROJECT / "SOD_train.py"), *flags, *places, "--log_path", folder, "--tag", "run"]
        subprocess.run(command, check=True)
        return json.loads((Path(folder) / "run/log.jsonl").read_text().splitlines()[-1])


def measure(args) -> tuple[float, float, float]:
    """Millions of parameters; ms per image of a training step (without optimizer) and of a prediction."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    settings = options.backbone_settings(args) | {"decoder_width": args.decoder_width, "image_size": args.image_size}
    network = build_saliency_net(settings).to(device, memory_format=layout)
    images = torch.randn(TIMED_BATCH, 3, args.image_size, args.image_size, device=device).contiguous(
        memory_format=layout
    )
    masks = (torch.rand(TIMED_BATCH, 1, args.image_size, args.image_size, device=device) > 0.5).float()

    def step():
        saliency_objective(network(images), masks, args.edge_loss)["loss"].backward()

    @torch.inference_mode()
    def predict():
        network(images)

    train_ms = milliseconds(step, device)
    network.eval()
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    return millions, train_ms / TIMED_BATCH, milliseconds(predict, device) / TIMED_BATCH


def milliseconds(work, device) -> float:
    """The fastest of a few repetitions, after one that does not count."""
    times = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
    return min(times[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
