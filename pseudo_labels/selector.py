"""The salient object selector (SOS): a saliency mask may replace the foreground of a pseudo label.

It works on finished labels of any origin, on images of one class; with `select_regions` on those of several too.
Source: "Salient Object Detection Enhanced Pseudo-Labels for Weakly Supervised Semantic Segmentation". The paper gives
it twice, as an algorithm (t0 = 0.4, t1 = 0.2) and as a formula; both come down to one threshold per class on the
overlap of mask and label, and only where these thresholds agree do the two.
"""

from dataclasses import dataclass

import numpy as np

from formats.errors import InputError, shorten
from formats.labels import IGNORE_LABEL

LARGEST_T0 = 0.5  # that `auto_threshold` chooses


def overlap(label: np.ndarray, mask: np.ndarray) -> float:
    """IoU of the saliency mask (bool [H, W]) and the foreground of the label (uint8 [H, W]), 0..1.

    Pixels that the label ignores (255) count neither in the intersection nor in the union; 0 for an empty union.
    """
    counted = label != IGNORE_LABEL
    foreground = (label > 0) & counted
    union = np.count_nonzero((mask & counted) | foreground)
    return np.count_nonzero(mask & foreground) / union if union else 0.0


def select(label: np.ndarray, mask: np.ndarray, label_of_class: int, threshold: float) -> tuple[np.ndarray, bool]:
    """The label of a single-class image after selection, and whether it was replaced.

    label uint8 [H, W]; mask bool [H, W]; `threshold` is that of the class. The mask, painted with the class, replaces
    the whole label if their overlap is above the threshold; an empty mask never.
    """
    if label.shape != mask.shape:
        raise ValueError(f"label is {list(label.shape)}, saliency mask {list(mask.shape)}")
    if not mask.any() or overlap(label, mask) <= threshold:
        return label, False
    return painted(mask, label_of_class), True


def painted(mask: np.ndarray, label_of_class: int) -> np.ndarray:
    """The mask, bool [H, W], as the label map of an image of one class."""
    return np.where(mask, label_of_class, 0).astype(np.uint8)


def split_mask(mask: np.ndarray, cams: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """A mask, bool [H, W], divided by the strongest map: cams [K, H, W], classes [K] → uint8 [H, W], 0 outside."""
    return np.where(mask, classes[cams.argmax(axis=0)], 0).astype(np.uint8)


def select_regions(
    label: np.ndarray, regions: np.ndarray, classes: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    """The label of an image of several classes after selection, and the classes replaced.

    label uint8 [H, W]; regions uint8 [H, W] of `split_mask`; thresholds float [C + 1]. Class by class, as on images of
    one: a region whose overlap with what the label gives the class is above the threshold replaces it. What a replaced
    class had outside the mask is ignored from now on, for another class or the background may be there.
    """
    selected, replaced = label.copy(), []
    for label_of_class in map(int, classes):
        region = regions == label_of_class
        of_class = np.where(label == IGNORE_LABEL, IGNORE_LABEL, label == label_of_class).astype(np.uint8)
        if region.any() and overlap(of_class, region) > thresholds[label_of_class]:
            selected[(label == label_of_class) & (regions == 0)] = IGNORE_LABEL
            replaced.append(label_of_class)
    for label_of_class in replaced:
        selected[regions == label_of_class] = label_of_class
    return selected, replaced


def saliency_norm(saliency: np.ndarray) -> float:
    """‖S‖₂ of a map in 0..1 [H, W], divided by √(H·W) so that images of all sizes compare: 0..1."""
    return float(np.sqrt(np.mean(np.square(saliency, dtype=np.float64))))


def class_saliency(norms: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """‖S^c‖₂ / max ‖S‖₂: the mean norm of each class over its single-class images, as a share of the largest mean.

    norms float [N] and classes int [N] (1..C) of N single-class images → float [C + 1]; 1 for a class without an image,
    and for all where every map is black.
    """
    counts = np.bincount(classes, minlength=num_classes + 1)
    means = np.bincount(classes, weights=norms, minlength=num_classes + 1) / np.maximum(counts, 1)
    largest = means.max(initial=0)
    return np.where((counts > 0) & (largest > 0), means / (largest or 1), 1.0)


def thresholds_of_algorithm(is_salient: np.ndarray, t0: float, t1: float) -> np.ndarray:
    """The paper's algorithm: the overlap must exceed t0 for salient classes, t0 + t1 for the others; bool → float."""
    return np.where(is_salient, t0, t0 + t1)


def thresholds_of_formula(saliency_of_classes: np.ndarray, tau: float) -> np.ndarray:
    """The paper's formula, α* = [overlap + ‖S^c‖₂ / max ‖S‖₂]_τ: the overlap must exceed τ − ‖S^c‖₂ / max ‖S‖₂."""
    return tau - saliency_of_classes


@dataclass(frozen=True)
class Thresholds:
    """How the threshold of each class follows from the single-class images of a data set.

    form         "algorithm" or "formula"
    t0           None: `auto_threshold` chooses it
    tau          for the formula; None: t0 + 1, so that the most salient class is replaced above t0
    salient      bool [C + 1] for the algorithm; None: classes of at least `least_saliency`
    saliency     float [C + 1], relative class saliency; None: `class_saliency` measures it
    """

    form: str = "algorithm"
    t0: float | None = 0.4
    t1: float = 0.2
    tau: float | None = None
    salient: np.ndarray | None = None
    saliency: np.ndarray | None = None
    least_saliency: float = 0.5

    @property
    def depend_on_images(self) -> bool:
        """Whether other images would give other thresholds."""
        if self.form == "formula":
            return self.saliency is None or (self.t0 is None and self.tau is None)
        return self.t0 is None or (self.salient is None and self.saliency is None and self.t1 > 0)

    def of_classes(self, measured: np.ndarray, classes: np.ndarray, num_classes: int) -> dict:
        """measured float [N, 3], rows of `measure`, and classes int [N] (1..C) of N single-class images →

        "numbers"   those used: "t0" and "t1" of the algorithm, "tau" of the formula
        "saliency"  float [C + 1]
        "salient"   bool [C + 1], of the algorithm alone
        "values"    float [C + 1], the thresholds
        """
        overlaps, norms, certainties = measured.T
        t0 = auto_threshold(overlaps, certainties) if self.t0 is None else self.t0
        saliency = class_saliency(norms, classes, num_classes) if self.saliency is None else self.saliency
        if self.form == "formula":
            tau = t0 + 1 if self.tau is None else self.tau
            return {"numbers": {"tau": tau}, "saliency": saliency, "values": thresholds_of_formula(saliency, tau)}
        salient = saliency >= self.least_saliency if self.salient is None else self.salient
        values = thresholds_of_algorithm(salient, t0, self.t1)
        return {"numbers": {"t0": t0, "t1": self.t1}, "saliency": saliency, "salient": salient, "values": values}


def build_thresholds(
    classes: tuple[str, ...], form: str, t0, t1, tau, non_salient: list[str], given_saliency: dict, least_saliency
) -> Thresholds:
    """From what a user says: t0 a number or "auto", non_salient class names, ["none"] or ["measured"], given_saliency
    name → 0..1 (empty: measured). Raises `InputError` for names that are no classes."""
    names = [] if non_salient in (["none"], ["measured"]) else non_salient
    unknown = [name for name in [*names, *given_saliency] if name not in classes]
    if unknown:
        raise InputError(f"the selector's classes {shorten(unknown)} unknown; the classes are {', '.join(classes)}")
    saliency = np.array([1.0] + [given_saliency.get(name, 1.0) for name in classes]) if given_saliency else None
    salient = None if non_salient == ["measured"] else np.array([True] + [name not in names for name in classes])
    return Thresholds(form, None if t0 == "auto" else t0, t1, tau, salient, saliency, least_saliency)


def measure(label: np.ndarray, saliency: np.ndarray, mask_threshold: float) -> tuple[float, float, float]:
    """Of a single-class image: the overlap of its label (uint8 [H, W]) with its mask, saliency (uint8 [H, W]) above a
    threshold in 0..1; the norm of its saliency; and its certainty, the mean of |2 s − 1|, 0..1.

    An empty mask overlaps by −1: it never replaces a label.
    """
    mask, probs = saliency_mask(saliency, mask_threshold), saliency / 255
    share = overlap(label, mask) if mask.any() else -1.0
    return share, saliency_norm(probs), float(np.abs(2 * probs - 1).mean())


def saliency_mask(saliency: np.ndarray, threshold: float) -> np.ndarray:
    """uint8 [H, W] → bool [H, W]: above the threshold, in 0..1."""
    return saliency > threshold * 255


def auto_threshold(overlaps: np.ndarray, certainties: np.ndarray) -> float:
    """t0 without truth, from single-class images: overlaps float [N] (below 0: empty mask), certainties float [N].

    A low overlap accuses the mask or the label. Three numbers tell which one: the upper quartile q of the overlaps, how
    good labels are where the mask is right; the rank correlation ρ of overlaps and certainties, whether overlaps follow
    the failures of the saliency network (ρ high: its masks are not to be trusted where they contradict the label) or
    those of the labels; and u, one minus the mean certainty, the error that the maps expect of themselves.

        t0 = 25 u · min(q − 0.5, ρ − 0.1), within 0 … 0.5

    Maps that are all equally certain, as binary ones are, say nothing of ρ and u: then t0 = 2.5 (q − 0.5). The numbers
    were fitted on photographs (benchmarks/auto_threshold.py) with the maps of two small networks, where u was 0.1.
    """
    found = overlaps >= 0
    if found.sum() < 2:
        return LARGEST_T0
    excess = float(np.quantile(overlaps[found], 0.75)) - 0.5
    slope = 2.5
    if np.ptp(certainties[found]) > 0 and np.ptp(overlaps[found]) > 0:
        excess = min(excess, rank_correlation(overlaps[found], certainties[found]) - 0.1)
        slope = 25 * (1 - certainties[found].mean())
    return float(np.clip(slope * excess, 0, LARGEST_T0))


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's ρ of float [N] and [N], neither of them constant; equal values share their mean rank."""
    ranks = []
    for values in (x, y):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((counts.cumsum() - (counts - 1) / 2)[place])
    return float(np.corrcoef(*ranks)[0, 1])
