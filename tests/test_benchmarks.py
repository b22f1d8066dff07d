"""The benchmarks run and leave their figures; the figures themselves are no test."""

import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import TINY_RESNEST, TINY_SWIN

from benchmarks import (
    data_loading,
    decoder_quality,
    decoder_speed,
    dense_crf,
    file_costs,
    inference,
    label_processes,
    random_walk,
    report,
    saliency_metrics,
    scaling,
    training_step,
)
from benchmarks.commands import on_cores, run_measured
from formats.errors import MissingInputError


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
    assert len(re.findall(r"\| *\d+\.\d\d × \|", text)) >= 4
    assert "| plain loop, fused optimizer" in text
    assert "| the script " in text
    assert re.search(r"The loop waited \d+\.\d ms a step for data", text)


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


def test_plain_walks_agree_with_ours():
    """As far as float32 goes, of which the plain ones are."""
    cams, edge = random_walk.draw_problem(num_classes=2, size_hw=(12, 15), device=torch.device("cpu"))
    ours, *others = (walk(cams, edge) for walk in random_walk.WAYS.values())
    assert max((other - ours).abs().max() for other in others) < 1e-3


@pytest.mark.slow
def test_random_walk(results):
    random_walk.main(["--image_size", "64", "80", "--num_classes", "2", "--repeat", "1"])
    rows = (results / "random_walk.md").read_text().splitlines()
    assert [row.split("|")[1].strip() for row in rows if " × " in row] == list(random_walk.WAYS)


def test_commands_on_one_core():
    command = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
    before = os.sched_getaffinity(0)
    with on_cores(1):
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"
    assert os.sched_getaffinity(0) == before


@pytest.mark.slow
def test_label_processes(results):
    small = "--files 2 --image_size 48 64 --images 12 --few 2"
    label_processes.main(f"{small} -- --scales 1 --batch 1".split())
    rows = (results / f"label_processes_{report.device_kind()}.md").read_text().splitlines()
    assert [row.split("|")[1].split(":")[0].strip() for row in rows if row.count(" ×)") == 3] == [
        "2 images",
        "12 images",
        "10 images",
    ]
    assert any(row.startswith("| peak memory, MB") for row in rows)


@pytest.mark.slow
def test_scaling(results):
    scaling.main(["--files", "2", "--image_size", "48", "64", "--counts", "8", "16", "70", "--turns", "1"])
    text = (results / "scaling.md").read_text()
    assert re.findall(r"^\| (\d+)  ", text, re.MULTILINE) == ["8", "16", "70"] * 2
    assert len(re.findall(r"with the power -?\d+\.\d\d of the images beyond 8; memory by", text)) == 2


def test_file_costs(results):
    file_costs.main(["--files", "2", "--image_size", "48", "64"])
    rows = (results / "file_costs.md").read_text().splitlines()
    assert sum(len(re.findall(r"\d+\.\d+", row)) for row in rows if row.startswith("| ")) == 1 + 2 + 3 * 3


def test_power_law():
    assert scaling.exponent({10: 0.5, 100: 5, 1000: 50}) == pytest.approx(1)
    assert scaling.exponent({10: 1, 100: 100, 1000: 10000}) == pytest.approx(2)


def test_commands_that_fail_say_why():
    with pytest.raises(RuntimeError, match="--data_dir: folder nowhere does not exist"):
        run_measured("evaluate.py", ["labels", "--data_dir", "nowhere", "--list", "a", "--pred", "b"])


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
