r"""Write the predictions of a checkpoint: saliency maps, segmentations, or CAM overlays of the predicted classes.

    python predict.py --load_path experiments/sod/last.pth --input dataset/benchmark/ECSSD \
        --output experiments/saliency/ours/ECSSD
    python predict.py --load_path experiments/segmentation/last.pth --input photo.jpg folder --output results --overlay

The checkpoint names its network. No ground truth is needed. Existing files are kept, and unreadable images are listed
at the end; if there are no others, the exit code is 2. With --overlay, DIR/overlays/<stem>.jpg shows each result on its
image. With --part I/N the run processes one of N parts; all parts write to the same folder.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.predict().parse_args()  # before the heavy imports, so that --help answers at once

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from datasets.voc_submission import SUBMISSION_FOLDER, save_submission
from formats.errors import InputError, MissingInputError, shorten
from formats.image_labels import load_image_labels
from formats.images import IMAGE_SUFFIXES, image_size, image_stems, images_below, load_image, save_grey, save_image
from formats.labels import paint_label, save_label
from formats.voc_layout import VOC_CLASSES, files_of_ids, hint_at_names, load_ids
from models.builders import BUILDERS
from models.puzzle_cam_checkpoint import from_puzzle_cam
from models.saliency_prediction import predict_saliency, scale_side
from models.segmentation_prediction import segmentation_logits
from pseudo_labels.cams import overlay_cams
from pseudo_labels.dense_crf import DEEPLAB, PROBABILITIES, DenseCrf, refine_to_label
from pseudo_labels.self_training import doubt_changes
from utils.checkpoint import file_digest, load_checkpoint, rebuild
from utils.distributed import World, gather_from_processes, start_processes, stop_distributed
from utils.file_threads import read_ahead, write_behind
from utils.inference_network import SIDE_PX, prepare_for_inference
from utils.interruption import run_script
from utils.memory import advise_on_full_memory, batch_by_size, choose_batch_size
from utils.output_folder import folder_origin, lock_output_folder
from utils.processes import do_in_processes

CRF_SETTINGS = {"probabilities": PROBABILITIES, "deeplab": DEEPLAB}
BATCH = 8  # images that pass a network together


def main(args) -> None:
    # distributed
    world = start_processes(main, args)
    if world is None:
        return

    # data
    images, others = find_images(args.input, args.list)
    output = Path(args.output)
    if output.resolve() in {path.parent.resolve() for path in images.values()}:
        raise InputError(f"--output {output} holds images of --input: choose another folder")
    if world.is_main and others and not args.list:
        print(f"left out: {others} files; predict.py reads {', '.join(IMAGE_SUFFIXES)}", file=sys.stderr)

    # model
    stage, settings, network = load_network(args, world.device)

    # save
    batches, unreadable = find_batches(stage, images, args, world), {}
    if args.previous_dir:
        files_of_ids(args.previous_dir, [*images], ".png")
    rows = load_image_labels(args.image_labels, [*images], settings["classes"]) if args.image_labels else None
    present = dict(zip(images, rows)) if args.image_labels else None
    chosen = [stem for stems in batches for stem in stems]
    missing = {stem for stem in chosen if not is_complete(output, stem, args.overlay)}
    share = world.share([stems for stems in batches if missing.intersection(stems)])
    with lock_output_folder(world, output, result_options(args), ".png"):
        bar = tqdm(share, desc=stage, disable=not world.is_main, mininterval=1, leave=False)
        results = predict_images(stage, network, settings, images, bar, unreadable, args, world.device, present)
        results = (result for result in results if result[0] in missing)
        save_results(results, sum(map(len, share)), stage, output, args, world.local_size)
    left_out = [error for stem, error in gather_from_processes([*unreadable.items()]) if stem in missing]
    if len(left_out) == len(chosen):
        stop_distributed()
        raise InputError(f"no file was made: none of {len(chosen)} images of --input can be read: {left_out[0]}")
    if world.is_main:
        print(f"{len(missing) - len(left_out)} files written, {len(chosen) - len(missing)} already existed: {output}")
        print("".join(f"left out: {error}\n" for error in left_out), end="", file=sys.stderr)
    stop_distributed()
    if world.is_main and args.voc_submission:
        sizes = {stem: image_size(path) for stem, path in images.items()}
        save_submission(args.voc_submission, output, sizes)
        print(f"{len(images)} masks packed as {SUBMISSION_FOLDER}: {args.voc_submission}")


def find_images(paths: list[str], list_name: str | None) -> tuple[dict[str, Path], str]:
    """Find images by path, in folders, or in the Images/ of saliency data sets; return path by stem, all or those of a
    list, and what else the folders hold, by suffix, such as "2 .gif, 1 .heic".

    Raises `InputError` for missing images and for equal stems, whose results would overwrite each other.
    """
    found: dict[str, Path] = {}
    suffixes: Counter[str] = Counter()
    for path in map(Path, paths):
        if path.is_dir():
            folder = path / "Images" if (path / "Images").is_dir() else path
            new = (images_below if list_name else image_stems)(folder)
            suffixes.update(other.suffix.lower() for other in folder.glob("[!.]*.*"))
        elif path.is_file():
            new = {path.stem: path}
        else:
            raise MissingInputError(f"--input {path} does not exist")
        twice = [stem for stem in new if stem in found]
        if twice:
            raise InputError(f"--input holds {shorten(twice)} twice: their results would overwrite each other")
        found |= new
    others = shorten(f"{suffixes[suffix]} {suffix}" for suffix in sorted(suffixes.keys() - {*IMAGE_SUFFIXES}))
    if not found:
        choices = ", ".join(IMAGE_SUFFIXES)
        raise InputError(f"--input {shorten(paths)} holds no image ({choices}), but {others or 'no other'} files")
    if not list_name:
        return found, others
    ids = load_ids(list_name, found)
    absent = [name for name in ids if name not in found]
    if absent:
        hint = hint_at_names(absent, {path.name for path in found.values()}, "")
        found = f"lacks {len(absent)} of {len(ids)} ids of --list ({shorten(absent, 3)}){hint}"
        raise MissingInputError(f"--input {found}: name all folders, or remove the ids from the list")
    return {name: found[name] for name in ids}, others


def load_network(args, device) -> tuple[str, dict, torch.nn.Module]:
    """Load the stage, the settings and the network of a checkpoint. Raises `InputError` if the flags do not fit it."""
    checkpoint = load_checkpoint(args.load_path, BUILDERS, from_puzzle_cam)
    stage, settings = checkpoint["stage"], checkpoint["settings"]
    check_segmentation_flags(args, stage, settings)
    side_px = settings.get("image_size", SIDE_PX)
    network = prepare_for_inference(rebuild(BUILDERS[stage], checkpoint, args.load_path), device, side_px)
    if stage == "saliency":
        network.backbone.check_sides({scale_side(side_px, scale) for scale in args.scales} - {side_px}, "--scales")
    return stage, settings, network


def check_segmentation_flags(args, stage: str, settings: dict) -> None:
    """Raise `InputError` for flags that contradict each other or the checkpoint."""
    names = ("window", "crf", "voc_submission", "image_labels", "previous_dir")
    flags = {f"--{name}": getattr(args, name) for name in names}
    given = ", ".join(flag for flag, value in flags.items() if value)
    if stage != "segmentation" and given:
        raise InputError(f"{given} need a segmentation checkpoint: --load_path {args.load_path} is of stage {stage}")
    if args.window_stride and not args.window:
        raise InputError("--window_stride needs --window")
    if args.window_stride and args.window_stride > args.window:
        raise InputError(f"--window_stride {args.window_stride} is larger than --window {args.window}: lower it")
    if args.previous_dir and args.crf:
        raise InputError("--previous_dir and --crf exclude each other: omit one")
    if args.voc_submission and not args.voc_submission.endswith((".tar.gz", ".tgz")):
        raise InputError(f"--voc_submission {args.voc_submission}: the name must end in .tar.gz or .tgz")
    if args.voc_submission and args.part:
        raise InputError("--voc_submission packs all masks: give it to a run without --part, after all parts")
    classes = settings.get("classes", ())
    if args.voc_submission and tuple(classes) != VOC_CLASSES:
        found = f"--load_path {args.load_path} has {len(classes)} ({shorten(classes)})"
        raise InputError(f"--voc_submission needs the {len(VOC_CLASSES)} classes of VOC in its order, but {found}")


def find_window_stride(args) -> int | None:
    """Return the stride of the windows in px, by default two thirds of the window side; None without --window."""
    if not args.window:
        return None
    return args.window_stride or max(1, round(args.window * 2 / 3))


def result_options(args) -> dict:
    """The options that the results depend on, None for unused windows and CRF, and all flags under "options"."""
    return {
        "options": vars(args),
        "checkpoint": file_digest(args.load_path),
        "scales": args.scales,
        "flip": args.flip,
        "window": args.window or None,
        "window_stride": find_window_stride(args),
        "crf_setting": args.crf_setting if args.crf else None,
        "crf_iterations": args.crf_iterations if args.crf else None,
        "image_labels": args.image_labels,
        "previous": folder_origin(args.previous_dir) if args.previous_dir else None,
    }


def is_complete(output: Path, stem: str, overlay: bool) -> bool:
    """Return whether the result of an image and, on request, its overlay exist."""
    return (output / f"{stem}.png").is_file() and (not overlay or (output / f"overlays/{stem}.jpg").is_file())


def find_batches(stage: str, images: dict[str, Path], args, world: World) -> list[list[str]]:
    """Group the stems of the images of this part into batches: any images for saliency, equal sizes for segmentation,
    one image for CAMs. Unreadable images, which are reported when they are decoded, count as one pixel.
    """
    stems, count = list(images), {"saliency": args.batch or BATCH}.get(stage, 1)
    if stage == "segmentation" and (largest := choose_batch_size(args.batch, world.device, on_gpu=BATCH)) > 1:
        stems = world.take_part(stems)
        sizes = [try_to(image_size, images[stem]) for stem in stems]
        sizes = [(1, 1) if isinstance(size, InputError) else size for size in sizes]
        return [[stems[index] for index in batch] for batch in batch_by_size(sizes, largest, max(args.scales))]
    return world.take_part([stems[first : first + count] for first in range(0, len(stems), count)])


def try_to(read: Callable, path: Path):
    """Return `read(path)`, or the `InputError` that it raises."""
    try:
        return read(path)
    except InputError as error:
        return error


def predict_images(
    stage: str, network, settings: dict, images: dict, batches, unreadable: dict, args, device, present=None
):
    """Yield stem, image (uint8 [H, W, 3]) and result of each image; threads read the next batch ahead.

    Adds the errors of images that cannot be read to `unreadable`, by stem. present: the classes, bool [C], by stem.
    """
    for stems, loaded in read_ahead(lambda stems: [try_to(load_image, images[stem]) for stem in stems], batches):
        unreadable |= {stem: str(image) for stem, image in zip(stems, loaded) if isinstance(image, InputError)}
        decoded = {stem: image for stem, image in zip(stems, loaded) if stem not in unreadable}
        if decoded:
            rows = np.stack([present[stem] for stem in decoded]) if present else None
            results = predict_batch(stage, network, settings, list(decoded.values()), args, device, rows)
            yield from zip(decoded, decoded.values(), results)


@advise_on_full_memory("lower --batch, give --window for segmentation, or fewer --scales")
def predict_batch(stage: str, network, settings: dict, images: list[np.ndarray], args, device, present=None) -> list:
    """Predict a batch: saliency maps uint8 [H, W], label maps uint8 [H, W], or CAM overlays uint8 [H, W, 3].

    With --crf, instead of a label map: the probabilities float32 [K, H, W] of the labels that are present, uint8 [K].
    With --previous_dir: a label map and the probabilities of its labels, float32 [H, W], from the mean of the logits.
    present: the classes of the images, bool [B, C], if only these are predicted.
    """
    how = {"scales": args.scales, "flip": args.flip, "amp": args.amp}
    if stage == "saliency":
        return predict_saliency(network, images, settings["image_size"], device, **how)
    if stage == "classification":
        return [overlay_cams(network, image, device, **how) for image in images]
    how |= {"window_px": args.window, "stride_px": find_window_stride(args)}
    logits = segmentation_logits(network, np.stack(images), device, **how)  # [B, L, H, W]
    if present is not None:
        absent = torch.from_numpy(np.pad(~present, ((0, 0), (1, 0)))).to(device)  # never the background
        logits = logits.masked_fill(absent[:, :, None, None], -torch.inf)
    if not args.crf:
        labels = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
        if not args.previous_dir:
            return list(labels)
        passes = len(args.scales) * (1 + args.flip)
        return list(zip(labels, (logits / passes).softmax(dim=1).amax(dim=1).cpu().numpy()))
    probs = logits.softmax(dim=1)
    present = [(row, row.argmax(dim=0).unique()) for row in probs]
    return [(row[labels].cpu().numpy(), labels.to(torch.uint8).cpu().numpy()) for row, labels in present]


def save_results(results, num_images: int, stage: str, output: Path, args, num_callers: int) -> None:
    """Write the files of all results in threads or, with --crf, in processes (see `do_in_processes`)."""
    save = partial(save_result, stage, output, args)
    if args.crf:
        return do_in_processes(save, results, num_images, args.workers, num_callers)
    with write_behind() as write:
        for result in results:
            write(save, result)


def save_result(stage: str, output: Path, args, prediction: tuple) -> None:
    """Write the files of one image; the result is written last, so that it marks a complete image."""
    stem, image, result = prediction
    if args.crf:
        probs, labels = result
        crf = DenseCrf(image, CRF_SETTINGS[args.crf_setting])
        result = refine_to_label(crf, torch.from_numpy(probs), labels, args.crf_iterations)
    elif args.previous_dir:
        result = doubt_changes(*result, Path(args.previous_dir) / f"{stem}.png")
    save, show = WRITERS[stage]
    if args.overlay:
        save_image(output / f"overlays/{stem}.jpg", show(image, result))
    save(output / f"{stem}.png", result)


def blend_colours(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Blend an image, RGB uint8 [H, W, 3], with the colours of its labels, uint8 [H, W]."""
    return cv2.addWeighted(image, 0.5, paint_label(label), 0.5, 0)


def highlight(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Darken an image, RGB uint8 [H, W, 3], where its saliency map, uint8 [H, W], is low."""
    share = 0.2 + 0.8 * saliency[..., None].astype(np.float32) / 255  # [H, W, 1]
    return (image * share).round().astype(np.uint8)


WRITERS = {  # stage → functions that save a result, and that show it on its image
    "saliency": (save_grey, highlight),
    "segmentation": (save_label, blend_colours),
    "classification": (save_image, lambda image, overlay: overlay),
}


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
