"""Salient object selector (SOS): replaces the foreground of a pseudo label by a saliency mask (docs/method.md).

The paper states it for images with one class, as an algorithm (t0 = 0.4, t1 = 0.2) and as a formula. Both compare the
overlap of mask and label with one threshold per class. pseudo_labels/evidence.py has a selector for images of any kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from formats.atomic_files import write_csv, write_json
from formats.errors import InputError, shorten
from formats.images import GreyMap, load_aligned_grey
from formats.labels import IGNORE_LABEL


def measure_overlap(label: np.ndarray, mask: np.ndarray) -> float:
    """IoU of a saliency mask (bool [H, W]) and the foreground of a label (uint8 [H, W]), 0..1; 0 for an empty union.

    Pixels with label 255 (ignore) count neither in the intersection nor in the union.
    """
    counted = label != IGNORE_LABEL
    foreground = (label > 0) & counted
    union = np.count_nonzero((mask & counted) | foreground)
    return np.count_nonzero(mask & foreground) / union if union else 0.0


def select(label: np.ndarray, mask: np.ndarray, label_of_class: int, threshold: float) -> np.ndarray:
    """Select the label of a single-class image: label uint8 [H, W], mask bool [H, W] → uint8 [H, W].

    The mask, filled with the class, replaces the whole label if their overlap exceeds the threshold of the class. An
    empty mask never replaces a label.
    """
    replaces = mask.any() and measure_overlap(label, mask) > threshold
    return fill_mask(mask, label_of_class) if replaces else label


def fill_mask(mask: np.ndarray, label_of_class: int) -> np.ndarray:
    """Turn a mask, bool [H, W], into the label map of a single-class image, uint8 [H, W]."""
    return np.where(mask, label_of_class, 0).astype(np.uint8)


def class_saliency(norms: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """‖S^c‖₂ / max ‖S‖₂: the mean norm of each class over its single-class images, relative to the largest mean.

    norms float [N], classes int [N] (1..C) → float [C + 1]; 1 for classes without images, and if every map is black.
    """
    counts = np.bincount(classes, minlength=num_classes + 1)
    means = np.bincount(classes, weights=norms, minlength=num_classes + 1) / np.maximum(counts, 1)
    largest = means.max(initial=0)
    return np.where((counts > 0) & (largest > 0), means / (largest or 1), 1.0)


class Measurement(NamedTuple):
    """Measures of a single-class image; S is its saliency in 0..1."""

    index: int
    label_of_class: int  # 1..C
    overlap: float  # of label and mask; −1 for an empty mask, which never replaces a label
    norm: float  # ‖S‖₂ / √(H·W)


@dataclass(frozen=True)
class ThresholdRule:
    """Rule that derives the threshold of each class from the single-class images of a data set.

    classes          names of the C foreground classes
    form             "algorithm": overlap > t0, or t0 + t1 for classes that are not salient
                     "formula": overlap + ‖S^c‖₂ / max ‖S‖₂ > tau
    tau              None: t0 + 1, so that the most salient class is replaced above t0
    non_salient      class names, ["none"], or ["measured"]: classes below `least_saliency`

    Raises `InputError` for unknown class names.
    """

    classes: tuple[str, ...]
    form: str = "algorithm"
    t0: float = 0.4
    t1: float = 0.2
    tau: float | None = None
    non_salient: Sequence[str] = ("measured",)
    least_saliency: float = 0.5

    def __post_init__(self):
        unknown = [name for name in self.non_salient if name not in self.classes]
        if unknown and list(self.non_salient) not in (["none"], ["measured"]):
            known = shorten(self.classes, 20)
            raise InputError(f"--non_salient_classes: unknown {shorten(unknown)}; known are {known}")

    @property
    def depend_on_images(self) -> bool:
        """Return whether the thresholds are measured on the images."""
        return self.form == "formula" or ("measured" in self.non_salient and self.t1 > 0)

    def compute(self, measured: Sequence[Measurement]) -> dict:
        """Compute the thresholds of all classes. Returns a dict of

        "numbers"   "t0" and "t1" of the algorithm, or "tau" of the formula
        "saliency"  float [C + 1] of `class_saliency`
        "salient"   bool [C + 1], only for the algorithm
        "values"    float [C + 1], the thresholds
        """
        _, classes, _, norms = np.array(measured, float).reshape(-1, 4).T
        saliency = class_saliency(norms, classes.astype(int), len(self.classes))
        if self.form == "formula":
            tau = self.t0 + 1 if self.tau is None else self.tau
            return {"numbers": {"tau": tau}, "saliency": saliency, "values": tau - saliency}
        salient = np.array([True] + [name not in self.non_salient for name in self.classes])
        if "measured" in self.non_salient:
            salient = saliency >= self.least_saliency
        values = np.where(salient, self.t0, self.t0 + self.t1)
        return {"numbers": {"t0": self.t0, "t1": self.t1}, "saliency": saliency, "salient": salient, "values": values}


def measure(label: np.ndarray, saliency: np.ndarray, mask_threshold: float) -> tuple[float, float]:
    """Overlap and norm of a `Measurement`. label, saliency: uint8 [H, W]; mask_threshold: 0..1."""
    mask = saliency_mask(saliency, mask_threshold)
    overlap = measure_overlap(label, mask) if mask.any() else -1.0
    return overlap, float(np.sqrt(np.mean(np.square(saliency / 255))))


def saliency_mask(saliency: np.ndarray, threshold: float) -> np.ndarray:
    """Binarise a saliency map, uint8 [H, W] → bool [H, W], at a threshold in 0..1 (exclusive)."""
    return saliency > threshold * 255


def save_decisions(
    folder: Path, measured: list[Measurement], chosen: dict, ids: list[str], classes: tuple[str, ...]
) -> str:
    """Write selector.csv, with one row per single-class image, and selector.json, their summary; return it as text.

    chosen: result of `ThresholdRule.compute`. classes: names of the C classes.
    """
    rows, by_class = [["id", "class", "overlap", "threshold", "replaced"]], {}
    for index, label_of_class, overlap, *_ in measured:
        threshold = chosen["values"][label_of_class]
        numbers = f"{overlap:.6f}", f"{threshold:.6f}", int(overlap > threshold)
        rows.append([ids[index], classes[label_of_class - 1], *numbers])
    for label_of_class in sorted({image.label_of_class for image in measured}):
        name = classes[label_of_class - 1]
        replaced = [row[-1] for row in rows[1:] if row[1] == name]
        saliency, threshold = (float(chosen[key][label_of_class]) for key in ("saliency", "values"))
        by_class[name] = {"images": len(replaced), "replaced": sum(replaced)}
        by_class[name] |= {"saliency": saliency, "threshold": threshold}
    summary = chosen["numbers"] | {"classes": by_class}
    numbers = ", ".join(f"{name} {value:.2f}" for name, value in chosen["numbers"].items())
    replaced = sum(row["replaced"] for row in by_class.values())
    lines = [f"selector: {replaced} of {len(measured)} single-class labels replaced by masks, {numbers}"]
    for name, row in by_class.items():
        counts = f"{row['replaced']} of {row['images']}"
        lines.append(f"  {name}: {counts}, saliency {row['saliency']:.2f}, threshold {row['threshold']:.2f}")
    if "salient" in chosen:
        summary["non_salient"] = [name for name, salient in zip(classes, chosen["salient"][1:]) if not salient]
        lines.append(f"non-salient classes: {shorten(summary['non_salient'], 30) or 'none'}")
    write_csv(folder / "selector.csv", rows)
    write_json(folder / "selector.json", summary)
    return "\n".join(lines)


@dataclass(frozen=True)
class ImageSelector:
    """Applies the selector to N images; methods take the index of an image and its label, uint8 [H, W].

    image_labels: bool [N, C]. reference_paths: files whose sizes the maps must have.
    """

    threshold_rule: ThresholdRule
    mask_threshold: float
    image_labels: np.ndarray
    saliency_maps: Sequence[GreyMap]
    reference_paths: Sequence[Path]

    def measure_image(self, index: int, label: np.ndarray) -> tuple[Measurement, np.ndarray]:
        """Measure a single-class image; return also its mask as label map, uint8 [H, W]."""
        label_of_class = int(self.image_labels[index].argmax()) + 1
        saliency = load_aligned_grey(self.saliency_maps[index], self.reference_paths[index], label.shape)
        mask = fill_mask(saliency_mask(saliency, self.mask_threshold), label_of_class)
        return Measurement(index, label_of_class, *measure(label, saliency, self.mask_threshold)), mask

    def select_image(self, index: int, label: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        """Select the label of an image, uint8 [H, W]; thresholds float [C + 1]. Images of several classes are kept."""
        classes = np.flatnonzero(self.image_labels[index]) + 1
        mask = self.load_mask(index, label.shape)  # a broken map is an error, also where the label is kept
        return select(label, mask, classes[0], thresholds[classes[0]]) if len(classes) == 1 else label

    def load_mask(self, index: int, shape_hw) -> np.ndarray:
        """Load the saliency mask of an image, bool [H, W]."""
        saliency = load_aligned_grey(self.saliency_maps[index], self.reference_paths[index], shape_hw)
        return saliency_mask(saliency, self.mask_threshold)
