"""COCO JSON of label maps: one annotation for each part of a class whose pixels touch, also at corners (8-connected).

Category ids are labels, from 1. Background (0) and ignored pixels (255) belong to no annotation. Masks are run-length
encoded (RLE), exactly as by pycocotools: runs go down the columns and begin with background. A compressed run is a
signed number of 5-bit digits, lowest first, each a character from "0" on, with bit 5 set unless it is the last; from
the fourth run on, it is the difference to the run before the previous one.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from formats.atomic_files import write_text
from formats.errors import InputError, first_line, shorten
from formats.images import read_bytes
from formats.labels import IGNORE_LABEL, find_parts
from formats.voc_layout import BACKGROUND_NAMES, IGNORE_NAME, decode_text

THIN_PX = 2  # of what is thinner, CVAT and datumaro write only the box


def save_coco(path, labels: Iterable[tuple[str, np.ndarray]], classes: tuple[str, ...]) -> None:
    """Save label maps, uint8 [H, W], with the file names of their images. Boxes are [x, y, w, h] in px."""
    images, annotations = [], []
    for file_name, label in labels:
        height, width = label.shape
        images.append({"id": len(images) + 1, "file_name": file_name, "width": width, "height": height})
        for value, part, (*box, area) in find_parts(label):
            entry = {"id": len(annotations) + 1, "image_id": len(images), "category_id": value, "iscrowd": 0}
            annotations.append(entry | {"segmentation": encode_mask(part), "bbox": box, "area": area})
    categories = [{"id": value, "name": name} for value, name in enumerate(classes, start=1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    write_text(path, json.dumps(content, ensure_ascii=False))


def load_coco(path, classes: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield file name and label map, uint8 [H, W], of each image, from RLE of both forms and polygons.

    Categories count by name, whatever their ids; background, bg and ignore (255) may be among them. Of annotations that
    overlap, the last of the file wins. Pixels without annotation are background, also in images that have none at all.
    Raises `InputError` for unknown categories, masks of another size, and annotations without mask.
    """
    known = dict.fromkeys(BACKGROUND_NAMES, 0) | {IGNORE_NAME: IGNORE_LABEL}
    known |= {name: value for value, name in enumerate(classes, start=1)}
    with explain_faults(path):
        images, names = read_coco(read_bytes(path), path)
        for image, entries in images:
            for entry in entries:
                where, name = f"{path}, annotation {entry['id']}", names[entry["category_id"]]
                if name not in known:
                    raise InputError(f"{where}: unknown category {name!r}; known are {shorten(classes, 20)}: rename it")
            labels = {number: known.get(name) for number, name in names.items()}
            yield image["file_name"], paint_annotations(image, entries, labels, path)


def read_coco(content: bytes, path) -> tuple[list[tuple[dict, list[dict]]], dict[int, str]]:
    """Read the `content` of the COCO file `path`: each image with its annotations, in the order of the file, and the
    names of the categories by id."""
    with explain_faults(path):
        content = json.loads(decode_text(content, path))
        names = {category["id"]: category["name"] for category in content["categories"]}
        entries = {image["id"]: [] for image in content["images"]}
        for entry in content["annotations"]:
            entries[entry["image_id"]].append(entry)
        return [(image, entries[image["id"]]) for image in content["images"]], names


def paint_annotations(image: dict, entries: list[dict], labels: dict[int, int], path) -> np.ndarray:
    """Paint annotations over each other in their order: uint8 [H, W]. `labels`: category id → label."""
    label = np.zeros((image["height"], image["width"]), np.uint8)
    for entry in entries:
        mask = _read_mask(entry, label.shape, f"{path}, annotation {entry['id']}")
        label[mask] = labels[entry["category_id"]]
    return label


@contextmanager
def explain_faults(path) -> Iterator[None]:
    """Raise `InputError` for content that is not JSON, or not COCO's."""
    try:
        yield
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: {first_line(error)}") from None
    except (KeyError, TypeError) as error:
        found = f"{path} lacks what COCO files of masks hold ({first_line(error)})"
        raise InputError(f"{found}: export images, categories and annotations") from None


def encode_mask(mask: np.ndarray) -> dict:
    """Encode a mask, bool [H, W], as {"size": [H, W], "counts": compressed runs}."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    starts = [0, 0] if pixels[0] else [0]  # an object in the first pixel follows an empty run of background
    counts = np.diff(np.concatenate([starts, changes, [pixels.size]]))
    return {"size": list(mask.shape), "counts": compress_counts(counts.tolist())}


def compress_counts(counts: list[int]) -> str:
    """Write the lengths of runs as text."""
    characters = []
    for index, count in enumerate(counts):
        number = count - counts[index - 2] if index > 2 else count
        is_last = False
        while not is_last:
            digit, number = number & 31, number >> 5
            is_last = number == (-1 if digit & 16 else 0)  # the highest digit has the sign
            characters.append(chr(ord("0") + digit + (0 if is_last else 32)))
    return "".join(characters)


def expand_counts(text: str) -> list[int]:
    """Read the lengths of runs from text."""
    counts, number, shift = [], 0, 0
    for digit in (ord(character) - ord("0") for character in text):
        number |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            number -= (1 << shift) if digit & 16 else 0  # the sign
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    return counts


def fill_polygon(points: list[float], image_hw: tuple[int, int]) -> np.ndarray:
    """Return the pixels, bool [H, W], whose centres are inside a polygon x1, y1, x2, y2, … in px.

    The corners of pixels have whole numbers, their centres .5, as in COCO. OpenCV would add the pixels on the outline.
    """
    points = np.reshape(points, (-1, 2))
    size = image_hw[::-1]
    left, top = np.clip(np.floor(points.min(axis=0)), 0, size).astype(np.int64)
    right, bottom = np.clip(np.ceil(points.max(axis=0)), 0, size).astype(np.int64)
    (x, y), (next_x, next_y) = points.T, np.roll(points, -1, axis=0).T
    centre_y = np.arange(top, bottom)[:, None] + 0.5
    rows, edges = np.nonzero((y <= centre_y) != (next_y <= centre_y))  # edges that cross the centre line of a row
    share = (rows + top + 0.5 - y[edges]) / (next_y - y)[edges]
    crossing_x = x[edges] + share * (next_x - x)[edges]
    crossings = np.zeros((bottom - top, right - left + 1), np.int64)
    np.add.at(crossings, (rows, np.clip(np.ceil(crossing_x - 0.5) - left, 0, right - left).astype(np.int64)), 1)
    mask = np.zeros(image_hw, bool)
    mask[top:bottom, left:right] = crossings.cumsum(axis=1)[:, :-1] % 2 == 1
    return mask


def _read_mask(entry: dict, image_hw: tuple[int, int], where: str) -> np.ndarray:
    """Read the mask of an annotation, bool [H, W], from an RLE, a list of polygons or, without these, a thin box."""
    segmentation, (height, width) = entry.get("segmentation"), image_hw
    if isinstance(segmentation, dict):
        size, counts = segmentation["size"], segmentation["counts"]
        counts = expand_counts(counts) if isinstance(counts, str) else counts
        if list(size) != [height, width] or sum(counts) != height * width:
            found = f"{where}: a mask of {size} (height, width) and {sum(counts)} px in an image of {[height, width]}"
            raise InputError(f"{found}: export the masks at the size of the images")
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
    if segmentation == [] and min(entry["bbox"][2:]) <= THIN_PX:
        x, y, box_width, box_height = entry["bbox"]
        segmentation = [[x, y, x + box_width, y, x + box_width, y + box_height, x, y + box_height]]
    if not segmentation or any(len(points) < 6 for points in segmentation):
        raise InputError(f"{where}: neither a mask nor polygons of three points or more: draw masks, not boxes")
    return np.any([fill_polygon(points, image_hw) for points in segmentation], axis=0)
