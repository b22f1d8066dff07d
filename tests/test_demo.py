"""The demo: scores, files, time."""

import json
import subprocess
import sys

import pytest
from conftest import PROJECT, run_main

from formats.errors import InputError
from formats.images import load_image


@pytest.mark.slow
def test_the_whole_sequence(tmp_path):
    command = [sys.executable, "pipeline.py", "demo", "--work_dir", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "demo/results.json").read_text())
    assert results["saliency_maxF"] >= 0.90
    assert results["saliency_MAE"] <= 0.05
    assert results["single_class_mIoU_cam"] < 0.60
    assert results["single_class_mIoU_sos"] >= results["single_class_mIoU_cam"] + 0.03
    assert results["segmentation_mIoU"] >= 0.55
    assert done.stdout.count("$ python ") == 11
    assert "| segmentation " in done.stdout
    picture = load_image(tmp_path / "demo/demo.png")
    assert picture.shape[1] == 7 * (160 + 4)


def test_only_its_own_folder_is_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds files that no demo wrote"):
        run_main("pipeline demo", f"--work_dir {tmp_path}/mine --draw_only")
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
    for _ in range(2):
        flags = "--draw_only --num_saliency 2 --num_train 2 --num_val 1"
        run_main("pipeline demo", f"--work_dir {tmp_path}/demo {flags}")
    assert len(list((tmp_path / "demo/dataset/DRAWN-TR/Images").iterdir())) == 2
    assert load_image(next((tmp_path / "demo/dataset/DRAWN-TR/Images").iterdir())).shape == (128, 160, 3)
