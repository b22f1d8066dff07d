"""Scores of the saliency maps of a method: METHOD_DIR/<data set>/<stem>.png, truth in GT_ROOT/<data set>/Masks/."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from formats.errors import MissingInputError, require_folder, shorten
from formats.images import image_stems, load_grey, load_mask
from formats.voc_layout import hint_at_names
from metrics.bootstrap import Bootstrap, MethodScores
from metrics.page import Picture, load_photograph
from metrics.saliency import mean_curves, measure_map, score_states
from metrics.scored_files import FileReport, measure_files, select_worst
from metrics.tables import replace_nan

IMAGE_MEASURES = ("MAE", "maxF", "wF", "S", "maxE", "maxIoU")  # measures shown with a single image
BOOTSTRAP_MEASURES = ("MAE", "maxF", "wF", "S", "maxE")  # measures with intervals and comparisons


@dataclass(frozen=True)
class MapFiles:
    """Files of one method on one data set by stem: `truth` has all stems of the data set, `maps` those to score."""

    maps: dict[str, Path]
    truth: dict[str, Path]
    report: FileReport


def find_maps(method: Path, gt_root: Path, allow_missing: bool = False) -> dict[str, MapFiles]:
    """Files of each data set of `gt_root` for which `method` has a folder.

    Raises `MissingInputError` if there is no such data set, if one has no truth, or if maps are missing. With
    `allow_missing`, one map per data set is enough.
    """
    for folder in (method, gt_root):
        require_folder(folder)
    found = {}
    for data_set in sorted(path.parent.name for path in gt_root.glob("*/Masks")):
        if not (method / data_set).is_dir():
            continue
        truth, maps = image_stems(gt_root / data_set / "Masks"), image_stems(method / data_set)
        if not truth:
            raise MissingInputError(f"{gt_root / data_set / 'Masks'} holds no mask")
        missing = [stem for stem in truth if stem not in maps]
        if missing and not (allow_missing and len(missing) < len(truth)):
            hint = hint_at_names(missing, {path.name for path in maps.values()}, ".png")
            found = f"{method / data_set} lacks {len(missing)} of {len(truth)} maps ({shorten(missing, 3)})"
            raise MissingInputError(f"{found}: predict.py makes them; --allow_missing scores the others alone{hint}")
        report = FileReport(missing=missing, extra=[stem for stem in maps if stem not in truth])
        found[data_set] = MapFiles({stem: maps[stem] for stem in truth if stem in maps}, truth, report)
    if not found:
        expected = "expected maps <data set>/<stem>.png and truth <data set>/Masks/<stem>.png"
        raise MissingInputError(f"--pred {method} has no folder of a data set of --gt_root {gt_root}: {expected}")
    return found


def measure_file(paths: tuple[Path, Path], strict_reference: bool) -> tuple[np.ndarray, bool]:
    """State of `measure_map` of one map, and whether it had to be resized; paths: of map and truth.

    Raises `InputError` if a file cannot be read.
    """
    saliency, mask = load_grey(paths[0]), load_mask(paths[1])
    state = measure_map(resize_map(saliency, mask.shape), mask, strict_reference=strict_reference)
    return state, saliency.shape != mask.shape


def resize_map(saliency: np.ndarray, shape_hw) -> np.ndarray:
    """Resize a saliency map, uint8 [h, w], to `shape_hw` by bilinear interpolation."""
    return cv2.resize(saliency, tuple(shape_hw)[::-1], interpolation=cv2.INTER_LINEAR)


def score_maps(
    name: str, files: MapFiles, strict_reference: bool = False, num_replicates: int = 0, workers: int = 1
) -> tuple[dict, MethodScores | None]:
    """Score the maps of one method on one data set, and fill `files.report`.

    Returns the scores for the JSON file, empty if no image can be scored, and a `MethodScores`.
    """
    bootstrap, total, images = Bootstrap(num_replicates), 0, {}
    indices = {stem: index for index, stem in enumerate(files.truth)}
    measure = partial(measure_file, strict_reference=strict_reference)
    tasks = {stem: (path, files.truth[stem]) for stem, path in files.maps.items()}
    for stem, (state, is_resized) in measure_files(measure, tasks, files.report, workers, name):
        total = total + state
        if num_replicates:
            bootstrap.add(indices[stem], state)
        scores = score_states(state, strict_reference)
        images[stem] = {name: float(scores[name]) for name in IMAGE_MEASURES}
        if is_resized:
            files.report.resized.append(stem)
    if not images:
        return {}, None
    scores = {name: float(score) for name, score in score_states(total, strict_reference).items()}
    sampled = score_states(bootstrap.sums(), strict_reference) if num_replicates else {}
    method = MethodScores(scores, {name: sampled[name] for name in BOOTSTRAP_MEASURES if sampled}, images)
    curves = mean_curves(total, strict_reference)
    details = {"images": len(images), "resized": len(files.report.resized)}
    details |= {"curves": {name: curves[name] for name in ("precision", "recall", "F", "E")}}
    return replace_nan(scores | details | ({"intervals": method.intervals()} if sampled else {})), method


def map_pictures(
    files: dict[tuple[str, str], MapFiles], scored: dict[tuple[str, str], MethodScores], gt_root: Path, count: int
) -> Iterator[Picture]:
    """Yield the `count` images with the lowest mean S over methods; keys are (method, data set)."""
    images: dict[str, dict] = {}
    photographs: dict[str, dict[str, Path]] = {}
    for (method, data_set), scores in scored.items():
        images.setdefault(method, {}).update({(data_set, stem): row for stem, row in scores.images.items()})
        folder = gt_root / data_set / "Images"
        photographs[data_set] = image_stems(folder) if folder.is_dir() else {}
    for (data_set, stem), methods in select_worst(images, "S", count).items():
        mask = load_mask(files[next(iter(methods)), data_set].truth[stem]).astype(np.uint8) * 255
        shown = load_photograph(photographs[data_set].get(stem)) | {"truth": mask}
        shown |= {method: resize_map(load_grey(files[method, data_set].maps[stem]), mask.shape) for method in methods}
        yield Picture(stem, data_set, (), shown, methods)
