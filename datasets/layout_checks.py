"""Find faults in the layout of data sets: missing partners, repeated stems and ids, unusual lists."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from datasets.picture_checks import ERROR, NOTE, Finding, Picture, record_errors
from formats.errors import InputError
from formats.image_labels import load_image_labels
from formats.images import image_paths, read_bytes
from formats.voc_layout import MASK_FOLDERS, check_id, mask_folder, split_ids, truth_folder

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SUFFIXES = {"image": ".jpg", "label": ".png", "saliency map": ".png", "CAM": ".npz"}


@dataclass(frozen=True)
class IdFolder:
    """A folder of files `<id><suffix>`, all of one kind."""

    kind: str  # a key of SUFFIXES
    path: Path
    ids: frozenset[str]

    def path_of(self, image_id: str) -> Path:
        return self.path / (image_id + SUFFIXES[self.kind])


def list_folder(kind: str, path: Path) -> IdFolder:
    """List the ids of a folder; a missing folder counts as empty."""
    suffix = SUFFIXES[kind]
    names = [file.name for file in path.iterdir()] if path.is_dir() else []
    return IdFolder(kind, path, frozenset(name.removesuffix(suffix) for name in names if name.endswith(suffix)))


def check_saliency_set(data_set: Path, kind: str) -> tuple[list[Picture], list[Finding]]:
    """Check `<data set>/{Images, Masks}`. Returns its pictures, with masks as files of this `kind`, and findings."""
    images, findings = find_stems(data_set / "Images")
    masks, repeated_masks = find_stems(data_set / "Masks")
    findings += repeated_masks
    if not images:
        findings.append(Finding(ERROR, "folder without images", data_set / "Images"))
    findings += [Finding(ERROR, "image without mask", path) for stem, path in images.items() if stem not in masks]
    findings += [Finding(ERROR, "mask without image", path) for stem, path in masks.items() if stem not in images]
    pictures = [Picture(path, ((kind, masks[stem]),) if stem in masks else ()) for stem, path in images.items()]
    return pictures, findings


def find_stems(folder: Path) -> tuple[dict[str, Path], list[Finding]]:
    """Map every stem to its first image file; further files with the same stem are findings."""
    first, findings = {}, []
    for path in image_paths(folder) if folder.is_dir() else []:
        if path.stem in first:
            findings.append(Finding(ERROR, "duplicate stem", path, f"beside {first[path.stem].name}"))
        first.setdefault(path.stem, path)
    return first, findings


def check_list(path: Path) -> tuple[list[str], list[Finding]]:
    """Check a list of ids. Returns the valid ids, each once, and findings."""
    findings: list[Finding] = []
    with record_errors(findings, "cannot be read", path):
        content = read_bytes(path)
        ids = Counter(split_ids(content, path))
        counts = {
            "list with Windows line ends": content.count(b"\r\n"),
            "list with blank lines": sum(not line.strip() for line in content.splitlines()),
            "list with a byte order mark": int(content.startswith(BYTE_ORDER_MARK)),
        }
        findings += [Finding(NOTE, what, path, f"{count} of them") for what, count in counts.items() if count]
        findings += [Finding(ERROR, "id listed twice", path, name) for name, count in ids.items() if count > 1]
        if not ids:
            raise InputError(f"{path} contains no id")
        return [name for name in ids if is_valid_id(name, path, findings)], findings
    return [], findings


def is_valid_id(image_id: str, path: Path, findings: list[Finding]) -> bool:
    """Return whether an id of a list is a valid file name; an invalid one is a finding."""
    with record_errors(findings, "id is not a file name", path):
        check_id(image_id, path)
        return True
    return False


def check_voc(
    voc_root: Path, lists: dict[Path, list[str]], folders: list[tuple[str, Path]], num_labels: int
) -> tuple[dict[str, Picture], list[Finding]]:
    """Check the files of all listed ids in the VOC tree and in further `folders`, given as (kind, path).

    Returns id → picture for all ids that have a photograph, and findings.
    """
    photographs = list_folder("image", voc_root / "JPEGImages")
    listed = dict.fromkeys(name for ids in lists.values() for name in ids)
    _, findings = find_stems(photographs.path)
    findings += find_missing(photographs, lists, ERROR) + find_list_overlap(lists)

    lists_of_folder = defaultdict(dict)
    for path, ids in lists.items():
        lists_of_folder[truth_folder(voc_root, ids)][path] = ids
    for folder, its_lists in lists_of_folder.items():
        findings += find_missing(list_folder("label", folder), its_lists, NOTE)
    given = [list_folder(kind, path) for kind, path in folders]
    for folder in given:
        findings += find_missing(folder, lists, ERROR if folder.ids.isdisjoint(listed) else NOTE)

    masks = [list_folder("label", mask_folder(voc_root, name)) for name in MASK_FOLDERS]
    distinct = {folder.path.resolve(): folder for folder in (*masks, *given)}.values()
    for folder in distinct:
        alone = sorted(folder.ids - photographs.ids)
        findings += [Finding(NOTE, f"{folder.kind} without image", folder.path_of(name)) for name in alone]
    pictures = {}
    for name in listed:
        if name in photographs.ids:
            files = tuple((folder.kind, folder.path_of(name)) for folder in distinct if name in folder.ids)
            pictures[name] = Picture(photographs.path_of(name), files, num_labels)
    return pictures, findings


def find_missing(folder: IdFolder, lists: dict[Path, list[str]], severity_of_none: str) -> list[Finding]:
    """Find listed ids without a file in `folder`; if no id of a list has a file, this is one finding of severity
    `severity_of_none`.
    """
    findings, lists_of_id = [], defaultdict(list)
    for path, ids in lists.items():
        if ids and folder.ids.isdisjoint(ids):
            findings.append(Finding(severity_of_none, f"list without any {folder.kind}", path, f"in {folder.path}"))
            continue
        for name in ids:
            if name not in folder.ids:
                lists_of_id[name].append(path.name)
    return findings + [
        Finding(ERROR, f"id without {folder.kind}", folder.path_of(name), f"in {', '.join(names)}")
        for name, names in lists_of_id.items()
    ]


def find_list_overlap(lists: dict[Path, list[str]]) -> list[Finding]:
    """Find ids that are in a training list and a test list.

    `trainval` lists are skipped. An overlap is an error for lists named train*, and a note for other names, whose use
    is unknown.
    """
    tested = {name: path for path, ids in lists.items() if is_test_list(path) for name in ids}
    findings = []
    for path, ids in lists.items():
        if is_test_list(path) or path.name.startswith("trainval"):
            continue
        severity, what = NOTE, "id in a test list and in a list of unknown use"
        if path.name.startswith("train"):
            severity, what = ERROR, "id in training and test list"
        findings += [Finding(severity, what, path, f"{i} is in {tested[i].name}") for i in ids if i in tested]
    return findings


def is_test_list(path: Path) -> bool:
    return path.name.startswith(("val", "test"))


def check_image_labels(path: Path, lists: dict[Path, list[str]], classes: tuple[str, ...]) -> list[Finding]:
    """Check that all listed ids have image labels, except in test lists, whose labels are not public."""
    findings: list[Finding] = []
    if not path.exists():
        return [Finding(NOTE, "no image labels", path, "train_classification.py needs them")]
    for list_path, ids in lists.items():
        if ids and not list_path.name.startswith("test"):
            with record_errors(findings, "image labels cannot be used", path):
                rows = load_image_labels(path, ids, classes)
                without = [name for name, row in zip(ids, rows) if not row.any()]
                findings += [Finding(NOTE, "image labels without any class", path, name) for name in without]
    return findings
