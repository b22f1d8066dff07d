"""prepare_data.py voc12 on archives of drawn scenes: every kind gives the same tree, and wrong archives are refused."""

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT, run_main

from datasets.drawn_objects import CLASS_NAMES
from formats.atomic_files import write_bytes
from formats.errors import InputError, MissingInputError
from formats.image_labels import load_image_labels, save_image_labels
from formats.voc_layout import find_voc_root, load_ids

ROOT = "VOCdevkit/VOC2012"


@pytest.fixture(scope="module")
def unpacked(scenes, tmp_path_factory) -> Path:
    """The content of the archives: trainval/VOCdevkit/VOC2012/…, aug/SegmentationClassAug/… and test/VOCdevkit/…"""
    folder = tmp_path_factory.mktemp("unpacked")
    source, target = scenes / "data" / ROOT, folder / "trainval" / ROOT
    for name in ("JPEGImages", "SegmentationClass"):
        shutil.copytree(source / name, target / name)
    shutil.copytree(source / "SegmentationClassAug", folder / "aug/SegmentationClassAug")
    shutil.copy(source / "classes.txt", target / "classes.txt")
    write_bytes(target / "SegmentationObject/junk.png", b"not needed")
    for name in ("train", "val"):
        text = (scenes / f"voc12/{name}_id.txt").read_text().replace("\n", "\r\n")
        write_bytes(target / f"ImageSets/Segmentation/{name}.txt", text.encode())
    ids = sorted(path.stem for path in (source / "JPEGImages").iterdir())
    rows = load_image_labels(scenes / "voc12/cls_labels.npy", ids, CLASS_NAMES)
    for name, row in zip(ids, rows):
        objects = "".join(f"<object><name>{CLASS_NAMES[index]}</name></object>" for index in np.flatnonzero(row))
        write_bytes(target / f"Annotations/{name}.xml", f"<annotation>{objects}</annotation>".encode())
    photograph = (source / f"JPEGImages/{ids[0]}.jpg").read_bytes()
    write_bytes(folder / "test" / ROOT / "JPEGImages/unseen.jpg", photograph)
    write_bytes(folder / "test" / ROOT / "ImageSets/Segmentation/test.txt", b"unseen\n")
    return folder


def pack(folder: Path, path: Path, extra: dict[str, bytes] | None = None) -> Path:
    """Pack everything in `folder`, and `extra` members, into an archive of the kind of the suffix of `path`."""
    members = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    members |= extra or {}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"./{name}" if path.suffix == ".gz" else name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def archives(unpacked) -> tuple[Path, Path]:
    junk = {"__MACOSX/SegmentationClassAug/._a.png": b"junk", "SegmentationClassAug/.DS_Store": b"junk"}
    return pack(unpacked / "trainval", unpacked / "trainval.tar"), pack(unpacked / "aug", unpacked / "aug.zip", junk)


def prepare(trainval, aug, out: Path, extra: str = "") -> None:
    run_main(
        "prepare_data voc12", f"--trainval {trainval} --aug {aug} --data_dir {out}/data --list_dir {out}/voc12 {extra}"
    )


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def prepared(archives, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    prepare(*archives, out)
    return out


def test_prepared_tree_equals_the_drawn_scenes(prepared, scenes):
    made, drawn = contents(prepared / "data" / ROOT), contents(scenes / "data" / ROOT)
    assert drawn.items() <= made.items()
    assert {name.split("/")[0] for name in made.keys() - drawn.keys()} == {"Annotations", "ImageSets"}
    assert find_voc_root(prepared / "data") == prepared / "data" / ROOT
    for name in ("train", "train_aug", "val"):
        assert load_ids(prepared / f"voc12/{name}_id.txt") == load_ids(scenes / f"voc12/{name}_id.txt")
    assert {path.name for path in (prepared / "voc12").iterdir()} == {
        *("cls_labels.npy", "train_id.txt", "train_aug_id.txt", "val_id.txt")
    }
    ids = sorted(path.stem for path in (scenes / "data" / ROOT / "JPEGImages").iterdir())
    ours, theirs = (load_image_labels(root / "voc12/cls_labels.npy", ids, CLASS_NAMES) for root in (prepared, scenes))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["folders", "flat", "tar.gz", "trees"])
def test_every_kind_of_archive_gives_the_same_tree(prepared, unpacked, scenes, tmp_path, kind):
    trainval, aug = unpacked / "trainval", unpacked / "aug"
    if kind == "flat":
        trainval, aug = trainval / ROOT, aug / "SegmentationClassAug"
        trainval = pack(trainval, tmp_path / "renamed.zip")
    if kind == "tar.gz":
        trainval, aug = pack(trainval, tmp_path / "a.tar.gz"), pack(aug, tmp_path / "b.tar.gz")
    if kind == "trees":  # SegmentationClass beside SegmentationClassAug, behind links
        (tmp_path / "link").symlink_to(scenes / "data", target_is_directory=True)
        (tmp_path / "link_of_link").symlink_to(tmp_path / "link", target_is_directory=True)
        aug = tmp_path / "link_of_link"
    prepare(trainval, aug, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(prepared)


def test_a_second_run_writes_nothing(prepared, archives, capsys):
    times = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    prepare(*archives, prepared)
    prepare(prepared / "data", prepared / "data", prepared)  # the tree itself as source
    assert times == {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    printed = capsys.readouterr().out
    assert "20 of them already" in printed
    assert "train_aug_id.txt: 14 images; warning: VOC 2012 has 10582" in printed


def test_a_stopped_run_is_continued(prepared, archives, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    for name in list(contents(tmp_path))[::2]:
        (tmp_path / name).unlink()
    cut = tmp_path / min(name for name in contents(tmp_path) if name.startswith("data"))
    cut.write_bytes(cut.read_bytes()[:-1])  # a file that something else cut short
    prepare(*archives, tmp_path)
    assert contents(tmp_path) == contents(prepared)


def test_test_archive(archives, unpacked, tmp_path):
    test = pack(unpacked / "test", tmp_path / "VOC2012test.tar")
    prepare(*archives, tmp_path / "out", f"--test {test}")
    assert load_ids(tmp_path / "out/voc12/test_id.txt") == ["unseen"]
    assert (tmp_path / "out/data" / ROOT / "JPEGImages/unseen.jpg").is_file()
    with pytest.raises(InputError, match=r"should hold one ImageSets/Segmentation/test\.txt, found 0"):
        prepare(*archives, tmp_path / "out", f"--test {archives[0]}")


OUTSIDE = [
    "../evil.jpg",
    "ABSOLUTE/evil.jpg",
    f"{ROOT}/JPEGImages/../../../../evil.jpg",
    f"{ROOT}/JPEGImages/..\\..\\evil.jpg",
    f"{ROOT}/JPEGImages/C:evil.jpg",
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_archives_write_nowhere_else(prepared, unpacked, tmp_path, name, suffix):
    name = name.replace("ABSOLUTE", str(tmp_path))
    mask = name.replace(f"{ROOT}/JPEGImages", "SegmentationClassAug").replace(".jpg", ".png")
    evil = pack(unpacked / "trainval", tmp_path / f"evil{suffix}", {name: b"evil"})
    evil_aug = pack(unpacked / "aug", tmp_path / f"evil_aug{suffix}", {mask: b"evil"})
    prepare(evil, evil_aug, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(prepared)
    assert {path.name for path in tmp_path.iterdir()} == {evil.name, evil_aug.name, "out"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_not_unpacked(prepared, archives, tmp_path, kind):
    shutil.copy(archives[0], tmp_path / "evil.tar")
    with tarfile.open(tmp_path / "evil.tar", "a") as archive:
        for name in ("link.jpg", "door"):
            member = tarfile.TarInfo(f"{ROOT}/JPEGImages/{name}")
            member.type, member.linkname = kind, str(tmp_path)
            archive.addfile(member)
        archive.addfile(tarfile.TarInfo(f"{ROOT}/JPEGImages/door/evil.jpg"))  # tar would write it through the link
    prepare(tmp_path / "evil.tar", archives[1], tmp_path / "out")
    assert contents(tmp_path / "out") == contents(prepared)
    assert {path.name for path in tmp_path.iterdir()} == {"evil.tar", "out"}


@pytest.mark.parametrize("share", [0, 0.001, 0.9])
@pytest.mark.parametrize("which", ["trainval.tar", "aug.zip", "trainval.tar.gz"])
def test_archives_cut_short(archives, unpacked, tmp_path, which, share):
    if which == "trainval.tar.gz":
        pack(unpacked / "trainval", unpacked / which)
    content = (unpacked / which).read_bytes().rstrip(b"\0")  # the padding of a .tar may be missing
    (tmp_path / which).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(
        InputError, match=rf"{which} (is damaged, cut short, .* fetch it again$|lacks \d+ needed files)"
    ):
        prepare(*([archives[0], tmp_path / which] if which == "aug.zip" else [tmp_path / which, archives[1]]), tmp_path)
    assert not (tmp_path / "voc12").exists()


def test_damage_inside_a_zip(archives, tmp_path):
    content = bytearray(archives[1].read_bytes())
    place = content.index(b"IDAT") + 8
    content[place] ^= 255
    (tmp_path / "aug.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"aug\.zip is damaged"):
        prepare(archives[0], tmp_path / "aug.zip", tmp_path / "out")


def test_wrong_archives_are_refused(archives, tmp_path):
    trainval, aug = archives
    with pytest.raises(InputError, match=r"aug\.zip should hold one ImageSets.*found 0: pass an archive of VOC"):
        prepare(aug, trainval, tmp_path)
    with pytest.raises(InputError, match=r"trainval\.tar should hold masks.*is it SegmentationClassAug\.zip"):
        prepare(trainval, trainval, tmp_path)
    with pytest.raises(InputError, match="neither"):
        prepare(PROJECT / "README.md", aug, tmp_path)
    with pytest.raises(MissingInputError, match="does not exist"):
        prepare(tmp_path / "none.tar", aug, tmp_path)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("place", ["JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation/val.txt"])
def test_incomplete_archives(archives, unpacked, tmp_path, place):
    shutil.copytree(unpacked / "trainval", tmp_path / "trainval")
    lost = tmp_path / "trainval" / ROOT / place
    lost.unlink() if lost.is_file() else shutil.rmtree(lost)
    with pytest.raises(InputError, match=place):
        prepare(tmp_path / "trainval", archives[1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_existing_lists_and_labels_are_kept(archives, scenes, tmp_path):
    (tmp_path / "voc12").mkdir()
    (tmp_path / "voc12/val_id.txt").write_text("mine\n")
    with pytest.raises(InputError, match=r"val_id\.txt lists other images"):
        prepare(*archives, tmp_path)
    assert not (tmp_path / "data").exists()
    ids = load_ids(scenes / "voc12/val_id.txt")
    (tmp_path / "voc12/val_id.txt").write_text("\n".join(reversed(ids)))
    shutil.copy(scenes / "voc12/cls_labels.npy", tmp_path / "voc12/cls_labels.npy")
    prepare(*archives, tmp_path)
    assert load_ids(tmp_path / "voc12/val_id.txt") == ids[::-1]
    save_image_labels(tmp_path / "voc12/cls_labels.npy", {name: np.zeros(10) for name in ids})
    with pytest.raises(InputError, match=r"cls_labels\.npy"):
        prepare(*archives, tmp_path)
    (tmp_path / "other/VOC2012/JPEGImages").mkdir(parents=True)
    with pytest.raises(InputError, match="holds a VOC tree already"):
        run_main("prepare_data voc12", f"--trainval {archives[0]} --aug {archives[1]} --data_dir {tmp_path}/other")


def test_torch_is_not_imported():
    code = "import sys, prepare_data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=60).returncode == 0
