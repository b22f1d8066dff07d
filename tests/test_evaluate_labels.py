"""evaluate.py on label maps: selector, sweep and rules agree with the files of make_pseudo_labels.py."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import PROJECT, labels_in, run_main

from datasets.drawn_objects import CLASS_NAMES
from formats.cams import load_cams
from formats.errors import InputError, MissingInputError
from formats.image_labels import load_image_labels, save_image_labels
from formats.images import load_grey, load_image, save_grey
from formats.labels import load_label, save_label
from formats.voc_layout import load_ids, save_ids
from metrics.label_quality import measure_label, name_scores, sum_states
from options import FUSION_RULES
from pseudo_labels.evidence import load_evidence

PAPER = [0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
NAMES = ("background", *CLASS_NAMES)
EVIDENCE = "--selector evidence --features PARTS/classifier/last.pth"


@pytest.fixture(scope="module")
def truth(scenes) -> dict[str, np.ndarray]:
    ids = load_ids(scenes / "voc12/train_aug_id.txt")
    return {name: load_label(scenes / f"data/VOCdevkit/VOC2012/SegmentationClassAug/{name}.png") for name in ids}


@pytest.fixture(scope="module")
def single(scenes, truth) -> list[str]:
    """Ids of the images with exactly one class."""
    rows = load_image_labels(scenes / "voc12/cls_labels.npy", list(truth), CLASS_NAMES)
    return [name for name, row in zip(truth, rows) if row.sum() == 1]


@pytest.fixture
def score(scenes, label_parts, tmp_path):
    """Score labels of train_aug_id.txt, with image labels; PARTS and HERE as in `make`."""

    def run(flags: str, image_labels: str = f"--image_labels {scenes}/voc12/cls_labels.npy") -> dict:
        lists = f"--data_dir {scenes}/data --list {scenes}/voc12/train_aug_id.txt {image_labels}"
        command = f"labels {lists} --json HERE/scores.json {flags}"
        run_main("evaluate", command.replace("PARTS", str(label_parts)).replace("HERE", str(tmp_path)))
        return json.loads((tmp_path / "scores.json").read_text())

    return run


def quality(labels: dict, truth: dict, ids) -> dict:
    """The scores of the JSON file, measured on these images."""
    return name_scores(sum_states([measure_label(labels[name], truth[name], 11) for name in ids], 11), NAMES)


def assert_same(scores: dict, expected: dict) -> None:
    assert {key: scores[key] for key in expected} == expected


def test_quality(truth, single, label_parts, score, capsys):
    scores = score("--pred PARTS/rough")[f"{label_parts}/rough"]
    labels, several = labels_in(label_parts / "rough"), [name for name in truth if name not in single]
    for found, ids in ((scores, truth), (scores["single_class"], single), (scores["multi_class"], several)):
        assert_same(found, quality(labels, truth, ids))
    assert scores["mIoU_dropped"] > scores["mIoU"]
    assert scores["coverage"] < 1
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if f"{label_parts}/rough" in line]
    rows = {line[2].strip(): [cell.strip() for cell in line[3:-1]] for line in lines[:3]}
    assert rows["all"][:2] == ["14", f"{100 * scores['Acc']:.2f}"]
    assert rows["single-class"][0] == str(len(single))
    assert rows["multi-class"][-1] == f"{100 * scores['multi_class']['boundary_IoU']:.2f}"


def test_without_image_labels(truth, label_parts, score, capsys):
    scores = score("--pred PARTS/rough", image_labels="")[f"{label_parts}/rough"]
    assert "single_class" not in scores
    assert_same(scores, quality(labels_in(label_parts / "rough"), truth, truth))
    assert "14 images in the list, truth" in capsys.readouterr().out


def test_single_class_images_only(scenes, truth, single, label_parts, score, capsys):
    scores = score("--pred PARTS/rough", image_labels=f"--single_class {scenes}/voc12/cls_labels.npy")
    assert_same(scores[f"{label_parts}/rough"], quality(labels_in(label_parts / "rough"), truth, single))
    assert f"{len(single)} images with exactly one class" in capsys.readouterr().out


def test_segmentations(scenes, truth, tmp_path):
    folder = scenes / "data/VOCdevkit/VOC2012/SegmentationClassAug"
    lists = f"--data_dir {scenes}/data --list {scenes}/voc12/train_aug_id.txt"
    run_main("evaluate", f"segmentation --pred {folder} {lists} --json {tmp_path}/scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())[str(folder)]
    assert scores["mIoU"] == scores["Acc"] == scores["boundary_IoU"] == 1


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--t0 0.3 --t1 0.4 --non_salient_classes star kite --saliency_threshold 0.3",
        "--selector_form formula --tau 1.2",
    ],
)
def test_before_and_after_are_the_files_of_the_selector(flags, truth, label_parts, make, score, tmp_path, capsys):
    select = f"--saliency_dir PARTS/saliency {flags}"
    after = make("sos", f"--baseline_dir PARTS/rough --selector sos {select}")
    scores = score(f"--pred PARTS/rough {select}")[f"{label_parts}/rough"]
    assert_same(scores, quality(labels_in(label_parts / "rough"), truth, truth))
    assert_same(scores["selected"], quality(after, truth, truth))
    assert scores["selected"]["mIoU"] != scores["mIoU"]
    summary = json.loads((tmp_path / "sos/selector.json").read_text())
    numbers = {"tau"} if "formula" in flags else {"t0", "t1"}
    assert summary.keys() & {"t0", "t1", "tau"} == numbers
    assert {name: scores["selector"][name] for name in numbers} == {name: summary[name] for name in numbers}
    measured = "--non_salient_classes" not in flags
    assert ("; measured on this list" in capsys.readouterr().out) is measured
    ious = {"IoU_before", "IoU_after"}
    for name, row in scores["selector"]["classes"].items():
        assert {key: value for key, value in row.items() if key not in ious} == summary["classes"][name]
    assert scores["selector"]["classes"].keys() == summary["classes"].keys()


def test_iou_of_each_class_before_and_after(scenes, truth, single, label_parts, make, score):
    rows = score("--pred PARTS/rough --saliency_dir PARTS/saliency")[f"{label_parts}/rough"]["selector"]["classes"]
    before = labels_in(label_parts / "rough")
    after = make("sos", "--baseline_dir PARTS/rough --selector sos --saliency_dir PARTS/saliency")
    classes = dict(zip(truth, load_image_labels(scenes / "voc12/cls_labels.npy", list(truth), CLASS_NAMES).argmax(1)))
    for name, row in rows.items():
        ids = [one for one in single if classes[one] == CLASS_NAMES.index(name)]
        assert row["images"] == len(ids)
        assert row["IoU_before"] == quality(before, truth, ids)["IoU"][name]
        assert row["IoU_after"] == quality(after, truth, ids)["IoU"][name]


def test_sweep(truth, single, label_parts, make, score, tmp_path):
    sweep = score("--pred PARTS/rough --saliency_dir PARTS/saliency --sweep")[f"{label_parts}/rough"]["sweep"]
    assert [row["threshold"] for row in sweep] == PAPER
    assert sweep[0]["replaced"] > sweep[5]["replaced"] > sweep[-1]["replaced"] == 0
    for row in sweep:
        select = f"--selector sos --saliency_dir PARTS/saliency --t0 {row['threshold']} --t1 0"
        labels = make(f"sos_{row['threshold']}", f"--baseline_dir PARTS/rough {select}")
        assert_same(row, quality(labels, truth, single))
        rows = json.loads((tmp_path / f"sos_{row['threshold']}/selector.json").read_text())["classes"].values()
        assert row["replaced"] == sum(of_class["replaced"] for of_class in rows)
    assert_same(sweep[-1], quality(labels_in(label_parts / "rough"), truth, single))  # the labels as they are
    some = score("--pred PARTS/rough --saliency_dir PARTS/saliency --sweep 0.4 0.1")[f"{label_parts}/rough"]["sweep"]
    assert some == [sweep[2], sweep[5]]


def test_evidence_scores_as_its_files(truth, single, label_parts, make, score, tmp_path, capsys):
    """They are those of make_pseudo_labels.py; the sweep has one more row."""
    select = f"{EVIDENCE} --saliency_dir PARTS/saliency"
    after, before = make("settled", f"--baseline_dir PARTS/rough {select}"), labels_in(label_parts / "rough")
    scores = score(f"--pred PARTS/rough {select} --sweep 0.1 --tables HERE/tables")[f"{label_parts}/rough"]
    assert_same(scores["selected"], quality(after, truth, truth))
    assert scores["selected"]["mIoU"] != scores["mIoU"]
    trust = float(load_evidence(tmp_path / "settled/evidence.npz").trust)
    assert scores["selector"]["trust"] == pytest.approx(trust)
    assert f"trust {trust:.2f}; measured on this list" in capsys.readouterr().out
    assert [row["threshold"] for row in scores["sweep"]] == [0.1, "evidence"]
    assert_same(scores["sweep"][1], quality(after, truth, single))
    changed = [name for name in single if (after[name] != before[name])[truth[name] != 255].any()]
    assert scores["sweep"][1]["replaced"] == len(changed) > 0
    with open(tmp_path / "tables/sweep_rough.csv", encoding="utf-8") as file:
        assert [row["t0"] for row in csv.DictReader(file)] == ["0.1", "evidence"]
    assert (tmp_path / "tables/sweep_rough.png").is_file()

    save_ids(tmp_path / "several.txt", [name for name in truth if name not in single])
    select = f"--list HERE/several.txt {select}"
    labels = make("several", f"--baseline_dir PARTS/rough {select}")
    scores = score(f"--pred PARTS/rough {select} --sweep")[f"{label_parts}/rough"]
    assert_same(scores["selected"], quality(labels, truth, labels))
    assert (scores["single_class"], scores["sweep"]) == (None, [])


@pytest.mark.slow
def test_evidence_in_processes(label_parts, score, monkeypatch):
    monkeypatch.setattr("utils.processes.MIN_FILES_PER_PROCESS", 5)
    flags = f"--pred PARTS/rough {EVIDENCE} --saliency_dir PARTS/saliency --sweep --workers"
    assert score(f"{flags} 1") == score(f"{flags} 2")


def test_several_baselines(truth, label_parts, score, tmp_path):
    """Scores are those of each folder alone, also of score dictionaries; folders of one name get a table each."""
    shutil.copytree(label_parts / "rough", tmp_path / "one/labels")
    (tmp_path / "two/labels").mkdir(parents=True)
    for name in truth:
        cams, classes = load_cams(label_parts / f"cams/{name}.npz")
        np.save(tmp_path / f"two/labels/{name}.npy", {int(label) - 1: cam for label, cam in zip(classes, cams)})
    select = "--saliency_dir PARTS/saliency --sweep --tables HERE/tables"
    both = score(f"--baseline_dir HERE/one/labels HERE/two/labels {select}")
    for name, alone in (("one", "HERE/one/labels"), ("two", "PARTS/cams")):
        (expected,) = score(f"--baseline_dir {alone} --saliency_dir PARTS/saliency --sweep").values()
        found = both[f"{tmp_path}/{name}/labels"]
        assert {key: found[key] for key in found if key != "files"} == {
            key: expected[key] for key in expected if key != "files"
        }
        assert (tmp_path / f"tables/sweep_{name}_labels.png").is_file()


def test_rules_are_the_files_of_make_pseudo_labels(truth, label_parts, make, score):
    scores = score("--rules --cam_dir PARTS/cams --saliency_dir PARTS/saliency --selector none --bg_threshold 0.3")
    assert list(scores) == sorted(FUSION_RULES)
    for rule in FUSION_RULES:
        labels = make(rule, f"--fusion {rule} --saliency_dir PARTS/saliency --bg_threshold 0.3")
        assert_same(scores[rule], quality(labels, truth, truth))
        assert "selected" not in scores[rule]
    some = score("--rules none affinity --cam_dir PARTS/cams --bg_threshold 0.3 --pred PARTS/rough")
    assert some == {rule: scores[rule] for rule in ("none", "affinity")} | score("--pred PARTS/rough")


def test_tables(truth, label_parts, score, tmp_path, capsys):
    flags = "--pred PARTS/rough --saliency_dir PARTS/saliency --rules icd --cam_dir PARTS/cams"
    scores = score(f"{flags} --sweep --tables HERE/tables")
    names = ["quality", "IoU_by_class", "precision_by_class", "recall_by_class"]
    names += [f"{kind}_{which}" for which in ("rough", "icd") for kind in ("selector", "sweep")]
    names += ["intervals", "comparison"]
    files = {path.name for path in (tmp_path / "tables").iterdir()}
    curves = {"sweep_rough.png", "sweep_icd.png"}
    assert files == {"tables.md", "tables.tex", *curves, *(f"{name}.csv" for name in names)}
    text = (tmp_path / "tables/tables.md").read_text(encoding="utf-8")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == names
    output = capsys.readouterr().out
    for section in f"\n{text}".split("\n## ")[1:]:
        name, table = section.split("\n\n", maxsplit=1)
        assert (table.strip() in output) is (name not in ("precision_by_class", "recall_by_class"))
    with open(tmp_path / "tables/sweep_rough.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sweep = scores[f"{label_parts}/rough"]["sweep"]
    assert [row["mIoU"] for row in rows] == [f"{100 * row['mIoU']:.2f}" for row in sweep]
    assert [float(row["t0"]) for row in rows] == PAPER
    after = scores[f"{label_parts}/rough"]["selected"]
    assert f"rough + selector,all,14,{100 * after['Acc']:.2f}" in (tmp_path / "tables/quality.csv").read_text()
    assert load_image(tmp_path / "tables/sweep_rough.png").shape[1] > 500


def test_nothing_is_written_by_default(scenes, label_parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(path for folder in (scenes, label_parts) for path in folder.rglob("*"))
    lists = f"--data_dir {scenes}/data --list {scenes}/voc12/train_aug_id.txt"
    rules = f"--image_labels {scenes}/voc12/cls_labels.npy --rules none --cam_dir {label_parts}/cams"
    select = f"--saliency_dir {label_parts}/saliency --sweep"
    run_main("evaluate", f"labels --pred {label_parts}/rough {lists} {rules} {select}")
    assert sorted(path for folder in (scenes, label_parts) for path in folder.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_truth_that_is_all_ignored(scenes, label_parts, score, tmp_path):
    """Undefined scores are null in the file and a dash in the tables."""
    shutil.copytree(scenes / "data/VOCdevkit/VOC2012", tmp_path / "voc")
    for path in (tmp_path / "voc/SegmentationClassAug").iterdir():
        save_label(path, np.full((64, 80), 255, np.uint8))
    scores = score("--pred PARTS/rough --data_dir HERE/voc --saliency_dir PARTS/saliency --sweep --tables HERE/tables")[
        f"{label_parts}/rough"
    ]
    assert scores["mIoU"] is scores["boundary_IoU"] is scores["IoU"]["star"] is None
    assert "NaN" not in (tmp_path / "scores.json").read_text()
    assert "–" in (tmp_path / "tables/tables.md").read_text(encoding="utf-8")


def test_image_labels_beside_the_list_are_the_default(score):
    flags = "--pred PARTS/rough --saliency_dir PARTS/saliency --sweep"
    assert score(flags, image_labels="") == score(flags)
    assert "single_class" not in score("--pred PARTS/rough", image_labels="")
    assert score("--pred PARTS/cams", image_labels="") == score("--pred PARTS/cams")  # score dictionaries


def test_refusals(scenes, truth, label_parts, score, tmp_path):
    with pytest.raises(InputError, match="nothing to score: name folders by --pred, or --rules"):
        score("")
    save_ids(tmp_path / "alone.txt", list(truth))  # no cls_labels.npy beside it
    with pytest.raises(InputError, match="the selector needs --image_labels"):
        score("--pred PARTS/rough --saliency_dir PARTS/saliency --list HERE/alone.txt", image_labels="")
    for flags in ("--sweep", "--sweep --saliency_dir PARTS/saliency --selector none"):
        with pytest.raises(InputError, match="--sweep needs a --selector"):
            score(f"--pred PARTS/rough {flags}")
    with pytest.raises(InputError, match="--selector evidence need --saliency_dir"):
        score(f"--pred PARTS/rough {EVIDENCE}")
    with pytest.raises(InputError, match="--selector evidence needs --features"):
        score("--pred PARTS/rough --saliency_dir PARTS/saliency --selector evidence")
    with pytest.raises(InputError, match="resnest13 is unknown"):
        score("--pred PARTS/rough --saliency_dir PARTS/saliency --selector evidence --features resnest13")
    with pytest.raises(InputError, match="--non_salient_classes: unknown unicorn"):
        score("--pred PARTS/rough --saliency_dir PARTS/saliency --non_salient_classes unicorn")
    with pytest.raises(InputError, match="--rules needs --cam_dir and --image_labels"):
        score("--rules none --cam_dir PARTS/cams --list HERE/alone.txt", image_labels="")
    with pytest.raises(InputError, match=r"--rules icd, oaa need --saliency_dir"):
        score("--rules none icd oaa --cam_dir PARTS/cams")
    with pytest.raises(InputError, match="holds score dictionaries: name the classes of the images by --image_labels"):
        score("--pred PARTS/cams --list HERE/alone.txt", image_labels="")
    lists = f"--data_dir {scenes}/data --list {scenes}/voc12/train_aug_id.txt"
    with pytest.raises(MissingInputError, match="lacks the labels of 14 of 14 images"):  # segmentations are label maps
        run_main("evaluate", f"segmentation --pred {label_parts}/cams {lists}")
    with pytest.raises(MissingInputError):
        score("--pred PARTS/rough --list HERE/none.txt")
    name = list(truth)[2]
    for folder, flags in (
        ("rough", "--pred HERE/rough"),
        ("saliency", "--pred PARTS/rough --saliency_dir HERE/saliency"),
        ("cams", "--rules none --cam_dir HERE/cams"),
    ):
        shutil.copytree(label_parts / folder, tmp_path / folder, dirs_exist_ok=True)
        next((tmp_path / folder).glob(f"{name}.*")).unlink()
        with pytest.raises(MissingInputError, match=rf"{folder}.* 1 of 14 .*\({name}"):
            score(flags)
    (tmp_path / "rows").mkdir()
    save_image_labels(tmp_path / "rows/labels.npy", {one: np.ones(10) for one in truth if one != name})
    with pytest.raises(MissingInputError, match=rf"lacks 1 of 14 ids \({name}\)"):
        score("--pred PARTS/rough", image_labels="--image_labels HERE/rows/labels.npy")


def test_missing_labels_may_be_left_out(truth, single, label_parts, score, tmp_path, capsys):
    """Scores are those of a shorter list, and missing files are reported."""
    shutil.copytree(label_parts / "rough", tmp_path / "rough")
    gone = list(truth)[2]
    (tmp_path / f"rough/{gone}.png").unlink()
    save_label(tmp_path / "rough/other.png", np.zeros((4, 4), np.uint8))
    scores = score("--pred HERE/rough --saliency_dir PARTS/saliency --allow_missing")[f"{tmp_path}/rough"]
    output = capsys.readouterr().out
    assert f"rough: 1 missing: {gone}" in output
    assert "extra, not scored: " in output
    save_ids(tmp_path / "rest.txt", [name for name in truth if name != gone])
    expected = score("--pred HERE/rough --saliency_dir PARTS/saliency --list HERE/rest.txt")[f"{tmp_path}/rough"]
    assert scores["files"].pop("missing") == [gone]
    assert expected["files"].pop("missing") == []
    for part in (scores, expected, scores["selected"], expected["selected"]):
        assert part.pop("intervals")  # an image that is missing has its place among the resamples
    for part in (scores, expected):
        part["files"].pop("extra")
    assert scores == expected
    for path in (tmp_path / "rough").iterdir():
        path.unlink()
    with pytest.raises(MissingInputError, match="lacks the labels of 14 of 14 images"):
        score("--pred HERE/rough --allow_missing")


def test_evidence_leaves_out_images_without_a_map(truth, label_parts, score, tmp_path):
    shutil.copytree(label_parts / "saliency", tmp_path / "maps")
    rows, (broken, *_) = score("--pred PARTS/rough --bootstrap 0"), sorted(truth)
    (tmp_path / f"maps/{broken}.png").write_bytes(b"")
    flags = f"--pred PARTS/rough --bootstrap 0 --saliency_dir HERE/maps {EVIDENCE}"
    with pytest.raises(InputError, match="1 images cannot be scored"):
        score(flags)
    scores = score(f"{flags} --allow_missing")[f"{label_parts}/rough"]
    assert list(scores["files"]["unusable"]) == [broken]
    assert scores["selected"]["images"] == rows[f"{label_parts}/rough"]["images"] - 1


def test_page_of_labels(truth, label_parts, score, tmp_path):
    score("--pred PARTS/rough --saliency_dir PARTS/saliency --report HERE/page.html --report_images 4")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<article") == 4
    labels = labels_in(label_parts / "rough")
    single_scores = {name: quality(labels, truth, [name])["mIoU"] for name in truth}
    worst = sorted(single_scores, key=single_scores.get)[:4]
    assert [line.split('"')[0] for line in page.split('<article data-title="')[1:]] == worst
    present = [NAMES[label] for label in np.unique(truth[worst[0]]) if 0 < label < 255]
    first = page.split("<article")[1]
    assert all(name in first for name in present)


def test_several_processes_give_the_same_scores(scenes, truth, label_parts, tmp_path):
    """The images are repeated under other names, so that two processes are used."""
    shutil.copytree(scenes / "data", tmp_path / "data")
    for place, name in ((place, name) for place in range(5) for name in truth):
        for folder, target in (
            (scenes / "data/VOCdevkit/VOC2012/SegmentationClassAug", "data/VOCdevkit/VOC2012/SegmentationClass"),
            (label_parts / "rough", "rough"),
        ):
            (tmp_path / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / f"{name}.png", tmp_path / target / f"{place}_{name}.png")
    save_ids(tmp_path / "many.txt", [f"{place}_{name}" for place in range(5) for name in truth])
    results = []
    for workers in (1, 2):
        run_main(
            "evaluate",
            f"segmentation --pred {tmp_path}/rough --data_dir {tmp_path}/data --list {tmp_path}/many.txt"
            f" --workers {workers} --json {tmp_path}/scores.json --bootstrap 20",
        )
        results.append(json.loads((tmp_path / "scores.json").read_text()))
    assert results[0] == results[1]
    assert results[0][f"{tmp_path}/rough"]["images"] == 70


def test_files_of_another_size_are_refused_by_name(truth, label_parts, score, tmp_path):
    name = list(truth)[2]
    for folder in ("rough", "saliency"):
        shutil.copytree(label_parts / folder, tmp_path / folder)
    save_label(tmp_path / f"rough/{name}.png", np.zeros((5, 7), np.uint8))
    with pytest.raises(InputError, match=rf"rough/{name}\.png is 7×5 px, but .* is 80×64 px: resize it to 80×64 px"):
        score("--pred HERE/rough")
    scores = score("--pred HERE/rough --allow_missing")[f"{tmp_path}/rough"]
    assert scores["images"] == 13
    assert list(scores["files"]["unusable"]) == [name]
    save_label(tmp_path / f"rough/{name}.png", np.full((64, 80), 12, np.uint8))
    with pytest.raises(InputError, match=rf"rough/{name}\.png holds the labels \[12\]"):
        score("--pred HERE/rough")
    save_grey(tmp_path / f"saliency/{name}.png", np.zeros((64, 79), np.uint8))
    for flags in (f"--pred PARTS/rough {EVIDENCE}", "--rules icd --selector none"):
        with pytest.raises(InputError, match=rf"saliency/{name}\.png is 79×64 px"):
            score(f"--cam_dir PARTS/cams --saliency_dir HERE/saliency {flags}")


def test_grey_maps_given_as_segmentations(scenes, truth, tmp_path):
    """At most five unknown values are named."""
    for name, label in truth.items():
        save_grey(tmp_path / f"maps/{name}.png", np.arange(label.size).reshape(label.shape).astype(np.uint8))
    lists = f"--data_dir {scenes}/data --list {scenes}/voc12/train_aug_id.txt"
    with pytest.raises(InputError, match=r"14 images .*labels \[11, 12, 13, 14, 15 and 239 more\]") as error:
        run_main("evaluate", f"segmentation --pred {tmp_path}/maps {lists}")
    assert len(str(error.value).replace(str(tmp_path), "maps")) <= 300


def test_maps_of_0_and_1(label_parts, score, tmp_path):
    """They score as maps of 0 and 255 do; a damaged map is left out."""
    rows, first = [], sorted((label_parts / "saliency").iterdir())[0].name
    for scale in (1, 255):
        for path in (label_parts / "saliency").iterdir():
            save_grey(tmp_path / "maps" / path.name, (load_grey(path) > 60).astype(np.uint8) * np.uint8(scale))
        (tmp_path / "maps" / first).write_bytes(b"no picture")
        flags = "--pred PARTS/rough --rules icd oaa --cam_dir PARTS/cams --saliency_dir HERE/maps --t0 0 --t1 0"
        rows.append(score(f"{flags} --allow_missing --workers 1"))
        assert all(row["images"] == 13 for row in rows[-1].values())
    assert rows[0] == rows[1]


def test_evaluation_does_not_load_torch(scenes, label_parts):
    code = "import sys, options, evaluate; evaluate.main(options.evaluate().parse_args())"
    code += "; sys.exit('torch' in sys.modules)"
    lists = f"--data_dir {scenes}/data --list {scenes}/voc12/train_id.txt --bootstrap 0 --workers 1"
    flags = f"labels --pred {label_parts}/rough --saliency_dir {label_parts}/saliency --sweep {lists}"
    assert subprocess.run([sys.executable, "-c", code, *flags.split()], cwd=PROJECT).returncode == 0
