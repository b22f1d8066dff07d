"""Tables of label maps: quality, scores by class, the selector by class, sweeps over its threshold, runs over seeds."""

import re
from pathlib import PurePath
from statistics import mean, stdev

from metrics.tables import UNDEFINED, Table, percent

MEASURES = ("Acc", "Acc_class", "mIoU", "fwIoU")
QUALITY_COLUMNS = {name: name for name in MEASURES} | {
    "mIoU_dropped": "mIoU*",
    "coverage": "coverage",
    "boundary_IoU": "boundary IoU",
}
SUBSETS = {"single_class": "single-class", "multi_class": "multi-class"}


def label_tables(kind: str, names: tuple[str, ...], results: dict) -> list[Table]:
    """All scores as tables.

    results: folder or rule → scores, which may contain the scores of "single_class" and "multi_class" images, those of
    the "selected" labels, statistics of the "selector" and a "sweep" over its threshold. names: of the labels,
    background first.
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
    """Quality of each version of the labels on all, single-class and multi-class images."""
    rows = []
    for name, scores in versions.items():
        subsets = {"all": scores} | {title: scores[key] for key, title in SUBSETS.items() if scores.get(key)}
        for title, part in subsets.items():
            rows.append([name, title, part["images"], *(percent(part[key]) for key in QUALITY_COLUMNS)])
    columns = tuple(QUALITY_COLUMNS.values())
    higher = tuple(column for column in columns if column != "coverage")
    return Table("quality", [kind, "which", "images", *columns], rows, higher=higher, within="which")


def selector_table(name: str, selector: dict) -> Table:
    """Statistics of the selector, one row per class."""
    rows = []
    for label, row in selector["classes"].items():
        numbers = [f"{row[key]:.2f}" for key in ("saliency", "threshold")]
        ious = [percent(row[key]) for key in ("IoU_before", "IoU_after")]
        rows.append([label, row["images"], row["replaced"], *numbers, *ious])
    header = ["class", "images", "replaced", "saliency", "threshold", "IoU before", "IoU after"]
    return Table(name, header, rows)


def sweep_table(name: str, sweep: list[dict]) -> Table:
    """Quality of the labels of single-class images, one row per threshold."""
    rows = [[row["threshold"], row["replaced"], *(percent(row[key]) for key in MEASURES)] for row in sweep]
    return Table(name, ["t0", "replaced", *MEASURES], rows, curve=MEASURES)


def short_names(paths) -> list[str]:
    """The last folders of each path joined by _, as few as make all names different."""
    parts = [[part for part in PurePath(path).parts if part.strip("/\\:.")] for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["_".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return ["_".join([str(number), *path[-1:]]) for number, path in enumerate(parts, 1)]


def scores_over_seeds(results: dict[str, dict]) -> dict[str, dict]:
    """Summarise runs that differ only in their seed: {folder: scores} → {setting: summary of its seeds}; empty if no
    setting has two seeds.

    Folders whose last part is `seed<N>` are runs of one setting, named by their parent folder; other folders are
    skipped. Labels after the selector are summarised separately, as "<setting> + selector".
    """
    settings: dict[str, dict[int, dict]] = {}
    for folder, scores in results.items():
        path = PurePath(folder)
        match = re.fullmatch(r"seed(\d+)", path.name)
        if not match:
            continue
        seed, name = int(match[1]), path.parent.as_posix()  # a folder given twice, as x/ and x, is one run
        settings.setdefault(name, {})[seed] = scores
        if "selected" in scores:
            settings.setdefault(f"{name} + selector", {})[seed] = scores["selected"]
    if all(len(runs) < 2 for runs in settings.values()):
        return {}
    return {name: summarize_runs(dict(sorted(runs.items()))) for name, runs in settings.items()}


def summarize_runs(runs: dict[int, dict]) -> dict:
    """Seeds, mean and standard deviation of each measure, and the mean IoU of each label; runs: seed → scores."""
    scores = list(runs.values())
    measures = {key: mean_and_std([run[key] for run in scores]) for key in MEASURES}
    ious = {label: mean_and_std([run["IoU"][label] for run in scores])["mean"] for label in scores[0]["IoU"]}
    return {"seeds": list(runs), **measures, "IoU": ious}


def mean_and_std(values: list[float | None]) -> dict[str, float | None]:
    """Mean and sample standard deviation over runs: None if a run has no score, or for the deviation of one run."""
    if None in values:
        return {"mean": None, "std": None}
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}


def seed_table(over_seeds: dict[str, dict]) -> Table:
    """Mean ± standard deviation in percent, one row per setting of `scores_over_seeds`."""
    rows = [
        [name, len(scores["seeds"]), *(format_mean_and_std(scores[key]) for key in MEASURES)]
        for name, scores in over_seeds.items()
    ]
    return Table("over_seeds", ["setting", "seeds", *MEASURES], rows, higher=MEASURES)


def format_mean_and_std(value: dict[str, float | None]) -> str:
    return UNDEFINED if value["mean"] is None else f"{percent(value['mean'])} ± {percent(value['std'])}"
