"""Tables and plots of saliency scores."""

import numpy as np

from metrics.plots import Plot
from metrics.tables import Table, four_digits

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
THRESHOLDS = np.arange(255, -1, -1)  # x values of the curves


def saliency_tables(scores: dict[tuple[str, str], dict]) -> list[Table]:
    """Tables of the classic measures and of the measures of overlap.

    scores: (method, data set) → measure → score, with "images", their number.
    """
    tables = []
    for name, columns in (("saliency", CLASSIC), ("saliency_overlap", OVERLAP)):
        rows = [
            [*key, row["images"], *(four_digits(row[measure]) for measure in columns)] for key, row in scores.items()
        ]
        higher, lower = (tuple(title for title in columns.values() if arrow in title) for arrow in "↑↓")
        header = ["method", "data set", "images", *columns.values()]
        tables.append(Table(name, header, rows, higher=higher, lower=lower, within="data set"))
    return tables


def saliency_plots(scores: dict[tuple[str, str], dict]) -> list[Plot]:
    """Plots of precision over recall, and of F and E over the threshold, per data set, with one line per method.

    scores: (method, data set) → "curves" → name → values [256].
    """
    plots = []
    for data_set in dict.fromkeys(data_set for _, data_set in scores):
        by_method = {method: found["curves"] for (method, where), found in scores.items() if where == data_set}
        lines = {method: (curve["recall"], curve["precision"]) for method, curve in by_method.items()}
        plots.append(Plot(f"PR_{data_set}", f"recall, {data_set}", "precision", lines))
        for name in ("F", "E"):
            lines = {method: (THRESHOLDS, curve[name]) for method, curve in by_method.items()}
            plots.append(Plot(f"{name}_{data_set}", f"threshold, {data_set}", name, lines))
    return plots
