"""Saliency maps of a method as files, and their truth: METHOD_DIR/<data set>/<stem>.png, GT_ROOT/<data set>/Masks/."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from formats.errors import InputError, MissingInputError, existing_folder, shorten
from formats.images import image_stems, load_grey, load_mask
from metrics.bootstrap import Bootstrap
from metrics.interval_tables import Sampled
from metrics.page import Picture, photograph
from metrics.saliency import curves_of_state, measure_map, scores_of_state
from metrics.scored_files import FileReport, worst_first
from utils.processes import measure_all

OF_IMAGES = ("MAE", "maxF", "wF", "S", "maxE", "maxIoU")  # measures that a single image is shown with
SAMPLED = ("MAE", "maxF", "wF", "S", "maxE")  # measures with intervals and comparisons


@dataclass(frozen=True)
class MapFiles:
    """Paths of one method on one data set by stem; `truth` has all stems of the data set, `maps` those to score."""

    maps: dict[str, Path]
    truth: dict[str, Path]
    report: FileReport


def find_maps(method: Path, gt_root: Path, allow_missing: bool = False) -> dict[str, MapFiles]:
    """Data set → files, of every data set of `gt_root` that `method` has a folder of.

    Raises `MissingInputError` where there is none, where a data set has no truth, or where maps are missing, unless
    `allow_missing`: then at least one must be there.
    """
    for folder in (method, gt_root):
        existing_folder(folder)
    if (gt_root / "Masks").is_dir():
        raise InputError(f"{gt_root} is a data set itself: name the folder that holds it, here and of the maps")
    found = {}
    for data_set in sorted(sets_with_masks(gt_root)):
        if not (method / data_set).is_dir():
            continue
        truth, maps = image_stems(gt_root / data_set / "Masks"), image_stems(method / data_set)
        if not truth:
            raise MissingInputError(f"{gt_root / data_set / 'Masks'} holds no mask")
        missing = [stem for stem in truth if stem not in maps]
        if missing and not (allow_missing and len(missing) < len(truth)):
            raise MissingInputError(
                f"{method / data_set} lacks {len(missing)} of {len(truth)} maps ({shorten(missing)}): predict.py makes "
                "them; --allow_missing scores the others alone"
            )
        report = FileReport(missing=missing, extra=[stem for stem in maps if stem not in truth])
        found[data_set] = MapFiles({stem: maps[stem] for stem in truth if stem in maps}, truth, report)
    if not found:
        raise MissingInputError(
            f"no data set of {gt_root} has a folder in {method}: expected {method}/<data set>/<stem>.png"
        )
    return found


def sets_with_masks(gt_root: Path) -> set[str]:
    return {path.name for path in gt_root.iterdir() if (path / "Masks").is_dir()}


@dataclass(frozen=True)
class MeasuredMap:
    """The state of one image, float64 [K], its measures `OF_IMAGES`, and whether its map had to be resized."""

    state: np.ndarray
    scores: list[float]
    resized: bool


def measure_files(paths: tuple[Path, Path], weighted_f: bool, strict_reference: bool) -> MeasuredMap:
    """paths: of map and truth. Raises `InputError` where one of them cannot be read."""
    saliency, mask = load_grey(paths[0]), load_mask(paths[1])
    resized = saliency.shape != mask.shape
    if resized:
        saliency = fit(saliency, mask.shape)
    state = measure_map(saliency, mask, weighted_f, strict_reference)
    scores = scores_of_state(state, strict_reference)
    return MeasuredMap(state, [float(scores.get(name, np.nan)) for name in OF_IMAGES], resized)


def fit(saliency: np.ndarray, shape_hw) -> np.ndarray:
    """A map in the size of its truth, bilinear."""
    return cv2.resize(saliency, tuple(shape_hw)[::-1], interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class MapScores:
    """One method on one data set: `scores` and `curves` of all images, replicates of the scores where there was a
    bootstrap, and of each image that could be scored, by its stem, the measures `OF_IMAGES`."""

    scores: dict[str, float]
    curves: dict[str, np.ndarray]
    sampled: Sampled | None
    images: dict[str, dict[str, float]]


def score_maps(
    files: MapFiles,
    weighted_f: bool = True,
    strict_reference: bool = False,
    num_replicates: int = 0,
    workers: int = 1,
    progress: Callable = iter,
) -> MapScores | None:
    """Fills `files.report`; None where no image could be scored. progress: wraps the iterator over the images."""
    bootstrap, total, images = Bootstrap(num_replicates), 0, {}
    places = {stem: place for place, stem in enumerate(files.truth)}
    measure = partial(measure_files, weighted_f=weighted_f, strict_reference=strict_reference)
    tasks = [(path, files.truth[stem]) for stem, path in files.maps.items()]
    for stem, found in zip(files.maps, progress(measure_all(measure, tasks, workers))):
        if isinstance(found, InputError):
            files.report.unusable[stem] = str(found)
            continue
        total = total + found.state
        if num_replicates:
            bootstrap.add(places[stem], found.state)
        images[stem] = {name: score for name, score in zip(OF_IMAGES, found.scores) if weighted_f or name != "wF"}
        if found.resized:
            files.report.resized.append(stem)
    files.report.scored = len(images)
    if not images:
        return None
    scores, sampled = {name: float(score) for name, score in scores_of_state(total, strict_reference).items()}, None
    if num_replicates:
        replicates = scores_of_state(bootstrap.sums(), strict_reference)
        sampled = Sampled(scores, {name: replicates[name] for name in SAMPLED if name in replicates})
    return MapScores(scores, curves_of_state(total, strict_reference), sampled, images)


def map_pictures(
    files: dict[tuple[str, str], MapFiles], scored: dict[tuple[str, str], MapScores], gt_root: Path, count: int
) -> Iterator[Picture]:
    """The `count` images of lowest S, on average over the methods; keys are (method, data set)."""
    images: dict[tuple[str, str], dict[str, dict]] = {}
    photographs: dict[str, dict[str, Path]] = {}
    for (method, data_set), maps in scored.items():
        for stem, scores in maps.images.items():
            images.setdefault((data_set, stem), {})[method] = scores
    for data_set, stem in worst_first(images, "S", count):
        methods = images[data_set, stem]
        mask = load_mask(files[next(iter(methods)), data_set].truth[stem]).astype(np.uint8) * 255
        if data_set not in photographs:
            folder = gt_root / data_set / "Images"
            photographs[data_set] = image_stems(folder) if folder.is_dir() else {}
        shown = photograph(photographs[data_set].get(stem)) | {"truth": mask}
        shown |= {method: fit(load_grey(files[method, data_set].maps[stem]), mask.shape) for method in methods}
        yield Picture(stem, data_set, (), shown, methods)
