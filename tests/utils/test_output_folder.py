"""make_pseudo_labels.py: resumed runs, two processes, and other options for the same folder."""

import os
import shutil
import subprocess

import cv2
import numpy as np
import pytest
import torch
from conftest import PROJECT, bytes_in, run_main
from training_commands import TWO_PROCESSES

from formats.cams import load_cams, save_cams
from formats.errors import InputError, MissingInputError
from formats.image_labels import save_image_labels
from formats.images import load_image, save_grey, save_image
from formats.labels import save_label
from formats.voc_layout import load_ids, save_ids
from utils.checkpoint import load_checkpoint

ALL_STAGES = (
    "--load_path PARTS/classifier/last.pth --scales 0.5 1 --affinity_path PARTS/affinity/last.pth --exp_times 4 "
    "--fusion auxsegnet --crf --crf_iterations 2 --selector sos --saliency_dir PARTS/saliency --t0 0.3 "
    "--batch 2"
)


@pytest.fixture(scope="module")
def whole(scenes, label_parts, tmp_path_factory):
    """Output of one run of all stages: labels/ with before/, cams/, cams_expanded/."""
    root = tmp_path_factory.mktemp("whole")
    voc = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --label_name {root}/labels --cam_dir {root}/cams"
    run_main("make_pseudo_labels", f"{voc} {ALL_STAGES}".replace("PARTS", str(label_parts)))
    return root


def test_what_a_run_writes(scenes, whole):
    ids = load_ids(scenes / "voc12/train_aug_id.txt")
    folders = {"labels": ".png", "labels/before": ".png", "cams": ".npz", "cams_expanded": ".npz"}
    expected = {f"{folder}/{name}{suffix}" for folder, suffix in folders.items() for name in ids}
    records = {f"{folder}/options.json" for folder in folders} | {"labels/selector.csv", "labels/selector.json"}
    found = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file() and path.name != ".lock"}
    assert found == expected | records


def test_a_second_run_makes_only_what_is_missing(whole, make, tmp_path, capsys):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "labels")  # its record names the folders of the copy
    shutil.rmtree(tmp_path / "cams_expanded")
    make("labels", ALL_STAGES, cams="HERE/cams")
    assert bytes_in(tmp_path) == bytes_in(whole)
    capsys.readouterr()
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".npz")]
    times = {path: path.stat().st_mtime_ns for path in files}
    lost = [sorted((tmp_path / folder).glob("*.???"))[place] for place, folder in enumerate(["labels", "cams"])]
    lost += [sorted((tmp_path / folder).iterdir())[4] for folder in ("labels/before", "cams_expanded")]
    for path in lost:
        path.unlink()
    make("labels", ALL_STAGES, cams="HERE/cams")
    output = capsys.readouterr().out
    assert "1 labels written, 13 already existed" in output
    assert "1 labels selected, 13 already existed" in output
    assert bytes_in(tmp_path) == bytes_in(whole)
    assert {path for path in files if path.stat().st_mtime_ns != times[path]} == set(lost)


def test_existing_maps_need_no_classifier(whole, make, tmp_path):
    shutil.copytree(whole / "cams", tmp_path / "cams")
    make("labels", ALL_STAGES.replace("--load_path PARTS/classifier/last.pth", ""), cams="HERE/cams")
    assert bytes_in(tmp_path) == bytes_in(whole)
    make("labels", ALL_STAGES, cams="HERE/cams")  # the same maps, whether or not the classifier is named
    next((tmp_path / "cams").glob("*.npz")).unlink()
    with pytest.raises(InputError, match="lacks the maps of 1 images: name a classifier by --load_path"):
        make("labels", "", cams="HERE/cams")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--scales 1", r"cams holds files made with scales = \[0\.5, 1\.0\], not \[1\.0\]"),
        ("--load_path HERE/other.pth", "cams holds files made with checkpoint = "),
        ("--beta 2", "cams_expanded holds files made with beta = 10.0, not 2.0"),
        ("--affinity_path HERE/other_affinity.pth", "made with affinity = "),
        ("--expanded_dir HERE/elsewhere", "before holds files made with maps folder = "),
        ("--fusion icd", "before holds files made with fusion = auxsegnet, not icd"),
        ("--fusion_args cam_threshold=0.1", "made with fusion_args cam_threshold = None, not 0.1"),
        ("--crf_iterations 3", "made with crf_iterations = 2, not 3"),
        ("--saliency_dir HERE/saliency", "before holds files made with saliency folder = "),
        ("--image_labels HERE/cls_labels.npy", "made with image_labels = "),
        ("--selector none", "labels holds files made with selector = sos, not none"),
        ("--baseline_dir PARTS/rough --fusion none --crf False", "labels holds files made with baseline"),
        ("--t0 0.4", "made with t0 = 0.3, not 0.4"),
        ("--non_salient_classes star", r"made with non_salient_classes = \['measured'\], not \['star'\]"),
        ("--salient_norm 0.6", "made with salient_norm = 0.5, not 0.6"),
        ("--list train_id.txt", "labels holds files made with ids = "),
    ],
)
def test_other_options_are_refused_in_the_same_folder(flags, words, label_parts, whole, make, tmp_path):
    for name, kind in (("other.pth", "classifier"), ("other_affinity.pth", "affinity")):
        torch.save(load_checkpoint(label_parts / kind / "last.pth") | {"training": {}}, tmp_path / name)
    shutil.copytree(label_parts / "saliency", tmp_path / "saliency")
    shutil.copytree(whole / "cams", tmp_path / "cams")
    rows = {path.stem: np.isin(np.arange(1, 11), load_cams(path)[1]) for path in (whole / "cams").glob("*.npz")}
    save_image_labels(tmp_path / "cls_labels.npy", rows | {"one_more": np.ones(10)})
    before = bytes_in(whole)
    with pytest.raises(InputError, match=words):
        make("unused", f"{ALL_STAGES} {flags} --label_name {whole}/labels", cams=whole / "cams")
    assert bytes_in(whole) == before


def test_options_of_a_rule_do_not_matter_for_others(label_parts, make, tmp_path):
    make("oaa", "--fusion oaa --saliency_dir PARTS/saliency")
    make("oaa", "--fusion oaa --saliency_dir PARTS/saliency --bg_threshold 0.3")
    make("constant")
    with pytest.raises(InputError, match=r"constant holds files made with bg_threshold = 0\.2, not 0\.3"):
        make("constant", "--bg_threshold 0.3")
    nsrom = "--fusion nsrom --saliency_dir PARTS/saliency"
    make("nsrom", nsrom)
    shutil.copytree(label_parts / "cams", tmp_path / "other_cams")
    with pytest.raises(InputError, match="made with second_cams = None, not"):
        make("nsrom", f"{nsrom} --second_cam_dir HERE/other_cams")


def test_a_longer_list_is_refused_only_where_statistics_depend_on_it(make, tmp_path):
    shorter, longer = "--list train_id.txt", "--list train_aug_id.txt"
    assert (len(make("plain", shorter)), len(make("plain", longer))) == (7, 14)
    select = "--selector sos --saliency_dir PARTS/saliency"
    make("sos", f"{shorter} {select}")
    with pytest.raises(InputError, match="made with ids"):
        make("sos", f"{longer} {select}")
    assert len(list((tmp_path / "sos").glob("*.png"))) == 7


def test_other_baselines_are_refused_in_the_same_folder(scenes, label_parts, make, tmp_path):
    make("labels", "--baseline_dir PARTS/rough/")
    make("labels", "--baseline_dir PARTS/rough")
    shutil.copytree(label_parts / "rough", tmp_path / "rough")
    with pytest.raises(InputError, match="made with baseline folder = "):
        make("labels", "--baseline_dir HERE/rough")
    with pytest.raises(InputError, match="made with baseline = None"):
        make("cam") and make("cam", "--baseline_dir HERE/rough")
    with pytest.raises(InputError, match=r"rough holds \.png files that this script did not write"):
        make("rough", "--baseline_dir PARTS/rough")


@pytest.fixture
def mixed_sizes(tmp_path):
    """A VOC tree of 9 images of 3 sizes."""
    rng, sizes = np.random.default_rng(0), [(40, 60), (60, 40), (40, 60), (33, 47), (40, 60), (60, 40), (40, 60)]
    rows = {}
    for index, (height, width) in enumerate([*sizes, (33, 47), (40, 60)]):
        noise = rng.integers(0, 256, (height // 4, width // 4, 3)).astype(np.uint8)
        save_image(tmp_path / f"tree/JPEGImages/{index}.jpg", cv2.resize(noise, (width, height)))
        rows[str(index)] = rng.permutation(10) < index % 3 + 1
    save_image_labels(tmp_path / "lists/cls_labels.npy", rows)
    save_ids(tmp_path / "lists/train_aug_id.txt", rows)
    shutil.copy(tmp_path / "lists/train_aug_id.txt", tmp_path / "lists/all_id.txt")
    return tmp_path


def test_batches_change_nothing(scenes, label_parts, mixed_sizes, make, tmp_path):
    (mixed_sizes / "tree/classes.txt").write_bytes((scenes / "data/VOCdevkit/VOC2012/classes.txt").read_bytes())
    tree = "--data_dir HERE/tree --list_dir HERE/lists --load_path PARTS/classifier/last.pth --scales 0.5 1.5"
    for batch in (1, 3):
        make(f"labels{batch}", f"{tree} --batch {batch}", cams=f"HERE/cams{batch}")
    for path in (tmp_path / "cams1").glob("*.npz"):
        (one, classes), (other, same_classes) = load_cams(path), load_cams(tmp_path / "cams3" / path.name)
        height, width = load_image(tmp_path / f"tree/JPEGImages/{path.stem}.jpg").shape[:2]
        assert one.shape == (len(classes), height, width)
        assert classes.tolist() == same_classes.tolist()
        assert np.abs(one - other).max() < 1e-3  # the precision of float16 in 0..1
    # batches do not depend on the files that exist already
    complete = bytes_in(tmp_path / "cams3")
    for name in "048137":
        (tmp_path / f"cams3/{name}.npz").unlink()
    make("labels3", f"{tree} --batch 3", cams="HERE/cams3")
    assert bytes_in(tmp_path / "cams3") == complete


def command_of_all_stages(scenes, label_parts, root, selector: str) -> list[str]:
    voc = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --label_name {root}/labels --cam_dir {root}/cams"
    stages = f"{ALL_STAGES} --selector {selector}".replace("PARTS", str(label_parts))
    return f"make_pseudo_labels.py {voc} {stages}".split()


def same_threads() -> dict[str, str]:
    """Environment in which other processes sum in the same order as this one."""
    return os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["sos", "evidence"])
def test_two_processes_give_the_files_of_one(selector, scenes, label_parts, whole, make, tmp_path):
    if selector == "evidence":
        make("whole/labels", f"{ALL_STAGES} --selector evidence", cams="HERE/whole/cams")
        whole = tmp_path / "whole"
    line = [*TWO_PROCESSES, *command_of_all_stages(scenes, label_parts, tmp_path / "two", selector)]
    done = subprocess.run(line, cwd=PROJECT, env=same_threads(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("14 labels selected, 0 already existed") == 1
    assert bytes_in(tmp_path / "two") == bytes_in(whole)


def test_refusals(scenes, label_parts, make, tmp_path):
    with pytest.raises(InputError, match="--selector sos needs --saliency_dir"):
        make("labels", "--selector sos")
    with pytest.raises(InputError, match="--selector evidence needs --saliency_dir"):
        make("labels", "--selector evidence --features resnest14")
    for flags, words in (
        ("", "--selector evidence needs --features"),
        ("--features resnest13", "resnest13 is unknown: choose a timm name, such as resnest14"),
        ("--features PARTS/cams", "cams is a folder"),
        ("--features HERE/text.pth", r"text\.pth cannot be read as a checkpoint"),
        ("--features resnest14 --pretrained HERE/none.pth", r"none\.pth: no such file"),
    ):
        (tmp_path / "text.pth").write_text("no checkpoint")
        with pytest.raises(InputError, match=words):
            make("labels", f"--selector evidence --saliency_dir PARTS/saliency {flags}")
    with pytest.raises(InputError, match="--fusion oaa needs --saliency_dir"):
        make("labels", "--fusion oaa")
    with pytest.raises(InputError, match="the parameters of rule icd are none"):
        make("labels", "--fusion icd --fusion_args power=2 --saliency_dir PARTS/saliency")
    with pytest.raises(InputError, match="--non_salient_classes: unknown unicorn; known are ball"):
        make("labels", "--selector sos --saliency_dir PARTS/saliency --non_salient_classes unicorn")
    for flags, words in (
        ("--expanded_dir HERE/expanded", "--expanded_dir needs --expansion"),
        ("--expansion walk", "--expansion walk and --affinity_path belong together"),
        ("--expansion none --affinity_path PARTS/affinity/last.pth", "belong together"),
        ("--expansion attention", "--expansion attention needs the classifier"),
    ):
        with pytest.raises(InputError, match=words):
            make("labels", flags)
    (tmp_path / "some").mkdir()
    shutil.copy(next((label_parts / "saliency").iterdir()), tmp_path / "some")
    second = "--fusion nsrom --saliency_dir PARTS/saliency --second_cam_dir"
    for flags in ("--selector sos --saliency_dir", "--fusion icd --saliency_dir", second, "--baseline_dir"):
        with pytest.raises(MissingInputError, match=r"1[34] of 14 (files|images)"):
            make("labels", f"{flags} HERE/some")
        with pytest.raises(MissingInputError, match="nowhere does not exist"):
            make("labels", f"{flags} HERE/nowhere")
    for path, words in (
        ("affinity", "is of stage affinity: name a checkpoint of stage classification"),
        ("nowhere", "exist"),
    ):
        with pytest.raises(InputError, match=words):
            make("labels", f"--load_path PARTS/{path}/last.pth", cams="HERE/cams")
    with pytest.raises(InputError, match="is of stage classification"):
        make("labels", "--affinity_path PARTS/classifier/last.pth --expanded_dir HERE/expanded")
    with pytest.raises(InputError, match=r"has 10 classes \(ball.* the data has 20 \(aeroplane.*: use the classifier"):
        shutil.copytree(scenes / "data/VOCdevkit/VOC2012/JPEGImages", tmp_path / "voc/JPEGImages")
        ids = load_ids(scenes / "voc12/train_aug_id.txt")
        save_image_labels(tmp_path / "cls_labels.npy", {name: np.zeros(20) for name in ids})
        own = "--data_dir HERE/voc --image_labels HERE/cls_labels.npy --load_path PARTS/classifier/last.pth"
        make("labels", own, cams="HERE/cams")
    assert not any((tmp_path / name).exists() for name in ("labels", "cams", "expanded"))


def test_files_that_do_not_fit_their_image(label_parts, make, tmp_path):
    ids = sorted(path.stem for path in (label_parts / "cams").iterdir())
    shutil.copytree(label_parts, tmp_path / "bad")
    cams, classes = load_cams(tmp_path / f"bad/cams/{ids[1]}.npz")
    save_cams(tmp_path / f"bad/cams/{ids[1]}.npz", cams, classes + 1)
    with pytest.raises(InputError, match=rf"{ids[1]}\.npz holds maps of the labels .* but the image has"):
        make("labels", cams="HERE/bad/cams")
    save_cams(tmp_path / f"bad/cams/{ids[1]}.npz", cams[:, :50], classes)
    flags = "--affinity_path PARTS/affinity/last.pth --expanded_dir HERE/expanded"
    for name, extra in (("one", ""), ("two", "--crf"), ("three", flags)):
        with pytest.raises(InputError, match=r"\.npz is 80×50 px, but .* is 80×64 px"):
            make(name, extra, cams="HERE/bad/cams")
    save_grey(tmp_path / f"bad/saliency/{ids[2]}.png", np.zeros((64, 79), np.uint8))
    for name, extra in (("five", "--fusion icd"), ("six", "--selector sos")):
        with pytest.raises(InputError, match=rf"saliency/{ids[2]}\.png is 79×64 px, but .* is 80×64 px"):
            make(name, f"{extra} --saliency_dir HERE/bad/saliency")
    save_label(tmp_path / f"bad/rough/{ids[3]}.png", np.full((64, 80), 11, np.uint8))
    with pytest.raises(InputError, match=rf"rough/{ids[3]}\.png holds the labels \[11\]"):
        make("seven", "--baseline_dir HERE/bad/rough")
    (tmp_path / f"bad/saliency/{ids[2]}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=rf"saliency/{ids[2]}\.png is not a PNG"):
        make("eight", "--selector sos --saliency_dir HERE/bad/saliency")
