"""Stage 4: files → benchmark tables.

    python evaluate.py saliency --pred experiments/saliency/ours other_method --gt_root dataset/benchmark
    python evaluate.py labels --pred experiments/pseudo_labels/cam experiments/pseudo_labels/sos \\
        --data_dir data/voc12 --list voc12/train_id.txt
    python evaluate.py segmentation --pred experiments/segmentation/val --data_dir data/voc12 --list voc12/val_id.txt

Maps of a method lie in METHOD_DIR/<data set>/<stem>.png, truth in GT_ROOT/<data set>/Masks/<stem>.png; labels and
segmentations in DIR/<id>.png. A missing prediction is an error.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.evaluate().parse_args()

from pathlib import Path

import cv2
from tqdm import tqdm

from atomic_files import write_json
from image_files import image_stems, load_grey, load_mask
from input_errors import InputError, MissingInputError, run_script, shorten
from label_files import load_label
from metrics.saliency import SaliencyMetrics
from metrics.segmentation import ConfusionMatrix
from metrics.tables import markdown_table, percent
from voc_layout import files_of_ids, find_voc_root, load_class_names, load_ids, load_image_labels, truth_folder


def main(args) -> None:
    results = evaluate_saliency(args) if args.kind == "saliency" else evaluate_labels(args)
    if args.json:
        write_json(args.json, results)


def evaluate_saliency(args) -> dict:
    """Scores every data set that a method has maps of; prints one table. → {method: {data set: scores}}"""
    work = {method: find_maps(Path(method), Path(args.gt_root)) for method in args.pred}
    results, rows = {}, []
    for method, data_sets in work.items():
        results[method] = {}
        for data_set, pairs in data_sets.items():
            scores, resized = score_saliency(pairs, f"{method} on {data_set}")
            results[method][data_set] = scores | {"images": len(pairs), "resized": resized}
            if resized:
                print(f"{method} on {data_set}: {resized} of {len(pairs)} maps resized to the size of their truth")
            numbers = [f"{scores[name]:.4f}" for name in ("MAE", "maxF", "meanF", "adpF", "S")]
            rows.append([method, data_set, len(pairs), *numbers])
    print(markdown_table(["method", "data set", "images", "MAE ↓", "max F ↑", "mean F ↑", "adp F ↑", "S ↑"], rows))
    print("F: β² = 0.3, maximum and mean of the mean curve; maps stretched to 0..1 per image; truth over 128 of 255")
    return results


def find_maps(method: Path, gt_root: Path) -> dict[str, list[tuple[Path, Path]]]:
    """data set → (map, truth) of every truth; raises if a map is missing or there is no data set in common."""
    for folder in (method, gt_root):
        if not folder.is_dir():
            raise MissingInputError(f"folder {folder} does not exist")
    found = {}
    for data_set in sorted(path.name for path in gt_root.iterdir() if (path / "Masks").is_dir()):
        if not (method / data_set).is_dir():
            continue
        truth, maps = image_stems(gt_root / data_set / "Masks"), image_stems(method / data_set)
        missing = [stem for stem in truth if stem not in maps]
        if missing or not truth:
            raise MissingInputError(
                f"{method / data_set} lacks {len(missing)} of {len(truth)} maps ({shorten(missing)}): "
                "predict.py makes them"
            )
        found[data_set] = [(maps[stem], path) for stem, path in truth.items()]
    if not found:
        raise MissingInputError(
            f"no data set of {gt_root} has a folder in {method}: expected {method}/<data set>/<stem>.png"
        )
    return found


def score_saliency(pairs: list[tuple[Path, Path]], title: str) -> tuple[dict[str, float], int]:
    """Scores, and how many maps had to be resized to their truth."""
    metrics, resized = SaliencyMetrics(), 0
    for map_path, mask_path in tqdm(pairs, desc=title, mininterval=1, leave=False):
        saliency, mask = load_grey(map_path), load_mask(mask_path)
        if saliency.shape != mask.shape:
            saliency = cv2.resize(saliency, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
            resized += 1
        metrics.add(saliency, mask)
    return metrics.scores(), resized


def evaluate_labels(args) -> dict:
    """Scores folders of label maps; prints the summary and the IoU of each class. → {folder: scores}"""
    voc_root = find_voc_root(args.data_dir)
    names = ("background", *load_class_names(voc_root))
    ids = load_ids(args.list)
    if args.single_class:
        image_labels = load_image_labels(args.single_class, ids, len(names) - 1)
        ids = [name for name, row in zip(ids, image_labels) if row.sum() == 1]
        if not ids:
            raise InputError(f"{args.list} has no image with exactly one class by {args.single_class}")
    folder = voc_root / args.gt if args.gt else truth_folder(voc_root, ids)
    truth = files_of_ids(folder, ids, ".png")
    work = {folder: list(zip(files_of_ids(folder, ids, ".png"), truth)) for folder in args.pred}
    results = {folder: score_labels(pairs, names, folder) for folder, pairs in work.items()}

    summary = [
        [folder, *(percent(scores[name]) for name in ("Acc", "Acc_class", "mIoU", "fwIoU", "mIoU_dropped", "coverage"))]
        for folder, scores in results.items()
    ]
    print(f"{len(ids)} images" + (" with exactly one class" if args.single_class else "") + f", truth {folder}, %")
    print(markdown_table([args.kind, "Acc", "Acc_class", "mIoU", "fwIoU", "mIoU*", "coverage"], summary))
    print("a prediction of 255 counts as a miss; mIoU*: such pixels dropped; coverage: pixels with a prediction")
    per_class = [[name, *(percent(scores["IoU"][name]) for scores in results.values())] for name in names]
    print()
    print(markdown_table(["IoU", *results], per_class))
    return {folder: scores | {"images": len(ids)} for folder, scores in results.items()}


def score_labels(pairs: list[tuple[Path, Path]], names: tuple[str, ...], title: str) -> dict:
    """Scores as plain numbers; the IoU by class name, None for a class that occurs nowhere."""
    matrix = ConfusionMatrix(len(names))
    for prediction_path, truth_path in tqdm(pairs, desc=title, mininterval=1, leave=False):
        prediction, truth = load_label(prediction_path), load_label(truth_path)
        try:
            matrix.add(prediction, truth)
        except ValueError as error:
            raise InputError(f"{prediction_path} against {truth_path}: {error}") from None
    scores = matrix.scores()
    iou = {name: None if value != value else float(value) for name, value in zip(names, scores["IoU"])}
    return scores | {"IoU": iou, "mIoU_dropped": matrix.scores("dropped")["mIoU"]}


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
