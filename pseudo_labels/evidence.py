"""Evidence selector: settles pixel by pixel where a label and a saliency mask disagree (docs/method.md).

Where both agree they are nearly always right, so the agreed pixels of all images teach a linear classifier what
background and each class look like in the features of a network. The disputed pixels are then judged by their own
features, and by how good the labels of the whole data set are.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from formats.atomic_files import atomic_path
from formats.cams import load_named_arrays
from formats.errors import InputError
from formats.images import LARGEST_SIDE_PX, check_size, load_image, shrink_image
from formats.labels import IGNORE_LABEL
from pseudo_labels.selector import measure_overlap

NUM_IMAGES = 1000  # that the classifier learns from; a list of fewer is used whole
PIXELS = 30  # drawn from each of these for background and for each class
NEAR_CELLS = 3  # half of them lie at most this far from a dispute, or from an object
WEIGHT_DECAY, FIT_STEPS = 0.01, 60
FEW_PIXELS = 200  # the logits of classes with fewer are reduced
TRUST_SLOPE, DOUBTFUL_OVERLAP = 10.0, 0.65  # chosen by benchmarks/selector_pairs.py
FULL_TRUST = 10.0  # logit that no classifier outweighs
MASK_TRUST = 0.5  # logit of the mask where the label is 255


class Evidence(NamedTuple):
    """Parameters learned from a data set: weights @ features + bias are the logits of C classes against background."""

    weights: np.ndarray  # float32 [C, D]
    bias: np.ndarray  # float32 [C]
    trust: np.ndarray  # float32 []: of `measure_trust`


@torch.inference_mode()
def pixel_features(backbone: nn.Module, image: np.ndarray, device: torch.device) -> np.ndarray:
    """Features of an image, RGB uint8 [H, W, 3] → float32 [D, h, w].

    They are the second and third of the four maps of a `Backbone`, at the size of the second: strides 8 and 16, or the
    patch size of a plain transformer. Each map has norm 1 at every place before it is resized. The deepest map is left
    out: it repeats the errors of class activation maps. Larger images are reduced to `LARGEST_SIDE_PX` first.
    """
    pixels = torch.from_numpy(shrink_image(image, LARGEST_SIDE_PX)).to(device).permute(2, 0, 1)[None]
    fine, coarse = (F.normalize(maps.float(), dim=1) for maps in backbone(backbone.normalise(pixels))[1:3])
    coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([fine, coarse], dim=1)[0].cpu().numpy()


def draw_agreed(
    features: np.ndarray, label: np.ndarray, mask: np.ndarray, classes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw pixels on which label, uint8 [H, W], and mask, bool [H, W], agree, evenly for background and each class.

    features float32 [D, h, w] → features float32 [n, D] and labels uint8 [n] of the pixels. Half of them are drawn near
    the objects (background) or near the disputes (classes), where the decisions will be made. In an image of several
    classes, a class is skipped if the mask covers less than half of its label: the mask shows something else.
    """
    label = np.where(np.isin(label, (0, *classes)), label, IGNORE_LABEL).astype(np.uint8)
    size = features.shape[:0:-1]  # w, h
    label, mask = (cv2.resize(array.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) for array in (label, mask))
    is_object = (label > 0) & (label != IGNORE_LABEL)
    disputed = is_object != (mask > 0)
    rows, drawn = features.reshape(len(features), -1).T, []
    for value in (0, *classes):
        agreed = (label == value) & (mask == 0 if value == 0 else mask > 0)
        if value and len(classes) > 1 and 2 * np.count_nonzero(agreed) < np.count_nonzero(label == value):
            continue
        near = _dilate(disputed if value else is_object | (mask > 0), NEAR_CELLS)
        for part in (agreed, agreed & near):
            places = np.flatnonzero(part)
            places = rng.choice(places, min(PIXELS // 2, len(places)), replace=False)
            drawn.append((rows[places], np.full(len(places), value, np.uint8)))
    return tuple(map(np.concatenate, zip(*drawn)))


def fit_classifier(features: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit softmax regression without class priors (logit adjustment, Menon et al. 2021).

    features float [n, D]; labels [n], 0..C → weights float32 [C, D] and bias float32 [C] of `Evidence`. The logits of a
    class are scaled by min(1, n / `FEW_PIXELS`), where n counts its pixels or those of the background, whichever are
    fewer.
    """
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64) + 1e-6
    inputs = torch.from_numpy((features - mean) / deviation)  # float64: rounding vanishes in the float32 result
    targets = torch.from_numpy(labels.astype(np.int64))
    counts = torch.bincount(targets, minlength=num_classes + 1)
    log_priors = torch.log(counts.clamp(min=1) / max(len(labels), 1)).double()
    weights = torch.zeros(num_classes + 1, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=FIT_STEPS, line_search_fn="strong_wolfe")

    def compute_loss():
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weights.T + bias + log_priors, targets)
        loss = loss + WEIGHT_DECAY / 2 * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(compute_loss)
    scale = (counts[1:].clamp(max=counts[0]) / FEW_PIXELS).clamp(max=1).numpy()
    class_weights = scale[:, None] * (weights[1:] - weights[0]).detach().numpy() / deviation
    bias = scale * (bias[1:] - bias[0]).detach().numpy() - class_weights @ mean
    return class_weights.astype(np.float32), bias.astype(np.float32)


def overlap_of_objects(label: np.ndarray, mask: np.ndarray) -> float:
    """IoU, 0..1, of the objects of a label, uint8 [H, W], and a mask, bool [H, W]; here 255 is no object."""
    return measure_overlap(np.where(label == IGNORE_LABEL, 0, label), mask)


def measure_trust(overlaps: np.ndarray) -> float:
    """Trust in the labels of a data set, a logit, from the `overlap_of_objects` of its images, float [N].

    Where the mask is right, the overlap says how good the label is. So the upper quartile of the overlaps above 0
    measures the labels, provided that a quarter of the masks are right. Without any overlap the labels are kept.
    """
    found = overlaps[overlaps > 0]
    return TRUST_SLOPE * (float(np.quantile(found, 0.75)) - DOUBTFUL_OVERLAP) if found.size else FULL_TRUST


def learn_evidence(pixels: list[tuple], overlaps: list[float], num_classes: int) -> Evidence:
    """Learn from the results of `draw_agreed` and the overlaps of label and mask of some images.

    Raises `InputError` if there is no agreed pixel.
    """
    if not any(labels.size for _, labels in pixels):
        raise InputError("labels and saliency masks agree nowhere: check the folders, and --saliency_threshold")
    classifier = fit_classifier(*map(np.concatenate, zip(*pixels)), num_classes)
    return Evidence(*classifier, np.float32(measure_trust(np.array(overlaps))))


def settle(
    label: np.ndarray, mask: np.ndarray, features: np.ndarray, classes: np.ndarray, evidence: Evidence
) -> np.ndarray:
    """Settle the disputes of an image: label uint8 [H, W], mask bool [H, W] → uint8 [H, W].

    features float32 [D, h, w]; classes: labels of the image. The score of class c is

        ½ (z_c + mean of z_c over the connected dispute) + bonus

    with a bonus of `trust` for label without mask, −½ `trust` for mask without label, and `MASK_TRUST` for a mask on
    255. A pixel becomes background unless the score of its class is above 0. Its class is that of the label, or else
    the one of the image with the highest score. Classes that the image does not have count as 255, and 255 outside the
    mask becomes background.
    """
    label = np.where(np.isin(label, (0, *classes)), label, IGNORE_LABEL).astype(np.uint8)
    is_object = (label > 0) & (label != IGNORE_LABEL)
    logits = np.tensordot(evidence.weights[classes - 1], features, axes=1) + evidence.bias[classes - 1, None, None]
    logits = [cv2.resize(of_class, label.shape[::-1], interpolation=cv2.INTER_LINEAR) for of_class in logits]
    settled = np.where(is_object & mask, label, 0).astype(np.uint8)
    for disputed, bonus in ((is_object & ~mask, evidence.trust), (mask & ~is_object, -evidence.trust / 2)):
        count, regions = cv2.connectedComponents(disputed.astype(np.uint8))
        regions, before = regions[disputed], label[disputed]
        sizes = np.maximum(np.bincount(regions, minlength=count), 1)
        values = np.stack([of_class[disputed] for of_class in logits])  # [K, M]
        means = np.stack([np.bincount(regions, weights=row, minlength=count) / sizes for row in values])
        scores = (values + means[:, regions]) / 2
        chosen = np.where(before[None] == classes[:, None], np.inf, scores).argmax(axis=0)  # [M]
        scores = scores[chosen, np.arange(len(chosen))] + np.where(before == IGNORE_LABEL, MASK_TRUST, bonus)
        settled[disputed] = np.where(scores > 0, classes[chosen], 0)
    return settled


def _dilate(region: np.ndarray, radius: int) -> np.ndarray:
    """Pixels of a square of side 2 · radius + 1 around any pixel of the region, bool [H, W]."""
    return cv2.dilate(region.astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0


def load_evidence(path) -> Evidence:
    """Load the file of `save_evidence`."""
    arrays = load_named_arrays(path)
    if set(arrays) != set(Evidence._fields):
        raise InputError(f"{path} is not a file of --selector evidence: delete it, and it is created again")
    return Evidence(**arrays)


def save_evidence(path, evidence: Evidence) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **evidence._asdict())


def draw_sample(indices: Iterable[int], ids: Sequence[str]) -> list[int]:
    """Draw up to `NUM_IMAGES` of these images by their ids."""
    return sorted(sorted(indices, key=lambda index: zlib.crc32(ids[index].encode()))[:NUM_IMAGES])


@dataclass(frozen=True)
class EvidenceSelector:
    """Applies the selector to N images; methods take the index of an image and its label, uint8 [H, W].

    image_labels: bool [N, C]. load_mask(index, shape_hw) returns the saliency mask, bool [H, W]. reference_paths: files
    whose sizes the images must have.
    """

    backbone: nn.Module
    device: torch.device
    ids: Sequence[str]
    image_paths: Sequence[Path]
    image_labels: np.ndarray
    load_mask: Callable
    reference_paths: Sequence[Path]

    def sample(self, indices: Iterable[int]) -> list[int]:
        return draw_sample(indices, self.ids)

    def load_inputs(self, index: int, shape_hw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Load an image, RGB uint8 [H, W, 3], its mask, bool [H, W], and the labels of its classes."""
        image = load_image(self.image_paths[index])
        check_size(self.image_paths[index], image.shape[:2], self.reference_paths[index], shape_hw)
        return image, self.load_mask(index, shape_hw), np.flatnonzero(self.image_labels[index]) + 1

    def draw(self, index: int, label: np.ndarray) -> tuple[int, tuple[np.ndarray, np.ndarray], float]:
        """Return the index, and the results of `draw_agreed` and `overlap_of_objects` of an image."""
        image, mask, classes = self.load_inputs(index, label.shape)
        features = pixel_features(self.backbone, image, self.device)
        rng = np.random.default_rng(zlib.crc32(self.ids[index].encode()))
        return index, draw_agreed(features, label, mask, classes, rng), overlap_of_objects(label, mask)

    def learn(self, drawn: list[tuple]) -> Evidence:
        """Learn from the results of `draw`, in any order."""
        drawn = sorted(drawn, key=lambda row: row[0])
        return learn_evidence([row[1] for row in drawn], [row[2] for row in drawn], self.image_labels.shape[1])

    def select_image(self, index: int, label: np.ndarray, evidence: Evidence) -> np.ndarray:
        """Select the label of an image, uint8 [H, W]. It is kept if the image has no class or the mask is empty."""
        image, mask, classes = self.load_inputs(index, label.shape)
        if not classes.size or not mask.any():
            return label
        return settle(label, mask, pixel_features(self.backbone, image, self.device), classes, evidence)
