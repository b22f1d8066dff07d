"""Runs of one setting that differ in their seed only: mean and sample standard deviation of their scores."""

import re
from pathlib import PurePath
from statistics import mean, stdev

from metrics.label_tables import MEASURES
from metrics.tables import UNDEFINED, Table, percent


def scores_over_seeds(results: dict[str, dict]) -> dict[str, dict]:
    """Folder → scores becomes setting → scores over its seeds; empty where no setting has two.

    Folders are runs of one setting where they differ only in a last part `seed<N>`; others do not count. A setting is
    named by the folder that holds its seeds; what the selector made of its labels is a setting of its own.
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
    return {name: summary(dict(sorted(runs.items()))) for name, runs in settings.items()}


def summary(runs: dict[int, dict]) -> dict:
    """Seed → scores becomes the seeds, mean and standard deviation of each measure, and the mean IoU of each label."""
    scores = list(runs.values())
    measures = {key: mean_and_std([one[key] for one in scores]) for key in MEASURES}
    ious = {label: mean_and_std([one["IoU"][label] for one in scores])["mean"] for label in scores[0]["IoU"]}
    return {"seeds": list(runs), **measures, "IoU": ious}


def mean_and_std(values: list[float | None]) -> dict[str, float | None]:
    """Over n runs, the variance divided by n − 1; None for what is not defined: of a run, or the deviation of one."""
    if None in values:
        return {"mean": None, "std": None}
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}


def seed_table(over_seeds: dict[str, dict]) -> Table:
    """A row for each setting of `scores_over_seeds`: mean ± standard deviation, in percent."""
    rows = [
        [name, len(scores["seeds"]), *(mean_with_deviation(scores[key]) for key in MEASURES)]
        for name, scores in over_seeds.items()
    ]
    return Table("over_seeds", ["setting", "seeds", *MEASURES], rows, higher=MEASURES)


def mean_with_deviation(value: dict[str, float | None]) -> str:
    if value["mean"] is None:
        return UNDEFINED
    return f"{percent(value['mean'])} ± {percent(value['std'])}"
