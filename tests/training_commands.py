"""Commands of trainings on the drawn scenes of `conftest.scenes`, and readers of what they write."""

import json
import sys

from conftest import TINY_RESNEST, TINY_SWIN

from utils.checkpoint import load_checkpoint

TWO_PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
IMPORTS_S = 90  # time to import torch in the script and its workers on a busy machine
CROPS = "--crop_size 48 --long_side 48 80"


def saliency_command(scenes, log, extra: str) -> str:
    return f"{TINY_SWIN} --train_root {scenes}/dataset --log_path {log} --train_batch 4 --lr 2e-3 {extra}"


def voc_command(scenes, log, extra: str) -> str:
    return (
        f"{TINY_RESNEST} --data_dir {scenes}/data --list_dir {scenes}/voc12 --log_path {log} {CROPS} --pretrained none"
        f" --train_batch 4 {extra}"
    )


COMMANDS = {
    "SOD_train": saliency_command,
    "train_classification": voc_command,
    "train_segmentation": lambda *parts: voc_command(*parts) + " --label_name SegmentationClassAug --head_width 16",
}


def weights(path) -> dict:
    return load_checkpoint(path)["network"]


def log_of(path) -> list[dict]:
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def losses_of(path) -> list[float]:
    """Losses of the epochs, without the rows of validations."""
    return [row["loss"] for row in log_of(path) if "loss" in row]
