"""Grouping of runs by seed, and their mean ± standard deviation worked out by hand."""

import csv
import json
import shutil

import pytest
from conftest import run_main

from formats.labels import load_label, save_label
from metrics.label_tables import scores_over_seeds, seed_table


def scores(miou: float | None, **more) -> dict:
    """Scores with a given mIoU and constant other measures."""
    measures = dict.fromkeys(("Acc", "Acc_class", "fwIoU"), 0.9) | {"mIoU": miou}
    return {**measures, "IoU": {"background": 0.8, "dog": miou}, **more}


def test_mean_and_sample_deviation_by_hand():
    found = scores_over_seeds({"x/seed0": scores(0.70), "x/seed1": scores(0.74), "x/seed2": scores(0.75)})
    # mean 0.73; deviations -0.03, 0.01, 0.02: squares 0.0009 + 0.0001 + 0.0004, over n - 1 = 2: 0.0007
    assert found.keys() == {"x"}
    assert found["x"]["seeds"] == [0, 1, 2]
    assert found["x"]["mIoU"] == pytest.approx({"mean": 0.73, "std": 0.0007**0.5})
    assert found["x"]["Acc"] == pytest.approx({"mean": 0.9, "std": 0})
    assert found["x"]["IoU"] == pytest.approx({"background": 0.8, "dog": 0.73})
    table = seed_table(found)
    assert table.header == ["setting", "seeds", "Acc", "Acc_class", "mIoU", "fwIoU"]
    assert table.rows == [["x", 3, "90.00 ± 0.00", "90.00 ± 0.00", "73.00 ± 2.65", "90.00 ± 0.00"]]


def test_settings_are_named_by_the_parent_of_the_seeds():
    folders = ("e/a/seed1", "e/a/seed0", "e/b/seed10", "seed3", "e/a", "e/seedling", "e/seed", "e/c/seed0/val")
    found = scores_over_seeds({folder: scores(0.5) for folder in folders})
    assert {name: row["seeds"] for name, row in found.items()} == {"e/a": [0, 1], "e/b": [10], ".": [3]}
    rows = {row[0]: row[1:] for row in seed_table(found).rows}
    assert rows["e/b"] == [1, "90.00 ± –", "90.00 ± –", "50.00 ± –", "90.00 ± –"]


@pytest.mark.parametrize("folders", [[], ["e/a"], ["e/a/seed0", "e/b/seed1", "e/c"], ["e/a/seed0", "./e/a/seed0/"]])
def test_no_setting_has_two_seeds(folders):
    assert scores_over_seeds({folder: scores(0.5) for folder in folders}) == {}


def test_score_missing_in_one_run_is_undefined():
    found = scores_over_seeds({"x/seed0": scores(0.5), "x/seed1": scores(None)})
    assert found["x"]["mIoU"] == {"mean": None, "std": None}
    assert found["x"]["IoU"]["dog"] is None
    assert seed_table(found).rows[0][4] == "–"


def test_labels_after_the_selector_are_a_separate_setting():
    runs = {f"x/seed{seed}": scores(0.5, selected=scores(0.6 + 0.1 * seed)) for seed in (0, 1)}
    found = scores_over_seeds(runs)
    assert list(found) == ["x", "x + selector"]
    assert found["x + selector"]["mIoU"] == pytest.approx({"mean": 0.65, "std": 0.005**0.5})


@pytest.fixture
def runs(scenes, tmp_path):
    """Segmentations "good" of two seeds and "poor" of one: the truth of val with one to three images set to 0."""
    paths = sorted((scenes / "data/VOCdevkit/VOC2012/SegmentationClass").iterdir())[-6:]
    for lost, folder in enumerate(("good/seed0", "good/seed1", "poor/seed0"), start=1):
        for index, path in enumerate(paths):
            label = load_label(path)
            save_label(tmp_path / folder / path.name, label * 0 if index < lost else label)
    return tmp_path


@pytest.mark.parametrize("kind", ["segmentation", "labels"])
def test_evaluate_prints_and_writes_the_table(kind, scenes, runs, capsys):
    lists = f"--data_dir {scenes}/data --list {scenes}/voc12/val_id.txt"
    files = f"--json {runs}/scores.json --tables {runs}/tables"
    run_main("evaluate", f"{kind} --pred {runs}/good/seed0 {runs}/good/seed1 {runs}/poor/seed0 {lists} {files}")
    results = json.loads((runs / "scores.json").read_text())
    low, high = sorted(results[f"{runs}/good/seed{seed}"]["mIoU"] for seed in (0, 1))
    assert low < high
    mean, std = (low + high) / 2, (high - low) / 2**0.5  # of two values
    assert results["over_seeds"][f"{runs}/good"]["mIoU"] == pytest.approx({"mean": mean, "std": std})
    with open(runs / "tables/over_seeds.csv", encoding="utf-8") as file:
        good, poor = csv.DictReader(file)
    assert (good["setting"], good["seeds"], poor["seeds"]) == (f"{runs}/good", "2", "1")
    assert good["mIoU"] == f"{100 * mean:.2f} ± {100 * std:.2f}"
    assert poor["mIoU"].endswith(" ± –")
    assert f"{good['mIoU']} |" in capsys.readouterr().out


def test_evaluate_prints_no_table_for_single_runs(scenes, runs, capsys):
    shutil.copytree(runs / "good/seed0", runs / "alone")
    lists = f"--data_dir {scenes}/data --list {scenes}/voc12/val_id.txt --json {runs}/scores.json"
    run_main("evaluate", f"segmentation --pred {runs}/good/seed0 {runs}/poor/seed0 {runs}/alone {lists}")
    assert "over_seeds" not in json.loads((runs / "scores.json").read_text())
    assert "over_seeds" not in capsys.readouterr().out
