"""A report on which files of a method were scored and which were not."""

from dataclasses import dataclass, field

from formats.errors import shorten


@dataclass
class FileReport:
    """Which files of one method were scored, by their stems, and which were not.

    `unusable`: stem → why, of files that are damaged or do not fit their truth; `resized`: scored, but of another size
    than their truth; `extra`: without truth, or not in the list.
    """

    scored: int = 0
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What is worth telling, one line each: counts, and the first names."""
        told = {
            "missing": self.missing,
            "unusable": list(self.unusable.values()),
            "resized to their truth": self.resized,
            "extra, not scored": self.extra,
        }
        return [f"{len(names)} {what}: {shorten(names)}" for what, names in told.items() if names]


def worst_first(images: dict, measure: str, count: int) -> list:
    """The `count` keys of the lowest `measure`, on average over methods; those where it is not defined come last.

    images: key → method → measure → score.
    """
    means = {}
    for key, methods in images.items():
        values = [scores[measure] for scores in methods.values() if scores[measure] == scores[measure]]
        means[key] = sum(values) / len(values) if values else float("inf")
    return sorted(means, key=means.get)[:count]
