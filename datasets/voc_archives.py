"""What the archives of VOC 2012 hold: VOCtrainval_11-May-2012.tar, VOC2012test.tar and SegmentationClassAug.zip."""

import re
from pathlib import PurePosixPath

from datasets.archive_files import Archive
from formats.errors import InputError, shorten
from formats.voc_layout import parse_ids

AUG = "SegmentationClassAug"
NEEDED = re.compile(
    r"JPEGImages/[^/]+\.jpg|Annotations/[^/]+\.xml|SegmentationClass/[^/]+\.png"
    r"|ImageSets/Segmentation/[^/]+\.txt|classes\.txt"
)


def voc_members(archive: Archive, list_name: str) -> dict[str, str]:
    """Place below VOC2012 → member, of the files that are needed; VOC2012 is where ImageSets has the list."""
    ending = list_place(list_name)
    roots = [name.removesuffix(ending) for name in archive.sizes if f"/{name}".endswith(f"/{ending}")]
    if len(roots) != 1:
        found = f"{len(roots)} (in {shorten(roots)})" if roots else "none"
        raise InputError(f"{archive.path} should hold one {ending}, found {found}: is it the archive of VOC 2012?")
    below = {name.removeprefix(roots[0]): name for name in archive.sizes if name.startswith(roots[0])}
    return {place: name for place, name in below.items() if NEEDED.fullmatch(place) and not _is_junk(name)}


def mask_members(archive: Archive) -> dict[str, str]:
    """Place below VOC2012 → member, of the masks: those in a folder SegmentationClassAug, or all if there is none."""
    pngs = [PurePosixPath(name) for name in archive.sizes if name.endswith(".png") and not _is_junk(name)]
    pngs = [path for path in pngs if path.parent.name == AUG] or pngs
    others = {"SegmentationClass", "SegmentationObject"} & {path.parent.name for path in pngs}
    if others or not pngs:
        found = f"those of {', '.join(sorted(others))}" if others else "none"
        raise InputError(f"{archive.path} should hold masks <id>.png, found {found}: is it {AUG}.zip?")
    members: dict[str, str] = {}
    for path in pngs:
        place = f"{AUG}/{path.name}"
        if place in members:
            raise InputError(f"{archive.path} holds {members[place]} and {path}: which of them is the mask?")
        members[place] = str(path)
    return members


def listed_ids(archive: Archive, members: dict[str, str], list_name: str) -> list[str]:
    """The ids of ImageSets/Segmentation/<list_name>.txt."""
    place = list_place(list_name)
    if place not in members:
        raise InputError(f"{archive.path} holds no {place}: is it the archive of VOC 2012?")
    return parse_ids(archive.read(members[place]), f"{archive.path}: {place}")


def train_aug_ids(archive: Archive, masks: dict[str, str], val_ids: list[str]) -> list[str]:
    """The ids of the masks that are not in val, in order of their names."""
    ids = sorted({PurePosixPath(place).stem for place in masks} - set(val_ids))
    if not ids:
        raise InputError(f"{archive.path} holds masks of val alone: is it {AUG}.zip?")
    return ids


def check_members(archive: Archive, members: dict[str, str], ids: dict[str, list[str]]) -> None:
    """Every id needs its photograph, those of train and val their mask, and there must be annotations."""
    wanted = [f"JPEGImages/{name}.jpg" for name in dict.fromkeys([*ids["train"], *ids["val"], *ids["train_aug"]])]
    wanted += [f"SegmentationClass/{name}.png" for name in [*ids["train"], *ids["val"]]]
    missing = [place for place in wanted if place not in members]
    if not any(place.startswith("Annotations/") for place in members):
        missing.append("Annotations/*.xml")
    if missing:
        raise InputError(f"{archive.path} lacks {len(missing)} files that are needed ({shorten(missing)})")


def list_place(list_name: str) -> str:
    return f"ImageSets/Segmentation/{list_name}.txt"


def _is_junk(name: str) -> bool:
    """What macOS adds to archives."""
    path = PurePosixPath(name)
    return "__MACOSX" in path.parts or path.name.startswith(".")
