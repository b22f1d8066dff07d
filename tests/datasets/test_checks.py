"""prepare_data.py check: exactly the planted faults are found; the exit status."""

import csv
import os
import shlex
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import options
import prepare_data
from datasets.checks import compute_signature, find_duplicates
from datasets.drawn_scenes import draw_scene, write_saliency_scenes
from formats.cams import save_cams
from formats.errors import InputError
from formats.image_labels import load_image_labels, save_image_labels
from formats.images import image_stems, load_grey, load_image, save_grey, save_image
from formats.labels import load_label, save_label
from formats.voc_layout import load_class_names, load_ids
from utils.interruption import run_script


def check(flags: str, folder: Path) -> tuple[int, list[tuple[str, str, str]]]:
    """Run the check, with `folder` for HERE in the flags. Returns the status and (severity, what, file) of each row."""
    command = f"{flags} --workers 1 --csv HERE/found.csv".replace("HERE", shlex.quote(str(folder)))
    status = prepare_data.main(options.prepare_data().parse_args(["check", *shlex.split(command)]))
    with open(folder / "found.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return status, [(row["severity"], row["what"], Path(row["file"]).name) for row in rows]


@pytest.fixture
def pairs(scenes, tmp_path) -> Path:
    """Create a saliency set of scene1_000000 and the next scenes."""
    return shutil.copytree(scenes / "dataset/DRAWN-TR", tmp_path / "TR")


@pytest.fixture
def tree(scenes, tmp_path) -> Path:
    """Create a VOC tree in data/, with voc12/."""
    for name in ("data", "voc12"):
        shutil.copytree(scenes / name, tmp_path / name)
    return tmp_path / "data/VOCdevkit/VOC2012"


VOC = "--data_dir HERE/data --list_dir HERE/voc12"


def load_names(root: Path, part: str = "train") -> list[str]:
    return load_ids(root.parents[2] / f"voc12/{part}_id.txt")


def test_correct_data_has_no_findings(scenes, label_parts, tmp_path, capsys):
    flags = f"--train_root {scenes}/dataset --benchmark {scenes}/dataset/benchmark --data_dir {scenes}/data"
    maps = f"--label_name {label_parts}/rough --saliency_dir {label_parts}/saliency --cam_dir {label_parts}/cams"
    assert check(f"{flags} --list_dir {scenes}/voc12 {maps}", tmp_path) == (0, [])
    printed = capsys.readouterr().out
    assert f"{scenes}/dataset/DRAWN-TR: 12 pictures for saliency training" in printed
    assert "0 errors and 0 notes on 37 pictures" in printed


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rotate_by_exif(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


def convert(path: Path, mode: str, format: str = "JPEG") -> None:
    Image.open(path).convert(mode).save(path, format)


def convert_to_16_bits(path: Path) -> None:
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint16) * 257)


def divide_values(path: Path, factor: int) -> None:
    save_grey(path, load_grey(path) // factor)


IMAGE, MASK = "scene1_000002.jpg", "scene1_000002.png"
IMAGE_FAULTS = {
    "truncated": (truncate, "error", "cannot be read"),
    "no bytes": (lambda path: path.write_bytes(b""), "error", "zero-byte file"),
    "text": (lambda path: path.write_bytes(b"<html>404</html>"), "error", "cannot be read"),
    "no image": (Path.unlink, "error", "mask without image"),
    "turned": (rotate_by_exif, "note", "EXIF rotation is ignored: image"),
    "grey": (lambda path: convert(path, "L"), "note", "grey image"),
    "cmyk": (lambda path: convert(path, "CMYK"), "note", "CMYK image"),
    "alpha": (lambda path: convert(path, "RGBA", "PNG"), "note", "transparent image"),
    "alpha and truncated": (lambda path: (convert(path, "RGBA", "PNG"), truncate(path)), "error", "cannot be read"),
}
MASK_FAULTS = {
    "truncated": (truncate, "error", "cannot be read"),
    "no bytes": (lambda path: path.write_bytes(b""), "error", "zero-byte file"),
    "no mask": (Path.unlink, "error", "image without mask"),
    "another size": (lambda path: save_grey(path, np.full((9, 9), 255, np.uint8)), "error", "sizes differ"),
    "dark": (lambda path: divide_values(path, 5), "error", "mask without object"),
    "empty": (lambda path: save_grey(path, np.zeros((64, 80), np.uint8)), "note", "empty mask"),
    "blurred": (lambda path: save_grey(path, cv2.blur(load_grey(path), (5, 5))), "note", "mask is not binary"),
    "16 bits": (convert_to_16_bits, "note", "16-bit mask"),
    "alpha": (lambda path: convert(path, "RGBA", "PNG"), "note", "transparent mask"),
    "colours": (lambda path: save_image(path, np.full((64, 80, 3), (9, 9, 99), np.uint8)), "error", "cannot be read"),
}


@pytest.mark.parametrize("fault", IMAGE_FAULTS)
def test_faults_of_images(fault, pairs, tmp_path):
    damage, severity, what = IMAGE_FAULTS[fault]
    damage(pairs / "Images" / IMAGE)
    name = MASK if what == "mask without image" else IMAGE
    assert check("--train_root HERE/TR", tmp_path) == (severity == "error", [(severity, what, name)])


@pytest.mark.parametrize("fault", MASK_FAULTS)
def test_faults_of_masks(fault, pairs, tmp_path):
    damage, severity, what = MASK_FAULTS[fault]
    damage(pairs / "Masks" / MASK)
    name = IMAGE if what == "image without mask" else MASK
    assert check("--train_root HERE/TR", tmp_path) == (severity == "error", [(severity, what, name)])


def test_masks_of_low_values(pairs, tmp_path):
    """Masks of 0 and 1 are correct; graded masks of a benchmark may be low."""
    divide_values(pairs / "Masks" / MASK, 255)
    assert check("--train_root HERE/TR", tmp_path) == (0, [])
    save_grey(pairs / "Masks" / MASK, np.full((64, 80), 255, np.uint8))
    divide_values(pairs / "Masks" / MASK, 2)
    assert check("--train_root HERE/TR", tmp_path)[0] == 1
    assert check("--benchmark HERE/TR", tmp_path) == (0, [("note", "mask without object", MASK)])


def test_stems_that_occur_twice(pairs, tmp_path):
    save_image(pairs / "Images/scene1_000002.png", np.zeros((4, 4, 3), np.uint8))
    assert check("--train_root HERE/TR", tmp_path) == (1, [("error", "duplicate stem", "scene1_000002.png")])


def test_empty_folders(tmp_path):
    (tmp_path / "TR/Images").mkdir(parents=True)
    assert check("--train_root HERE/TR", tmp_path) == (1, [("error", "folder without images", "Images")])
    save_image(tmp_path / "TR/Images/a.jpg", draw_scene(0, 0).image)
    assert check("--train_root HERE/TR", tmp_path) == (1, [("error", "image without mask", "a.jpg")])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_any_file_names(pairs, tmp_path):
    (pairs / "Masks" / MASK).rename(pairs / "Masks" / os.fsdecode(b"caf\xe9.png"))
    (pairs / "Images" / IMAGE).rename(pairs / "Images/лодка =1, «β».jpg")
    _, found = check("--train_root HERE/TR", tmp_path)
    assert found == [
        ("error", "image without mask", "лодка =1, «β».jpg"),
        ("error", "mask without image", "caf?.png"),
    ]


def test_lists(tree, tmp_path):
    ids = load_names(tree)
    text = "\r\n".join([*ids[:2], "", *ids[2:], "nobody", ids[0]])  # Windows line ends and blank lines are allowed
    (tmp_path / "voc12/train_id.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    status, found = check(f"{VOC} --list train_id.txt", tmp_path)
    assert status == 1
    assert sorted(found) == [
        ("error", "id listed twice", "train_id.txt"),
        ("error", "id without image", "nobody.jpg"),
        ("error", "id without label", "nobody.png"),
        ("error", "image labels cannot be used", "cls_labels.npy"),
    ]


def test_ids_of_several_words(tree, tmp_path):
    names = {name: f"photo ({number})" for number, name in enumerate(load_names(tree)[:2])}
    for old, new in names.items():
        (tree / f"JPEGImages/{old}.jpg").rename(tree / f"JPEGImages/{new}.jpg")
        (tree / f"SegmentationClass/{old}.png").rename(tree / f"SegmentationClass/{new}.png")
    (tmp_path / "voc12/photo_id.txt").write_text("\n".join(names.values()))
    rows = [f"{name},{load_class_names(tree)[0]}" for name in names.values()]
    (tmp_path / "voc12/labels.csv").write_text("\n".join(["id,classes", *rows]))
    _, found = check(f"{VOC} --list photo_id.txt --image_labels labels.csv", tmp_path)
    assert [what for severity, what, _ in found if severity == "error"] == []


def test_ids_that_lead_out_of_the_folder(tree, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"")
    with open(tmp_path / "voc12/val_id.txt", "a") as file:
        file.write("../../../../secret\n..\n")
    assert (tree / "JPEGImages" / "../../../../secret.jpg").is_file()
    assert check(VOC, tmp_path) == (1, [("error", "id is not a file name", "val_id.txt")] * 2)


@pytest.mark.parametrize("content", [b"", b"\n \n", "2008_000001\n".encode("utf-16")])
def test_lists_that_cannot_be_used(content, tree, tmp_path):
    (tmp_path / "voc12/val_id.txt").write_bytes(content)
    status, found = check(VOC, tmp_path)
    assert status == 1
    what = "cannot be read" if content else "zero-byte file"
    assert ("error", what, "val_id.txt") in found
    assert len([row for row in found if row[0] == "error"]) == 1


def test_lists_that_overlap(tree, tmp_path):
    first = load_names(tree)[0]
    with open(tmp_path / "voc12/val_id.txt", "a") as file:
        file.write(f"{first}\n")
    status, found = check(VOC, tmp_path)
    assert status == 1
    assert set(found) == {("error", "id in training and test list", f"train{aug}_id.txt") for aug in ("", "_aug")}


def test_masks_of_a_voc_tree(tree, tmp_path):
    first, second, third = load_names(tree)[:3]
    masks = tree / "SegmentationClass"
    save_label(masks / f"{first}.png", np.where(load_label(masks / f"{first}.png") > 0, 77, 0).astype(np.uint8))
    save_label(masks / f"{second}.png", np.full((64, 80), 255, np.uint8))
    save_image(masks / f"{third}.png", np.full((64, 80, 3), (9, 9, 8), np.uint8))
    save_label(masks / "alone.png", np.ones((64, 80), np.uint8))
    (tree / f"SegmentationClassAug/{load_names(tree, 'val')[0]}.png").unlink()  # SegmentationClass has it
    status, found = check(VOC, tmp_path)
    assert status == 1
    assert sorted(found) == [
        ("error", "cannot be read", f"{third}.png"),
        ("error", "class id that does not exist", f"{first}.png"),
        ("note", "label without any class", f"{second}.png"),
        ("note", "label without image", "alone.png"),
    ]


def test_masks_that_are_missing(tree, tmp_path):
    lost = load_names(tree, "val")[1]
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        (tree / folder / f"{lost}.png").unlink()
    assert check(VOC, tmp_path) == (1, [("error", "id without label", f"{lost}.png")])
    shutil.copy(tree / f"JPEGImages/{lost}.jpg", tree / "JPEGImages/secret.jpg")
    (tmp_path / "voc12/test_id.txt").write_text("secret\n")  # only the server has these masks
    _, found = check(f"{VOC} --list test_id.txt", tmp_path)
    assert found == [("note", "list without any label", "test_id.txt")]


def test_image_labels(tree, tmp_path):
    path, ids = tmp_path / "voc12/cls_labels.npy", load_names(tree, "train_aug") + load_names(tree, "val")
    classes = load_class_names(tree)
    rows = dict(zip(ids, load_image_labels(path, ids, classes)))
    save_image_labels(path, rows | {ids[0]: np.zeros(len(classes))})
    assert check(VOC, tmp_path) == (0, [("note", "image labels without any class", "cls_labels.npy")])
    save_image_labels(path, {name: row[:5] for name, row in rows.items()})
    assert check(VOC, tmp_path)[0] == 1
    path.unlink()
    assert check(VOC, tmp_path) == (0, [("note", "no image labels", "cls_labels.npy")])


def test_files_of_other_stages(tree, tmp_path):
    ids = load_names(tree, "train_aug")
    for number, name in enumerate(ids):
        label = load_label(tree / f"SegmentationClassAug/{name}.png")
        save_label(tmp_path / f"labels/{name}.png", label)
        save_grey(tmp_path / f"maps/{name}.png", label[: 64 - (number == 1)])
        save_cams(tmp_path / f"cams/{name}.npz", np.zeros((1, 64, 80)), np.array([1 + 40 * (number == 2)]))
    (tmp_path / f"labels/{ids[0]}.png").unlink()
    (tmp_path / f"cams/{ids[3]}.npz").write_bytes(b"text")
    save_grey(tmp_path / "maps/other.png", np.zeros((4, 4), np.uint8))
    folders = "--label_name HERE/labels --saliency_dir HERE/maps --cam_dir HERE/cams"
    status, found = check(f"{VOC} --list train_aug_id.txt {folders}", tmp_path)
    assert status == 1
    assert sorted(found) == [
        ("error", "cannot be read", f"{ids[3]}.npz"),
        ("error", "class id that does not exist", f"{ids[2]}.npz"),
        ("error", "id without label", f"{ids[0]}.png"),
        ("error", "sizes differ", f"{ids[1]}.png"),
        ("note", "saliency map without image", "other.png"),
    ]
    _, found = check(f"{VOC} --list val_id.txt --saliency_dir HERE/maps", tmp_path)
    assert ("error", "list without any saliency map", "val_id.txt") in found


def test_folders_that_teach_nothing(tree, tmp_path):
    """Labels of 0 and 255, maps of 0."""
    for name in load_names(tree, "train_aug"):
        save_label(tmp_path / f"labels/{name}.png", np.eye(64, 80, dtype=np.uint8) * 255)
        save_grey(tmp_path / f"maps/{name}.png", np.zeros((64, 80), np.uint8))
    status, found = check(f"{VOC} --list train_aug_id.txt --label_name HERE/labels --saliency_dir HERE/maps", tmp_path)
    assert status == 1
    assert {row for row in found if not row[2].endswith(".png")} == {
        ("error", "only 0 and 255, no class", "labels"),
        ("note", "all saliency maps are empty", "maps"),
    }


def test_the_same_picture_in_training_and_test_data(pairs, tree, tmp_path):
    """The copies are renamed, scaled and encoded again."""
    images = [load_image(path) for path in image_stems(pairs / "Images").values()]
    write_saliency_scenes(tmp_path / "TE", count=3, seed=8, height=64, width=80)
    half = cv2.resize(images[1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "TE/Images/other.jpg"), half[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])
    save_grey(tmp_path / "TE/Masks/other.png", np.full(half.shape[:2], 255, np.uint8))
    save_image(tree / f"JPEGImages/{load_names(tree, 'val')[0]}.jpg", images[3])
    save_image(tree / f"JPEGImages/{load_names(tree)[0]}.jpg", images[4])
    status, found = check(f"--train_root HERE/TR --benchmark HERE/TE {VOC}", tmp_path)
    assert status == 1
    assert found == [
        ("error", "saliency training picture in test data", "scene1_000001.jpg"),
        ("error", "saliency training picture in test data", "scene1_000003.jpg"),
        ("note", "saliency training picture in VOC training data", "scene1_000004.jpg"),
    ]
    with open(tmp_path / "found.csv", encoding="utf-8", newline="") as file:
        first, *_ = csv.DictReader(file)
    assert f"{tmp_path}/TE/Images/other.jpg shows the same" in first["detail"]


def test_signatures():
    """Pictures of one colour have no duplicates; sets larger than one block are searched completely."""
    assert compute_signature(np.full((30, 40, 3), 90, np.uint8)) is None
    noise = dict(enumerate(np.random.default_rng(0).integers(-127, 128, (1500, 576)).astype(np.int8)))
    assert not list(find_duplicates({}, noise))
    assert [pair for *pair, _ in find_duplicates(noise, noise)] == [[index, index] for index in noise]


def test_processes_find_what_one_finds(tmp_path):
    write_saliency_scenes(tmp_path / "TR", count=70, seed=1, height=32, width=40)
    for number in (3, 40, 69):
        truncate(tmp_path / f"TR/Images/scene1_{number:06}.jpg")
    alone = check("--train_root HERE/TR", tmp_path)
    command = f"--train_root {tmp_path}/TR --workers 2 --csv {tmp_path}/shared.csv"
    assert prepare_data.main(options.prepare_data().parse_args(["check", *command.split()])) == 1
    assert (tmp_path / "shared.csv").read_bytes() == (tmp_path / "found.csv").read_bytes()
    assert [name for _, _, name in alone[1]] == ["scene1_000003.jpg", "scene1_000040.jpg", "scene1_000069.jpg"]


def test_places_of_the_readme(scenes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no data found: set --train_root"):
        check("", tmp_path)
    shutil.copytree(scenes / "dataset/benchmark", tmp_path / "dataset/benchmark")
    assert check("", tmp_path) == (0, [])
    printed = capsys.readouterr().out
    assert "dataset: no data found" in printed
    assert "DRAWN-TE: 5 pictures for test" in printed


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--train_root HERE/nowhere", "nowhere does not exist"),
        ("--train_root HERE/benchmark", "is for testing"),
        ("--data_dir HERE/voc12", "no JPEGImages"),
        ("--data_dir HERE/data --list_dir HERE", r"no \*_id\.txt"),
        (f"{VOC} --label_name HERE/none", "none is neither a folder, nor in"),
        (f"{VOC} --cam_dir HERE/none", "none does not exist"),
        ("--train_root HERE/TR --cam_dir HERE", "belong to a VOC tree"),
    ],
)
def test_mistakes_in_the_flags(flags, words, pairs, tree, tmp_path):
    (tmp_path / "benchmark/TE/Images").mkdir(parents=True)
    with pytest.raises(InputError, match=words):
        check(flags, tmp_path)


def test_exit_status(pairs, tmp_path, capsys):
    def status(flags: str) -> int:
        return run_script(prepare_data.main, options.prepare_data().parse_args(["check", *flags.split()]))

    rotate_by_exif(pairs / "Images" / IMAGE)
    assert status(f"--train_root {pairs}") == 0
    assert status(f"--train_root {tmp_path}/nowhere") == 2
    assert status(f"--train_root {tmp_path}/nowhere --csv {tmp_path}") == 2
    assert f"--csv {tmp_path} is a folder: name a file" in capsys.readouterr().err  # before anything is read
    truncate(pairs / "Images" / IMAGE)
    capsys.readouterr()
    assert status(f"--train_root {pairs}") == 1
    printed = capsys.readouterr().out.splitlines()
    place = printed.index(f"error       1  cannot be read  {pairs}/Images/{IMAGE}")
    assert printed[place + 1].strip().endswith("replace or remove it")  # the reason


@pytest.mark.slow
def test_real_photographs_of_two_data_sets(real_data, tmp_path):
    status, found = check(f"--train_root {real_data}/sod/train --benchmark {real_data}/sod/benchmark", tmp_path)
    assert status == 0, found
    assert {what for _, what, _ in found} <= {"mask is not binary", "mask without object", "grey image"}


@pytest.mark.slow
def test_real_photographs_that_are_in_both(real_data, tmp_path):
    """All images of PASCAL-S, encoded again as a training set, are found in VOC, and no others."""
    for folder in ("Images", "Masks"):
        (tmp_path / "TR" / folder).mkdir(parents=True)
    for number, (stem, path) in enumerate(image_stems(real_data / "sod/benchmark/PASCAL-S/Images").items()):
        small = cv2.resize(load_image(path), None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(tmp_path / f"TR/Images/{number}.jpg"), small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])
        save_grey(tmp_path / f"TR/Masks/{number}.png", np.full(small.shape[:2], 255, np.uint8))
        (tmp_path / f"TR/{number}.txt").write_text(stem)
    real_tree = f"--data_dir {real_data}/voc12-photos/data/voc12 --list_dir {real_data}/voc12-photos/voc12"
    check(f"--train_root HERE/TR {real_tree}", tmp_path)
    with open(tmp_path / "found.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["what"].startswith("saliency training picture")]
    assert len(rows) == number + 1 == len({row["file"] for row in rows})
    for row in rows:
        stem = (tmp_path / f"TR/{Path(row['file']).stem}.txt").read_text()
        assert f"/JPEGImages/{stem}.jpg shows the same" in row["detail"]
