"""Tables of label maps: quality, scores by class, the selector by class, sweeps over its threshold, runs over seeds."""

import re
from statistics import mean, stdev

import numpy as np

from metrics.plots import Plot
from metrics.tables import UNDEFINED, Table, percent, short_names

MEASURES = ("Acc", "Acc_class", "mIoU", "fwIoU")
QUALITY_COLUMNS = dict(zip(MEASURES, MEASURES))
QUALITY_COLUMNS |= {"mIoU_dropped": "mIoU*", "coverage": "coverage", "boundary_IoU": "boundary IoU"}
SUBSETS = {"single_class": "single-class", "multi_class": "multi-class"}
SEED_FOLDER = re.compile(r"(?:(.*?)[/\\]+)?seed(\d+)[/\\]*( \+ selector)?")  # <setting>/seed<N>


def label_tables(kind: str, names: tuple[str, ...], results: dict) -> tuple[list[Table], list[Plot]]:
    """All scores as tables, and plots of the sweeps.

    results: folder or rule → scores, which may contain the scores of "single_class" and "multi_class" images, those of
    the "selected" labels, statistics of the "selector" and a "sweep" over its threshold. names: of the labels,
    background first.
    """
    versions, plots = {}, []
    for name, result in results.items():
        versions |= {name: result} | ({f"{name} + selector": result["selected"]} if "selected" in result else {})
    tables = [quality_table(kind, versions), *seed_tables(versions)]
    for key in ("IoU", "precision", "recall"):
        rows = [[name, *(percent(scores[key][name]) for scores in versions.values())] for name in names]
        tables.append(Table(f"{key}_by_class", [key, *versions], rows, on_screen=key == "IoU", best_in_rows=True))
    for short, result in zip(short_names(results), results.values()):
        if result.get("selector", {}).get("classes"):
            tables.append(selector_table(f"selector_{short}", result["selector"]["classes"]))
        if result.get("sweep"):
            tables.append(sweep_table(f"sweep_{short}", result["sweep"]))
            plots.append(sweep_plot(f"sweep_{short}", result["sweep"]))
    return tables, plots


def quality_table(kind: str, versions: dict) -> Table:
    """Quality of each version of the labels on all, single-class and multi-class images."""
    rows = []
    for name, scores in versions.items():
        subsets = {"all": scores} | {title: scores[key] for key, title in SUBSETS.items() if scores.get(key)}
        for title, part in subsets.items():
            rows.append([name, title, part["images"], *(percent(part[key]) for key in QUALITY_COLUMNS)])
    columns = tuple(QUALITY_COLUMNS.values())
    higher = tuple(column for column in columns if column != "coverage")
    return Table("quality", [kind, "which", "images", *columns], rows, higher=higher, within="which")


def seed_tables(versions: dict) -> list[Table]:
    """Table of mean ± sample standard deviation over runs in percent; none if no setting has two runs.

    Folders whose last part is `seed<N>` are runs of one setting, named by their parent folder; others are left out.
    """
    settings: dict[str, dict[int, dict]] = {}
    for name, scores in versions.items():
        match = SEED_FOLDER.fullmatch(name)
        if match:
            settings.setdefault((match[1] or ".") + (match[3] or ""), {})[int(match[2])] = scores
    if all(len(runs) < 2 for runs in settings.values()):
        return []
    rows = [
        [name, len(runs), *(format_runs([scores[key] for scores in runs.values()]) for key in MEASURES)]
        for name, runs in settings.items()
    ]
    return [Table("over_seeds", ["setting", "seeds", *MEASURES], rows, higher=MEASURES)]


def format_runs(scores: list[float | None]) -> str:
    if None in scores:
        return UNDEFINED
    return f"{percent(mean(scores))} ± {percent(stdev(scores) if len(scores) > 1 else None)}"


def selector_table(name: str, classes: dict[str, dict]) -> Table:
    """Statistics of the selector, one row per class."""
    rows = []
    for label, row in classes.items():
        numbers = [f"{row[key]:.2f}" for key in ("saliency", "threshold")]
        ious = [percent(row[key]) for key in ("IoU_before", "IoU_after")]
        rows.append([label, row["images"], row["replaced"], *numbers, *ious])
    header = ["class", "images", "replaced", "saliency", "threshold", "IoU before", "IoU after"]
    return Table(name, header, rows)


def sweep_table(name: str, sweep: list[dict]) -> Table:
    """Quality of the labels of single-class images, one row per threshold, and one of the evidence selector."""
    rows = [[row["threshold"], row["replaced"], *(percent(row[key]) for key in MEASURES)] for row in sweep]
    return Table(name, ["t0", "replaced", *MEASURES], rows)


def sweep_plot(name: str, sweep: list[dict]) -> Plot:
    sweep = [row for row in sweep if row["threshold"] != "evidence"]
    t0 = [row["threshold"] for row in sweep]
    lines = {key: (t0, 100 * np.array([row[key] for row in sweep], float)) for key in MEASURES}
    return Plot(name, "t0", "%", lines)
