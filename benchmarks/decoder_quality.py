r"""Decoder widths of the saliency network side by side: scores after the same training.

    python -m benchmarks.decoder_quality --train_root dataset/ECSSD --val_root dataset/benchmark/ECSSD \
        --widths 16 32 paper -- --backbone mobilenetv2_035 --pretrained none --max_epoch 5

What follows `--` are flags of SOD_train.py, the same for every width; scored is the last checkpoint.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import environment_line, keep
from metrics.tables import markdown_table

PROJECT = Path(__file__).resolve().parent.parent
SCORES = {"MAE ↓": "val/MAE", "max F ↑": "val/maxF", "mean F ↑": "val/meanF", "S ↑": "val/S", "training loss": "loss"}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Scores of decoder widths after the same training.")
    parser.add_argument("--train_root", required=True, metavar="DIR", help="data set to train on")
    parser.add_argument("--val_root", required=True, metavar="DIR", help="data set to score on")
    parser.add_argument("--widths", nargs="+", required=True, metavar="paper|N", help="channels of the decoder")
    parser.add_argument("--name", default="decoder_quality", help="of the file in benchmarks/results")
    parser.add_argument("flags", nargs="*", help="flags of SOD_train.py, after --")
    args = parser.parse_args(argv)
    rows = []
    for width in args.widths:
        rows.append([width, *(f"{score:.4f}" for score in train(width, args))])
        print(" ".join(rows[-1]), flush=True)
    command = f"python -m benchmarks.decoder_quality {shlex.join(argv)}"
    keep(args.name, command, [markdown_table(["decoder", *SCORES], rows), environment_line()])


def train(width: str, args) -> list[float]:
    """Trains a network in a folder of its own; returns its scores and its last mean loss."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--decoder_width", width, "--train_root", args.train_root, "--val_root", args.val_root]
        flags += ["--val_every", "1000000", "--log_path", folder, "--tag", "run", *args.flags]
        subprocess.run([sys.executable, str(PROJECT / "SOD_train.py"), *flags], check=True)
        lines = (Path(folder) / "run/log.jsonl").read_text().splitlines()
        logged = json.loads(lines[-2]) | json.loads(lines[-1])  # the losses of the last epoch, then its scores
        return [logged[name] for name in SCORES.values()]


if __name__ == "__main__":
    main(sys.argv[1:])
