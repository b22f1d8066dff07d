r"""Stage 2c: class activation maps → expansion → fusion with saliency → dense CRF → salient object selector → labels.

    python make_pseudo_labels.py --label_name cam --load_path experiments/classifier/last.pth --data_dir data/voc12
    python make_pseudo_labels.py --label_name sos --load_path experiments/classifier/last.pth --data_dir data/voc12 \
        --selector sos --saliency_dir experiments/saliency/ours/VOC2012
    python make_pseudo_labels.py --label_name settled --baseline_dir other_method/labels --data_dir data/voc12 \
        --selector evidence --features resnest50 --saliency_dir experiments/saliency/ours/VOC2012

Writes experiments/pseudo_labels/<label_name>/<id>.png, which train_segmentation.py --label_name reads. Maps go to
--cam_dir and --expanded_dir, labels before the selector to <label_name>/before, the decisions of `sos` to
<label_name>/selector.csv, their summary by class to selector.json, and what `evidence` has learned to evidence.npz.
Existing files are kept. Labels of --corrected are written as they are; selectors still learn from the labels before.
With --part I/N, all parts write to the same folders. For --selector evidence, first run the command with --part learn;
for --selector sos, run it without --part at the end.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.make_pseudo_labels().parse_args()  # before the heavy imports, so that --help answers at once

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tqdm import tqdm

from formats import voc_layout
from formats.atomic_files import write_bytes
from formats.cams import save_cams
from formats.corrections import save_corrections
from formats.errors import InputError, shorten
from formats.image_labels import load_image_labels
from formats.images import GreyMap, check_size, image_size, load_image, read_bytes, scale_maps
from formats.labels import load_label, save_label
from models.affinity_net import build_affinity_net
from models.backbones import Backbone, load_feature_network
from models.cam_classifier import CamClassifier, build_cam_classifier
from pseudo_labels.cams import compute_cams, spread_cams
from pseudo_labels.evidence import EvidenceSelector, draw_sample, load_evidence, save_evidence
from pseudo_labels.external_labels import find_baseline, load_baseline
from pseudo_labels.fusion_inputs import CRFS, fuse_files, load_checked_cams
from pseudo_labels.fusion_rules import check_parameters, list_inputs
from pseudo_labels.random_walk import expand_cams
from pseudo_labels.selector import ImageSelector, ThresholdRule, save_decisions
from utils.checkpoint import file_digest, load_checkpoint, rebuild
from utils.distributed import World, gather_from_processes, start_processes, stop_distributed
from utils.file_threads import read_ahead, write_behind
from utils.inference_network import prepare_for_inference
from utils.interruption import run_script
from utils.memory import advise_on_full_memory, batch_by_size, choose_batch_size
from utils.output_folder import folder_origin, load_options, lock_output_folder
from utils.processes import do_in_processes


@dataclass(frozen=True)
class Images:
    """N images of the list `list_ids`; image_labels bool [N, C]; baseline: files of the labels of another method."""

    list_ids: list[str]
    ids: list[str]
    classes: tuple[str, ...]
    paths: Sequence[Path]
    image_labels: np.ndarray
    saliency_maps: Sequence[GreyMap] | None
    baseline: Sequence[Path] | None


def main(args) -> None:
    # distributed
    world = start_processes(main, args)
    if world is None:
        return

    # data
    images = find_images(args, world)
    check_options(args, images)
    rule = ThresholdRule(images.classes, **options.selector_settings(args))
    corrected, temporary = {}, TemporaryDirectory()  # of corrected labels; removed when the run ends
    if args.corrected:
        every = voc_layout.find_all_photographs(voc_layout.find_voc_root(args.data_dir)), images.list_ids
        corrected = save_corrections(args.corrected, temporary.name, images.classes, *every, world.is_main)
    made_by = folder_options(args, images, corrected)
    if args.selector == "evidence":  # a network that cannot be used is found before the CAMs are made
        features = load_feature_network(args.features or args.load_path, args.pretrained, world.device)
    folder, selects = voc_layout.new_label_folder(args.label_name), args.selector != "none"
    if world.is_main and args.saliency_dir and not selects and "saliency" not in list_inputs(args.fusion):
        print(f"--saliency_dir has no effect with --fusion {args.fusion} and without --selector", file=sys.stderr)

    # save: corrected labels, maps, labels, selected labels
    if corrected:
        with lock_output_folder(world, folder, made_by["selected labels" if selects else "labels"], ".png"):
            for image_id in world.share([image_id for image_id in images.ids if image_id in corrected]):
                write_bytes(folder / f"{image_id}.png", read_bytes(corrected[image_id]))
    if made_by["cams"] is not None:
        make_cams(images, made_by["cams"], args, world)
    if made_by["expanded cams"] is not None:
        make_expanded_cams(images, made_by["expanded cams"], args, world)
    if not (selects and args.baseline_dir):
        make_labels(images, folder / "before" if selects else folder, made_by["labels"], args, world)
    if args.selector == "sos" and not world.part:
        select_labels(images, rule, folder, made_by["selected labels"], args, world)
    elif args.selector == "sos" and world.is_main:
        print("this part has its labels before the selector; after all parts, run the same command without --part")
    if args.selector == "evidence":
        settle_labels(images, rule, features, made_by["selected labels"], args, world)
    temporary.cleanup()
    stop_distributed()


def find_images(args, world: World) -> Images:
    """Find all files of the images that the run reads; raises `InputError` for missing ones."""
    voc_root = voc_layout.find_voc_root(args.data_dir)
    classes = voc_layout.load_class_names(voc_root)
    every = voc_layout.load_ids(voc_layout.list_path(args.list_dir, args.list), voc_layout.photograph_folder(voc_root))
    ids = world.take_part(every)
    if args.part == "learn":
        ids = [every[index] for index in draw_sample(range(len(every)), every)]
    image_labels = load_image_labels(voc_layout.list_path(args.list_dir, args.image_labels), ids, classes)
    paths = voc_layout.find_photographs(voc_root, ids)
    saliency_maps = None
    if args.saliency_dir:
        every_map = scale_maps(voc_layout.files_of_ids(args.saliency_dir, every, ".png"), world.is_main)
        saliency_maps = [*map(dict(zip(every, every_map)).get, ids)]
        first = saliency_maps[0].path  # maps of another size, such as the network's, are found before the CAMs are made
        check_size(first, image_size(first), paths[0], image_size(paths[0]))
    baseline = list(find_baseline(args.baseline_dir, ids).values()) if args.baseline_dir else None
    return Images(every, ids, classes, paths, image_labels, saliency_maps, baseline)


def check_options(args, images: Images) -> None:
    """Raise `InputError` for flags that contradict each other or would have no effect."""
    if args.selector != "none" and not images.saliency_maps:
        raise InputError(f"--selector {args.selector} needs --saliency_dir with saliency maps, which predict.py writes")
    if args.selector == "evidence" and not (args.features or args.load_path):
        raise InputError("--selector evidence needs --features with a network, or a classifier by --load_path")
    if args.part and args.selector == "sos" and args.baseline_dir:
        raise InputError("--selector sos measures all labels of --baseline_dir together: omit --part")
    if args.part == "learn" and args.selector != "evidence":
        raise InputError("--part learn needs --selector evidence: nothing else is learnt from the images")
    learnt = voc_layout.new_label_folder(args.label_name) / "evidence.npz"
    if args.part not in (None, "learn") and args.selector == "evidence" and not learnt.is_file():
        raise InputError(f"--part needs {learnt}: first run the same command with --part learn, once")
    if bool(args.affinity_path) != (find_expansion(args) == "walk"):
        raise InputError("--expansion walk and --affinity_path belong together: give both, or neither")
    if find_expansion(args) == "attention" and not args.load_path:
        raise InputError("--expansion attention needs the classifier: name it by --load_path")
    if args.expanded_dir and find_expansion(args) == "none":
        raise InputError("--expanded_dir needs --expansion; name maps that are already expanded by --cam_dir")
    if "saliency" in list_inputs(args.fusion) and not images.saliency_maps:
        raise InputError(f"--fusion {args.fusion} needs --saliency_dir: predict.py writes saliency maps")
    if args.baseline_dir and (args.fusion != "none" or args.fusion_args or args.second_cam_dir or args.crf):
        raise InputError("--baseline_dir holds finished labels: omit --fusion, --fusion_args, --second_cam_dir, --crf")
    check_parameters(args.fusion, dict(args.fusion_args))
    if args.second_cam_dir:
        voc_layout.files_of_ids(args.second_cam_dir, images.ids, ".npz")


def folder_options(args, images: Images, corrected: dict[str, Path]) -> dict[str, dict | None]:
    """What the files of each output folder depend on, for its options.json; None for maps that the run does not use."""

    def chosen(*names: str) -> dict:
        return {name: getattr(args, name) for name in names}

    cams, expanded, used_cams = None, None, None
    if not args.baseline_dir:
        cams = load_options(args.cam_dir)  # without a checkpoint all maps exist
        if args.load_path:
            cams = chosen("scales", "flip", "combine") | {"checkpoint": file_digest(args.load_path)}
        if find_expansion(args) == "walk":
            expanded = chosen("beta", "exp_times", "radius") | {"affinity": file_digest(args.affinity_path)}
        if find_expansion(args) == "attention":
            expanded = {"expansion": "attention"}
        if expanded:
            expanded["cams"] = folder_origin(args.cam_dir, cams)
        used_cams = folder_origin(find_cam_dir(args), expanded or cams)

    class_file = voc_layout.list_path(args.list_dir, args.image_labels)
    labels = {"selector": "none", "classes": list(images.classes)}
    labels["image_labels"] = file_digest(class_file) if class_file.is_file() else str(class_file)
    truth = hashlib.sha256()
    for image_id, path in corrected.items():
        truth.update(image_id.encode() + load_label(path).tobytes())
    labels["corrected"] = truth.hexdigest() if corrected else None
    saliency, second_cams = (folder and folder_origin(folder) for folder in (args.saliency_dir, args.second_cam_dir))
    if args.baseline_dir:
        labels["baseline"] = folder_origin(args.baseline_dir)
    else:
        labels |= {"maps": used_cams, "fusion": args.fusion, "fusion_args": dict(args.fusion_args)}
        labels["crf_iterations"] = args.crf_iterations if args.crf else 0
        inputs = {"saliency": saliency, "second_cams": second_cams}
        labels |= {name: origin for name, origin in inputs.items() if name in list_inputs(args.fusion)}
    labels |= chosen("bg_threshold") if args.fusion == "none" else {}

    selected = chosen("selector", "saliency_threshold") | {"masks": saliency}
    if args.selector == "evidence":
        features = args.features or args.load_path
        digests = [file_digest(path) for path in (features, args.pretrained) if Path(path).is_file()]
        selected |= {"features": Path(features).name, "weights": digests[0] if digests else args.pretrained}
    else:
        selected |= chosen("selector_form", "t0", "t1", "tau", "non_salient_classes", "salient_norm")
    selected["ids"] = hashlib.sha256("\n".join(images.list_ids).encode()).hexdigest()  # both selectors learn from them
    run = {"options": vars(args)}  # for --config
    return {"cams": cams, "expanded cams": expanded, "labels": labels | run, "selected labels": labels | selected | run}


def find_expansion(args) -> str:
    """Return the value of --expansion, whose default depends on --affinity_path."""
    return args.expansion or ("walk" if args.affinity_path else "none")


def find_cam_dir(args) -> Path:
    """Return the folder of the class activation maps that labels are made from: --cam_dir, or the expanded maps."""
    expands = find_expansion(args) != "none"
    return Path(args.expanded_dir or f"{Path(args.cam_dir)}_expanded") if expands else Path(args.cam_dir)


def progress(work, world: World, title: str):
    """Iterate over this process's share of the work, with a progress bar."""
    return tqdm(world.share(work), desc=title, disable=not world.is_main, mininterval=1, leave=False)


def load_network(builder, path, flag: str, stage: str, device: torch.device, classes: tuple[str, ...] = ()):
    """Load a network for inference. Raises `InputError` for a checkpoint of another stage or, if given, classes."""
    checkpoint = load_checkpoint(path, [stage])
    trained = checkpoint["settings"].get("classes", [])
    if classes and trained != list(classes):
        found = f"{flag} {path} has {len(trained)} classes ({shorten(trained, 3)}), the data has {len(classes)}"
        raise InputError(f"{found} ({shorten(classes, 3)}): use the classifier of this data set, or check classes.txt")
    return prepare_for_inference(rebuild(builder, checkpoint, path), device)


def make_cams(images: Images, made_by: dict, args, world: World) -> None:
    """Write the class activation maps that are absent."""
    folder, network = Path(args.cam_dir), None
    absent = set(voc_layout.absent_files(folder, images.ids, ".npz"))
    if not args.load_path:
        if absent:
            raise InputError(f"{folder} lacks the maps of {len(absent)} images: name a classifier by --load_path")
        return
    if absent:
        kind = "--load_path", "classification", world.device, images.classes
        network = load_network(build_cam_classifier, args.load_path, *kind)
    with lock_output_folder(world, folder, made_by, ".npz", writes=bool(absent)):
        write_cams(network, images, absent, args, world)


@advise_on_full_memory("lower --batch, or give fewer --scales")
def write_cams(network: CamClassifier | None, images: Images, absent: set[int], args, world: World) -> None:
    """Write the maps of these images; threads write while the network processes the next batch."""
    how = world.device, args.scales, args.flip, args.combine, args.amp
    batch_size = choose_batch_size(args.batch, world.device, on_gpu=8)
    sizes = [image_size(path) for path in images.paths] if absent else []
    batches = [batch for batch in batch_by_size(sizes, batch_size, max(args.scales)) if absent.intersection(batch)]
    bar = progress(batches, world, "class activation maps")
    with write_behind() as write:
        for batch, loaded in read_ahead(lambda batch: [load_image(images.paths[index]) for index in batch], bar):
            cams = compute_cams(network, np.stack(loaded), images.image_labels[batch], *how)
            for index, (maps, labels) in zip(batch, cams):
                if index in absent:
                    write(save_cams, Path(args.cam_dir) / f"{images.ids[index]}.npz", maps, labels)


def make_expanded_cams(images: Images, made_by: dict, args, world: World) -> None:
    """Write the expanded maps that are absent."""
    folder, expand = find_cam_dir(args), None
    absent = voc_layout.absent_files(folder, images.ids, ".npz")
    if absent and find_expansion(args) == "walk":
        network = load_network(build_affinity_net, args.affinity_path, "--affinity_path", "affinity", world.device)
        settings = {"beta": args.beta, "steps": 2**args.exp_times, "radius": args.radius}
        expand = partial(expand_cams, network, device=world.device, **settings, amp=args.amp)
    elif absent:
        kind = "--load_path", "classification", world.device, images.classes
        network = load_network(build_cam_classifier, args.load_path, *kind)
        expand = partial(spread_cams, network.backbone, device=world.device, amp=args.amp)

    def read(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cam_path, image_path = Path(args.cam_dir) / f"{images.ids[index]}.npz", images.paths[index]
        cams, labels = load_checked_cams(cam_path, images.image_labels[index])
        image = load_image(image_path)
        check_size(cam_path, cams.shape[1:], image_path, image.shape[:2])
        return cams, labels, image

    bar = progress(absent, world, "expansion")
    with lock_output_folder(world, folder, made_by, ".npz", writes=bool(absent)), write_behind() as write:
        for index, (cams, labels, image) in read_ahead(read, bar):
            if len(labels):
                cams = expand(image, cams)
            write(save_cams, folder / f"{images.ids[index]}.npz", cams, labels)


def make_labels(images: Images, folder: Path, made_by: dict, args, world: World) -> None:
    """Write the labels before the selector that are absent; in several processes if they need a CRF."""
    absent = voc_layout.absent_files(folder, images.ids, ".png")
    needs_crf = args.crf or not CRFS.keys().isdisjoint(list_inputs(args.fusion))
    with lock_output_folder(world, folder, made_by, ".png", writes=bool(absent)):
        bar, workers = progress(absent, world, "labels"), args.workers if needs_crf else 1
        do_in_processes(partial(save_made_label, images, folder, args), bar, len(bar), workers, world.local_size)
    if world.is_main:
        print(f"{len(absent)} labels written, {len(images.ids) - len(absent)} already existed: {folder}")


def save_made_label(images: Images, folder: Path, args, index: int) -> None:
    save_label(folder / f"{images.ids[index]}.png", make_label(images, index, args))


def make_label(images: Images, index: int, args) -> np.ndarray:
    """Make the label of an image before the selector, uint8 [H, W]: that of another method, or one fused from maps."""
    path, image_labels = images.paths[index], images.image_labels[index]
    if images.baseline:
        return load_baseline(images.baseline[index], image_labels, path, image_size(path), args.bg_threshold)
    name, cam_dir = f"{images.ids[index]}.npz", find_cam_dir(args)
    cams = cam_dir / name, Path(args.second_cam_dir or cam_dir) / name
    saliency_map = images.saliency_maps[index] if images.saliency_maps else None
    parameters = ({"bg_threshold": args.bg_threshold} if args.fusion == "none" else {}) | dict(args.fusion_args)
    iterations = args.crf_iterations if args.crf else 0
    return fuse_files(args.fusion, parameters, iterations, image_labels, path, *cams, saliency_map)


def select_labels(images: Images, rule: ThresholdRule, folder: Path, made_by: dict, args, world: World) -> None:
    """Measure all single-class images, choose the thresholds, and write the labels that are absent."""
    selector, read_label = build_selector(images, rule, folder, args)
    absent, measured = voc_layout.absent_files(folder, images.ids, ".png"), []
    with lock_output_folder(world, folder, made_by, ".png"):
        for index in progress(np.flatnonzero(images.image_labels.sum(axis=1) == 1).tolist(), world, "masks"):
            measured.append(selector.measure_image(index, read_label(index))[0])
        measured = sorted(gather_from_processes(measured))
        chosen = rule.compute(measured)
        for index in progress(absent, world, "selection"):
            label = selector.select_image(index, read_label(index), chosen["values"])
            save_label(folder / f"{images.ids[index]}.png", label)
        if world.is_main:
            print(save_decisions(folder, measured, chosen, images.ids, images.classes))
            print(f"{len(absent)} labels selected, {len(images.ids) - len(absent)} already existed: {folder}")


def build_selector(images: Images, rule: ThresholdRule, folder: Path, args) -> tuple[ImageSelector, Callable]:
    """Build the selector, and the function that reads the label of an image before it."""
    before = images.baseline or voc_layout.files_of_ids(folder / "before", images.ids, ".png")
    selector = ImageSelector(rule, args.saliency_threshold, images.image_labels, images.saliency_maps, before)

    def read_label(index: int) -> np.ndarray:
        return make_label(images, index, args) if images.baseline else load_label(before[index])

    return selector, read_label


@advise_on_full_memory("name a smaller network by --features, or shrink the largest images")
def settle_labels(images: Images, rule: ThresholdRule, features: Backbone, made_by: dict, args, world: World) -> None:
    """Learn from a sample of the images, unless an earlier run did, and write the labels that are absent."""
    folder = voc_layout.new_label_folder(args.label_name)
    threshold_selector, read_label = build_selector(images, rule, folder, args)
    masks = threshold_selector.load_mask, threshold_selector.reference_paths
    selector = EvidenceSelector(features, world.device, images.ids, images.paths, images.image_labels, *masks)
    absent, path = voc_layout.absent_files(folder, images.ids, ".png"), folder / "evidence.npz"
    sample = [] if path.is_file() else selector.sample(range(len(images.ids)))
    with lock_output_folder(world, folder, made_by, ".png"):
        drawn = [selector.draw(index, read_label(index)) for index in progress(sample, world, "evidence")]
        drawn = gather_from_processes(drawn)
        if sample and world.is_main:
            save_evidence(path, selector.learn(drawn))
        world.wait_for_all()
        evidence = load_evidence(path)
        for index in progress(absent, world, "selection"):
            label = selector.select_image(index, read_label(index), evidence)
            save_label(folder / f"{images.ids[index]}.png", label)
    if world.is_main:
        print(f"trust in the labels: {evidence.trust:+.1f} (logit; from their overlap with the masks)")
        print(f"{len(absent)} labels selected, {len(images.ids) - len(absent)} already existed: {folder}")


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
