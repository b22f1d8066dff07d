"""Shared fixtures: small drawn scenes, the scripts as functions, and real images where they are at hand."""

import importlib
import os
import shlex
from pathlib import Path

import pytest

import options
from datasets.drawn_scenes import write_saliency_scenes, write_voc_scenes

PROJECT = Path(__file__).resolve().parent.parent
SCRIPTS = (
    "SOD_train",
    "train_classification",
    "train_affinity",
    "make_pseudo_labels",
    "train_segmentation",
    "predict",
    "export_onnx",
    "evaluate",
    "prepare_voc12",
    "demo",
)
TINY_SWIN = (
    "--backbone swin_tiny_patch4_window7_224 --pretrained none --decoder_width 8 --image_size 64 --workers 0"
    " --backbone_args embed_dim=16 depths=1,1,1,1 num_heads=1,1,2,2 window_size=4"
)
TINY_RESNEST = "--backbone resnest14 --backbone_args channels=8,8,16,32 stem_width=8 --workers 0"


def run_main(script: str, command: str) -> None:
    """Calls a script's `main` with the arguments of a command line."""
    args = getattr(options, script)().parse_args(shlex.split(command))
    importlib.import_module(script).main(args)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """A folder with dataset/, data/ and voc12/ as in the README, of small drawn scenes. Not to be written to."""
    root = tmp_path_factory.mktemp("scenes")
    write_saliency_scenes(root / "dataset/DRAWN-TR", count=12, seed=1, height=64, width=80)
    write_saliency_scenes(root / "dataset/benchmark/DRAWN-TE", count=5, seed=2, height=64, width=80)
    write_voc_scenes(
        root / "data/VOCdevkit/VOC2012", root / "voc12", num_train=14, num_val=6, seed=3, height=64, width=80
    )
    return root


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs and masks that WSSS_TEST_DATA names."""
    folder = os.environ.get("WSSS_TEST_DATA")
    if not folder:
        pytest.skip("WSSS_TEST_DATA names no folder of real images")
    return Path(folder)
