"""Rules that join class activation maps and saliency into a label map, one pure function each.

The arguments of a rule before the star are what it needs to know of an image, those after it are its parameters:

cams         float32 [K, H, W], 0..1   the maps of the classes the image has; only these compete
classes      uint8 [K]                 their labels, 1..C
saliency     float32 [H, W], 0..1
second_cams  float32 [K, H, W], 0..1   the maps of another classifier
crf          function: scores [1 + K, H, W] in 0..1, background first → posteriors of the dense CRF of the image
label_crf    function: label map uint8 [H, W] → label map of the dense CRF of the image

→ uint8 [H, W]: 0 = background, 255 = ignore. Ties go to the background, then to the smaller label. The rules are
described from the methods they are named after; where such a method trains further, only its rule is here.
"""

import inspect
import math

import numpy as np

from formats.errors import InputError
from formats.labels import IGNORE_LABEL


def constant_background(cams, classes, *, bg_threshold=0.2) -> np.ndarray:
    """The background has one score everywhere, as EPS (Lee et al., CVPR 2021) infers, 0.20, and L2G (Jiang et al.,
    CVPR 2022), 0.25."""
    return strongest(np.full(cams.shape[1:], bg_threshold, cams.dtype), cams, classes)


def oaa(
    cams,
    classes,
    saliency,
    *,
    cam_threshold=0.3,
    conflict_threshold=0.9,
    salient_threshold=32 / 255,
    certain_threshold=0.8,
    smallest_share=0.01,
) -> np.ndarray:
    """OAA (Jiang et al., ICCV 2019), MCIS (Sun et al., ECCV 2020): the background scores 1 − saliency; what is
    doubtful is ignored.

    Scores below `cam_threshold` count nothing. Ignored: two scores above `conflict_threshold`; background that is
    salient or has a map above `certain_threshold`; everything, where foreground is below `smallest_share` of the image.
    """
    scores = without_small(1 - saliency, cam_threshold), without_small(cams, cam_threshold)
    label = strongest(*scores, classes)
    label[conflicts(*scores, conflict_threshold) >= 2] = IGNORE_LABEL
    doubtful = (saliency >= np.float32(salient_threshold)) | (cams.max(axis=0) > certain_threshold)
    label[(label == 0) & doubtful] = IGNORE_LABEL
    return unless_tiny(label, smallest_share)


def drs(
    cams, classes, saliency, *, salient_threshold=50 / 255, cam_threshold=0.2, conflict_threshold=0.9
) -> np.ndarray:
    """DRS (Kim et al., AAAI 2021): as `bed`, and ignored where more than two scores are high. It takes the maximum of
    the maps over scales."""
    salient = saliency > np.float32(salient_threshold)
    label = bed(cams, classes, saliency, salient_threshold=salient_threshold, cam_threshold=cam_threshold)
    label[conflicts(~salient, without_small(cams, cam_threshold), conflict_threshold) > 2] = IGNORE_LABEL
    return label


def bed(cams, classes, saliency, *, salient_threshold=0.2, cam_threshold=0.1) -> np.ndarray:
    """WSSS-BED: background outside the mask, the strongest map inside; ignored where no map reaches its threshold."""
    salient = saliency > np.float32(salient_threshold)
    label = strongest(~salient, without_small(cams, cam_threshold), classes)
    label[salient & (label == 0)] = IGNORE_LABEL
    return label


def rca(
    cams,
    classes,
    saliency,
    crf,
    *,
    bg_power=4.0,
    conflict_threshold=0.9,
    salient_threshold=32 / 255,
    certain_threshold=0.8,
    smallest_share=0.01,
) -> np.ndarray:
    """RCA (Zhou et al., CVPR 2022): posteriors of a dense CRF, with background (1 − strongest map)^`bg_power`,
    take the place of the maps in `oaa`, which here has no least score."""
    background = (1 - cams.max(axis=0)) ** np.float32(bg_power)
    posteriors = crf(np.concatenate([background[None], cams]))  # [1 + K, H, W]
    return oaa(
        posteriors[1:],
        classes,
        saliency,
        cam_threshold=0.0,
        conflict_threshold=conflict_threshold,
        salient_threshold=salient_threshold,
        certain_threshold=certain_threshold,
        smallest_share=smallest_share,
    )


def edam(cams, classes, saliency, *, salient_threshold=20 / 255) -> np.ndarray:
    """EDAM (Wu et al., CVPR 2021): the strongest map where it is salient, and at the peak of each map; nothing is
    ignored."""
    peaks = cams.max(axis=(1, 2), keepdims=True)
    at_peak = ((cams == peaks) & (peaks > 0)).any(axis=0)
    foreground = (saliency > np.float32(salient_threshold)) | at_peak
    return np.where(foreground, classes[cams.argmax(axis=0)], 0).astype(np.uint8)


def auxsegnet(cams, classes, saliency, *, cam_threshold=0.2, salient_threshold=0.06) -> np.ndarray:
    """AuxSegNet (Xu et al., ICCV 2021): foreground where map and saliency agree, background where both deny it, else
    ignored."""
    found, salient = cams.max(axis=0) > cam_threshold, saliency > np.float32(salient_threshold)
    label = np.where(found & salient, classes[cams.argmax(axis=0)], 0).astype(np.uint8)
    label[found != salient] = IGNORE_LABEL
    return label


def icd(cams, classes, saliency) -> np.ndarray:
    """ICD (Fan et al., CVPR 2020): the background scores 1 − saliency."""
    return strongest(1 - saliency, cams, classes)


def nsrom(
    cams,
    classes,
    saliency,
    second_cams,
    *,
    cam_threshold=0.3,
    conflict_threshold=0.9,
    salient_threshold=32 / 255,
    certain_threshold=0.8,
    smallest_share=0.01,
) -> np.ndarray:
    """NSROM (Yao et al., CVPR 2021): `oaa`, then background whose second map exceeds the median of that map inside the
    class is ignored."""
    label = oaa(
        cams,
        classes,
        saliency,
        cam_threshold=cam_threshold,
        conflict_threshold=conflict_threshold,
        salient_threshold=salient_threshold,
        certain_threshold=certain_threshold,
        smallest_share=smallest_share,
    )
    background = label == 0
    for second_cam, label_of_class in zip(second_cams, classes):
        inside = label == label_of_class
        if inside.any():
            label[background & (second_cam > np.median(second_cam[inside]))] = IGNORE_LABEL
    return unless_tiny(label, smallest_share)


def affinity(cams, classes, label_crf, *, fg_threshold=0.4, bg_threshold=0.1) -> np.ndarray:
    """What AffinityNet (Ahn & Kwak, CVPR 2018) and IRN (Ahn et al., CVPR 2019) train their affinities on: classes
    that a strict background leaves, background that a lenient one leaves, each after a dense CRF; else 255."""
    strict = label_crf(constant_background(cams, classes, bg_threshold=fg_threshold))
    lenient = label_crf(constant_background(cams, classes, bg_threshold=bg_threshold))
    return np.where((strict == 0) & (lenient > 0), IGNORE_LABEL, strict).astype(np.uint8)


RULES = {
    "none": constant_background,
    "oaa": oaa,
    "drs": drs,
    "bed": bed,
    "rca": rca,
    "edam": edam,
    "auxsegnet": auxsegnet,
    "icd": icd,
    "nsrom": nsrom,
    "affinity": affinity,
}


def fuse(rule: str, evidence: dict, parameters: dict) -> np.ndarray:
    """Applies a rule by its name; `evidence` holds what it needs, and may hold more. An image without classes is
    background by every rule."""
    if len(evidence["classes"]) == 0:
        return np.zeros(evidence["cams"].shape[1:], np.uint8)
    return RULES[rule](*(evidence[name] for name in evidence_of(rule)), **parameters)


def evidence_of(rule: str) -> list[str]:
    """What a rule needs to know of an image, in order."""
    signature = inspect.signature(RULES[rule]).parameters.values()
    return [parameter.name for parameter in signature if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]


def parameters_of(rule: str) -> dict[str, float]:
    """The parameters of a rule and their defaults."""
    signature = inspect.signature(RULES[rule]).parameters.values()
    return {parameter.name: parameter.default for parameter in signature if parameter.kind is parameter.KEYWORD_ONLY}


def check_parameters(rule: str, given: dict) -> None:
    """Raises `InputError` for a parameter that the rule does not have, or that is no number."""
    known = parameters_of(rule)
    for name, value in given.items():
        if name not in known or type(value) not in (int, float) or not math.isfinite(value):
            choices = ", ".join(f"{key}={default:.3g}" for key, default in known.items()) or "none"
            raise InputError(f"--fusion_args {name}={value}: the parameters of rule {rule} are {choices}")


def strongest(background: np.ndarray, cams: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The label with the largest score: background [H, W] against maps [K, H, W]."""
    return np.where(cams.max(axis=0) > background, classes[cams.argmax(axis=0)], 0).astype(np.uint8)


def without_small(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Scores below the threshold become 0."""
    return np.where(scores < threshold, 0, scores)


def conflicts(background: np.ndarray, cams: np.ndarray, threshold: float) -> np.ndarray:
    """How many scores of each pixel, background [H, W] and maps [K, H, W], are above the threshold."""
    return (cams > threshold).sum(axis=0) + (background > threshold)


def unless_tiny(label: np.ndarray, smallest_share: float) -> np.ndarray:
    """All ignored where less than this share of the image is foreground."""
    foreground = np.count_nonzero((label > 0) & (label != IGNORE_LABEL))
    return label if foreground >= smallest_share * label.size else np.full_like(label, IGNORE_LABEL)
