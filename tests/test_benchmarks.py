"""The benchmarks run and leave their figures; the figures themselves are no test."""

import re

import pytest
from conftest import TINY_RESNEST, TINY_SWIN

from benchmarks import decoder_quality, decoder_speed, report, saliency_metrics, training_step
from input_errors import MissingInputError


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    return tmp_path


def test_decoder_speed(results):
    decoder_speed.main(["--backbone", "mobilenetv2_035", "--widths", "8", "16", "--image_size", "64", "--batch", "1"])
    (path,) = results.iterdir()
    text = path.read_text()
    assert len(re.findall(r"\(\d+\.\d ×\)", text)) == 4
    assert "python -m benchmarks.decoder_speed --backbone mobilenetv2_035 --widths 8 16" in text
    assert "torch 2." in text


@pytest.mark.parametrize(
    ("network", "flags"),
    [("segmentation", f"{TINY_RESNEST} --crop_size 48 --head_width 16"), ("saliency", TINY_SWIN)],
)
def test_training_step(network, flags, results):
    measured = f"--network {network} --turns 2 --steps 1 --loader_steps 2 -- {flags} --train_batch 2"
    training_step.main(measured.split())
    (path,) = results.iterdir()
    text = path.read_text()
    assert len(re.findall(r"\| *\d+\.\d\d × \|", text)) >= 5
    assert "| plain loop, fused optimizer" in text
    assert "| the script " in text
    assert re.search(r"The loop waited \d+\.\d ms a step for data", text)
    assert "| aten::convolution_backward" in text


@pytest.mark.slow
def test_decoder_quality(scenes, results):
    places = f"--train_root {scenes}/dataset --val_root {scenes}/dataset/benchmark/DRAWN-TE --widths 8 16"
    decoder_quality.main(f"{places} -- {TINY_SWIN} --max_epoch 1 --train_batch 4".split())
    rows = (results / "decoder_quality.md").read_text().splitlines()
    assert [row.split()[1] for row in rows if re.match(r"\| (?:8|16) ", row)] == ["8", "16"]


def test_saliency_metrics(scenes, results):
    pytest.importorskip("py_sod_metrics")
    masks = f"{scenes}/dataset/benchmark/DRAWN-TE/Masks"
    small = "--drawn_pairs 2 --image_size 30 40 --repeat 1 --file_pairs 7"
    saliency_metrics.main(f"--maps {masks} --masks {masks} {small}".split())
    text = (results / "saliency_metrics.md").read_text()
    assert len(re.findall(r"\d+\.\d ×", text)) == 2
    assert "7 pairs from disk" in text
    assert len(re.findall(r"\d+\.\d\d ×", text)) == 3
    assert re.search(r"Memory held: \d+ MB after 7 pairs", text)


def test_saliency_metrics_lacks_maps(scenes, tmp_path):
    with pytest.raises(MissingInputError, match="lacks 5 of 5"):
        saliency_metrics.pairs_of_files(tmp_path, scenes / "dataset/benchmark/DRAWN-TE/Masks", 3)
