r"""Stage 2c: class activation maps → expansion → fusion with saliency → dense CRF → salient object selector → labels.

    python make_pseudo_labels.py --label_name cam --load_path experiments/classifier/last.pth --data_dir data/voc12
    python make_pseudo_labels.py --label_name sos --load_path experiments/classifier/last.pth --data_dir data/voc12 \
        --selector sos --saliency_dir experiments/saliency/ours/VOC2012
    python make_pseudo_labels.py --label_name strong_sos --baseline_dir other_method/labels --data_dir data/voc12 \
        --selector sos --saliency_dir experiments/saliency/ours/VOC2012

Writes experiments/pseudo_labels/<label_name>/<id>.png, which train_segmentation.py --label_name reads. Maps are kept
in --cam_dir and --expanded_dir, labels before the selector in <label_name>/before; what it decided is in
<label_name>/selector.csv, by class in selector.json. What exists is not made twice.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.make_pseudo_labels().parse_args()  # before the heavy imports, so that --help answers at once

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from formats.atomic_files import write_csv, write_json
from formats.cams import save_cams
from formats.errors import InputError, shorten
from formats.image_labels import load_image_labels
from formats.images import check_size, image_size, load_grey_of, load_image
from formats.labels import load_label, save_label
from formats.voc_layout import files_of_ids, find_voc_root, list_path, load_class_names, load_ids, new_label_folder
from models.affinity_net import AffinityNet, build_affinity_net
from models.cam_classifier import CamClassifier, build_cam_classifier
from pseudo_labels.cams import image_to_tensor, normalise_cams, rectify_maps
from pseudo_labels.external_labels import find_baseline, load_baseline
from pseudo_labels.fusion_inputs import CRFS, label_crf, load_checked_cams, load_evidence
from pseudo_labels.fusion_rules import check_parameters, evidence_of, fuse
from pseudo_labels.random_walk import random_walk
from pseudo_labels.selector import (
    Thresholds,
    build_thresholds,
    measure,
    saliency_mask,
    select,
    select_regions,
    split_mask,
)
from utils.checkpoint import file_digest, load_checkpoint, rebuild
from utils.distributed import (
    World,
    choose_gpus,
    gather_from_processes,
    launch_workers,
    start_distributed,
    stop_distributed,
)
from utils.file_threads import WriteBehind, read_ahead
from utils.inference_network import prepare_for_inference
from utils.interruption import run_script
from utils.memory import advise_on_full_memory, batch_by_size, choose_batch_size
from utils.multi_scale import merge_scales, resize
from utils.output_folder import claimed_folder, recorded_options
from utils.precision import autocast, compute_deterministically, require_finite
from utils.processes import do_in_processes


@dataclass(frozen=True)
class Images:
    """The images to label: N ids, their files, image labels (bool [N, C]) and, where given, saliency maps and labels
    by another method."""

    ids: list[str]
    classes: tuple[str, ...]
    paths: Sequence[Path]
    image_labels: np.ndarray
    maps: Sequence[Path] | None
    baseline: Sequence[Path] | None


def main(args) -> None:
    # distributed
    gpu_ids = choose_gpus(args.gpu_id, torch.cuda.device_count())
    if launch_workers(main, args, len(gpu_ids)):
        return
    world = start_distributed(gpu_ids)
    compute_deterministically(args.deterministic)

    # data
    images = find_images(args)
    check_options(args, images)
    if world.is_main:
        tell_unused_maps(args)
    folder, selects = new_label_folder(args.label_name), args.selector == "sos"
    before = folder / "before" if selects else folder

    # save: maps, labels, selected labels
    if not args.baseline_dir or (selects and args.multi_class == "split"):
        make_cams(images, args, world)
        if args.affinity_path:
            expand_cams(images, args, world)
    if not (selects and args.baseline_dir):
        make_labels(images, before, args, world)
    if selects:
        select_labels(images, before, folder, args, world)
    stop_distributed()


def find_images(args) -> Images:
    """All files that the run will read of the images; missing ones are an error before any work."""
    voc_root = find_voc_root(args.data_dir)
    classes = load_class_names(voc_root)
    ids = load_ids(list_path(args.list_dir, args.list))
    image_labels = load_image_labels(list_path(args.list_dir, args.image_labels), ids, classes)
    paths = files_of_ids(voc_root / "JPEGImages", ids, ".jpg")
    maps = files_of_ids(args.saliency_dir, ids, ".png") if args.saliency_dir else None
    baseline = find_baseline(args.baseline_dir, ids) if args.baseline_dir else None
    return Images(ids, classes, paths, image_labels, maps, baseline)


def check_options(args, images: Images) -> None:
    """Refuses what cannot work together, or would have no effect, before any work."""
    if args.selector == "sos" and not images.maps:
        raise InputError("--selector sos needs --saliency_dir: predict.py writes saliency maps")
    if args.selector == "none" and (args.multi_class == "split" or args.t0 == "auto"):
        raise InputError("--multi_class split and --t0 auto need --selector sos")
    if args.expanded_dir and not args.affinity_path:
        raise InputError("--expanded_dir needs --affinity_path; maps that are expanded already are named by --cam_dir")
    if "saliency" in evidence_of(args.fusion) and not images.maps:
        raise InputError(f"--fusion {args.fusion} needs --saliency_dir: predict.py writes saliency maps")
    if args.baseline_dir and (args.fusion != "none" or args.fusion_args or args.second_cam_dir or args.crf):
        raise InputError(
            "--baseline_dir brings finished labels: leave out --fusion, --fusion_args, --second_cam_dir and --crf"
        )
    check_parameters(args.fusion, dict(args.fusion_args))
    selector_thresholds(args, images.classes)
    if args.second_cam_dir:
        files_of_ids(args.second_cam_dir, images.ids, ".npz")


def tell_unused_maps(args) -> None:
    if args.saliency_dir and args.selector == "none" and "saliency" not in evidence_of(args.fusion):
        print(f"--saliency_dir has no effect with --fusion {args.fusion} and without --selector sos", file=sys.stderr)
    if args.second_cam_dir and "second_cams" not in evidence_of(args.fusion):
        print(f"--second_cam_dir has no effect with --fusion {args.fusion}: it is for nsrom", file=sys.stderr)


def absent_files(folder: Path, ids: list[str], suffix: str) -> list[int]:
    """Indices of the ids without a file in `folder`, by one listing of it."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return [index for index, name in enumerate(ids) if name + suffix not in there]


def progress(work, world: World, title: str):
    """This process's share of the work, with a bar."""
    return tqdm(work[world.rank :: world.size], desc=title, disable=not world.is_main, mininterval=1, leave=False)


def map_dir(args) -> Path:
    """Where the maps lie that labels are made of."""
    return Path(args.expanded_dir or f"{Path(args.cam_dir)}_expanded") if args.affinity_path else Path(args.cam_dir)


def cam_options(args) -> dict:
    """What the class activation maps depend on. Without a checkpoint they are all there, made as their folder says."""
    if not args.load_path:
        return recorded_options(args.cam_dir)
    chosen = {name: getattr(args, name) for name in ("scales", "flip", "combine")}
    return {"checkpoint": file_digest(args.load_path)} | chosen


def expansion_options(args) -> dict:
    """What the expanded maps depend on."""
    chosen = {name: getattr(args, name) for name in ("beta", "exp_times", "radius")}
    return chosen | {"affinity": file_digest(args.affinity_path), "cams": origin(args.cam_dir, cam_options(args))}


def map_origin(args) -> dict:
    """Where the maps lie that labels are made of, and what they depend on."""
    return origin(map_dir(args), expansion_options(args) if args.affinity_path else cam_options(args))


def label_options(args, images: Images) -> dict:
    """What the labels before the selector depend on."""
    class_file = list_path(args.list_dir, args.image_labels)
    chosen = {"selector": "none", "classes": list(images.classes)}
    chosen |= {"image_labels": file_digest(class_file) if class_file.is_file() else str(class_file)}
    if args.baseline_dir:
        return chosen | {"baseline": origin(args.baseline_dir), "bg_threshold": args.bg_threshold}
    chosen |= {"maps": map_origin(args), "fusion": args.fusion, "fusion_args": dict(args.fusion_args)}
    chosen |= {"crf_iterations": args.crf_iterations if args.crf else 0}
    of_some_rules = {
        "bg_threshold": args.bg_threshold,
        "second_cams": origin(args.second_cam_dir) if args.second_cam_dir else None,
        "saliency": origin(args.saliency_dir) if args.saliency_dir else None,
    }
    used = {"bg_threshold"} if args.fusion == "none" else set(evidence_of(args.fusion))
    return chosen | {name: value for name, value in of_some_rules.items() if name in used}


def selector_options(args, images: Images) -> dict:
    """What the labels after the selector depend on."""
    names = ("saliency_threshold", "selector_form", "t0", "t1", "tau", "non_salient_classes", "salient_norm")
    chosen = {name: getattr(args, name) for name in (*names, "selector", "multi_class")}
    of_ids = hashlib.sha256("\n".join(images.ids).encode()).hexdigest()  # statistics are those of all images
    chosen |= {"class_saliency": dict(args.class_saliency), "ids": of_ids, "masks": origin(args.saliency_dir)}
    chosen |= {"split_by": map_origin(args) if args.multi_class == "split" else None}
    return label_options(args, images) | chosen


def origin(folder, made_by: dict | None = None) -> dict:
    """A folder and how its files are made, as far as that is known."""
    return {"folder": str(Path(folder)), "made_by": recorded_options(folder) if made_by is None else made_by}


def load_classifier(load_path, classes: tuple[str, ...]) -> CamClassifier:
    """The classifier of a checkpoint; an `InputError` for one of another stage or of other classes."""
    checkpoint = load_checkpoint(load_path)
    if checkpoint["stage"] != "classification":
        raise InputError(
            f"--load_path {load_path} is a {checkpoint['stage']} checkpoint, not one of train_classification.py"
        )
    trained = checkpoint["settings"].get("classes", [])
    if trained != list(classes):
        raise InputError(
            f"--load_path {load_path} knows {len(trained)} classes ({shorten(trained)}), not {shorten(classes)}"
        )
    return rebuild(build_cam_classifier, checkpoint, load_path).eval()


def load_affinity_net(path) -> AffinityNet:
    """The affinity network of a checkpoint; an `InputError` for one of another stage."""
    checkpoint = load_checkpoint(path)
    if checkpoint["stage"] != "affinity":
        raise InputError(f"--affinity_path {path} is a {checkpoint['stage']} checkpoint, not one of train_affinity.py")
    return rebuild(build_affinity_net, checkpoint, path).eval()


def make_cams(images: Images, args, world: World) -> None:
    """Writes the class activation maps that are absent."""
    folder = Path(args.cam_dir)
    absent = set(absent_files(folder, images.ids, ".npz"))
    if not args.load_path:
        if absent:
            raise InputError(
                f"{folder} lacks the maps of {len(absent)} images: --load_path must name a classifier to make them"
            )
        return
    network = prepare_for_inference(load_classifier(args.load_path, images.classes), world.device) if absent else None
    with claimed_folder(world, folder, cam_options(args), ".npz", writes=bool(absent)):
        if absent:
            write_cams(network, images, absent, args, world)


def write_cams(network: CamClassifier, images: Images, absent: set[int], args, world: World) -> None:
    """Writes the maps of these images, by threads while the network works on the next batch."""
    batch_size = choose_batch_size(args.batch, world.device, on_gpu=8)
    batches = batch_by_size([image_size(path) for path in images.paths], batch_size, max(args.scales))
    bar = progress([batch for batch in batches if absent.intersection(batch)], world, "class activation maps")
    with WriteBehind() as write:
        for batch, loaded in read_ahead(lambda batch: [load_image(images.paths[index]) for index in batch], bar):
            cams = cams_of_batch(network, np.stack(loaded), images.image_labels[batch], args, world)
            for index, (maps, labels) in zip(batch, cams):
                if index in absent:
                    write(save_cams, Path(args.cam_dir) / f"{images.ids[index]}.npz", maps, labels)


@torch.inference_mode()
@advise_on_full_memory("lower --batch, or give fewer --scales")
def cams_of_batch(network: CamClassifier, images: np.ndarray, image_labels: np.ndarray, args, world: World) -> list:
    """Images uint8 [B, H, W, 3] and their classes bool [B, C] → of each image the maps float32 [K, H, W] of the K
    classes it has, and their labels uint8 [K]."""
    pixels = torch.from_numpy(images).to(world.device).permute(0, 3, 1, 2)  # [B, 3, H, W]
    present = np.flatnonzero(image_labels.any(axis=0))  # classes of any image of the batch
    own = image_labels[:, present]  # [B, K]
    rows, columns = (torch.from_numpy(places).to(world.device) for places in own.nonzero())  # of each image's maps
    maps = pixels.new_zeros(len(pixels), 0, *pixels.shape[-2:], dtype=torch.float32)
    if present.size:
        classes = torch.from_numpy(present).to(world.device)

        def class_maps(inputs):
            with autocast(world.device, args.amp):
                return rectify_maps(network(inputs)["class_maps"].float(), classes)  # [N, K, h, w]

        normalised = network.backbone.normalise(pixels)
        maps = merge_scales(class_maps, normalised, args.scales, args.flip, args.combine)  # [B, K, H, W]
    cams = normalise_cams(maps[rows, columns]).cpu().numpy()  # [M, H, W]
    labels = (present[columns.cpu().numpy()] + 1).astype(np.uint8)  # [M]
    ends = own.sum(axis=1).cumsum()[:-1]
    return list(zip(np.split(cams, ends), np.split(labels, ends)))


def expand_cams(images: Images, args, world: World) -> None:
    """Writes the expanded maps that are absent."""
    folder = map_dir(args)
    absent = absent_files(folder, images.ids, ".npz")
    network = prepare_for_inference(load_affinity_net(args.affinity_path), world.device) if absent else None
    bar = progress(absent, world, "expansion")
    with claimed_folder(world, folder, expansion_options(args), ".npz", writes=bool(absent)), WriteBehind() as write:
        for index, (cams, classes, image) in read_ahead(lambda index: cams_and_image(images, index, args), bar):
            if image is not None:
                cams = walked_cams(network, image, cams, args, world)
            write(save_cams, folder / f"{images.ids[index]}.npz", cams, classes)


def cams_and_image(images: Images, index: int, args) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Maps float32 [K, H, W] of an image, their labels uint8 [K], and the image uint8 [H, W, 3], None without maps."""
    path = Path(args.cam_dir) / f"{images.ids[index]}.npz"
    cams, classes = load_checked_cams(path, images.image_labels[index])
    image = load_image(images.paths[index]) if len(classes) else None
    if image is not None:
        check_size(path, cams.shape[1:], images.paths[index], image.shape[:2])
    return cams, classes, image


@torch.inference_mode()
def walked_cams(network: AffinityNet, image: np.ndarray, cams: np.ndarray, args, world: World) -> np.ndarray:
    """Maps float32 [K, H, W] of an image, uint8 [H, W, 3], after their random walk at a quarter of its size."""
    pixels = network.backbone.normalise(image_to_tensor(image, world.device))
    with autocast(world.device, args.amp):
        straight, mirrored = require_finite(network(torch.cat([pixels, pixels.flip(3)])).float()).chunk(2)
    edge = (straight + mirrored.flip(3)).div(2).sigmoid()[0, 0]  # [H / 4, W / 4]
    maps = torch.from_numpy(cams).to(world.device)[None]  # [1, K, H, W]
    walked = random_walk(resize(maps, edge.shape)[0], edge, args.beta, 2**args.exp_times, args.radius)
    return normalise_cams(resize(walked[None], maps.shape[-2:])[0]).cpu().numpy()


def make_labels(images: Images, folder: Path, args, world: World) -> None:
    """Writes the labels before the selector that are absent; in several processes where they take a CRF."""
    absent = absent_files(folder, images.ids, ".png")
    takes_crf = args.crf or not CRFS.keys().isdisjoint(evidence_of(args.fusion))
    with claimed_folder(world, folder, label_options(args, images), ".png", writes=bool(absent)):
        bar = progress(absent, world, "labels")
        tasks = ((folder / f"{images.ids[index]}.png", *files_of_image(images, index, args)) for index in bar)
        do_in_processes(partial(make_label, args), tasks, len(bar), args.workers if takes_crf else 1, world.local_size)
    if world.is_main:
        print(f"{len(absent)} labels made, {len(images.ids) - len(absent)} were there: {folder}")


def files_of_image(images: Images, index: int, args) -> tuple:
    """What the label of an image is made of: its classes, and the files of the image, the label by another method, the
    maps, the second maps and the saliency map, None where there is none."""
    name = f"{images.ids[index]}.npz"
    cam_path, second_cam_path = map_dir(args) / name, Path(args.second_cam_dir or map_dir(args)) / name
    baseline, saliency = (paths[index] if paths else None for paths in (images.baseline, images.maps))
    return images.image_labels[index], images.paths[index], baseline, cam_path, second_cam_path, saliency


def make_label(args, task: tuple) -> None:
    """Writes the label of an image: the path it goes to, and what `files_of_image` gives."""
    path, image_labels, image_path, baseline_path, *map_paths = task
    if baseline_path:
        label = read_baseline(baseline_path, image_labels, image_path, args)
    else:
        label = label_of_maps(image_labels, image_path, *map_paths, args)
    save_label(path, label)


def label_of_maps(image_labels, image_path, cam_path, second_cam_path, saliency_path, args) -> np.ndarray:
    """The label map uint8 [H, W] of an image by the fusion rule, and after the CRF where it is wanted."""
    paths = cam_path, second_cam_path, image_path, saliency_path
    evidence = load_evidence(evidence_of(args.fusion), *paths, image_labels)
    check_size(cam_path, evidence["cams"].shape[1:], image_path, image_size(image_path))
    constant = {"bg_threshold": args.bg_threshold} if args.fusion == "none" else {}
    label = fuse(args.fusion, evidence, constant | dict(args.fusion_args))
    return label_crf(load_image(image_path))(label, iterations=args.crf_iterations) if args.crf else label


def read_baseline(path, image_labels: np.ndarray, image_path, args) -> np.ndarray:
    """The label map uint8 [H, W] of an image by another method."""
    return load_baseline(path, image_labels, image_path, image_size(image_path), args.bg_threshold)


def selector_thresholds(args, classes: tuple[str, ...]) -> Thresholds:
    given = dict(args.class_saliency)
    numbers = args.selector_form, args.t0, args.t1, args.tau
    return build_thresholds(classes, *numbers, args.non_salient_classes, given, args.salient_norm)


@dataclass(frozen=True)
class Decisions:
    """What the selector found of the M single-class images, and what follows from it.

    indices   int [M], of the images
    labels    int [M], 1..C: the class of each
    overlaps  float [M], of label and mask; -1 where the mask is empty
    chosen    the thresholds, as of `Thresholds.of_classes`
    replaced  bool [M]
    """

    indices: np.ndarray
    labels: np.ndarray
    overlaps: np.ndarray
    chosen: dict
    replaced: np.ndarray


def select_labels(images: Images, before: Path, folder: Path, args, world: World) -> None:
    """Measures all single-class images, sets the thresholds, writes every label that is absent."""

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        path = images.baseline[index] if args.baseline_dir else before / f"{images.ids[index]}.png"
        baseline = path, images.image_labels[index], images.paths[index], args
        label = read_baseline(*baseline) if args.baseline_dir else load_label(path)
        return label, load_grey_of(images.maps[index], path, label.shape)

    absent = absent_files(folder, images.ids, ".png")
    with claimed_folder(world, folder, selector_options(args, images), ".png"):
        decisions = decide(images, read, args, world)
        for index in progress(absent, world, "selection"):
            label = selected_label(images, index, *read(index), decisions.chosen["values"], args)
            save_label(folder / f"{images.ids[index]}.png", label)
        if world.is_main:
            report_decisions(images, decisions, folder)
    if world.is_main:
        print(f"{len(absent)} labels selected, {len(images.ids) - len(absent)} were there: {folder}")


def selected_label(images: Images, index: int, label, saliency, thresholds: np.ndarray, args) -> np.ndarray:
    """The label map uint8 [H, W] of an image after the selector; thresholds float [C + 1], by label."""
    mask, present = saliency_mask(saliency, args.saliency_threshold), np.flatnonzero(images.image_labels[index]) + 1
    if len(present) == 1:
        label, _ = select(label, mask, present[0], thresholds[present[0]])
    elif args.multi_class == "split" and len(present) > 1:
        path = map_dir(args) / f"{images.ids[index]}.npz"
        cams, classes = load_checked_cams(path, images.image_labels[index])
        check_size(path, cams.shape[1:], images.maps[index], label.shape)
        label, _ = select_regions(label, split_mask(mask, cams, classes), classes, thresholds)
    return label


def decide(images: Images, read, args, world: World) -> Decisions:
    """Which labels of single-class images masks replace; `read` gives label and saliency map of an index."""
    single = np.flatnonzero(images.image_labels.sum(axis=1) == 1)
    rows = [(int(index), *measure(*read(index), args.saliency_threshold)) for index in progress(single, world, "masks")]
    measured = np.array(sorted(gather_from_processes(rows))).reshape(-1, 4)[:, 1:]  # [N, 3]
    overlaps = measured[:, 0]
    labels = images.image_labels[single].argmax(axis=1) + 1
    chosen = selector_thresholds(args, images.classes).of_classes(measured, labels, len(images.classes))
    return Decisions(single, labels, overlaps, chosen, overlaps > chosen["values"][labels])


def report_decisions(images: Images, decisions: Decisions, folder: Path) -> None:
    """Writes selector.csv, a line per single-class image, and selector.json: by class; prints the latter."""
    chosen, lines, statistics = decisions.chosen, [["id", "class", "overlap", "threshold", "replaced"]], {}
    rows = zip(decisions.indices, decisions.labels, decisions.overlaps, decisions.replaced)
    for index, label, share, is_replaced in rows:
        threshold = f"{chosen['values'][label]:.6f}"
        lines.append([images.ids[index], images.classes[label - 1], f"{share:.6f}", threshold, int(is_replaced)])
    write_csv(folder / "selector.csv", lines)
    print(
        f"selector: {decisions.replaced.sum()} of {len(decisions.labels)} single-class labels replaced by masks, "
        f"{', '.join(f'{name} {number:.2f}' for name, number in chosen['numbers'].items())}"
    )
    for label in np.unique(decisions.labels):
        of_class = decisions.replaced[decisions.labels == label]
        name, saliency, threshold = images.classes[label - 1], chosen["saliency"][label], chosen["values"][label]
        statistics[name] = {"images": len(of_class), "replaced": int(of_class.sum())}
        statistics[name] |= {"saliency": float(saliency), "threshold": float(threshold)}
        print(f"  {name}: {of_class.sum()} of {len(of_class)}, saliency {saliency:.2f}, threshold {threshold:.2f}")
    told = dict(chosen["numbers"])
    if "salient" in chosen:
        told["non_salient"] = [name for name, salient in zip(images.classes, chosen["salient"][1:]) if not salient]
        print(f"non-salient classes: {shorten(told['non_salient'], 30) or 'none'}")
    write_json(folder / "selector.json", told | {"classes": statistics})


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
