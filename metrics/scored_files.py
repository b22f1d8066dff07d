"""The files of one method: score them, report those that cannot be scored, and find those with the lowest scores."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tqdm import tqdm

from formats.errors import InputError, shorten
from utils.processes import measure_all


@dataclass
class FileReport:
    """Number of scored files of one method, and the names of the others.

    missing: there is no file. extra: without truth, or not in the list. unusable: name → reason, for a file that is
    damaged or does not fit its truth. resized: scored after resizing to the truth.
    """

    scored: int = 0
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)

    def summarize(self) -> list[str]:
        """One line per kind of file that occurs: the count and the first names."""
        kinds = {
            "missing": self.missing,
            "unusable": list(self.unusable.values()),
            "resized to their truth": self.resized,
            "extra, not scored": self.extra,
        }
        return [f"{len(names)} {kind}: {shorten(names)}" for kind, names in kinds.items() if names]


def measure_files(
    measure: Callable, tasks: dict[str, object], report: FileReport, workers: int, title: str
) -> Iterator[tuple]:
    """Yield (name, measure(task)) of the tasks by name, in order, with a progress bar, and fill the report.

    workers: number of processes, 0 for one per core. An `InputError` makes the file unusable.
    """
    results = tqdm(measure_all(measure, list(tasks.values()), workers), title, len(tasks), leave=False, mininterval=1)
    for name, result in zip(tasks, results):
        if isinstance(result, InputError):
            report.unusable[name] = str(result)
        else:
            report.scored += 1
            yield name, result


def select_worst(methods: dict, measure: str, count: int) -> dict:
    """The `count` images with the lowest mean of `measure` over methods, undefined means last: image → method → scores.

    methods: method → image → measure → score.
    """
    images: dict = {}
    for method, scored in methods.items():
        for image, scores in scored.items():
            images.setdefault(image, {})[method] = scores

    def mean_over_methods(image) -> float:
        values = [scores[measure] for scores in images[image].values() if scores[measure] == scores[measure]]
        return sum(values) / len(values) if values else float("inf")

    return {image: images[image] for image in sorted(images, key=mean_over_methods)[:count]}
