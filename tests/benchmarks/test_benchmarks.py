"""The benchmarks run and write their pages. Times are not tested."""

import re

import numpy as np
import pytest
from conftest import TINY_RESNEST, TINY_SWIN

from benchmarks import (
    data_loading,
    evidence_figure,
    inference,
    report,
    saliency_metrics,
    segmentation_metrics,
    selector_pairs,
    training_step,
)
from formats.images import load_image
from formats.labels import save_label


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("network", "flags"),
    [("segmentation", f"{TINY_RESNEST} --crop_size 48 --head_width 16"), ("saliency", TINY_SWIN)],
)
def test_training_step(network, flags, results):
    measured = f"--network {network} --turns 2 -- {flags} --train_batch 2"
    training_step.main(measured.split())
    (path,) = results.iterdir()
    text = path.read_text()
    assert "plain loop, ms/step" in text
    assert len(re.findall(r"\| *\d+\.\d\d × \|", text)) == 1


def test_saliency_metrics(results):
    pytest.importorskip("py_sod_metrics")
    saliency_metrics.main(["--drawn_pairs", "2", "--image_size", "30", "40", "--repeat", "1"])
    assert len(re.findall(r"\d+\.\d ×", (results / "saliency_metrics.md").read_text())) == 2


def test_segmentation_metrics(tmp_path, results, monkeypatch):
    monkeypatch.setattr(segmentation_metrics, "CHUNK", 2)
    masks = tmp_path / "masks"
    for index in range(5):
        save_label(masks / f"{index}.png", np.random.default_rng(index).choice([0, 3, 255], (30, 40)).astype(np.uint8))
    segmentation_metrics.main(["--masks", str(masks), "--limit", "4"])
    text = (results / "segmentation_metrics.md").read_text()
    assert re.findall(r"\| (decoding.*?) +\| +[\d.]+ \| +[\d.]+ \|", text) == [
        *("decoding", "decoding + plain mIoU", "decoding + mIoU", "decoding + all scores")
    ]


def test_data_loading(scenes, results):
    places = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --train_root {scenes}/dataset/DRAWN-TR"
    data_loading.main(f"{places} --images 6".split())
    text = (results / "data_loading.md").read_text()
    assert len(re.findall(r"\d+\.\d ×", text)) == 3


@pytest.mark.parametrize("kind", ["inference", pytest.param("onnx", marks=pytest.mark.slow)])
def test_inference(kind, scenes, results):
    flags = f"--backbone mobilenetv2_035 --images 3 --batch 2 --input {scenes}/dataset/DRAWN-TR/Images"
    inference.main(flags.split() + ["--onnx"] * (kind == "onnx"))
    (page,) = results.glob(f"{kind}_mobilenetv2_035_*.md")
    text = page.read_text()
    assert len(re.findall(r"\d+\.\d\d ×", text)) == 2


def test_selector_pairs(scenes, label_parts, results):
    flags = f"--labels raw={label_parts}/rough --degrade 0.1 --degraded_lists {scenes}/voc12/train_aug_id.txt"
    flags += f" --saliency_dir {label_parts}/saliency --data_dir {scenes}/data --features mobilenetv2_035"
    selector_pairs.main(f"{flags} --image_labels {scenes}/voc12/cls_labels.npy --pretrained none".split())
    rows = [row.split("|") for row in (results / "selector_pairs.md").read_text().splitlines() if "+ saliency" in row]
    assert [row[1].strip() for row in rows] == ["raw", "degraded truth"]
    for row in rows:
        labels, mask, fixed, _, evidence, best = (float(cell.split()[0]) for cell in row[4:10])
        gain = float(row[10].split()[0])
        assert labels < best and gain == pytest.approx(evidence - max(mask, fixed), abs=0.11)


def test_evidence_figure(tmp_path):
    evidence_figure.main(f"--features mobilenetv2_035 --pretrained none --scenes 3 --output {tmp_path}/a.png".split())
    assert load_image(tmp_path / "a.png").shape == (24 + 3 * 132, 6 * 164, 3)
