r"""Stage 2c: class activation maps → expansion → fusion with saliency → dense CRF → salient object selector → labels.

    python make_pseudo_labels.py --label_name cam --load_path experiments/classifier/last.pth --data_dir data/voc12
    python make_pseudo_labels.py --label_name sos --load_path experiments/classifier/last.pth --data_dir data/voc12 \
        --selector sos --saliency_dir experiments/saliency/ours/VOC2012
    python make_pseudo_labels.py --label_name strong_sos --baseline_dir other_method/labels --data_dir data/voc12 \
        --selector sos --saliency_dir experiments/saliency/ours/VOC2012

Writes experiments/pseudo_labels/<label_name>/<id>.png, which train_segmentation.py --label_name reads. Maps go to
--cam_dir and --expanded_dir, labels before the selector to <label_name>/before, the decisions of the selector to
<label_name>/selector.csv, and their summary by class to selector.json. Existing files are kept.
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
from formats.images import check_size, image_size, load_image
from formats.labels import load_label, save_label
from formats.voc_layout import (
    files_of_ids,
    find_voc_root,
    list_path,
    load_class_names,
    load_ids,
    new_label_folder,
)
from models.affinity_net import AffinityNet, build_affinity_net
from models.cam_classifier import CamClassifier, build_cam_classifier
from pseudo_labels.cams import image_to_tensor, normalise_cams, rectify_maps
from pseudo_labels.external_labels import find_baseline, load_baseline
from pseudo_labels.fusion_inputs import CRFS, label_crf, load_checked_cams, load_evidence
from pseudo_labels.fusion_rules import check_parameters, evidence_of, fuse
from pseudo_labels.random_walk import random_walk
from pseudo_labels.selector import ImageSelector, Thresholds, build_thresholds
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
from utils.output_folder import lock_output_folder, recorded_options
from utils.precision import autocast, compute_deterministically, require_finite
from utils.processes import do_in_processes


@dataclass(frozen=True)
class Images:
    """The N images to label: ids, class names, files, image labels (bool [N, C]), and, if given, the files of saliency
    maps and of labels of another method."""

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
        warn_of_unused_maps(args)
    options_of = folder_options(args, images)
    folder, selects = new_label_folder(args.label_name), args.selector == "sos"
    before = folder / "before" if selects else folder

    # save: maps, labels, selected labels
    if not args.baseline_dir or (selects and args.multi_class == "split"):
        make_cams(images, options_of["cams"], args, world)
        if args.affinity_path:
            expand_cams(images, options_of["expanded cams"], args, world)
    if not (selects and args.baseline_dir):
        make_labels(images, before, options_of["labels"], args, world)
    if selects:
        select_labels(images, before, folder, options_of["selected labels"], args, world)
    stop_distributed()


def find_images(args) -> Images:
    """Find all files of the images that the run reads; raises `InputError` for missing ones."""
    voc_root = find_voc_root(args.data_dir)
    classes = load_class_names(voc_root)
    ids = load_ids(list_path(args.list_dir, args.list))
    image_labels = load_image_labels(list_path(args.list_dir, args.image_labels), ids, classes)
    paths = files_of_ids(voc_root / "JPEGImages", ids, ".jpg")
    maps = files_of_ids(args.saliency_dir, ids, ".png") if args.saliency_dir else None
    baseline = find_baseline(args.baseline_dir, ids) if args.baseline_dir else None
    return Images(ids, classes, paths, image_labels, maps, baseline)


def check_options(args, images: Images) -> None:
    """Raise `InputError` for flags that contradict each other or would have no effect."""
    if args.selector == "sos" and not images.maps:
        raise InputError("--selector sos needs --saliency_dir: predict.py writes saliency maps")
    if args.selector == "none" and (args.multi_class == "split" or args.t0 == "auto"):
        raise InputError("--multi_class split and --t0 auto need --selector sos")
    if args.expanded_dir and not args.affinity_path:
        raise InputError("--expanded_dir needs --affinity_path; name maps that are already expanded by --cam_dir")
    if "saliency" in evidence_of(args.fusion) and not images.maps:
        raise InputError(f"--fusion {args.fusion} needs --saliency_dir: predict.py writes saliency maps")
    if args.baseline_dir and (args.fusion != "none" or args.fusion_args or args.second_cam_dir or args.crf):
        raise InputError(
            "--baseline_dir holds finished labels: leave out --fusion, --fusion_args, --second_cam_dir and --crf"
        )
    check_parameters(args.fusion, dict(args.fusion_args))
    selector_thresholds(args, images.classes)
    if args.second_cam_dir:
        files_of_ids(args.second_cam_dir, images.ids, ".npz")


def warn_of_unused_maps(args) -> None:
    if args.saliency_dir and args.selector == "none" and "saliency" not in evidence_of(args.fusion):
        print(f"--saliency_dir has no effect with --fusion {args.fusion} and without --selector sos", file=sys.stderr)
    if args.second_cam_dir and "second_cams" not in evidence_of(args.fusion):
        print(f"--second_cam_dir has no effect with --fusion {args.fusion}: it is for nsrom", file=sys.stderr)


def folder_options(args, images: Images) -> dict[str, dict]:
    """The options that the files of each output folder depend on, which are recorded in its options.json."""

    def chosen(*names: str) -> dict:
        return {name: getattr(args, name) for name in names}

    cams, expanded, maps = {}, {}, None
    if not args.baseline_dir or args.multi_class == "split":
        cams = recorded_options(args.cam_dir)  # without a checkpoint all maps exist
        if args.load_path:
            cams = chosen("scales", "flip", "combine") | {"checkpoint": file_digest(args.load_path)}
        if args.affinity_path:
            expanded = chosen("beta", "exp_times", "radius") | {"cams": origin(args.cam_dir, cams)}
            expanded["affinity"] = file_digest(args.affinity_path)
        maps = origin(map_dir(args), expanded or cams)

    class_file = list_path(args.list_dir, args.image_labels)
    labels = {"selector": "none", "classes": list(images.classes)}
    labels["image_labels"] = file_digest(class_file) if class_file.is_file() else str(class_file)
    if args.baseline_dir:
        labels |= {"baseline": origin(args.baseline_dir)} | chosen("bg_threshold")
    else:
        inputs = evidence_of(args.fusion)
        labels |= {"maps": maps, "fusion": args.fusion, "fusion_args": dict(args.fusion_args)}
        labels["crf_iterations"] = args.crf_iterations if args.crf else 0
        labels |= chosen("bg_threshold") if args.fusion == "none" else {}
        labels |= {"saliency": origin(args.saliency_dir)} if "saliency" in inputs else {}
        if "second_cams" in inputs:
            labels["second_cams"] = origin(args.second_cam_dir) if args.second_cam_dir else None
    if args.selector == "none":
        return {"cams": cams, "expanded cams": expanded, "labels": labels}

    selected = chosen("selector", "selector_form", "saliency_threshold", "t0", "t1", "tau", "multi_class")
    selected |= chosen("non_salient_classes", "salient_norm") | {"class_saliency": dict(args.class_saliency)}
    selected["ids"] = hashlib.sha256("\n".join(images.ids).encode()).hexdigest()  # of which statistics are measured
    selected |= {"masks": origin(args.saliency_dir), "split_by": maps if args.multi_class == "split" else None}
    return {"cams": cams, "expanded cams": expanded, "labels": labels, "selected labels": labels | selected}


def origin(folder, made_by: dict | None = None) -> dict:
    """A folder and the options its files depend on; by default those recorded in it."""
    return {"folder": str(Path(folder)), "made_by": recorded_options(folder) if made_by is None else made_by}


def map_dir(args) -> Path:
    """The folder of the maps that labels are made from."""
    return Path(args.expanded_dir or f"{Path(args.cam_dir)}_expanded") if args.affinity_path else Path(args.cam_dir)


def absent_files(folder: Path, ids: list[str], suffix: str) -> list[int]:
    """Indices of the ids without a file in `folder`."""
    existing = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return [index for index, name in enumerate(ids) if name + suffix not in existing]


def progress(work, world: World, title: str):
    """Iterate over this process's share of the work, with a progress bar."""
    return tqdm(work[world.rank :: world.size], desc=title, disable=not world.is_main, mininterval=1, leave=False)


def load_classifier(load_path, classes: tuple[str, ...]) -> CamClassifier:
    """Load a classifier; raises `InputError` for a checkpoint of another stage or of other classes."""
    checkpoint = load_stage(load_path, "--load_path", "classification")
    trained = checkpoint["settings"].get("classes", [])
    if trained != list(classes):
        raise InputError(
            f"--load_path {load_path} knows {len(trained)} classes ({shorten(trained)}), not {shorten(classes)}"
        )
    return rebuild(build_cam_classifier, checkpoint, load_path).eval()


def load_stage(path, flag: str, stage: str) -> dict:
    """Load a checkpoint; raises `InputError` if it is of another stage."""
    checkpoint = load_checkpoint(path)
    if checkpoint["stage"] != stage:
        raise InputError(f"{flag} {path} is a {checkpoint['stage']} checkpoint, not one of train_{stage}.py")
    return checkpoint


def make_cams(images: Images, made_by: dict, args, world: World) -> None:
    """Write the class activation maps that are absent."""
    folder = Path(args.cam_dir)
    absent = set(absent_files(folder, images.ids, ".npz"))
    if not args.load_path:
        if absent:
            raise InputError(f"{folder} lacks the maps of {len(absent)} images: name a classifier by --load_path")
        return
    network = prepare_for_inference(load_classifier(args.load_path, images.classes), world.device) if absent else None
    with lock_output_folder(world, folder, made_by, ".npz", writes=bool(absent)):
        if absent:
            write_cams(network, images, absent, args, world)


def write_cams(network: CamClassifier, images: Images, absent: set[int], args, world: World) -> None:
    """Write the maps of these images; threads write while the network processes the next batch."""
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
    """Compute the maps of a batch: images uint8 [B, H, W, 3] with the classes image_labels, bool [B, C].

    Returns for each image its maps, float32 [K, H, W], and their labels, uint8 [K], one per class of the image.
    """
    pixels = torch.from_numpy(images).to(world.device).permute(0, 3, 1, 2)  # [B, 3, H, W]
    present = np.flatnonzero(image_labels.any(axis=0))  # in any image of the batch
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


def expand_cams(images: Images, made_by: dict, args, world: World) -> None:
    """Write the expanded maps that are absent."""
    folder, network = map_dir(args), None
    absent = absent_files(folder, images.ids, ".npz")
    if absent:
        checkpoint = load_stage(args.affinity_path, "--affinity_path", "affinity")
        network = rebuild(build_affinity_net, checkpoint, args.affinity_path).eval()
        network = prepare_for_inference(network, world.device)
    bar = progress(absent, world, "expansion")
    with lock_output_folder(world, folder, made_by, ".npz", writes=bool(absent)), WriteBehind() as write:
        for index, (cams, classes, image) in read_ahead(lambda index: cams_and_image(images, index, args), bar):
            if image is not None:
                cams = walk_cams(network, image, cams, args, world)
            write(save_cams, folder / f"{images.ids[index]}.npz", cams, classes)


def cams_and_image(images: Images, index: int, args) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Load the maps float32 [K, H, W] of an image, their labels uint8 [K], and the image uint8 [H, W, 3], or None if
    there are no maps."""
    path = Path(args.cam_dir) / f"{images.ids[index]}.npz"
    cams, classes = load_checked_cams(path, images.image_labels[index])
    image = load_image(images.paths[index]) if len(classes) else None
    if image is not None:
        check_size(path, cams.shape[1:], images.paths[index], image.shape[:2])
    return cams, classes, image


@torch.inference_mode()
def walk_cams(network: AffinityNet, image: np.ndarray, cams: np.ndarray, args, world: World) -> np.ndarray:
    """Expand the maps, float32 [K, H, W], of an image, uint8 [H, W, 3], by a random walk at a quarter of its size."""
    pixels = network.backbone.normalise(image_to_tensor(image, world.device))
    with autocast(world.device, args.amp):
        straight, mirrored = require_finite(network(torch.cat([pixels, pixels.flip(3)])).float()).chunk(2)
    edge = (straight + mirrored.flip(3)).div(2).sigmoid()[0, 0]  # [H / 4, W / 4]
    maps = torch.from_numpy(cams).to(world.device)[None]  # [1, K, H, W]
    walked = random_walk(resize(maps, edge.shape)[0], edge, args.beta, 2**args.exp_times, args.radius)
    return normalise_cams(resize(walked[None], maps.shape[-2:])[0]).cpu().numpy()


def make_labels(images: Images, folder: Path, made_by: dict, args, world: World) -> None:
    """Write the labels before the selector that are absent; in several processes if they need a CRF."""
    absent = absent_files(folder, images.ids, ".png")
    needs_crf = args.crf or not CRFS.keys().isdisjoint(evidence_of(args.fusion))
    with lock_output_folder(world, folder, made_by, ".png", writes=bool(absent)):
        bar = progress(absent, world, "labels")
        tasks = ((folder / f"{images.ids[index]}.png", *input_files(images, index, args)) for index in bar)
        do_in_processes(partial(make_label, args), tasks, len(bar), args.workers if needs_crf else 1, world.local_size)
    if world.is_main:
        print(f"{len(absent)} labels made, {len(images.ids) - len(absent)} were there: {folder}")


def input_files(images: Images, index: int, args) -> tuple:
    """The classes of an image, bool [C], and the paths of the image, the label of another method, maps, second maps and
    saliency map; None for a path that is not used."""
    name = f"{images.ids[index]}.npz"
    cam_path, second_cam_path = map_dir(args) / name, Path(args.second_cam_dir or map_dir(args)) / name
    baseline, saliency = (paths[index] if paths else None for paths in (images.baseline, images.maps))
    return images.image_labels[index], images.paths[index], baseline, cam_path, second_cam_path, saliency


def make_label(args, task: tuple) -> None:
    """Write the label of an image; `task` is the path to write, and `input_files` of the image."""
    path, image_labels, image_path, baseline_path, *map_paths = task
    if baseline_path:
        label = load_baseline(baseline_path, image_labels, image_path, image_size(image_path), args.bg_threshold)
    else:
        label = fuse_maps(image_labels, image_path, *map_paths, args)
    save_label(path, label)


def fuse_maps(image_labels, image_path, cam_path, second_cam_path, saliency_path, args) -> np.ndarray:
    """Make the label map, uint8 [H, W], of an image by the fusion rule and, on request, the CRF."""
    paths = cam_path, second_cam_path, image_path, saliency_path
    evidence = load_evidence(evidence_of(args.fusion), *paths, image_labels)
    check_size(cam_path, evidence["cams"].shape[1:], image_path, image_size(image_path))
    constant = {"bg_threshold": args.bg_threshold} if args.fusion == "none" else {}
    label = fuse(args.fusion, evidence, constant | dict(args.fusion_args))
    return label_crf(load_image(image_path))(label, iterations=args.crf_iterations) if args.crf else label


def selector_thresholds(args, classes: tuple[str, ...]) -> Thresholds:
    given = dict(args.class_saliency)
    numbers = args.selector_form, args.t0, args.t1, args.tau
    return build_thresholds(classes, *numbers, args.non_salient_classes, given, args.salient_norm)


def select_labels(images: Images, before: Path, folder: Path, made_by: dict, args, world: World) -> None:
    """Measure all single-class images, choose the thresholds, and write the labels that are absent."""
    label_paths = images.baseline or files_of_ids(before, images.ids, ".png")
    split_cams = files_of_ids(map_dir(args), images.ids, ".npz") if args.multi_class == "split" else None
    thresholds = selector_thresholds(args, images.classes)
    files = images.image_labels, images.maps, split_cams, label_paths
    selector = ImageSelector(thresholds, args.saliency_threshold, *files)

    def read_label(index: int) -> np.ndarray:
        if not images.baseline:
            return load_label(label_paths[index])
        image_path = images.paths[index]
        baseline = label_paths[index], images.image_labels[index], image_path, image_size(image_path)
        return load_baseline(*baseline, args.bg_threshold)

    absent = absent_files(folder, images.ids, ".png")
    with lock_output_folder(world, folder, made_by, ".png"):
        measured, chosen = measure_images(images, selector, read_label, world)
        for index in progress(absent, world, "selection"):
            label = selector.select_image(index, read_label(index), chosen["values"])
            save_label(folder / f"{images.ids[index]}.png", label)
        if world.is_main:
            report_decisions(images, measured, chosen, folder)
    if world.is_main:
        print(f"{len(absent)} labels selected, {len(images.ids) - len(absent)} were there: {folder}")


def measure_images(images: Images, selector: ImageSelector, read_label, world: World) -> tuple[list, dict]:
    """Measure the M single-class images; `read_label` loads the label of an index.

    Returns M tuples of index, label (1..C) and overlap, and the thresholds as of `Thresholds.of_classes`.
    """
    rows = []
    for index in progress(np.flatnonzero(images.image_labels.sum(axis=1) == 1), world, "masks"):
        label, measured, _ = selector.measure_image(index, read_label(index))
        rows.append((int(index), label, *measured))
    rows = sorted(gather_from_processes(rows))
    measured = np.array([row[2:] for row in rows]).reshape(-1, 3)
    labels = np.array([row[1] for row in rows], int)
    return [row[:3] for row in rows], selector.thresholds.of_classes(measured, labels, len(images.classes))


def report_decisions(images: Images, measured: list[tuple], chosen: dict, folder: Path) -> None:
    """Write selector.csv, a line per single-class image, and selector.json, a summary by class; print the summary."""
    thresholds, lines = chosen["values"], [["id", "class", "overlap", "threshold", "replaced"]]
    replaced = {label: [] for label in sorted({label for _, label, _ in measured})}
    for index, label, share in measured:
        is_replaced, threshold = int(share > thresholds[label]), f"{thresholds[label]:.6f}"
        replaced[label].append(is_replaced)
        lines.append([images.ids[index], images.classes[label - 1], f"{share:.6f}", threshold, is_replaced])
    write_csv(folder / "selector.csv", lines)

    numbers = ", ".join(f"{name} {number:.2f}" for name, number in chosen["numbers"].items())
    total = sum(map(sum, replaced.values()))
    print(f"selector: {total} of {len(measured)} single-class labels replaced by masks, {numbers}")
    summary, classes = dict(chosen["numbers"]), {}
    for label, flags in replaced.items():
        name, saliency, threshold = images.classes[label - 1], chosen["saliency"][label], thresholds[label]
        classes[name] = {"images": len(flags), "replaced": sum(flags)}
        classes[name] |= {"saliency": float(saliency), "threshold": float(threshold)}
        print(f"  {name}: {sum(flags)} of {len(flags)}, saliency {saliency:.2f}, threshold {threshold:.2f}")
    if "salient" in chosen:
        summary["non_salient"] = [name for name, salient in zip(images.classes, chosen["salient"][1:]) if not salient]
        print(f"non-salient classes: {shorten(summary['non_salient'], 30) or 'none'}")
    write_json(folder / "selector.json", summary | {"classes": classes})


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
