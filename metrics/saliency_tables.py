"""Tables and plots of saliency scores."""

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
THRESHOLDS = np.arange(255, -1, -1)  # x values of the curves


def saliency_tables(scores: dict[tuple[str, str], dict]) -> list[Table]:
    """Tables of the classic measures and of the measures of overlap.

    scores: (method, data set) → measure → score, with "images", their number.
    """
    return [build_table("saliency", CLASSIC, scores), build_table("saliency_overlap", OVERLAP, scores)]


def saliency_plots(curves: dict[tuple[str, str], dict[str, np.ndarray]]) -> list[Plot]:
    """Plots of precision over recall, and of F and E over the threshold, per data set, with one line per method.

    curves: (method, data set) → name → values [256].
    """
    plots = []
    for data_set in dict.fromkeys(data_set for _, data_set in curves):
        by_method = {method: curve for (method, where), curve in curves.items() if where == data_set}
        lines = {method: (curve["recall"], curve["precision"]) for method, curve in by_method.items()}
        plots.append(Plot(f"PR_{data_set}", f"recall, {data_set}", "precision", lines))
        for name in ("F", "E"):
            lines = {method: (THRESHOLDS, curve[name]) for method, curve in by_method.items()}
            plots.append(Plot(f"{name}_{data_set}", f"threshold, {data_set}", name, lines))
    return plots


def build_table(name: str, columns: dict[str, str], scores: dict[tuple[str, str], dict]) -> Table:
    measured = [key for key in columns if any(key in found for found in scores.values())]
    rows = [
        [method, data_set, found["images"], *(four_digits(found.get(key)) for key in measured)]
        for (method, data_set), found in scores.items()
    ]
    titles = [columns[key] for key in measured]
    higher, lower = (tuple(title for title in titles if arrow in title) for arrow in "↑↓")
    return Table(name, ["method", "data set", "images", *titles], rows, higher=higher, lower=lower, within="data set")


def four_digits(score: float | None) -> str:
    """Format a score with four decimals, None and NaN as a dash."""
    return UNDEFINED if score is None or score != score else f"{score:.4f}"
