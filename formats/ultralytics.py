"""Data sets as Ultralytics reads them: a YAML, and masks or polygons.

The YAML finds photographs in `images` beside it. Masks, which lose nothing, have the same paths in `masks`, text files
of polygons in `labels`.
"""

import cv2
import numpy as np
import yaml

from formats.atomic_files import write_text
from formats.labels import find_parts

NOTE = "# put photographs into images/ with the ids of the labels; choose other images for val; 255 is ignored\n"


def save_dataset_yaml(path, names: tuple[str, ...], **folders: str) -> None:
    """Save the YAML that names folders and classes, id → name from 0; `folders` are those besides images."""
    content = {"train": "images", "val": "images", **folders, "names": dict(enumerate(names))}
    write_text(path, NOTE + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def save_polygons(path, label: np.ndarray) -> np.ndarray:
    """Save the outline of each 8-connected part of a label map, uint8 [H, W], and return what Ultralytics draws of it.

    A line is `class x1 y1 x2 y2 …`: classes from 0, centres of the outermost pixels as shares of the sides. The largest
    comes first, so that what lies in a hole is drawn over it. Holes, and parts of fewer than 3 points, are lost.
    """
    polygons = []
    for value, part, _ in find_parts(label):
        contours, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        polygons += [(value, contour[:, 0]) for contour in contours if len(contour) >= 3]
    drawn, lines = np.zeros_like(label), []
    for value, points in sorted(polygons, key=lambda polygon: -cv2.contourArea(polygon[1])):
        cv2.fillPoly(drawn, [points], value)
        shares = ((points + 0.5) / label.shape[::-1]).ravel()
        lines.append(f"{value - 1} {' '.join(f'{share:.6f}' for share in shares)}\n")
    write_text(path, "".join(lines))
    return drawn
