"""The tables of label maps: quality, by class, the selector by class, and the sweep over its thresholds."""

from pathlib import PurePath

from metrics.tables import Table, percent

MEASURES = ("Acc", "Acc_class", "mIoU", "fwIoU")
QUALITY = {name: name for name in MEASURES} | {
    "mIoU_dropped": "mIoU*",
    "coverage": "coverage",
    "boundary_IoU": "boundary IoU",
}
SETS = {"single_class": "single-class", "multi_class": "multi-class"}


def label_tables(kind: str, names: tuple[str, ...], results: dict) -> list[Table]:
    """Everything that was scored, as tables.

    results: folder or rule → scores; in them, where there are such, the scores of "single_class" and "multi_class"
    images apart, those "selected", what the "selector" did, the "sweep". names: of the labels, background first.
    """
    versions = {}
    for name, result in results.items():
        versions |= {name: result} | ({f"{name} + selector": result["selected"]} if "selected" in result else {})
    tables = [quality_table(kind, versions)]
    for key in ("IoU", "precision", "recall"):
        rows = [[name, *(percent(scores[key][name]) for scores in versions.values())] for name in names]
        tables.append(Table(f"{key}_by_class", [key, *versions], rows, on_screen=key == "IoU", best_in_rows=True))
    for short, result in zip(short_names(results), results.values()):
        if result.get("selector", {}).get("classes"):
            tables.append(selector_table(f"selector_{short}", result["selector"]))
        if result.get("sweep"):
            tables.append(sweep_table(f"sweep_{short}", result["sweep"]))
    return tables


def quality_table(kind: str, versions: dict) -> Table:
    """A row for each version of labels and each of all, single-class and multi-class images."""
    rows = []
    for name, scores in versions.items():
        sets = {"all": scores} | {which: scores[key] for key, which in SETS.items() if scores.get(key)}
        for which, part in sets.items():
            rows.append([name, which, part["images"], *(percent(part[key]) for key in QUALITY)])
    columns = tuple(QUALITY.values())
    better = tuple(column for column in columns if column != "coverage")
    return Table("quality", [kind, "which", "images", *columns], rows, higher=better, within="which")


def selector_table(name: str, selector: dict) -> Table:
    """What the selector did, a row for each class."""
    rows = [
        [
            label,
            row["images"],
            row["replaced"],
            f"{row['saliency']:.2f}",
            f"{row['threshold']:.2f}",
            percent(row["IoU_before"]),
            percent(row["IoU_after"]),
        ]
        for label, row in selector["classes"].items()
    ]
    header = ["class", "images", "replaced", "saliency", "threshold", "IoU before", "IoU after"]
    return Table(name, header, rows)


def sweep_table(name: str, sweep: list[dict]) -> Table:
    """Quality of single-class labels, a row for each threshold."""
    rows = [[row["threshold"], row["replaced"], *(percent(row[key]) for key in MEASURES)] for row in sweep]
    return Table(name, ["t0", "replaced", *MEASURES], rows, curve=MEASURES)


def short_names(paths) -> list[str]:
    """The last folders of each path, as few as tell it from the others, joined by _."""
    parts = [[part for part in PurePath(path).parts if part.strip("/\\:.")] for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["_".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return ["_".join([str(number), *path[-1:]]) for number, path in enumerate(parts, 1)]
