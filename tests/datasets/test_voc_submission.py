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
from conftest import bytes_in, labels_in, run_main
from PIL import Image

from datasets.voc_submission import SUBMISSION_FOLDER as FOLDER
from datasets.voc_submission import check_submission, save_submission
from formats.errors import InputError, MissingInputError
from formats.labels import VOC_PALETTE, save_label
from formats.voc_layout import VOC_CLASSES, load_ids
from models.deeplabv3plus import build_deeplabv3plus
from utils.checkpoint import load_checkpoint, save_checkpoint

IDS = ["2008_000006", "2008_000011", "2008_000012"]
SIZES = dict.fromkeys(IDS, (20, 30))
SIZE_DIFFERS = "whose size differs from their photograph"
DRAWN = Path("data/VOCdevkit/VOC2012/JPEGImages")
FIRST = f"{FOLDER}/{IDS[0]}.png"


def encode(array: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    image, file = Image.fromarray(array), io.BytesIO()
    if palette is not None:
        image.putpalette(palette.tobytes())
    image.save(file, "PNG")
    return file.getvalue()


def pack(path, members: list[tuple[str, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def members() -> dict[str, bytes]:
    """Name in the archive → PNG, of valid masks."""
    return {
        f"{FOLDER}/{name}.png": encode(np.full((20, 30), place, np.uint8), VOC_PALETTE)
        for place, name in enumerate(IDS)
    }


@pytest.fixture
def problems_of(members, tmp_path):
    """The problems of an archive whose valid members are replaced by others, or left out where they are None."""

    def check(changed: dict[str, bytes | None]) -> list[str]:
        content = [(name, data) for name, data in (members | changed).items() if data is not None]
        return check_submission(pack(tmp_path / "a.tar.gz", content), SIZES)[0]

    return check


@pytest.mark.parametrize("prefix", ["./", ""])
def test_a_valid_archive(prefix, members, tmp_path):
    """Archives of tar itself have entries for folders, and names may begin with `./`."""
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        folder = tarfile.TarInfo(f"{prefix}{FOLDER}")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in members.items():
            member = tarfile.TarInfo(f"{prefix}{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert check_submission(tmp_path / "a.tar.gz", SIZES) == ([], [1, 1, 1] + [0] * 18)


def test_missing_extra_and_repeated_masks(members, problems_of, tmp_path):
    content = members[FIRST]
    assert problems_of({FIRST: None}) == [f"masks of the list that are missing: 1 ({IDS[0]})"]
    extra = [f"{FOLDER}/2007_000001.png", "README", f"{FOLDER}/{IDS[0]}.jpg"]
    listed = f"{extra[0]}, README and 1 more"
    assert problems_of(dict.fromkeys(extra, content)) == [f"files that are not masks of listed ids: 3 ({listed})"]
    twice = problems_of({f"results/{IDS[0]}.png": content})
    assert twice == [f"masks given twice: 1 (results/{IDS[0]}.png)"]
    pack(tmp_path / "b.tar.gz", [*members.items(), (FIRST, content)])  # one name, two files
    assert check_submission(tmp_path / "b.tar.gz", SIZES)[0] == [f"masks given twice: 1 ({FIRST})"]


@pytest.mark.parametrize("folder", [FOLDER.replace("comp6", "comp5"), f"../{FOLDER}", "."])
def test_other_folders(folder, members, tmp_path):
    content = [(f"{folder}/{Path(name).name}", data) for name, data in members.items()]
    ((problem,), _) = check_submission(pack(tmp_path / "a.tar.gz", content), SIZES)
    assert problem.startswith(f"masks not in {FOLDER}: 3 (")


GREY, LABEL = np.zeros((20, 30), np.uint8), np.arange(600, dtype=np.uint8).reshape(20, 30)


@pytest.mark.parametrize(
    ("content", "kind", "detail"),
    [
        (encode(np.zeros((20, 30, 3), np.uint8)), "that are not palette PNGs", ": mode RGB"),
        (encode(GREY), "that are not palette PNGs", ": mode L"),
        (encode(GREY.astype(np.uint16)), "that are not palette PNGs", ": mode I;16"),
        (encode(GREY, VOC_PALETTE[::-1]), "whose palette is not VOC's", ""),
        (encode(GREY + 20, VOC_PALETTE[:20]), "whose palette is not VOC's", ""),
        (encode(GREY[:9], VOC_PALETTE), SIZE_DIFFERS, ": 9 × 30, not 20 × 30"),
        (encode(GREY + 255, VOC_PALETTE), "with 255, which counts as wrong", ""),
        (encode(LABEL % 2 * 180 + 20, VOC_PALETTE), "with labels over 20", ": 200"),
        (b"", "that are damaged or no PNG", ""),
        (b"\xff\xd8\xff\xe0", "that are damaged or no PNG", ""),
        (encode(GREY, VOC_PALETTE)[:-20], "that are damaged or no PNG", ""),
    ],
)
def test_refused_masks(content, kind, detail, problems_of):
    assert problems_of({FIRST: content}) == [f"masks {kind}: 1 ({IDS[0]}{detail})"]


def test_short_palettes_are_valid(problems_of):
    assert problems_of({FIRST: encode(GREY + 20, VOC_PALETTE[:21])}) == []


def test_all_problems_are_reported_at_once(members, problems_of):
    changed = dict.fromkeys([*members][1:], encode(np.full((5, 5), 255, np.uint8)))
    found = problems_of({FIRST: None, "notes.txt": b"", **changed})
    assert [line.split(":")[0] for line in found] == [
        "files that are not masks of listed ids",
        "masks of the list that are missing",
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
    pack(tmp_path / "plain.tar.gz", list(members.items()), "w")
    (tmp_path / "folder.tar.gz").mkdir()
    for name in ("zip", "cut", "text", "plain", "folder"):
        ((problem,), _) = check_submission(tmp_path / f"{name}.tar.gz", SIZES)
        assert problem.startswith("not a whole .tar.gz of masks (")
    with pytest.raises(MissingInputError, match="does not exist"):
        check_submission(tmp_path / "none.tar.gz", SIZES)


def test_links(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo(FIRST)
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    problems, _ = check_submission(tmp_path / "a.tar.gz", SIZES)
    assert f"files that are not masks of listed ids: 1 ({FIRST})" in problems


@pytest.fixture
def masks(members, tmp_path) -> Path:
    """A folder of valid masks."""
    (tmp_path / "masks").mkdir()
    for name, content in members.items():
        (tmp_path / "masks" / Path(name).name).write_bytes(content)
    return tmp_path / "masks"


def test_save_submission(masks, tmp_path):
    save_submission(tmp_path / "a.tar.gz", masks, SIZES)
    for mask in masks.iterdir():
        mask.touch()
    save_submission(tmp_path / "other/b.tar.gz", masks, dict(reversed(SIZES.items())))
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "other/b.tar.gz").read_bytes()
    assert (tmp_path / "a.tar.gz").read_bytes()[4:8] == bytes(4)  # the time in gzip's header
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        assert archive.getnames() == [f"{FOLDER}/{name}.png" for name in IDS]
        assert {(member.mtime, member.uid, member.uname) for member in archive} == {(0, 0, "")}
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert bytes_in(tmp_path / "unpacked" / FOLDER) == bytes_in(masks)


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
def voc_network(networks, tmp_path_factory) -> Path:
    """An untrained segmentation network for VOC's classes."""
    settings = load_checkpoint(networks / "segmentation.pth")["settings"] | {"classes": list(VOC_CLASSES)}
    path = tmp_path_factory.mktemp("checkpoints") / "voc.pth"
    save_checkpoint(path, "segmentation", settings, build_deeplabv3plus(settings), {})
    return path


def test_from_a_checkpoint_to_a_valid_archive(scenes, voc_network, tmp_path, capsys):
    lists = f"--list {scenes}/voc12/val_id.txt"
    command = f"--load_path {voc_network} --input {scenes / DRAWN} {lists} --output {tmp_path}/masks"
    run_main("predict", f"{command} --voc_submission {tmp_path}/a.tar.gz")
    run_main("predict", f"{command} --voc_submission {tmp_path}/b.tgz")  # all masks are there already
    assert f"6 masks packed as {FOLDER}" in capsys.readouterr().out
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tgz").read_bytes()
    check = f"submission {lists} --data_dir {scenes}/data --json {tmp_path}/scores.json --archive {tmp_path}"
    run_main("evaluate", f"{check}/a.tar.gz")
    output = capsys.readouterr().out
    assert f"valid: 6 masks in {FOLDER}" in output
    counts = json.loads((tmp_path / "scores.json").read_text())
    labels = labels_in(tmp_path / "masks")
    for label, name in enumerate(("background", *VOC_CLASSES)):
        assert counts[name] == sum(label in mask for mask in labels.values())
        assert f"| {name} " in output
    with pytest.raises(InputError, match=r"a\.tar\.gz is not a valid submission: files .*: 6 .*; masks .* missing: 7"):
        run_main("evaluate", f"{check}/a.tar.gz --list {scenes}/voc12/train_id.txt")


def test_refusals_before_work_starts(scenes, networks, voc_network, tmp_path):
    command = f"--input {scenes / DRAWN} --output {tmp_path}/masks --voc_submission {tmp_path}"
    with pytest.raises(InputError, match=r"needs the 20 classes of VOC.*segmentation\.pth has 10 \(ball, "):
        run_main("predict", f"--load_path {networks}/segmentation.pth {command}/a.tar.gz")
    with pytest.raises(InputError, match=r"a\.zip: the name must end in \.tar\.gz"):
        run_main("predict", f"--load_path {voc_network} {command}/a.zip")
    assert list(tmp_path.iterdir()) == []


def test_no_archive_without_the_unreadable_images(scenes, voc_network, tmp_path, capsys):
    first, second = load_ids(scenes / "voc12/val_id.txt")[:2]
    (tmp_path / "in").mkdir()
    shutil.copy(scenes / DRAWN / f"{first}.jpg", tmp_path / "in")
    (tmp_path / f"in/{second}.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    command = f"--load_path {voc_network} --input {tmp_path}/in --output {tmp_path}/masks"
    with pytest.raises(InputError, match=rf"in/{second}\.jpg .*: replace or remove it"):
        run_main("predict", f"{command} --voc_submission {tmp_path}/a.tar.gz")
    assert not (tmp_path / "a.tar.gz").exists()
    assert (tmp_path / f"masks/{first}.png").is_file()
