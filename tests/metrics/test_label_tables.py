"""Tables of labels, and the mean ± standard deviation over seeds worked out by hand."""

import csv

import numpy as np
import pytest
from conftest import run_main

from formats.labels import load_label, save_label
from metrics.label_quality import measure_label, name_scores, sum_states
from metrics.label_tables import label_tables, seed_tables


def scores(miou: float | None) -> dict:
    """Scores with a given mIoU and constant other measures."""
    return dict.fromkeys(("Acc", "Acc_class", "fwIoU"), 0.9) | {"mIoU": miou}


def test_tables_of_one_folder():
    result = name_scores(sum_states([measure_label(*[np.eye(4, dtype=np.uint8)] * 2, 2)], 2), ("a", "b"))
    (quality, *by_class), plots = label_tables("segmentation", ("a", "b"), {"x/y": result})
    assert quality.header[:4] == ["segmentation", "which", "images", "Acc"]
    assert quality.rows == [["x/y", "all", 1, *["100.00"] * 7]]
    assert [table.name for table in by_class] == ["IoU_by_class", "precision_by_class", "recall_by_class"]
    assert by_class[0].rows == [["a", "100.00"], ["b", "100.00"]]
    assert plots == []


def test_mean_and_sample_deviation_by_hand():
    runs = {"x/seed0": scores(0.70), "x/seed1": scores(0.74), "x/seed2/": scores(0.75), "x/seed3 + selector": scores(1)}
    (table,) = seed_tables(runs)
    assert table.header == ["setting", "seeds", "Acc", "Acc_class", "mIoU", "fwIoU"]
    # mean 0.73; deviations -0.03, 0.01, 0.02: squares 0.0009 + 0.0001 + 0.0004, over n - 1 = 2: 0.0007 = 0.0265²
    assert table.rows == [
        ["x", 3, "90.00 ± 0.00", "90.00 ± 0.00", "73.00 ± 2.65", "90.00 ± 0.00"],
        ["x + selector", 1, "90.00 ± –", "90.00 ± –", "100.00 ± –", "90.00 ± –"],
    ]


def test_settings_are_named_by_the_parent_of_the_seeds():
    folders = ("e/a/seed1", "e/a/seed0", "e/b/seed10", "seed3", "e/a", "e/seedling", "e/seed", "e/c/seed0/val")
    (table,) = seed_tables({folder: scores(0.5) for folder in folders})
    assert [row[:2] for row in table.rows] == [["e/a", 2], ["e/b", 1], [".", 1]]


@pytest.mark.parametrize("folders", [[], ["e/a"], ["e/a/seed0", "e/b/seed1", "e/c"], ["e/a/seed0", "e/a/seed0/"]])
def test_no_setting_has_two_seeds(folders):
    assert seed_tables({folder: scores(0.5) for folder in folders}) == []


def test_score_missing_in_one_run_is_undefined():
    (table,) = seed_tables({"x/seed0": scores(0.5), "x/seed1": scores(None)})
    assert table.rows[0][4] == "–"


def test_evaluate_prints_and_writes_the_table(scenes, tmp_path, capsys):
    """Segmentations of two seeds: the truth of val with one or two images set to 0."""
    paths = sorted((scenes / "data/VOCdevkit/VOC2012/SegmentationClass").iterdir())[-6:]
    for seed in (0, 1):
        for index, path in enumerate(paths):
            label = load_label(path)
            save_label(tmp_path / f"seed{seed}" / path.name, label * 0 if index <= seed else label)
    pred = f"{tmp_path}/seed0 {tmp_path}/seed1 {scenes}/data/VOCdevkit/VOC2012/SegmentationClass"
    lists = f"--data_dir {scenes}/data --list {scenes}/voc12/val_id.txt --bootstrap 0"
    run_main("evaluate", f"segmentation --pred {pred} {lists} --tables {tmp_path}/tables")
    with open(tmp_path / "tables/over_seeds.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["setting"], row["seeds"]) == (str(tmp_path), "2")
    mean, deviation = map(float, row["mIoU"].split(" ± "))
    assert 0 < deviation < mean < 100
    assert f"{row['mIoU']} |" in capsys.readouterr().out
