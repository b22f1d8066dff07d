"""Label maps that were corrected in another tool."""

import sys
from pathlib import Path

from formats.coco import load_coco
from formats.errors import MissingInputError
from formats.images import check_size, image_size, images_below
from formats.labels import check_labels, load_label, save_label
from formats.voc_layout import drop_image_suffix


def save_corrections(path, folder, classes, photographs: dict[str, Path], ids, warns: bool = True) -> dict[str, Path]:
    """Save corrected label maps as `<folder>/<id>.png`; return the files of those that are among `ids` by id.

    `path` is one of:

    - a COCO file `.json` (see `load_coco`); ids are file names without suffix, and each listed image is corrected
    - a label map `<id>.png`, or a folder of them, nested or not: grey, palette, or VOC's colours (see `load_label`)

    `photographs` maps the ids of all images of the data set to their files. Prints the number of labels on stderr if it
    `warns`. Raises `InputError` for ids of no photograph, unknown labels, other sizes, and if no id is among `ids`.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        labels = ((drop_image_suffix(name), label) for name, label in load_coco(path, classes))
    else:
        files = images_below(path, (".png",)) if path.is_dir() else {path.stem: path}
        labels = ((image_id, load_label(file)) for image_id, file in files.items())
    saved, empty = {}, 0
    for image_id, label in labels:
        where = f"--corrected {path}, {image_id}"
        if image_id not in photographs:
            way_out = f"rename it as the photograph without suffix, such as {next(iter(photographs))}"
            raise MissingInputError(f"{where}: there is no such photograph: {way_out}")
        check_labels(label, len(classes) + 1, where)
        check_size(where, label.shape, photographs[image_id], image_size(photographs[image_id]))
        saved[image_id] = Path(folder) / f"{image_id}.png"
        save_label(saved[image_id], label)
        empty += not label.any()
    used = {image_id: saved[image_id] for image_id in ids if image_id in saved}
    if not used:
        raise MissingInputError(f"--corrected {path}: none of its {len(saved)} images is in the list: choose another")
    if warns:
        others = f"{empty} of them all background, {len(saved) - len(used)} not in the list and unused"
        print(f"--corrected {path}: {len(saved)} labels, {others}", file=sys.stderr)
    return used
