"""The benchmark of label scores runs and writes its page. Times are not tested."""

import re

import numpy as np
import pytest

from benchmarks import report, segmentation_metrics
from formats.errors import InputError
from formats.labels import load_label, save_label


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_figures_of_a_few_masks(tmp_path, results, monkeypatch):
    monkeypatch.setattr(segmentation_metrics, "CHUNK", 2)
    for index in range(5):
        label = np.random.default_rng(index).choice([0, 3, 20, 255], (30, 40)).astype(np.uint8)
        save_label(tmp_path / f"{index}.png", label)
    segmentation_metrics.main(["--masks", str(tmp_path), "--limit", "4"])
    (path,) = results.iterdir()
    text = path.read_text()
    assert path.name == "segmentation_metrics.md"
    assert "4 masks" in text
    times = re.findall(r"\| (decoding.*?) +\| +([\d.]+) \| +([\d.]+) \|", text)
    sides = ["decoding", "decoding + plain mIoU", "decoding + mIoU", "decoding + all scores"]
    assert [row[0] for row in times] == sides
    assert re.search(r"mIoU is \d+\.\d times as fast as the plain mIoU", text)
    assert times[0][2] == "1.00"


def test_the_plain_miou_is_compared_with_ours(tmp_path, monkeypatch):
    save_label(tmp_path / "a.png", np.random.default_rng(0).choice([0, 3, 255], (30, 40)).astype(np.uint8))
    monkeypatch.setattr(segmentation_metrics.PlainCounts, "miou", lambda plain: 0.5)
    with pytest.raises(AssertionError, match=r"plain mIoU 0\.5, ours 0\."):
        segmentation_metrics.main(["--masks", str(tmp_path)])


def test_shifted_masks(tmp_path):
    label = np.arange(30 * 40, dtype=np.uint8).reshape(30, 40) % 21
    save_label(tmp_path / "a.png", label)
    (tmp_path / "shifted").mkdir()
    shifted = load_label(segmentation_metrics.write_shifted(tmp_path / "a.png", tmp_path / "shifted"))
    assert np.array_equal(shifted[3:, 5:], label[:-3, :-5])


def test_a_folder_without_masks(tmp_path):
    with pytest.raises(InputError, match=r"holds no \.png"):
        segmentation_metrics.main(["--masks", str(tmp_path)])
