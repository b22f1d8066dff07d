"""The benchmarks run and write their pages. Times are not tested."""

import re

import pytest
import torch
from conftest import TINY_RESNEST, TINY_SWIN

from benchmarks import (
    data_loading,
    dense_crf,
    inference,
    random_walk,
    report,
    saliency_metrics,
    training_step,
)
from formats.errors import MissingInputError


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("network", "flags"),
    [("segmentation", f"{TINY_RESNEST} --crop_size 48 --head_width 16"), ("saliency", TINY_SWIN)],
)
def test_training_step(network, flags, results):
    measured = f"--network {network} --turns 2 --steps 1 --loader_steps 2 -- {flags} --train_batch 2"
    training_step.main(measured.split())
    (path,) = results.iterdir()
    text = path.read_text()
    assert len(re.findall(r"\| *\d+\.\d\d × \|", text)) >= 4
    assert "| plain loop, fused optimizer" in text
    assert "| the script " in text
    assert re.search(r"The loop waited \d+\.\d ms a step for data", text)


def test_saliency_metrics(scenes, results):
    pytest.importorskip("py_sod_metrics")
    masks = f"{scenes}/dataset/benchmark/DRAWN-TE/Masks"
    small = "--drawn_pairs 2 --image_size 30 40 --repeat 1 --file_pairs 7"
    saliency_metrics.main(f"--maps {masks} --masks {masks} {small}".split())
    text = (results / "saliency_metrics.md").read_text()
    assert len(re.findall(r"\d+\.\d ×", text)) == 2
    assert "7 pairs from disk" in text
    assert len(re.findall(r"\d+\.\d\d ×", text)) == 3


def test_saliency_metrics_lacks_maps(scenes, tmp_path):
    with pytest.raises(MissingInputError, match="lacks 5 of 5"):
        saliency_metrics.find_pairs(tmp_path, scenes / "dataset/benchmark/DRAWN-TE/Masks", 3)


def test_plain_walks_agree_with_ours():
    """Within the precision of float32, which the plain implementations use."""
    cams, edge = random_walk.draw_problem(num_classes=2, size_hw=(12, 15), device=torch.device("cpu"))
    ours, *others = (walk(cams, edge) for walk in random_walk.WAYS.values())
    assert max((other - ours).abs().max() for other in others) < 1e-3


@pytest.mark.slow
def test_random_walk(results):
    random_walk.main(["--image_size", "64", "80", "--num_classes", "2", "--repeat", "1"])
    rows = (results / "random_walk.md").read_text().splitlines()
    assert [row.split("|")[1].strip() for row in rows if " × " in row] == list(random_walk.WAYS)


def test_data_loading(scenes, results):
    places = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --train_root {scenes}/dataset/DRAWN-TR"
    data_loading.main(f"{places} --images 6".split())
    text = (results / "data_loading.md").read_text()
    assert len(re.findall(r"\d+\.\d ×", text)) == 6


def test_inference(scenes, results):
    flags = f"--backbone mobilenetv2_035 --images 3 --batch 2 --input {scenes}/dataset/DRAWN-TR/Images"
    inference.main(flags.split())
    (page,) = results.glob("inference_mobilenetv2_035_*.md")
    text = page.read_text()
    assert len(re.findall(r"\d+\.\d ×", text)) == 2


def test_dense_crf(scenes, results, monkeypatch):
    monkeypatch.setattr(dense_crf, "usable_cores", lambda: 1)
    dense_crf.main(f"--images 2 --input {scenes}/dataset/DRAWN-TR/Images".split())
    text = (results / f"dense_crf_{report.device_kind()}.md").read_text()
    assert len(re.findall(r"\d+\.\d\d ×", text)) == 3
    assert float(re.search(r"present: ([\d.]+) %", text)[1]) > 99
