"""Saliency scores as tables and curves."""

import numpy as np

from metrics.plots import Plot
from metrics.tables import UNDEFINED, Table

CLASSIC = {
    "MAE": "MAE ↓",
    "maxF": "max F ↑",
    "meanF": "mean F ↑",
    "adpF": "adp F ↑",
    "wF": "wF ↑",
    "S": "S ↑",
    "maxE": "max E ↑",
    "meanE": "mean E ↑",
    "adpE": "adp E ↑",
}
OVERLAP = {
    "maxF_of_mean_PR": "max F of mean PR ↑",
    "mean_of_maxF": "mean of max F ↑",
    "maxIoU": "max IoU ↑",
    "meanIoU": "mean IoU ↑",
    "adpIoU": "adp IoU ↑",
    "maxDice": "max Dice ↑",
    "meanDice": "mean Dice ↑",
    "adpDice": "adp Dice ↑",
    "minBER": "min BER ↓",
    "boundary_IoU": "boundary IoU ↑",
}
THRESHOLDS = np.arange(255, -1, -1)  # of the curves


def saliency_tables(scores: dict[tuple[str, str], dict]) -> list[Table]:
    """scores: (method, data set) → measure → score, with "images". The classic measures, and those of overlap."""
    return [_table("saliency", CLASSIC, scores), _table("saliency_overlap", OVERLAP, scores)]


def saliency_plots(curves: dict[tuple[str, str], dict[str, np.ndarray]]) -> list[Plot]:
    """Precision over recall, and F and E over the threshold, of each data set; a line for each method."""
    plots = []
    for data_set in dict.fromkeys(data_set for _, data_set in curves):
        of_methods = {method: curve for (method, where), curve in curves.items() if where == data_set}
        lines = {method: (curve["recall"], curve["precision"]) for method, curve in of_methods.items()}
        plots.append(Plot(f"PR_{data_set}", f"recall, {data_set}", "precision", lines))
        for name in ("F", "E"):
            lines = {method: (THRESHOLDS, curve[name]) for method, curve in of_methods.items()}
            plots.append(Plot(f"{name}_{data_set}", f"threshold, {data_set}", name, lines))
    return plots


def _table(name: str, columns: dict[str, str], scores: dict[tuple[str, str], dict]) -> Table:
    measured = [key for key in columns if any(key in found for found in scores.values())]
    rows = [
        [method, data_set, found["images"], *(four_digits(found.get(key)) for key in measured)]
        for (method, data_set), found in scores.items()
    ]
    titles = [columns[key] for key in measured]
    return Table(
        name,
        ["method", "data set", "images", *titles],
        rows,
        higher=tuple(title for title in titles if "↑" in title),
        lower=tuple(title for title in titles if "↓" in title),
        within="data set",
    )


def four_digits(score: float | None) -> str:
    """Four digits; a dash for None and NaN."""
    return UNDEFINED if score is None or score != score else f"{score:.4f}"
