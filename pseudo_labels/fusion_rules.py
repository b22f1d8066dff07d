"""Rules that fuse class activation maps and saliency into a label map, one pure function each.

The positional arguments of a rule are its inputs, those after the star its parameters:

cams         float32 [K, H, W], 0..1   the maps of the classes in the image; other classes do not compete
classes      uint8 [K]                 the labels of these classes, 1..C
saliency     float32 [H, W], 0..1
second_cams  float32 [K, H, W], 0..1   the maps of another classifier
crf          function: scores [1 + K, H, W] in 0..1, background first → posteriors of the dense CRF of the image
label_crf    function: label map uint8 [H, W] → label map of the dense CRF of the image

A rule returns uint8 [H, W]: 0 = background, 255 = ignore. Ties go to the background, then to the smaller label. The
rules follow the papers they are named after; the trainings of these papers are not part of them.
"""

import inspect
import math

import numpy as np

from formats.errors import InputError
from formats.labels import IGNORE_LABEL


def constant_background(cams, classes, *, bg_threshold=0.2) -> np.ndarray:
    """The background score is constant: 0.20 in EPS (Lee et al., CVPR 2021), 0.25 in L2G (Jiang et al., CVPR 2022)."""
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
    """OAA (Jiang et al., ICCV 2019), MCIS (Sun et al., ECCV 2020): the background score is 1 − saliency.

    Scores below `cam_threshold` become 0. Three things become 255: pixels with two scores above `conflict_threshold`;
    background pixels that are salient or have a map above `certain_threshold`; the whole image if its share of
    foreground is below `smallest_share`.
    """
    scores = suppress_small(1 - saliency, cam_threshold), suppress_small(cams, cam_threshold)
    label = strongest(*scores, classes)
    label[count_high(*scores, conflict_threshold) >= 2] = IGNORE_LABEL
    doubtful = (saliency >= np.float32(salient_threshold)) | (cams.max(axis=0) > certain_threshold)
    label[(label == 0) & doubtful] = IGNORE_LABEL
    return ignore_if_tiny(label, smallest_share)


def drs(
    cams, classes, saliency, *, salient_threshold=50 / 255, cam_threshold=0.2, conflict_threshold=0.9
) -> np.ndarray:
    """DRS (Kim et al., AAAI 2021): as `bed`, and pixels with more than two scores above `conflict_threshold` are
    ignored. DRS itself uses the maximum over scales (--combine max).
    """
    salient = saliency > np.float32(salient_threshold)
    label = bed(cams, classes, saliency, salient_threshold=salient_threshold, cam_threshold=cam_threshold)
    label[count_high(~salient, suppress_small(cams, cam_threshold), conflict_threshold) > 2] = IGNORE_LABEL
    return label


def bed(cams, classes, saliency, *, salient_threshold=0.2, cam_threshold=0.1) -> np.ndarray:
    """WSSS-BED: background outside the mask; inside, the strongest map, or ignore if no map reaches its threshold."""
    salient = saliency > np.float32(salient_threshold)
    label = strongest(~salient, suppress_small(cams, cam_threshold), classes)
    label[salient & (label == 0)] = IGNORE_LABEL
    return label


def rca(cams, classes, saliency, crf, *, bg_power=4.0, cam_threshold=0.0, **oaa_parameters) -> np.ndarray:
    """RCA (Zhou et al., CVPR 2022): `oaa` on the posteriors of a dense CRF with the background score
    (1 − strongest map)^`bg_power`."""
    background = (1 - cams.max(axis=0)) ** np.float32(bg_power)
    posteriors = crf(np.concatenate([background[None], cams]))  # [1 + K, H, W]
    return oaa(posteriors[1:], classes, saliency, cam_threshold=cam_threshold, **oaa_parameters)


def edam(cams, classes, saliency, *, salient_threshold=20 / 255) -> np.ndarray:
    """EDAM (Wu et al., CVPR 2021): the strongest map in salient pixels and at the peak of each map; none is ignored."""
    peaks = cams.max(axis=(1, 2), keepdims=True)
    at_peak = ((cams == peaks) & (peaks > 0)).any(axis=0)
    foreground = (saliency > np.float32(salient_threshold)) | at_peak
    return np.where(foreground, classes[cams.argmax(axis=0)], 0).astype(np.uint8)


def auxsegnet(cams, classes, saliency, *, cam_threshold=0.2, salient_threshold=0.06) -> np.ndarray:
    """AuxSegNet (Xu et al., ICCV 2021): foreground if map and saliency are high, background if both are low, else
    ignore."""
    found, salient = cams.max(axis=0) > cam_threshold, saliency > np.float32(salient_threshold)
    label = np.where(found & salient, classes[cams.argmax(axis=0)], 0).astype(np.uint8)
    label[found != salient] = IGNORE_LABEL
    return label


def icd(cams, classes, saliency) -> np.ndarray:
    """ICD (Fan et al., CVPR 2020): the background score is 1 − saliency."""
    return strongest(1 - saliency, cams, classes)


def nsrom(cams, classes, saliency, second_cams, *, smallest_share=0.01, **oaa_parameters) -> np.ndarray:
    """NSROM (Yao et al., CVPR 2021): `oaa`; then background is ignored if its second map exceeds the median of that
    map inside the class."""
    label = oaa(cams, classes, saliency, smallest_share=smallest_share, **oaa_parameters)
    background = label == 0
    for second_cam, label_of_class in zip(second_cams, classes):
        inside = label == label_of_class
        if inside.any():
            label[background & (second_cam > np.median(second_cam[inside]))] = IGNORE_LABEL
    return ignore_if_tiny(label, smallest_share)


def affinity(cams, classes, label_crf, *, fg_threshold=0.4, bg_threshold=0.1) -> np.ndarray:
    """Affinity labels of AffinityNet (Ahn & Kwak, CVPR 2018) and IRN (Ahn et al., CVPR 2019).

    Two constant backgrounds are used, each followed by a dense CRF: pixels that are foreground with the high background
    score `fg_threshold` become foreground, pixels that are background with the low score `bg_threshold` become
    background, and the others are ignored.
    """
    strict = label_crf(constant_background(cams, classes, bg_threshold=fg_threshold))
    lenient = label_crf(constant_background(cams, classes, bg_threshold=bg_threshold))
    return np.where((strict == 0) & (lenient > 0), IGNORE_LABEL, strict).astype(np.uint8)


RULES = {"none": constant_background}
RULES |= {rule.__name__: rule for rule in (oaa, drs, bed, rca, edam, auxsegnet, icd, nsrom, affinity)}


def fuse(rule: str, evidence: dict, parameters: dict) -> np.ndarray:
    """Apply a rule by its name to its inputs, by name in `evidence`. An image without classes is all background."""
    if len(evidence["classes"]) == 0:
        return np.zeros(evidence["cams"].shape[1:], np.uint8)
    return RULES[rule](*(evidence[name] for name in list_inputs(rule)), **parameters)


def list_inputs(rule: str) -> list[str]:
    """Names of the inputs of a rule, in order."""
    return inspect.getfullargspec(RULES[rule]).args


def list_parameters(rule: str) -> dict[str, float]:
    """Names and defaults of the parameters of a rule, with those that it passes on to `oaa`."""
    signature = inspect.getfullargspec(RULES[rule])
    passed_on = list_parameters("oaa") if signature.varkw else {}
    return passed_on | (signature.kwonlydefaults or {})


def check_parameters(rule: str, given: dict) -> None:
    """Raise `InputError` for a parameter that the rule does not have, or that is not a finite number."""
    known = list_parameters(rule)
    for name, value in given.items():
        if name not in known or type(value) not in (int, float) or not math.isfinite(value):
            choices = ", ".join(f"{key}={default:.3g}" for key, default in known.items()) or "none"
            raise InputError(f"--fusion_args {name}={value}: the parameters of rule {rule} are {choices}")


def strongest(background: np.ndarray, cams: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Label of the largest score, uint8 [H, W], from background [H, W] and maps [K, H, W]."""
    return np.where(cams.max(axis=0) > background, classes[cams.argmax(axis=0)], 0).astype(np.uint8)


def suppress_small(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Set scores below the threshold to 0."""
    return np.where(scores < threshold, 0, scores)


def count_high(background: np.ndarray, cams: np.ndarray, threshold: float) -> np.ndarray:
    """Number of scores above the threshold at each pixel, int [H, W], from background [H, W] and maps [K, H, W]."""
    return (cams > threshold).sum(axis=0) + (background > threshold)


def ignore_if_tiny(label: np.ndarray, smallest_share: float) -> np.ndarray:
    """Ignore the whole image if less than this share of it is foreground."""
    foreground = np.count_nonzero((label > 0) & (label != IGNORE_LABEL))
    return label if foreground >= smallest_share * label.size else np.full_like(label, IGNORE_LABEL)
