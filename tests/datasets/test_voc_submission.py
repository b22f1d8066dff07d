"""The archive for VOC's test server: packed archives are valid, and everything that the server refuses is found."""

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import bytes_in, labels_in, run_main
from PIL import Image

from datasets.voc_submission import check_submission, save_submission
from formats.errors import InputError, MissingInputError
from formats.labels import VOC_PALETTE, save_label
from formats.voc_layout import VOC_CLASSES, load_ids
from models.deeplabv3plus import build_deeplabv3plus
from utils.checkpoint import save_checkpoint
from utils.interruption import run_script

COMP6, COMP5 = "results/VOC2012/Segmentation/comp6_test_cls", "results/VOC2012/Segmentation/comp5_test_cls"
IDS = ["2008_000006", "2008_000011", "2008_000012"]
SIZES = dict.fromkeys(IDS, (20, 30))
SIZE_DIFFERS = "whose size differs from their photograph"
DRAWN = Path("data/VOCdevkit/VOC2012/JPEGImages")


def png_of(label: np.ndarray, folder) -> bytes:
    save_label(folder / "mask.png", label)
    return (folder / "mask.png").read_bytes()


def pil_png(array: np.ndarray, palette: np.ndarray | None = None, **options) -> bytes:
    image, file = Image.fromarray(array), io.BytesIO()
    if palette is not None:
        image.putpalette(palette.tobytes())
    image.save(file, "PNG", **options)
    return file.getvalue()


def pack(path, members: list[tuple[str, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def members(tmp_path) -> dict[str, bytes]:
    """Name in the archive → PNG, of valid masks."""
    labels = {name: np.full((20, 30), place, np.uint8) for place, name in enumerate(IDS)}
    return {f"{COMP6}/{name}.png": png_of(label, tmp_path) for name, label in labels.items()}


@pytest.fixture
def problems_of(members, tmp_path):
    """The problems of an archive whose valid members are replaced by others, or left out where they are None."""

    def check(changed: dict[str, bytes | None], sizes=SIZES) -> list[str]:
        content = [(name, data) for name, data in (members | changed).items() if data is not None]
        return check_submission(pack(tmp_path / "a.tar.gz", content), sizes).problems

    return check


FIRST = f"{COMP6}/{IDS[0]}.png"


def test_a_valid_archive(members, tmp_path):
    report = check_submission(pack(tmp_path / "a.tar.gz", list(members.items())), SIZES)
    assert report.problems == []
    assert report.folder == COMP6
    assert report.masks_of_label == [1, 1, 1] + [0] * 18
    assert check_submission(tmp_path / "a.tar.gz", dict.fromkeys(IDS)).problems == []  # unknown sizes


@pytest.mark.parametrize("prefix", ["./", ""])
def test_archives_of_tar_itself(prefix, members, tmp_path):
    """They have entries for folders, and names may begin with `./`."""
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for place in ("results", "results/VOC2012", "results/VOC2012/Segmentation", COMP6):
            folder = tarfile.TarInfo(f"{prefix}{place}")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
        for name, content in members.items():
            member = tarfile.TarInfo(f"{prefix}{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert check_submission(tmp_path / "a.tar.gz", SIZES).problems == []


def test_missing_extra_and_repeated_masks(members, problems_of, tmp_path):
    content = members[FIRST]
    assert problems_of({FIRST: None}) == [f"masks of the list that are missing: 1 ({IDS[0]})"]
    extra = [f"{COMP6}/2007_000001.png", "README", f"{COMP6}/{IDS[0]}.jpg"]
    listed = ", ".join(extra)
    assert problems_of(dict.fromkeys(extra, content)) == [f"files that are not masks of listed ids: 3 ({listed})"]
    assert problems_of({f"{COMP5}/{IDS[0]}.png": content, FIRST: None})[0].startswith("competitions in one archive: 2")
    twice = problems_of({f"results/{IDS[0]}.png": content})
    assert twice == [f"masks given twice: 1 (results/{IDS[0]}.png)"]
    pack(tmp_path / "b.tar.gz", [*members.items(), (FIRST, content)])  # one name, two files
    assert check_submission(tmp_path / "b.tar.gz", SIZES).problems == [f"masks given twice: 1 ({FIRST})"]


@pytest.mark.parametrize(
    "folder",
    ["VOC2012/Segmentation/comp6_test_cls", "results/VOC2012/Segmentation/comp6_val_cls", COMP6 + "/masks", "."],
)
def test_other_folders(folder, members, tmp_path):
    content = [(f"{folder}/{Path(name).name}", data) for name, data in members.items()]
    (problem,) = check_submission(pack(tmp_path / "a.tar.gz", content), SIZES).problems
    assert problem.startswith(f"masks neither in {COMP6} nor in {COMP5}: 3 (")


@pytest.mark.parametrize(
    ("content", "kind", "detail"),
    [
        (pil_png(np.zeros((20, 30, 3), np.uint8)), "that are not palette PNGs", ": mode RGB"),
        (pil_png(np.zeros((20, 30), np.uint8)), "that are not palette PNGs", ": mode L"),
        (pil_png(np.zeros((20, 30), np.uint16)), "that are not palette PNGs", ": mode I;16"),
        (pil_png(np.zeros((20, 30), np.uint8), VOC_PALETTE[::-1]), "whose palette is not VOC's", ""),
        (pil_png(np.zeros((9, 30), np.uint8), VOC_PALETTE), SIZE_DIFFERS, ": 9 × 30, not 20 × 30"),
        (pil_png(np.full((20, 30), 255, np.uint8), VOC_PALETTE), "with 255, which counts as wrong", ""),
        (b"", "that are damaged or no PNG", ""),
        (b"\xff\xd8\xff\xe0", "that are damaged or no PNG", ""),
        (pil_png(np.zeros((20, 30), np.uint8), VOC_PALETTE)[:-20], "that are damaged or no PNG", ""),
    ],
)
def test_refused_masks(content, kind, detail, problems_of):
    assert problems_of({FIRST: content}) == [f"masks {kind}: 1 ({IDS[0]}{detail})"]


def test_labels_out_of_range(problems_of, tmp_path):
    label = np.zeros((20, 30), np.uint8)
    label[0, :3] = 20, 21, 200
    assert problems_of({FIRST: png_of(label, tmp_path)}) == [f"masks with labels over 20: 1 ({IDS[0]}: 21, 200)"]


def test_short_palettes(problems_of):
    label = np.zeros((20, 30), np.uint8)
    label[3] = 20
    for num_colours, fits in ((21, True), (20, False)):
        content = pil_png(label, VOC_PALETTE[:num_colours])
        expected = [] if fits else [f"masks whose palette is not VOC's: 1 ({IDS[0]})"]
        assert problems_of({FIRST: content}) == expected


def test_all_problems_are_reported_at_once(members, problems_of):
    changed = dict.fromkeys([*members][1:], pil_png(np.full((5, 5), 255, np.uint8)))
    found = problems_of({FIRST: None, "notes.txt": b"", **changed})
    assert [line.split(":")[0] for line in found] == [
        "masks of the list that are missing",
        "files that are not masks of listed ids",
        f"masks {SIZE_DIFFERS}",
        "masks that are not palette PNGs",
    ]
    assert f"2 ({IDS[1]}: mode L, {IDS[2]}: mode L)" in found[3]


def test_files_that_are_no_tar_gz(members, tmp_path):
    whole = pack(tmp_path / "a.tar.gz", list(members.items())).read_bytes()
    with zipfile.ZipFile(tmp_path / "zip.tar.gz", "w") as archive:
        archive.writestr(FIRST, members[FIRST])
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tar.gz").write_bytes(gzip.compress(b"no tar" * 200))
    (tmp_path / "empty.tar.gz").touch()
    pack(tmp_path / "plain.tar.gz", list(members.items()), "w")
    (tmp_path / "folder.tar.gz").mkdir()
    for name in ("zip", "cut", "text", "empty", "plain", "folder"):
        (problem,) = check_submission(tmp_path / f"{name}.tar.gz", SIZES).problems
        assert problem.startswith("not a whole .tar.gz of masks (")
    with pytest.raises(MissingInputError, match="does not exist"):
        check_submission(tmp_path / "none.tar.gz", SIZES)


def test_links_and_places_outside(members, tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo(FIRST)
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert (
        f"files that are not masks of listed ids: 1 ({FIRST})"
        in check_submission(tmp_path / "a.tar.gz", SIZES).problems
    )
    pack(tmp_path / "b.tar.gz", [("../" + FIRST, members[FIRST])])
    problems = check_submission(tmp_path / "b.tar.gz", SIZES).problems
    assert f"masks neither in {COMP6} nor in {COMP5}: 1 (../{FIRST})" in problems


@pytest.fixture
def masks(members, tmp_path) -> Path:
    """A folder of valid masks."""
    (tmp_path / "masks").mkdir()
    for name, content in members.items():
        (tmp_path / "masks" / Path(name).name).write_bytes(content)
    return tmp_path / "masks"


def test_save_submission(masks, tmp_path):
    first = save_submission(tmp_path / "a.tar.gz", masks, SIZES)
    assert first.folder == COMP6
    for mask in masks.iterdir():
        mask.touch()
    save_submission(tmp_path / "other/b.tar.gz", masks, dict(reversed(SIZES.items())))
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "other/b.tar.gz").read_bytes()
    assert (tmp_path / "a.tar.gz").read_bytes()[4:8] == bytes(4)  # the time in gzip's header
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        assert archive.getnames() == [f"{COMP6}/{name}.png" for name in IDS]
        assert {(member.mtime, member.uid, member.uname) for member in archive} == {(0, 0, "")}
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert bytes_in(tmp_path / "unpacked" / COMP6) == bytes_in(masks)
    assert save_submission(tmp_path / "a.tar.gz", masks, SIZES, "comp5").folder == COMP5


def test_masks_that_would_be_refused_are_not_packed(masks, tmp_path):
    earlier = tmp_path / "a.tar.gz"
    earlier.write_bytes(b"earlier")
    save_label(masks / f"{IDS[1]}.png", np.full((9, 9), 30, np.uint8))
    with pytest.raises(InputError, match=r"a\.tar\.gz is not written.*2008_000011: 9 × 9, not 20 × 30\); .*over 20"):
        save_submission(earlier, masks, SIZES)
    (masks / f"{IDS[2]}.png").unlink()
    with pytest.raises(MissingInputError, match=r"1 of 3 files are missing \(2008_000012\.png\)"):
        save_submission(earlier, masks, SIZES)
    assert earlier.read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """voc.pth and own.pth: untrained segmentation networks for VOC's classes and for three others."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny = {"backbone": "resnest14", "backbone_args": {"channels": (8, 8, 16, 32), "stem_width": 8}}
    settings = tiny | {"pixel_mean": None, "pixel_std": None, "head_width": 16, "use_gn": True, "mode": "fix"}
    for name, classes in (("voc", VOC_CLASSES), ("own", ("circle", "square", "star"))):
        torch.manual_seed(0)
        own = settings | {"classes": list(classes)}
        save_checkpoint(folder / f"{name}.pth", "segmentation", own, build_deeplabv3plus(own), {})
    return folder


def test_from_a_checkpoint_to_a_valid_archive(scenes, checkpoints, tmp_path, capsys):
    lists = f"--list {scenes}/voc12/val_id.txt"
    command = f"--load_path {checkpoints}/voc.pth --input {scenes / DRAWN} {lists} --output {tmp_path}/masks"
    run_main("predict", f"{command} --voc_submission {tmp_path}/a.tar.gz")
    run_main("predict", f"{command} --voc_submission {tmp_path}/b.tgz")  # all masks are there already
    assert f"6 masks packed as {COMP6}" in capsys.readouterr().out
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tgz").read_bytes()
    check = f"submission {lists} --data_dir {scenes}/data --json {tmp_path}/scores.json --archive {tmp_path}"
    run_main("evaluate", f"{check}/a.tar.gz")
    output = capsys.readouterr().out
    assert f"valid: 6 masks in {COMP6}" in output
    counts = json.loads((tmp_path / "scores.json").read_text())
    labels = labels_in(tmp_path / "masks")
    for label, name in enumerate(("background", *VOC_CLASSES)):
        assert counts[name] == sum(label in mask for mask in labels.values())
        assert f"| {name} " in output
    with pytest.raises(
        InputError, match=r"a\.tar\.gz is not a valid submission: masks .* missing: 7 .*; files .*: 6 \("
    ):
        run_main("evaluate", f"{check}/a.tar.gz --list {scenes}/voc12/train_id.txt")


def test_mistakes_give_one_line(scenes, checkpoints, tmp_path, capsys):
    """With the exit codes that the shell sees."""
    (tmp_path / "a.tar.gz").write_bytes(b"nothing")

    def code(script: str, command: str) -> int:
        return run_script(lambda _: run_main(script, command), None)

    check = f"--list {scenes}/voc12/val_id.txt --data_dir {scenes}/data --archive {tmp_path}/a.tar.gz"
    assert code("evaluate", f"submission {check}") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "a.tar.gz is not a valid submission: not a whole .tar.gz" in errors[0]
    assert code("evaluate", f"submission {check.replace('a.tar', 'b.tar')}") == 2
    assert "b.tar.gz does not exist" in capsys.readouterr().err


def test_refusals_before_work_starts(scenes, checkpoints, tmp_path):
    command = f"--input {scenes / DRAWN} --output {tmp_path}/masks --voc_submission {tmp_path}"
    with pytest.raises(InputError, match=r"needs the 20 classes of VOC.*own\.pth has 3 \(circle, square, star\)"):
        run_main("predict", f"--load_path {checkpoints}/own.pth {command}/a.tar.gz")
    with pytest.raises(InputError, match=r"a\.zip: the name must end in \.tar\.gz"):
        run_main("predict", f"--load_path {checkpoints}/voc.pth {command}/a.zip")
    assert list(tmp_path.iterdir()) == []


def test_no_archive_without_the_unreadable_images(scenes, checkpoints, tmp_path, capsys):
    first, second = load_ids(scenes / "voc12/val_id.txt")[:2]
    (tmp_path / "in").mkdir()
    shutil.copy(scenes / DRAWN / f"{first}.jpg", tmp_path / "in")
    (tmp_path / f"in/{second}.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    command = f"--load_path {checkpoints}/voc.pth --input {tmp_path}/in --output {tmp_path}/masks"
    with pytest.raises(InputError, match=rf"in/{second}\.jpg .*: replace or remove it"):
        run_main("predict", f"{command} --voc_submission {tmp_path}/a.tar.gz")
    assert not (tmp_path / "a.tar.gz").exists()
    assert (tmp_path / f"masks/{first}.png").is_file()
