"""One HTML file of all scores: sortable tables, curves, and pictures that can be searched, filtered and sorted.

Style, script and images are inside the file, which loads nothing else. Without JavaScript it lacks only the controls.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

import cv2
import numpy as np

from formats.atomic_files import atomic_path
from formats.errors import InputError
from formats.images import load_image
from metrics.plots import Plot, plot_svg
from metrics.tables import UNDEFINED, Table, replace_nan

PHOTOGRAPH = "image"
JPEG_QUALITY = 80
THUMBNAIL_PX = 160  # longest side of an image
LOWER_IS_BETTER = ["MAE", "doubt"]  # measures of pictures


@dataclass(frozen=True)
class Picture:
    """A photograph of the gallery with its truth and the results of several methods.

    group: its data set. classes: names of the classes in it. images: PHOTOGRAPH, "truth" and methods in order, RGB
    uint8 [H, W, 3] or grey uint8 [H, W]; RGB images other than the photograph are painted labels. scores: method →
    measure → value, None if undefined.
    """

    title: str
    group: str
    classes: tuple[str, ...]
    images: dict[str, np.ndarray]
    scores: dict[str, dict[str, float | None]]


def load_photograph(path: Path | None) -> dict[str, np.ndarray]:
    """Entry of `Picture.images`; empty if the file is missing or damaged, because no score depends on it."""
    try:
        return {PHOTOGRAPH: load_image(path)} if path else {}
    except InputError:
        return {}


def write_page(
    path, title: str, tables: list[Table], plots: list[Plot], pictures: Iterable[Picture], notes: list[str]
) -> None:
    """Write the page with one picture in memory at a time. pictures: in the order of the gallery, worst first."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.writelines(render_page(title, tables, plots, pictures, notes))


def render_page(title, tables, plots, pictures, notes) -> Iterator[str]:
    here = Path(__file__)
    style, script, frame = (here.with_suffix(f".{kind}").read_text(encoding="utf-8") for kind in ("css", "js", "html"))
    before, after = frame.split("$pictures")
    yield Template(before).substitute(
        title=escape(title),
        style=style,
        style_hash=hash_source(style),
        script_hash=hash_source(script),
        notes="".join(f"<li>{escape(note)}</li>" for note in notes),
        tables="".join(map(render_table, tables)),
        curves="".join(map(render_curve, plots)),
        lower=encode_json(LOWER_IS_BETTER),
    )
    yield from map(render_card, pictures)
    yield Template(after).substitute(script=script)


def render_table(table: Table) -> str:
    classes, best = ["number" if is_number else "text" for is_number in table.number_columns()], table.best()
    name = escape(table.name)
    head = "".join(f'<th scope="col" class="{kind}">{escape(cell)}</th>' for kind, cell in zip(classes, table.header))
    rows = [
        "".join(
            f'<td class="{kind}{" best" * ((row, column) in best)}">{escape(str(cell))}</td>'
            for column, (kind, cell) in enumerate(zip(classes, cells))
        )
        for row, cells in enumerate(table.rows)
    ]
    return (
        f'<div><h3>{name}</h3>\n<div class="scroll" role="region" tabindex="0" aria-label="{name}"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "".join(f"<tr>{row}</tr>\n" for row in rows)
        + "</tbody></table></div></div>\n"
    )


def render_curve(plot: Plot) -> str:
    source = encode_data_uri("svg+xml", plot_svg(plot).encode("utf-8"))
    alt = escape(f"{plot.name}: {plot.y_label} over {plot.x_label}")
    return f'<div><h3>{escape(plot.name)}</h3>\n<img src="{source}" alt="{alt}"></div>\n'


def render_card(picture: Picture) -> str:
    about = " · ".join(part for part in (picture.group, ", ".join(picture.classes)) if part)
    names = dict.fromkeys([*picture.images, *picture.scores])
    return (
        f'<article data-title="{escape(picture.title)}" data-group="{escape(picture.group)}"'
        f' data-classes="{encode_json(picture.classes)}" data-scores="{encode_json(replace_nan(picture.scores))}">'
        f"<h3>{escape(picture.title)} <small>{escape(about)}</small></h3>\n"
        + "".join(render_figure(name, picture) for name in names)
        + "</article>\n"
    )


def render_figure(name: str, picture: Picture) -> str:
    image = ""
    if name in picture.images:
        kind, content, (height, width) = encode_thumbnail(picture.images[name], name == PHOTOGRAPH, THUMBNAIL_PX)
        alt = escape(f"{picture.title}: {name}")
        image = f'<img src="{encode_data_uri(kind, content)}" width="{width}" height="{height}" alt="{alt}">'
    scores = replace_nan(picture.scores.get(name, {}))
    shown = {measure: UNDEFINED if value is None else f"{value:.3g}" for measure, value in scores.items()}
    values = "".join(f"<dt>{escape(measure)}</dt><dd>{value}</dd>" for measure, value in shown.items())
    return f"<figure>{image}<figcaption>{escape(name)}</figcaption>" + f"<dl>{values}</dl>" * bool(values) + "</figure>"


def encode_thumbnail(image: np.ndarray, is_photograph: bool, longest_px: int) -> tuple[str, bytes, tuple[int, int]]:
    """Encode an image with its longest side at most `longest_px`: "jpeg" or "png", the bytes, and (height, width)."""
    shrink = min(1, longest_px / max(image.shape[:2]))
    height, width = (max(1, round(shrink * side)) for side in image.shape[:2])
    is_painted = image.ndim == 3 and not is_photograph  # a mean of the colours of two labels is no label
    if shrink < 1:
        interpolation = cv2.INTER_NEAREST if is_painted else cv2.INTER_AREA
        image = cv2.resize(image, (width, height), interpolation=interpolation)
    kind = "jpeg" if is_photograph else "png"
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if is_photograph else []
    bgr = np.ascontiguousarray(image[:, :, ::-1]) if image.ndim == 3 else image
    return kind, cv2.imencode(f".{kind}", bgr, options)[1].tobytes(), (height, width)


def encode_json(content) -> str:
    return escape(json.dumps(content))


def encode_data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def hash_source(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode('utf-8')).digest()).decode('ascii')}"
