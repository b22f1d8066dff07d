"""What is wrong with the layouts of data: files without their partner, stems and ids that occur twice, odd lists."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from datasets.picture_checks import ERROR, NOTE, Finding, Picture, as_finding
from formats.errors import InputError
from formats.image_labels import load_image_labels
from formats.images import image_paths, read_bytes
from formats.voc_layout import MASK_FOLDERS, check_id, ids_in, mask_folder, truth_folder

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SUFFIXES = {"image": ".jpg", "label": ".png", "saliency map": ".png", "CAM": ".npz"}


@dataclass(frozen=True)
class IdFolder:
    """A folder of files `<id><suffix>`, all of one kind."""

    kind: str  # a key of SUFFIXES
    path: Path
    ids: frozenset[str]

    def file_of(self, image_id: str) -> Path:
        return self.path / (image_id + SUFFIXES[self.kind])


def list_folder(kind: str, path: Path) -> IdFolder:
    """A folder that does not exist counts as empty."""
    names = [file.name for file in path.iterdir()] if path.is_dir() else []
    suffix = SUFFIXES[kind]
    return IdFolder(kind, path, frozenset(name.removesuffix(suffix) for name in names if name.endswith(suffix)))


def check_saliency_set(data_set: Path, kind: str) -> tuple[list[Picture], list[Finding]]:
    """The pictures of `<data set>/{Images, Masks}`, each with its mask, of this kind, where there is one."""
    images, twice = find_stems(data_set / "Images")
    masks, masks_twice = find_stems(data_set / "Masks")
    findings = twice + masks_twice
    if not images:
        findings.append(Finding(ERROR, "folder without images", data_set / "Images"))
    findings += [Finding(ERROR, "image without mask", path) for stem, path in images.items() if stem not in masks]
    findings += [Finding(ERROR, "mask without image", path) for stem, path in masks.items() if stem not in images]
    files = {stem: ((kind, masks[stem]),) if stem in masks else () for stem in images}
    return [Picture(path, files[stem]) for stem, path in images.items()], findings


def find_stems(folder: Path) -> tuple[dict[str, Path], list[Finding]]:
    """Stem → the first image file of it, and the other files of the same stems."""
    first, findings = {}, []
    for path in image_paths(folder) if folder.is_dir() else []:
        if path.stem in first:
            findings.append(Finding(ERROR, "duplicate stem", path, f"beside {first[path.stem].name}"))
        first.setdefault(path.stem, path)
    return first, findings


def check_list(path: Path) -> tuple[list[str], list[Finding]]:
    """The ids of a list, each once, without those that are no names of files."""
    findings: list[Finding] = []
    with as_finding(findings, "cannot be read", path):
        content = read_bytes(path)
        ids = Counter(ids_in(content, path))
        odd = {
            "list with Windows line ends": content.count(b"\r\n"),
            "list with blank lines": sum(not line.strip() for line in content.splitlines()),
            "list with a byte order mark": int(content.startswith(BYTE_ORDER_MARK)),
        }
        findings += [Finding(NOTE, what, path, f"{count} of them") for what, count in odd.items() if count]
        findings += [Finding(ERROR, "id listed twice", path, name) for name, count in ids.items() if count > 1]
        if not ids:
            raise InputError(f"{path} names no image")
        return [name for name in ids if is_name(name, path, findings)], findings
    return [], findings


def is_name(image_id: str, path: Path, findings: list[Finding]) -> bool:
    """Whether an id of a list is the name of a file; another one is a finding."""
    with as_finding(findings, "id that is no name", path):
        check_id(image_id, path)
        return True
    return False


def check_voc(
    voc_root: Path, lists: dict[Path, list[str]], folders: list[tuple[str, Path]], num_labels: int
) -> tuple[dict[str, Picture], list[Finding]]:
    """Id → picture of all listed ids that have a photograph, with its files in the mask folders and in `folders`, which
    are (kind, path)."""
    photographs = list_folder("image", voc_root / "JPEGImages")
    listed = dict.fromkeys(name for ids in lists.values() for name in ids)
    _, findings = find_stems(photographs.path)
    findings += find_missing(photographs, lists, ERROR) + find_trained_and_tested(lists)

    lists_of_masks = defaultdict(dict)
    for path, ids in lists.items():
        lists_of_masks[truth_folder(voc_root, ids)][path] = ids
    for folder, of_folder in lists_of_masks.items():
        findings += find_missing(list_folder("label", folder), of_folder, NOTE)
    given = [list_folder(kind, path) for kind, path in folders]
    for folder in given:
        findings += find_missing(folder, lists, ERROR if folder.ids.isdisjoint(listed) else NOTE)

    masks = [list_folder("label", mask_folder(voc_root, name)) for name in MASK_FOLDERS]
    every = {folder.path.resolve(): folder for folder in (*masks, *given)}.values()
    for folder in every:
        alone = sorted(folder.ids - photographs.ids)
        findings += [Finding(NOTE, f"{folder.kind} without image", folder.file_of(name)) for name in alone]
    pictures = {}
    for name in listed:
        if name in photographs.ids:
            files = tuple((folder.kind, folder.file_of(name)) for folder in every if name in folder.ids)
            pictures[name] = Picture(photographs.file_of(name), files, num_labels)
    return pictures, findings


def find_missing(folder: IdFolder, lists: dict[Path, list[str]], none_at_all: str) -> list[Finding]:
    """A folder that has a file of one id of a list must have those of all; `none_at_all` is how severe it is to have
    not a single one."""
    findings, lists_of = [], defaultdict(list)
    for path, ids in lists.items():
        if ids and folder.ids.isdisjoint(ids):
            findings.append(Finding(none_at_all, f"list without any {folder.kind}", path, f"none in {folder.path}"))
            continue
        for name in ids:
            if name not in folder.ids:
                lists_of[name].append(path.name)
    return findings + [
        Finding(ERROR, f"id without {folder.kind}", folder.file_of(name), f"in {', '.join(names)}")
        for name, names in lists_of.items()
    ]


def find_trained_and_tested(lists: dict[Path, list[str]]) -> list[Finding]:
    """Ids that stand in a list for training and in one for testing; lists of trainval are meant to, and whether other
    names are those of training lists nobody can tell."""
    tested = {name: path for path, ids in lists.items() if is_test_list(path) for name in ids}
    findings = []
    for path, ids in lists.items():
        if is_test_list(path) or path.name.startswith("trainval"):
            continue
        severity, what = (
            (ERROR, "id in training and test list")
            if path.name.startswith("train")
            else (NOTE, "id in a test list and in one of another name")
        )
        findings += [Finding(severity, what, path, f"{i} is in {tested[i].name}") for i in ids if i in tested]
    return findings


def is_test_list(path: Path) -> bool:
    return path.name.startswith(("val", "test"))


def check_image_labels(path: Path, lists: dict[Path, list[str]], classes: tuple[str, ...]) -> list[Finding]:
    """Whether the ids of all lists have image labels, but for those of the test server, which are secret."""
    findings: list[Finding] = []
    if not path.exists():
        return [Finding(NOTE, "no image labels", path, "train_classification.py needs them")]
    for list_path, ids in lists.items():
        if ids and not list_path.name.startswith("test"):
            with as_finding(findings, "image labels cannot be used", path):
                rows = load_image_labels(path, ids, classes)
                without = [name for name, row in zip(ids, rows) if not row.any()]
                findings += [Finding(NOTE, "image labels without any class", path, name) for name in without]
    return findings
