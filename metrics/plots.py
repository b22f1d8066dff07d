"""Plots of curves as PNG files and as SVG for an HTML page, drawn without a display."""

import io
from dataclasses import dataclass

import cv2
import matplotlib
import matplotlib.figure
import numpy as np
from numpy.typing import ArrayLike

from formats.atomic_files import atomic_path
from formats.images import save_image

MARKED_POINTS = 30  # lines with more points have no markers
LEGEND_CHARACTERS = 80  # per row of the legend
STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Plot:
    """Curves of one figure. name: of its file; lines: name → x, y, where a y of NaN is a gap."""

    name: str
    x_label: str
    y_label: str
    lines: dict[str, tuple[ArrayLike, ArrayLike]]


def save_plot(path, plot: Plot) -> None:
    """Write a plot as PNG."""
    with atomic_path(path) as temporary:
        _draw(plot, temporary, format="png", dpi=120)


def save_picture_grid(path, rows: list[dict[str, np.ndarray]]) -> None:
    """Write a grid of pictures with a title above each column. rows: title → RGB uint8 [H, W, 3], all of one size."""
    pad = ((2, 2), (2, 2), (0, 0))
    grid = np.vstack([np.hstack([np.pad(cell, pad, constant_values=255) for cell in row.values()]) for row in rows])
    header = np.full((24, grid.shape[1], 3), 255, np.uint8)
    for column, title in enumerate(rows[0]):
        place = (column * grid.shape[1] // len(rows[0]) + 4, 17)
        cv2.putText(header, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    save_image(path, np.vstack([header, grid]))


def plot_svg(plot: Plot) -> str:
    """The plot as SVG; equal plots give equal bytes."""
    text = io.StringIO()
    _draw(plot, text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _draw(plot: Plot, target, **form) -> None:
    # Names of methods may contain $, which is no formula; the salt makes the ids of an SVG repeatable.
    with matplotlib.rc_context({"text.parse_math": False, "svg.hashsalt": plot.name}):
        longest = max(map(len, plot.lines), default=0)
        columns = max(1, min(len(plot.lines), 4, LEGEND_CHARACTERS // (longest + 6)))
        height = 4.2 + 0.22 * -(-len(plot.lines) // columns)
        figure = matplotlib.figure.Figure(figsize=(7, height), layout="constrained")
        axes = figure.subplots()
        for number, (x, y) in enumerate(plot.lines.values()):
            x, y = np.asarray(x, float), np.asarray(y, float)
            marker = "o" if x.size <= MARKED_POINTS else None
            axes.plot(x, y, color=f"C{number % 10}", linestyle=STYLES[number // 10 % 4], marker=marker, markersize=4)
        axes.set(xlabel=plot.x_label, ylabel=plot.y_label)
        axes.grid(alpha=0.3)
        if plot.lines:
            figure.legend(axes.lines, list(plot.lines), loc="outside lower center", ncols=columns, fontsize="small")
        figure.savefig(target, **form)
