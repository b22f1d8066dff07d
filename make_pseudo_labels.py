"""Stage 2c: class activation maps → background threshold → salient object selector → label PNGs.

    python make_pseudo_labels.py --label_name cam --load_path experiments/classifier/last.pth --data_dir data/voc12
    python make_pseudo_labels.py --label_name sos --load_path experiments/classifier/last.pth --data_dir data/voc12 \\
        --selector sos --saliency_dir experiments/saliency/ours/VOC2012

Writes experiments/pseudo_labels/<label_name>/<id>.png, which train_segmentation.py --label_name reads. Maps are kept
in --cam_dir and used again; labels and maps that exist are not made twice.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.make_pseudo_labels().parse_args()  # before the heavy imports, so that --help answers at once

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from cam_files import load_cams, save_cams
from image_files import load_grey, load_image
from input_errors import InputError, run_script, shorten
from label_files import save_label
from models.cam_classifier import CamClassifier, build_cam_classifier
from pseudo_labels.cams import image_tensor, labels_from_cams, normalised_cams, rectified
from pseudo_labels.selector import non_salient_classes, saliency_norm, select
from utils.checkpoint import file_digest, load_checkpoint, load_weights
from utils.distributed import (
    World,
    choose_gpus,
    gather_from_processes,
    launch_workers,
    start_distributed,
    stop_distributed,
    wait_for_all,
)
from utils.multi_scale import sum_over_scales
from utils.precision import autocast
from utils.run_folder import claim_output_folder, recorded_options
from voc_layout import (
    files_of_ids,
    find_voc_root,
    list_path,
    load_class_names,
    load_ids,
    load_image_labels,
    new_label_folder,
)


def main(args) -> None:
    gpu_ids = choose_gpus(args.gpu_id, torch.cuda.device_count())
    if launch_workers(main, args, len(gpu_ids)):
        return
    world = start_distributed(gpu_ids)

    # data
    voc_root = find_voc_root(args.data_dir)
    classes = load_class_names(voc_root)
    ids = load_ids(list_path(args.list_dir, args.list))
    image_labels = load_image_labels(list_path(args.list_dir, "cls_labels.npy"), ids, len(classes))  # bool [N, C]
    images = files_of_ids(voc_root / "JPEGImages", ids, ".jpg")
    if args.selector == "sos" and not args.saliency_dir:
        raise InputError("--selector sos needs --saliency_dir: predict.py writes saliency maps")
    maps = files_of_ids(args.saliency_dir, ids, ".png") if args.selector == "sos" else None
    folder, cam_dir = new_label_folder(args.label_name), Path(args.cam_dir)
    non_salient = named_non_salient_classes(args.non_salient_classes, classes)

    # class activation maps
    missing = absent_files(cam_dir, ids, ".npz")
    network = load_classifier(args.load_path, classes, missing, cam_dir).to(world.device) if missing else None
    if world.is_main:
        maps_made_by = cam_options(args)
        if args.load_path:
            claim_output_folder(cam_dir, maps_made_by, ".npz")
        claim_output_folder(folder, maps_made_by | label_options(args, classes), ".png")
    wait_for_all()  # no process writes before all have seen what is there
    for index in progress(missing, world, "class activation maps"):
        cams, labels = make_cams(network, load_image(images[index]), image_labels[index], args, world)
        save_cams(cam_dir / f"{ids[index]}.npz", cams, labels)

    # class saliency
    is_single = image_labels.sum(axis=1) == 1
    if args.selector == "sos" and non_salient is None:
        single = np.flatnonzero(is_single)
        norms = saliency_norms([maps[index] for index in single], world)
        labels = image_labels[single].argmax(axis=1) + 1
        non_salient = non_salient_classes(norms, labels, len(classes), args.salient_norm)

    # labels
    todo = absent_files(folder, ids, ".png")
    wait_for_all()
    replaced = 0
    for index in progress(todo, world, "labels"):
        cams, labels = load_checked_cams(cam_dir / f"{ids[index]}.npz", image_labels[index])
        label = labels_from_cams(cams, labels, args.bg_threshold)
        if args.selector == "sos" and is_single[index]:
            threshold = args.t0 + args.t1 * bool(non_salient[labels[0]])
            mask = load_saliency_mask(maps[index], label.shape, args.saliency_threshold)
            label, was_replaced = select(label, mask, int(labels[0]), threshold)
            replaced += was_replaced
        save_label(folder / f"{ids[index]}.png", label)
    replaced = sum(gather_from_processes([replaced]))
    if world.is_main:
        print(f"{len(todo)} labels made, {len(ids) - len(todo)} were there: {folder}")
        if args.selector == "sos":
            names = [name for name, flag in zip(classes, non_salient[1:]) if flag]
            print(f"selector: {replaced} of {int(is_single[todo].sum())} single-class labels replaced by masks")
            print(f"non-salient classes: {shorten(names, 30) or 'none'}")
    stop_distributed()


def absent_files(folder: Path, ids: list[str], suffix: str) -> list[int]:
    """Indices of the ids without a file in `folder`, by one listing of it."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return [index for index, name in enumerate(ids) if name + suffix not in there]


def progress(indices, world: World, title: str):
    """This process's share of `indices`, with a bar."""
    return tqdm(indices[world.rank :: world.size], desc=title, disable=not world.is_main, mininterval=1, leave=False)


def cam_options(args) -> dict:
    """What the maps depend on. Without a checkpoint they are all there, made as their folder says."""
    if args.load_path:
        return {"checkpoint": file_digest(args.load_path), "scales": args.scales, "flip": args.flip}
    return recorded_options(args.cam_dir)


def label_options(args, classes) -> dict:
    """What the labels depend on beyond the maps."""
    chosen = {
        "cam_dir": args.cam_dir,
        "bg_threshold": args.bg_threshold,
        "selector": args.selector,
        "classes": list(classes),
    }
    if args.selector == "sos":
        names = ("saliency_dir", "saliency_threshold", "t0", "t1", "non_salient_classes", "salient_norm")
        chosen |= {name: getattr(args, name) for name in names} | {"saliency": recorded_options(args.saliency_dir)}
        chosen |= {"list": args.list} if args.non_salient_classes == ["measured"] else {}
    return chosen


def named_non_salient_classes(names: list[str], classes: tuple[str, ...]) -> np.ndarray | None:
    """bool [C + 1] of the classes given by name; None if they are to be measured."""
    if names == ["measured"]:
        return None
    names = [] if names == ["none"] else names
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise InputError(f"--non_salient_classes: {shorten(unknown)} unknown; the classes are {', '.join(classes)}")
    return np.array([False] + [name in names for name in classes])


def load_classifier(load_path, classes, missing, cam_dir) -> CamClassifier:
    if not load_path:
        raise InputError(
            f"{cam_dir} lacks the maps of {len(missing)} images: --load_path must name a classifier to make them"
        )
    checkpoint = load_checkpoint(load_path)
    if checkpoint["stage"] != "classification":
        raise InputError(
            f"--load_path {load_path} is a {checkpoint['stage']} checkpoint, not one of train_classification.py"
        )
    trained = checkpoint["settings"]["classes"]
    if trained != list(classes):
        raise InputError(
            f"--load_path {load_path} knows {len(trained)} classes ({shorten(trained)}), not {shorten(classes)}"
        )
    network = build_cam_classifier(checkpoint["settings"])
    load_weights(network, checkpoint["network"], load_path)
    return network.eval()


@torch.inference_mode()
def make_cams(network: CamClassifier, image: np.ndarray, image_labels: np.ndarray, args, world: World):
    """Maps float [K, H, W] of the classes the image has, and their labels uint8 [K]."""
    present = np.flatnonzero(image_labels)
    if present.size == 0:
        return np.zeros((0, *image.shape[:2]), np.float32), np.zeros(0, np.uint8)
    classes = torch.from_numpy(present).to(world.device)

    def class_maps(batch):
        with autocast(world.device, enabled=True):
            return rectified(network(batch)["class_maps"].float(), classes)  # [B, K, h, w]

    normalised = network.backbone.normalise(image_tensor(image, world.device))
    cams = normalised_cams(sum_over_scales(class_maps, normalised, args.scales, args.flip)[0])  # [K, H, W]
    return cams.cpu().numpy(), (present + 1).astype(np.uint8)


def load_checked_cams(path: Path, image_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The maps of an image, of the very classes it has."""
    cams, labels = load_cams(path)
    expected = np.flatnonzero(image_labels) + 1
    if labels.tolist() != expected.tolist() or len(cams) != len(labels):
        raise InputError(f"{path} holds maps of the labels {labels.tolist()}, but the image has {expected.tolist()}")
    return cams, labels


def saliency_norms(paths: list, world: World) -> np.ndarray:
    """float [N]: the norm of each map; each process reads its share."""
    share = range(world.rank, len(paths), world.size)
    rows = gather_from_processes([(index, saliency_norm(load_grey(paths[index]) / 255)) for index in share])
    return np.array([norm for _, norm in sorted(rows)])


def load_saliency_mask(path, shape: tuple[int, int], threshold: float) -> np.ndarray:
    """bool [H, W]: saliency above the threshold."""
    saliency = load_grey(path)
    if saliency.shape != shape:
        raise InputError(
            f"{path} is {saliency.shape[1]}×{saliency.shape[0]} px, but its image {shape[1]}×{shape[0]} px"
        )
    return saliency > threshold * 255


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
