"""Report the scored and unscored files of a method, and select the images with the lowest scores."""

from dataclasses import dataclass, field

from formats.errors import shorten


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


def select_worst(images: dict, measure: str, count: int) -> list:
    """The `count` keys with the lowest mean of `measure` over methods, undefined means last.

    images: key → method → measure → score.
    """
    means = {}
    for key, methods in images.items():
        values = [scores[measure] for scores in methods.values() if scores[measure] == scores[measure]]
        means[key] = sum(values) / len(values) if values else float("inf")
    return sorted(means, key=means.get)[:count]
