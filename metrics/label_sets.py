"""Quality of the labels of a list of images: in all, and of those with one and with several classes apart."""

from collections.abc import Iterable

import numpy as np

from metrics.bootstrap import Bootstrap
from metrics.interval_tables import Sampled
from metrics.label_quality import LabelQuality, scores_of_states

SAMPLED = ("mIoU", "Acc", "Acc_class", "fwIoU", "boundary_IoU")  # measures with intervals and comparisons

LITTLE = 1e-9  # of an image: no more than rounding where there is anything to count


class LabelSets:
    """Sums of the packed qualities of images, and with `num_replicates` their bootstrap.

    is_single: bool [N], by the image's place in the list, or None where it is not known.
    """

    def __init__(self, names: tuple[str, ...], is_single: np.ndarray | None, num_replicates: int = 0):
        self.names, self.is_single = names, is_single
        self.single, self.other = LabelQuality(len(names)), LabelQuality(len(names))
        self.bootstrap = Bootstrap(num_replicates) if num_replicates else None

    def add(self, index: int, quality: tuple) -> None:
        """Adds an image by its number; quality of `LabelQuality.packed`."""
        is_single = self.is_single is not None and self.is_single[index]
        (self.single if is_single else self.other).add_packed(quality)
        if self.bootstrap:
            self.bootstrap.add(index, sum_of([quality], len(self.names)).state)

    def scores(self) -> dict:
        """Of all images and, where it is known, of the "single_class" and "multi_class" ones (None for no image)."""
        scores = plain_scores(self.all(), self.names)
        if self.is_single is not None:
            for name, part in (("single_class", self.single), ("multi_class", self.other)):
                scores[name] = plain_scores(part, self.names) if part.num_images else None
        return scores

    def sampled(self) -> Sampled | None:
        """Scores of all images with their replicates."""
        if not self.bootstrap:
            return None
        total = self.all()
        # a class that a resample lacks counts there as in all images: left out, it would move the mean over the classes
        sums = self.bootstrap.sums() + LITTLE * total.state
        replicates = scores_of_states(sums, len(self.names))
        return Sampled(total.scores(), {name: replicates[name] for name in SAMPLED})

    def all(self) -> LabelQuality:
        return sum_of([self.single.packed(), self.other.packed()], len(self.names))


def sum_of(qualities: Iterable[tuple], num_labels: int) -> LabelQuality:
    """The quality of several images, from their packed ones."""
    total = LabelQuality(num_labels)
    for quality in qualities:
        total.add_packed(quality)
    return total


def plain_scores(quality: LabelQuality, names) -> dict:
    """Its scores, arrays over the labels as name → number; None for what is not defined."""

    def plain(value):
        if isinstance(value, np.ndarray):
            return {name: plain(number) for name, number in zip(names, value.tolist())}
        return None if value != value else value

    return {key: plain(value) for key, value in quality.scores().items()}
