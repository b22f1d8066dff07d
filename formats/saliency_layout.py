"""Layout of saliency data sets: `<data set>/Images/<stem>.jpg` and `<data set>/Masks/<stem>.png`.

`dataset/` holds the training sets and `benchmark/`, the folder of test sets, which are never used for training.
"""

from pathlib import Path

from formats.errors import InputError, MissingInputError, require_folder, shorten
from formats.images import binarize_mask, image_stems, load_grey

BENCHMARK_FOLDER = "benchmark"


def saliency_pairs(data_set) -> list[tuple[Path, Path]]:
    """List (image, mask) of a data set, paired by stem and sorted by stem.

    Raises `InputError` if an image or mask has no partner, or there are no images.
    """
    data_set = Path(data_set)
    images, masks = image_stems(data_set / "Images"), image_stems(data_set / "Masks")
    if not images:
        raise InputError(f"{data_set / 'Images'} holds no image: add the images, or name another data set")
    for kind, found, partner, others in (("image", images, "mask", masks), ("mask", masks, "image", images)):
        alone = [stem for stem in found if stem not in others]
        if alone:
            alone = f"{len(alone)} of {len(found)} {kind}s ({shorten(alone)})"
            raise MissingInputError(f"{data_set}: no {partner} for {alone}: add the {partner}s, or remove the {kind}s")
    return [(path, masks[stem]) for stem, path in images.items()]


def training_pairs(roots) -> list[tuple[Path, Path]]:
    """List the pairs of all training sets in `roots`; each root is a data set or a folder of data sets.

    Raises `InputError` if the masks of a data set have values, but no object.
    """
    data_sets = [data_set for root in roots for data_set in find_training_sets(root)]
    if len({data_set.resolve() for data_set in data_sets}) < len(data_sets):
        raise InputError(f"--train_root contains a data set twice: {shorten(data_sets)}: name each once")
    pairs = [saliency_pairs(data_set) for data_set in data_sets]
    for found in pairs:
        _check_objects([mask for _, mask in found])
    return [pair for found in pairs for pair in found]


def edge_paths(edge_dir, pairs) -> list[Path]:
    """List the edge map of each (image, mask): `<edge_dir>/<data set>/<stem>.png`, or `<edge_dir>/<stem>.png` if there
    is only one data set.

    Raises `MissingInputError` if any is missing.
    """
    edge_dir = require_folder(edge_dir, "--edge_dir")
    data_sets = [image.parent.parent.resolve().name for image, _ in pairs]
    is_flat = len(set(data_sets)) == 1 and not (edge_dir / data_sets[0]).is_dir()
    folders = [edge_dir if is_flat else edge_dir / name for name in data_sets]
    paths = [folder / f"{image.stem}.png" for folder, (image, _) in zip(folders, pairs)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        found = f"--edge_dir {edge_dir} lacks {len(missing)} of {len(pairs)} edge maps ({shorten(missing)})"
        raise MissingInputError(f"{found}: add them, or omit --edge_dir to compute edges from the masks")
    return paths


def benchmark_pairs(roots) -> dict[str, list[tuple[Path, Path]]]:
    """Map the names of all data sets in `roots` to their pairs; each root is a data set or a folder of data sets."""
    data_sets = [data_set for root in roots for data_set in find_data_sets(Path(root))]
    names = [data_set.resolve().name for data_set in data_sets]
    if len(set(names)) < len(names):
        raise InputError(f"two data sets share a name: {shorten(data_sets)}: rename or omit one")
    return {name: saliency_pairs(data_set) for name, data_set in zip(names, data_sets)}


def find_training_sets(root) -> list[Path]:
    """Find the data sets of a root. Raises `InputError` for test sets, i.e. below benchmark/."""
    data_sets = find_data_sets(Path(root))
    if any(data_set.resolve().parent.name == BENCHMARK_FOLDER for data_set in data_sets):
        raise InputError(f"{root} belongs to {BENCHMARK_FOLDER}/, which is for testing: choose a training set")
    return data_sets


def find_data_sets(root: Path) -> list[Path]:
    """Return `root` if it is a data set (it holds Images/), else the data sets directly below, except `benchmark/`."""
    if (require_folder(root) / "Images").is_dir():
        return [root]
    found = [path for path in sorted(root.iterdir()) if (path / "Images").is_dir() and path.name != BENCHMARK_FOLDER]
    if not found:
        names = shorten(path.relative_to(root) for path in sorted([*root.glob("*/"), *root.glob("*/*/")]))
        expected = f"expected Images/ and Masks/ in it, but there is {names or 'no folder'}: rename the folders"
        raise MissingInputError(f"{root} is no saliency data set and holds none: {expected}")
    return found


def _check_objects(masks: list[Path]) -> None:
    """Raise `InputError` if masks have values, but no object; reading stops at the first object."""
    largest = 0
    for path in masks:
        grey = load_grey(path)
        if binarize_mask(grey).any():
            return
        largest = max(largest, int(grey.max()))
    if largest:
        found = f"none of the {len(masks)} masks in {masks[0].parent} holds an object; the largest value is {largest}"
        raise InputError(f"{found}: save masks of 0 and 255 (values above 128 are object), or of 0 and 1")
