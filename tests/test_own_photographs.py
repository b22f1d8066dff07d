"""Photographs in nested folders, of several formats, with one name in two folders: `pipeline.py own` and its stages."""

import json
import shutil

import numpy as np
import pytest
from conftest import TINY_RESNEST, bytes_in, run_main
from training_commands import CROPS

import options
import pipeline
from formats.errors import InputError, MissingInputError
from formats.image_labels import load_image_labels
from formats.images import image_size, load_image, save_grey, save_image
from formats.labels import load_label
from formats.voc_layout import find_photographs, load_ids
from pseudo_labels.external_labels import find_baseline
from pseudo_labels.self_training import share_of_changes

TINY = TINY_RESNEST.removesuffix(" --workers 0") + " --pretrained none"
for stage in ("classifier", "network --head_width 16"):
    TINY += f" --flags '{stage} {CROPS} --max_epoch 1 --train_batch 4 --workers 0'"


@pytest.fixture(scope="module")
def own(scenes, label_parts, tmp_path_factory):
    """photographs/ with the photographs of the drawn scenes, saliency/ with their maps, and tags.csv."""
    root, voc = tmp_path_factory.mktemp("own"), scenes / "data/VOCdevkit/VOC2012"
    names = load_ids(scenes / "voc12/train_aug_id.txt")
    classes = (voc / "classes.txt").read_text().split()
    rows = ["file_name,classes"]
    for place, (name, row) in enumerate(zip(names, load_image_labels(scenes / "voc12/cls_labels.npy", names, classes))):
        image_id = f"{('a', 'b/deep er', 'c')[place % 3]}/photo {place // 3}"
        suffix = (".jpg", ".png", ".JPG")[place % 3]
        image, path = load_image(voc / f"JPEGImages/{name}.jpg"), root / f"photographs/{image_id}{suffix}"
        save_image(path.with_suffix(".png"), image)
        path.with_suffix(".png").rename(path)
        objects = load_label(label_parts / f"rough/{name}.png") > 0
        save_grey(root / f"saliency/{image_id}.png", objects * np.uint8(255))
        rows.append(f"{image_id},{' '.join(np.array(classes)[row > 0])}")
    (root / "tags.csv").write_text("\n".join(rows))
    run_main("prepare_data own", f"--images {root}/photographs --tags {root}/tags.csv --output {root}/data")
    return root


def run_own(own, output, flags: str = "") -> None:
    places = f"--images {own}/photographs --tags {own}/tags.csv --output {output}"
    run_main("pipeline own", f"{places} --saliency_dir {own}/saliency {TINY} {flags}")


def test_from_photographs_to_masks(own, tmp_path, capsys):
    out = tmp_path / "out"
    run_own(own, out)
    assert "minutes if nothing else runs" in capsys.readouterr().out
    ids = load_ids(own / "data/all_id.txt", own / "photographs")
    for folder in ("labels", "segmentations"):
        assert list(find_baseline(out / folder, ids)) == ids
    assert {image["file_name"] for image in json.loads((out / "labels.json").read_text())["images"]} >= {
        "a/photo 0.jpg"
    }
    assert (out / "doubt.csv").read_text().count("\n") == len(ids) + 1
    assert (out / "network.onnx").is_file()
    assert "photo 0" in (out / "doubt.html").read_text()

    labels = bytes_in(out / "labels")  # a run that was killed continues with the same labels
    (out / f"labels/{ids[3]}.png").unlink()
    (out / "times.tsv").unlink()
    run_own(own, out)
    assert bytes_in(out / "labels") == labels

    corrected = np.full(image_size(own / "photographs/a/photo 0.jpg"), 2, np.uint8)
    save_grey(tmp_path / "mine/a/photo 0.png", corrected)
    run_own(own, out, f"--corrected {tmp_path}/mine")
    changed = bytes_in(out / "corrected/mine/labels")
    assert np.array_equal(load_label(out / "corrected/mine/labels/a/photo 0.png"), corrected)
    assert [name for name in labels if changed[name] != labels[name]] == ["a/photo 0.png"]
    assert bytes_in(out / "labels") == labels

    with pytest.raises(InputError, match="runs/classifier was trained by another command: give the flags of that run"):
        run_own(own, out, f"--corrected {tmp_path}/mine --flags 'classifier --max_epoch 2'")
    save_grey(tmp_path / "bad/a/photo 0.png", corrected + 90)
    with pytest.raises(InputError, match=r"a/photo 0 holds the labels \[92\]"):
        run_own(own, out, f"--corrected {tmp_path}/bad")
    assert not (out / "corrected/bad").exists()


def test_settings_suit_the_photographs():
    flags = "own --images x --tags x --output x --saliency_dir x"
    args = options.pipeline().parse_args(flags.split())
    groups = pipeline.own_stages(args, "x", 10_000, np.array([[3000, 4000], [2000, 4000], [100, 80]]))
    commands = dict(groups["start"])
    assert " --max_epoch 5 " in commands["classifier"]
    assert "--scales 0.064 0.128 0.192 0.256" in commands["labels"]
    groups = pipeline.own_stages(args, "x", 50, np.array([[300, 400]]))
    assert " --max_epoch 40 " in dict(groups["start"])["network"]
    assert "--scales 0.5 1 1.5 2" in dict(groups["results 0"])["predictions"]


def test_rounds(own, tmp_path, monkeypatch, capsys):
    """They stop when labels hardly change; the results are those of the last network."""
    out = tmp_path / "out"
    monkeypatch.setattr(pipeline, "LEAST_CHANGE", 1.1)
    run_own(own, out, "--rounds 2")
    assert "round 1: " in (printed := capsys.readouterr().out) and "round 2: " not in printed
    assert (out / "labels.json").is_file() and not (out / "round1/runs").exists()
    monkeypatch.setattr(pipeline, "LEAST_CHANGE", -1)
    labels = bytes_in(out / "labels"), bytes_in(out / "round1/labels")
    run_own(own, out, "--rounds 2")
    assert (bytes_in(out / "labels"), bytes_in(out / "round1/labels")) == labels
    assert {path.name for path in (out / "round2").iterdir()} >= {"labels.json", "network.onnx", "doubt.html", "labels"}
    changed = share_of_changes(out / "round1/labels", out / "labels", load_ids(own / "data/all_id.txt"))
    assert f"round 1: {changed:.1%} of all pixels" in capsys.readouterr().out


def test_maps_come_from_one_place(own, tmp_path):
    places = f"--images {own}/photographs --tags {own}/tags.csv --output {tmp_path}/out"
    with pytest.raises(InputError, match="saliency maps come from one place"):
        run_main("pipeline own", places)
    with pytest.raises(InputError, match="saliency maps come from one place"):
        run_main("pipeline own", f"{places} --saliency_dir {own}/saliency --saliency_load_path a.pth")
    assert not (tmp_path / "out").exists()


def test_a_mistake_in_the_flags_of_the_last_stage_is_found_first(own, tmp_path):
    with pytest.raises(SystemExit):
        run_own(own, tmp_path / "out", "--flags 'predictions --scales much'")
    assert not (tmp_path / "out/runs").exists()


def test_photographs_that_are_missing_or_share_an_id(own, tmp_path):
    shutil.copytree(own / "data", tmp_path / "data")
    shutil.copytree(own / "photographs", tmp_path / "photographs")
    (tmp_path / "data/photographs.txt").write_text(str(tmp_path / "photographs"))
    ids = load_ids(own / "data/all_id.txt", own / "photographs")
    assert [path.stem for path in find_photographs(tmp_path / "data", ids)] == [name.split("/")[-1] for name in ids]
    with pytest.raises(MissingInputError, match=r"photographs lacks 1 of 15 photographs \(a/gone\)"):
        find_photographs(tmp_path / "data", [*ids, "a/gone"])
    shutil.copy(tmp_path / "photographs/a/photo 0.jpg", tmp_path / "photographs/a/photo 0.png")
    with pytest.raises(InputError, match="have the same id"):
        find_photographs(tmp_path / "data", ids)
    shutil.rmtree(tmp_path / "photographs")
    with pytest.raises(MissingInputError, match=r"photographs\.txt"):
        find_photographs(tmp_path / "data", ids)
