"""evaluate.py on saliency maps."""

import json
import shutil

import pytest
from conftest import run_main

from image_files import load_grey, save_grey
from input_errors import MissingInputError


def test_saliency_table(scenes, tmp_path, capsys):
    truth = scenes / "dataset/benchmark/DRAWN-TE/Masks"
    shutil.copytree(truth, tmp_path / "perfect/DRAWN-TE")
    for path in truth.iterdir():
        save_grey(tmp_path / f"small/DRAWN-TE/{path.name}", load_grey(path)[::2, ::2].copy())
    command = f"saliency --pred {tmp_path}/perfect {tmp_path}/small --gt_root {scenes}/dataset/benchmark"
    run_main("evaluate", f"{command} --json {tmp_path}/scores.json")
    output = capsys.readouterr().out
    assert "5 of 5 maps resized" in output
    scores = json.loads((tmp_path / "scores.json").read_text())
    perfect, small = scores[f"{tmp_path}/perfect"]["DRAWN-TE"], scores[f"{tmp_path}/small"]["DRAWN-TE"]
    assert perfect["MAE"] == 0
    assert perfect["maxF"] == pytest.approx(1)
    assert perfect["S"] == pytest.approx(1, abs=1e-9)
    assert 0 < small["MAE"] < 0.1
    next((tmp_path / "small/DRAWN-TE").iterdir()).unlink()
    with pytest.raises(MissingInputError, match="lacks 1 of 5 maps"):
        run_main("evaluate", command)
    with pytest.raises(MissingInputError, match="no data set of"):
        run_main("evaluate", f"saliency --pred {tmp_path} --gt_root {scenes}/dataset/benchmark")
