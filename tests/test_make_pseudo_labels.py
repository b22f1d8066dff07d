"""make_pseudo_labels.py by running it: labels agree with the files that they are made from."""

import csv
import json
import shutil

import numpy as np
import pytest
import timm
import torch
from conftest import bytes_in, labels_in, run_main

from datasets.drawn_objects import CLASS_NAMES
from formats.cams import load_cams, load_named_arrays
from formats.errors import InputError
from formats.image_labels import load_image_labels
from formats.images import GreyMap, load_grey, load_image, save_grey, save_image
from formats.labels import load_label, save_label
from formats.voc_layout import load_ids, save_ids
from options import FUSION_RULES
from pseudo_labels.fusion_inputs import label_crf, load_inputs
from pseudo_labels.fusion_rules import constant_background, fuse, list_inputs

EVIDENCE = "--selector evidence --saliency_dir PARTS/saliency"


@pytest.fixture(scope="module")
def classes_of(scenes) -> dict[str, np.ndarray]:
    """Id → labels of the classes in the image."""
    ids = load_ids(scenes / "voc12/train_aug_id.txt")
    rows = load_image_labels(scenes / "voc12/cls_labels.npy", ids, CLASS_NAMES)
    return {name: (np.flatnonzero(row) + 1).astype(np.uint8) for name, row in zip(ids, rows)}


@pytest.fixture(scope="module")
def expanded(scenes, label_parts, tmp_path_factory):
    """Folder of the expanded maps."""
    folder = tmp_path_factory.mktemp("expanded")
    voc = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --cam_dir {label_parts}/cams"
    walk = f"--affinity_path {label_parts}/affinity/last.pth --expanded_dir {folder}/maps"
    run_main("make_pseudo_labels", f"{voc} {walk} --label_name {folder}/labels")
    return folder / "maps"


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def decisions_in(folder) -> dict[str, dict]:
    with open(folder / "selector.csv", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def iou(label: np.ndarray, mask: np.ndarray) -> float:
    foreground, counted = np.isin(label, (0, 255), invert=True), label != 255
    return (foreground & mask).sum() / max((foreground | (mask & counted)).sum(), 1)


def test_labels_follow_from_the_maps(label_parts, classes_of, make, tmp_path):
    labels = make("cam", "--load_path PARTS/classifier/last.pth", cams="HERE/cams")
    make("again", "--load_path PARTS/classifier/last.pth", cams="HERE/new_cams")
    assert bytes_in(tmp_path / "again") == bytes_in(tmp_path / "cam")
    assert bytes_in(tmp_path / "new_cams") == bytes_in(tmp_path / "cams")
    assert labels.keys() == classes_of.keys()
    for name, label in labels.items():
        cams, classes = load_cams(tmp_path / f"cams/{name}.npz")
        assert cams.shape[1:] == (64, 80)
        assert 0 <= cams.min() <= cams.max() <= 1
        assert classes.tolist() == classes_of[name].tolist()
        assert np.array_equal(label, constant_background(cams, classes, bg_threshold=0.2))


@pytest.mark.parametrize("rule", FUSION_RULES)
def test_every_rule(rule, scenes, label_parts, expanded, classes_of, make, tmp_path):
    """Labels equal the function of the rule on the input files, and the CRF on its result."""
    save_ids(tmp_path / "some.txt", list(classes_of)[:4])
    flags = f"--list HERE/some.txt --fusion {rule} --saliency_dir PARTS/saliency"
    labels = make("fused", f"{flags} --second_cam_dir {expanded}")
    refined = make("refined", f"{flags} --second_cam_dir {expanded} --crf --crf_iterations 3")
    assert list(labels) == list(refined) == list(classes_of)[:4]
    for name, label in labels.items():
        image = scenes / f"data/VOCdevkit/VOC2012/JPEGImages/{name}.jpg"
        maps, others = label_parts / f"cams/{name}.npz", expanded / f"{name}.npz"
        has = np.isin(np.arange(1, 11), classes_of[name])
        saliency = GreyMap(label_parts / f"saliency/{name}.png")
        evidence = load_inputs(list_inputs(rule), has, image, maps, others, saliency)
        assert np.array_equal(label, fuse(rule, evidence, {}))
        assert set(np.unique(label)) <= {0, 255, *classes_of[name]}
        assert np.array_equal(refined[name], label_crf(load_image(image))(label, iterations=3))


def test_finished_labels_are_not_fused(make):
    for flags in ("--fusion icd --saliency_dir PARTS/saliency", "--crf"):
        with pytest.raises(InputError, match="--baseline_dir holds finished labels"):
            make("labels", f"--baseline_dir PARTS/rough {flags}")


def test_parameters_of_a_rule(label_parts, classes_of, make):
    labels = make("auxsegnet", "--fusion auxsegnet --fusion_args cam_threshold=0.6 --saliency_dir PARTS/saliency")
    for name, label in labels.items():
        cams, _ = load_cams(label_parts / f"cams/{name}.npz")
        salient = load_grey(label_parts / f"saliency/{name}.png") > 0.06 * 255
        assert np.array_equal(np.isin(label, (0, 255), invert=True), (cams.max(axis=0) > 0.6) & salient)


def test_nsrom_takes_other_maps(label_parts, expanded, make):
    rule = "--fusion nsrom --fusion_args smallest_share=0 cam_threshold=0.1 --saliency_dir PARTS/saliency"
    assert not same(make("own", rule), make("other", f"{rule} --second_cam_dir {expanded}"))


def test_expansion(label_parts, expanded, classes_of, make, tmp_path):
    flags = "--affinity_path PARTS/affinity/last.pth --expanded_dir HERE/maps"
    labels = make("expanded", flags)
    assert bytes_in(tmp_path / "maps") == bytes_in(expanded)
    moved = 0
    for name, label in labels.items():
        cams, classes = load_cams(expanded / f"{name}.npz")
        assert classes.tolist() == classes_of[name].tolist()
        assert cams.shape[1:] == (64, 80)
        assert 0 <= cams.min() <= cams.max() <= 1
        assert np.array_equal(label, constant_background(cams, classes, bg_threshold=0.2))
        moved += not np.array_equal(cams, load_cams(label_parts / f"cams/{name}.npz")[0])
    assert moved == len(labels)


def test_expansion_without_training(label_parts, classes_of, make, tmp_path):
    """Maps are computed by `spread_cams`, into their own folder, once."""
    flags = "--load_path PARTS/classifier/last.pth --expansion attention --expanded_dir HERE/maps"
    first = make("spread", flags, cams="HERE/cams")
    for name, classes in classes_of.items():
        cams, labels = load_cams(tmp_path / f"maps/{name}.npz")
        assert labels.tolist() == classes.tolist()
        assert cams.shape == (len(labels), 64, 80)
        assert not np.allclose(cams, load_cams(label_parts / f"cams/{name}.npz")[0])
    assert same(first, make("spread", flags, cams="HERE/cams"))


def test_mixed_precision_on_cpus(make, tmp_path, monkeypatch):
    """Both networks run in mixed precision."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for amp in ("False", "cpu"):
        flags = f"--load_path PARTS/classifier/last.pth --amp {amp} --scales 1 1.5 --flip"
        make(amp, f"{flags} --affinity_path PARTS/affinity/last.pth", cams=f"HERE/cams_{amp}")
    for kind in ("", "_expanded"):
        folders = [tmp_path / f"cams_{amp}{kind}" for amp in ("False", "cpu")]
        maps = [np.concatenate([load_cams(path)[0] for path in sorted(folder.glob("*.npz"))]) for folder in folders]
        assert 0 < np.abs(maps[0] - maps[1]).mean() < 0.1


def test_labels_of_another_method(label_parts, classes_of, make, tmp_path):
    """Label maps are copied; score dictionaries, of this project or of AffinityNet, become labels like maps."""
    assert same(
        make("png", "--baseline_dir PARTS/rough"),
        {name: label for name, label in labels_in(label_parts / "rough").items() if name in classes_of},
    )
    (tmp_path / "scores").mkdir()
    for name in classes_of:
        cams, classes = load_cams(label_parts / f"cams/{name}.npz")
        np.save(tmp_path / f"scores/{name}.npy", {int(label) - 1: cam for label, cam in zip(classes, cams)})
    expected = make("cam", "--bg_threshold 0.4")
    assert same(make("npz", "--baseline_dir PARTS/cams --bg_threshold 0.4"), expected)
    assert same(make("npy", "--baseline_dir HERE/scores --bg_threshold 0.4"), expected)
    select = "--selector sos --saliency_dir PARTS/saliency --t0 0 --t1 0 --bg_threshold 0.4"
    assert same(make("npy_sos", f"--baseline_dir HERE/scores {select}"), make("cam_sos", select))
    assert not (tmp_path / "npy_sos/before").exists()
    assert same(labels_in(tmp_path / "cam_sos/before"), expected)


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--t0 0.2 --t1 0.3 --salient_norm 0.9",
        "--t0 0.6 --saliency_threshold 0.3",
        "--t0 0.3 --t1 0.4 --non_salient_classes star kite",
        "--t0 0.3 --t1 0.4 --non_salient_classes none",
        "--selector_form formula",
        "--selector_form formula --tau 1.2",
    ],
)
def test_decisions_of_the_selector(flags, label_parts, classes_of, make, tmp_path):
    """Labels, selector.csv and selector.json agree with each other and with the rule of the paper."""
    labels = make("sos", f"--baseline_dir PARTS/rough --selector sos --saliency_dir PARTS/saliency {flags}")
    rows, summary = decisions_in(tmp_path / "sos"), json.loads((tmp_path / "sos/selector.json").read_text())
    recorded = json.loads((tmp_path / "sos/options.json").read_text())
    assert list(rows) == [name for name, classes in classes_of.items() if len(classes) == 1]
    for name, label in labels.items():
        before, saliency = (
            load_label(label_parts / f"rough/{name}.png"),
            load_grey(label_parts / f"saliency/{name}.png"),
        )
        if name not in rows:
            assert np.array_equal(label, before)
            continue
        mask, row = saliency > recorded["saliency_threshold"] * 255, rows[name]
        assert row["class"] == CLASS_NAMES[classes_of[name][0] - 1]
        of_class = summary["classes"][row["class"]]
        assert float(row["overlap"]) == pytest.approx(iou(before, mask) if mask.any() else -1, abs=1e-6)
        assert float(row["threshold"]) == pytest.approx(of_class["threshold"], abs=1e-6)
        assert (row["replaced"] == "1") is (float(row["overlap"]) > float(row["threshold"]))
        assert np.array_equal(label, np.where(mask, classes_of[name], 0) if row["replaced"] == "1" else before)
        if recorded["selector_form"] == "formula":
            assert summary["tau"] == (recorded["tau"] or recorded["t0"] + 1)
            assert of_class["threshold"] == pytest.approx(summary["tau"] - of_class["saliency"])
        else:
            raised = recorded["t1"] if row["class"] in summary["non_salient"] else 0
            assert of_class["threshold"] == pytest.approx(summary["t0"] + raised)
    for name, of_class in summary["classes"].items():
        mine = [row for row in rows.values() if row["class"] == name]
        assert of_class["images"] == len(mine)
        assert of_class["replaced"] == sum(row["replaced"] == "1" for row in mine)
    if recorded["selector_form"] == "algorithm":
        assert (recorded["t0"], recorded["t1"]) == (summary["t0"], summary["t1"])
    assert {row["replaced"] for row in rows.values()} == {"0", "1"}


def test_maps_of_0_and_1_mean_0_and_255(label_parts, make, tmp_path):
    labels, select = [], "--fusion oaa --selector sos --t0 0 --t1 0 --saliency_dir HERE"
    for scale in (1, 255):
        for path in (label_parts / "saliency").iterdir():
            save_grey(tmp_path / f"maps{scale}" / path.name, (load_grey(path) > 60).astype(np.uint8) * np.uint8(scale))
        labels.append(make(f"labels{scale}", f"{select}/maps{scale}"))
    assert same(*labels)
    assert any(row["replaced"] == "1" for row in decisions_in(tmp_path / "labels1").values())


def test_maps_that_say_nothing(label_parts, make, tmp_path, capsys):
    """Empty maps are noted; pictures are refused before the first map is made."""
    for path in (label_parts / "saliency").iterdir():
        save_grey(tmp_path / "empty" / path.name, np.zeros((64, 80), np.uint8))
        save_image(tmp_path / "red" / path.name, np.full((64, 80, 3), (99, 9, 9), np.uint8))
    make("kept", "--selector sos --saliency_dir HERE/empty")
    assert f"{tmp_path}/empty: all 14 maps are empty (0)\n" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"\.png holds colours, so it is no grey map"):
        make("red", "--load_path PARTS/classifier/last.pth --selector sos --saliency_dir HERE/red", cams="HERE/new")
    assert not (tmp_path / "new").exists()


def test_parts_of_a_list_give_the_labels_of_the_whole(scenes, make, tmp_path):
    """Given the non-salient classes of the whole list."""
    ids = load_ids(scenes / "voc12/train_aug_id.txt")
    parts = {"first": ids[:6], "second": ids[6:]}
    selector = "--fusion oaa --selector sos --saliency_dir PARTS/saliency"
    whole = make("whole", f"{selector} --salient_norm 0.8")
    summary, joined = json.loads((tmp_path / "whole/selector.json").read_text()), {}
    assert summary["non_salient"]
    for name, members in parts.items():
        save_ids(tmp_path / f"{name}_id.txt", members)
        given = f"--non_salient_classes {' '.join(summary['non_salient'])}"
        joined |= make(name, f"{selector} {given} --list HERE/{name}_id.txt")
    assert same(joined, whole)


def test_class_saliency_is_that_of_the_maps(label_parts, classes_of, make, tmp_path):
    make("sos", "--selector sos --saliency_dir PARTS/saliency")
    norms: dict[str, list[float]] = {}
    for name in decisions_in(tmp_path / "sos"):
        saliency = load_grey(label_parts / f"saliency/{name}.png") / 255
        norms.setdefault(CLASS_NAMES[classes_of[name][0] - 1], []).append(np.linalg.norm(saliency) / (64 * 80) ** 0.5)
    means = {name: np.mean(values) for name, values in norms.items()}
    summary = json.loads((tmp_path / "sos/selector.json").read_text())
    measured = {name: row["saliency"] for name, row in summary["classes"].items()}
    assert measured == pytest.approx({name: mean / max(means.values()) for name, mean in means.items()})
    assert summary["non_salient"] == [name for name in CLASS_NAMES if measured.get(name, 1) < 0.5]


def test_no_image_of_a_single_class(label_parts, classes_of, make, tmp_path):
    save_ids(tmp_path / "several.txt", [name for name, classes in classes_of.items() if len(classes) > 1])
    select = "--list HERE/several.txt --selector sos --saliency_dir PARTS/saliency"
    assert same(make("sos", select), labels_in(tmp_path / "sos/before"))
    assert decisions_in(tmp_path / "sos") == {}


def test_a_mask_of_black_maps_replaces_nothing(scenes, label_parts, classes_of, make, tmp_path):
    for name in classes_of:
        save_grey(tmp_path / f"black/{name}.png", np.zeros((64, 80), np.uint8))
        save_label(tmp_path / f"empty/{name}.png", np.zeros((64, 80), np.uint8))
    for form in ("algorithm", "formula"):
        select = f"--baseline_dir HERE/empty --selector sos --saliency_dir HERE/black --selector_form {form}"
        make(form, f"{select} --t0 0 --tau 0")
        assert {row["replaced"] for row in decisions_in(tmp_path / form).values()} == {"0"}


@pytest.mark.parametrize(
    ("before", "features"),
    [
        ("", ""),
        ("--baseline_dir PARTS/rough", "--features PARTS/affinity/last.pth"),
        ("--baseline_dir PARTS/rough", "--features mobilenetv2_035 --pretrained HERE/mobilenet.pth"),
    ],
)
def test_evidence_changes_only_what_label_and_mask_dispute(before, features, label_parts, classes_of, make, tmp_path):
    """With features of the classifier, of a checkpoint of another stage, and of a file of timm."""
    torch.save(timm.create_model("mobilenetv2_035").state_dict(), tmp_path / "mobilenet.pth")
    labels = make("settled", f"{before or '--load_path PARTS/classifier/last.pth'} {features} {EVIDENCE}", "HERE/cams")
    unsettled, changed = labels_in(label_parts / "rough" if before else tmp_path / "settled/before"), 0
    assert labels.keys() == classes_of.keys()
    for name, label in labels.items():
        mask = load_grey(label_parts / f"saliency/{name}.png") > 127
        agreed = np.isin(unsettled[name], classes_of[name]) == mask
        expected = np.where((unsettled[name] == 255) & mask.any(), 0, unsettled[name])  # an empty mask settles nothing
        assert np.array_equal(label[agreed | (not mask.any())], expected[agreed | (not mask.any())])
        assert set(np.unique(label)) <= {0, *classes_of[name], *([] if mask.any() else [255])}
        changed += not np.array_equal(label, expected)
    assert changed
    shapes = {name: array.shape for name, array in load_named_arrays(tmp_path / "settled/evidence.npz").items()}
    assert shapes["weights"][0] == 10 and shapes["bias"] == (10,) and shapes["trust"] == ()


def test_a_run_with_evidence_continues_with_what_it_has_learnt(label_parts, make, tmp_path):
    flags = f"--baseline_dir PARTS/rough {EVIDENCE} --features"
    make("settled", f"{flags} PARTS/classifier/last.pth")
    whole, learnt = bytes_in(tmp_path), tmp_path / "settled/evidence.npz"
    written = learnt.stat().st_mtime_ns
    for path in sorted((tmp_path / "settled").glob("*.png"))[::2]:
        path.unlink()
    make("settled", f"{flags} PARTS/classifier/last.pth")
    assert (bytes_in(tmp_path), learnt.stat().st_mtime_ns) == (whole, written)
    for path in (learnt, *sorted((tmp_path / "settled").glob("*.png"))[3:]):
        path.unlink()
    make("settled", f"{flags} PARTS/classifier/last.pth")
    assert bytes_in(tmp_path) == whole
    for other, words in (
        (f"{flags} PARTS/affinity/last.pth", "made with (features|weights) = "),
        (f"{flags} PARTS/classifier/last.pth --saliency_threshold 0.4", "made with saliency_threshold = 0.5, not 0.4"),
        (f"{flags} PARTS/classifier/last.pth --list train_id.txt", "made with ids = "),
    ):
        with pytest.raises(InputError, match=words):
            make("settled", other)
    make("settled", f"{flags} PARTS/classifier/last.pth --t0 0.1")  # has no effect
    assert bytes_in(tmp_path) == whole
    learnt.write_bytes((label_parts / "cams" / f"{min(labels_in(label_parts / 'rough'))}.npz").read_bytes())
    with pytest.raises(InputError, match=r"evidence\.npz is not a file of --selector evidence"):
        make("settled", f"{flags} PARTS/classifier/last.pth")


@pytest.mark.slow
def test_the_crf_in_processes(scenes, label_parts, tmp_path, monkeypatch):
    """Two processes make the labels that one process makes, and report a mistake in one line."""
    monkeypatch.setattr("utils.processes.MIN_CRFS_PER_PROCESS", 5)
    command = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --cam_dir {label_parts}/cams --crf"
    for workers in (1, 2):
        run_main("make_pseudo_labels", f"{command} --label_name {tmp_path}/{workers} --workers {workers}")
    one, two = (labels_in(tmp_path / name) for name in "12")
    assert len(one) == 14
    assert all(np.array_equal(label, two[name]) for name, label in one.items())
    shutil.copytree(label_parts / "cams", tmp_path / "cams")
    (tmp_path / "cams" / f"{max(one)}.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=f"{max(one)}.npz"):
        flags = f"--label_name {tmp_path}/3 --cam_dir {tmp_path}/cams --workers 2"
        run_main("make_pseudo_labels", f"{command} {flags}")
    assert len(labels_in(tmp_path / "3")) == 13


def test_unused_maps_are_reported(make, capsys):
    make("a", "--saliency_dir PARTS/saliency")
    assert "--saliency_dir has no effect with --fusion none and without --selector" in capsys.readouterr().err


def test_maps_of_another_size_are_found_before_the_cams_are_made(label_parts, make, tmp_path):
    for path in (label_parts / "saliency").iterdir():
        save_grey(tmp_path / "small" / path.name, np.zeros((32, 32), np.uint8))
    with pytest.raises(InputError, match=r"is 32×32 px, but .*jpg is 80×64 px: resize it"):
        make("a", "--load_path PARTS/classifier/last.pth --selector sos --saliency_dir HERE/small", cams="HERE/cams")
    assert not (tmp_path / "cams").exists()
