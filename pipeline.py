r"""Run a whole sequence of the README's commands: every stage, from data to tables.

    python pipeline.py own --images photographs --tags tags.csv --saliency_dir maps --output experiments/own
    python pipeline.py demo                          every stage on drawn scenes: minutes on two CPU cores
    python pipeline.py voc12 --row resnest269        a row of the paper's table, from images to mean ± deviation
    python pipeline.py voc12 --row resnest269 --baseline_dir other_method/labels
    python pipeline.py coco14 --row resnest101       the same on COCO 2014
    python pipeline.py label_quality --saliency_dir experiments/saliency/ours/VOC2012

Each command is shown and timed (<output>/times.tsv). A sequence that was stopped continues when it is started again:
finished stages are skipped, trainings are resumed, and files that exist are not made again. The stages run one after
the other from this process.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.pipeline().parse_args()

import csv
import gc
import importlib
import json
import shlex
import time
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from datasets.drawn_scenes import write_demo_scenes
from formats.atomic_files import write_json
from formats.cams import load_cams
from formats.corrections import save_corrections
from formats.errors import InputError, MissingInputError, require_folder
from formats.images import image_size, load_grey, load_image
from formats.labels import load_label, paint_label
from formats.voc_layout import (
    find_all_photographs,
    find_photographs,
    find_voc_root,
    load_class_names,
    load_ids,
    photograph_folder,
)
from metrics.plots import save_picture_grid
from models.cam_classifier import build_cam_classifier
from models.deeplabv3plus import build_deeplabv3plus
from models.onnx_export import list_missing_packages
from pseudo_labels.cams import paint_cams
from pseudo_labels.self_training import share_of_changes
from utils import interruption
from utils.inference_network import find_tensors
from utils.interruption import run_script
from utils.output_folder import hold_folder, record_options

UNFINISHED = ""
Stage = tuple[str, str]  # name and command; stages of one kind share a name

# The demo: narrow networks from random weights.
DEMO_RESNEST = "--backbone resnest14 --backbone_args channels=16,32,64,128 stem_width=16"
DEMO_SALIENCY = """--backbone swin_tiny_patch4_window7_224 --pretrained none --decoder_width 192 --image_size 112 \
    --backbone_args embed_dim=32 depths=1,1,2,1 num_heads=1,2,4,8 window_size=7 --dropout 0 --edge_drop_path 0 \
    --colour_jitter 0 --max_epoch 6 --train_batch 8 --lr 2e-3 --decay_epoch 2"""
DEMO_CLASSIFIER = f"""{DEMO_RESNEST} --pretrained none --max_epoch 10 --train_batch 16 --optimizer adamw --lr 2e-3 \
    --head_lr 1 --crop_size 128 --long_side 128 192 --val_list none"""
DEMO_SEGMENTATION = f"""{DEMO_RESNEST} --mode normal --use_gn False --head_width 48 --max_epoch 6 --train_batch 16 \
    --optimizer adamw --lr 1e-3 --head_lr 3 --crop_size 128 --long_side 144 192 --val_list none"""
DEMO_RESULTS = """
saliency maps of held-out scenes: max F {saliency_maxF:.3f}, MAE {saliency_MAE:.3f}
labels of single-class training scenes: mIoU {single_class_mIoU_cam:.1%}, after the selector {single_class_mIoU_sos:.1%}
segmentations of held-out scenes: mIoU {segmentation_mIoU:.1%}
picture: {picture}"""

# A row of a table: the list of training images, and the folder of their masks.
ROW_INPUTS = {"voc12": ("train_aug_id.txt", "SegmentationClassAug"), "coco14": ("train_id.txt", "SegmentationClass")}

# Photographs of the user: `steps` of each training if 5 to 40 epochs allow it.
OWN_ON_CPU = {"backbone": "tf_efficientnet_lite0", "crop": 256, "batch": 8, "steps": 500, "head": 64}
OWN_ON_GPU = {"backbone": "resnest50", "crop": 512, "batch": 16, "steps": 2000, "head": 256}
LEAST_EPOCHS, MOST_EPOCHS = 5, 40
LEAST_CHANGE = 0.01  # share of pixels that a round must change for another network to be trained
OWN_SIDE_PX = 512  # photographs whose longer side is larger are predicted at scales around this size


def main(args) -> None:
    if args.command in ("demo", "own"):
        {"demo": demo, "own": own}[args.command](args)
    else:
        output = args.output or f"experiments/{args.command}_{args.row}"
        stages = {"label_quality": label_quality_stages}.get(args.command, row_stages)(args, quote(output))
        run_stages(Path(output), add_flags(stages, args.flags))


def demo(args) -> None:
    """Draw scenes, run every stage on them, and print the scores."""
    folder = Path(args.work_dir)
    hold_folder(folder)
    settings = {name: getattr(args, name) for name in ("seed", "num_saliency", "num_train", "num_val")}
    record_options(folder, settings, suffix="voc12")  # the folder voc12/ exists if scenes were drawn
    print(f"drawing {args.num_saliency + args.num_train + 2 * args.num_val} scenes in {folder}", flush=True)
    write_demo_scenes(folder, args.num_saliency, args.num_train, args.num_val, args.seed)
    if args.draw_only:
        return
    run_stages(folder, demo_stages(quote(folder), args.seed))
    scores = demo_scores(folder)
    write_json(folder / "results.json", scores)
    draw_demo_picture(folder)
    print(DEMO_RESULTS.format(**scores, picture=folder / "demo.png"))


def demo_stages(work: str, seed: int) -> list[Stage]:
    voc = f"--data_dir {work}/data/voc12 --list_dir {work}/voc12"
    images, maps, runs = f"{work}/data/voc12/VOCdevkit/VOC2012/JPEGImages", f"{work}/saliency/ours", f"{work}/runs"
    run = f"--log_path {runs} --workers 1 --seed {seed}"
    # single-class scenes alone: the selector works on these, and a weak classifier's labels of the others stay weak
    label = f"make_pseudo_labels.py {voc} --list single_class_id.txt --load_path {runs}/classifier/last.pth"
    label += f" --cam_dir {work}/cams --scales 1 1.5"
    # labels are weak: a low threshold, so that the mask wins more often
    select = f"--selector sos --t0 0.1 --t1 0.1 --saliency_dir {maps}/VOC2012"
    return read_stages(f"""
        train saliency: SOD_train.py --train_root {work}/dataset --tag sod {run} {DEMO_SALIENCY}
        saliency maps of the benchmark: predict.py --load_path {runs}/sod/last.pth --flip \
            --input {work}/dataset/benchmark/DRAWN-TE --output {maps}/DRAWN-TE
        scores of saliency maps: evaluate.py saliency --pred {maps} --gt_root {work}/dataset/benchmark \
            --json {work}/saliency.json
        saliency maps: predict.py --load_path {runs}/sod/last.pth --flip --input {images} \
            --list {work}/voc12/single_class_id.txt --output {maps}/VOC2012
        train classifier: train_classification.py {voc} --tag classifier {run} {DEMO_CLASSIFIER}
        labels from CAMs: {label} --label_name {work}/labels/cam
        labels after the selector: {label} --label_name {work}/labels/sos {select}
        scores of labels: evaluate.py labels --pred {work}/labels/cam {work}/labels/sos \
            --data_dir {work}/data/voc12 --list {work}/voc12/single_class_id.txt --json {work}/labels.json
        train segmentation: train_segmentation.py {voc} --train_list single_class_id.txt --tag segmentation {run} \
            --label_name {work}/labels/sos {DEMO_SEGMENTATION} --pretrained {runs}/classifier/last.pth
        segmentations: predict.py --load_path {runs}/segmentation/last.pth --input {images} \
            --list {work}/voc12/demo_id.txt --output {work}/segmentations --scales 1 1.5 --flip
        scores of segmentations: evaluate.py segmentation --pred {work}/segmentations --data_dir {work}/data/voc12 \
            --list {work}/voc12/val_id.txt --json {work}/segmentation.json
    """)


def demo_scores(folder: Path) -> dict[str, float]:
    """The scores that evaluate.py wrote, as one flat dict."""
    read = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("saliency", "labels", "segmentation")}
    root = folder.as_posix()
    benchmark = read["saliency"][f"{root}/saliency/ours"]["DRAWN-TE"]
    return {
        "saliency_maxF": benchmark["maxF"],
        "saliency_MAE": benchmark["MAE"],
        "single_class_mIoU_cam": read["labels"][f"{root}/labels/cam"]["mIoU"],
        "single_class_mIoU_sos": read["labels"][f"{root}/labels/sos"]["mIoU"],
        "segmentation_mIoU": read["segmentation"][f"{root}/segmentations"]["mIoU"],
    }


def draw_demo_picture(folder: Path) -> None:
    """Write demo.png with one row per scene."""
    voc = "data/voc12/VOCdevkit/VOC2012"
    label_folders = "labels/cam", "labels/sos", "segmentations", f"{voc}/SegmentationClassAug"
    titles, rows = ("image", "CAM", "saliency", "label before", "label after", "prediction", "truth"), []
    for name in load_ids(folder / "voc12/picture_id.txt"):
        image = load_image(folder / voc / "JPEGImages" / f"{name}.jpg")
        cams, _ = load_cams(folder / "cams" / f"{name}.npz")
        saliency = load_grey(folder / "saliency/ours/VOC2012" / f"{name}.png")
        labels = [paint_label(load_label(folder / path / f"{name}.png")) for path in label_folders]
        cells = [image, (image * 0.4 + paint_cams(cams) * 0.6).astype(np.uint8), np.dstack([saliency] * 3), *labels]
        rows.append(dict(zip(titles, cells)))
    save_picture_grid(folder / "demo.png", rows)


def own(args) -> None:
    """Run every stage on photographs and tags of the user, with sizes and epochs chosen for them and the device."""
    if bool(args.saliency_dir) == bool(args.saliency_load_path):
        raise InputError("saliency maps come from one place: give --saliency_dir (ready maps) or --saliency_load_path")
    if args.pretrained not in ("imagenet", "none") and not Path(args.pretrained).is_file():
        raise MissingInputError(f"--pretrained {args.pretrained}: no such file (or use `imagenet` or `none`)")
    folder, out = Path(args.output), quote(args.output)
    tags = f"--images {quote(args.images)} --tags {quote(args.tags)} --output {out}/data"
    run_stages(folder, read_stages(f"data: prepare_data.py own {tags}"))
    ids = load_ids(folder / "data/all_id.txt", photograph_folder(folder / "data"))
    paths = find_photographs(folder / "data", ids)
    sizes_hw = np.array([image_size(path) for path in paths[:: len(paths) // 100 + 1]])  # [N, 2]
    if args.corrected:  # a mask that cannot be used is found before work starts
        everything = find_all_photographs(folder / "data")
        with TemporaryDirectory() as unused:
            save_corrections(args.corrected, unused, load_class_names(folder / "data"), everything, ids, warns=False)
    groups = own_stages(args, out, len(ids), sizes_hw)
    names = {name for stages in groups.values() for name, _ in stages}
    groups = {key: add_flags(stages, args.flags, names) for key, stages in groups.items()}
    for _, command in chain(*groups.values()):
        parse_command(command)  # a mistake in the flags of a late stage ends the sequence before its first one
    if not (folder / "runs").exists():
        commands = dict(groups["start"] + groups["results 0"])
        minutes = expect_minutes(commands, len(ids), sizes_hw)
        print(f"\nabout {minutes:.0f} minutes if nothing else runs on this machine, with these trainings:")
        for name in ("classifier", "network"):
            print(f"$ python {commands[name]}")
        print(
            'Other choices: --backbone NAME, or flags of a stage, such as --flags "network --max_epoch 5"', flush=True
        )
    finished, last = run_stages(folder, groups["start"]), 0
    for number in range(1, args.rounds + 1):
        finished = run_stages(folder, groups[f"labels {number}"], finished)
        share = share_of_changes(*(own_folder(args, place) / "labels" for place in (number - 1, number)), ids)
        print(f"round {number}: {share:.1%} of all pixels have another label than before", flush=True)
        if share < LEAST_CHANGE:
            break
        finished, last = run_stages(folder, groups[f"network {number}"], finished), number
    run_stages(folder, groups[f"results {last}"], finished)
    if missing := list_missing_packages():
        print(
            f"without network.onnx: {', '.join(missing)} not installed; pip install -r requirements-onnx.txt, run again"
        )


def own_folder(args, number: int) -> Path:
    """The folder of labels and network after a round; 0: before the first."""
    folder = Path(args.output)
    folder = folder / "corrected" / Path(args.corrected).stem if args.corrected else folder
    return folder / f"round{number}" if number else folder


def own_stages(args, out: str, num_images: int, sizes_hw: np.ndarray) -> dict[str, list[Stage]]:
    """From photographs and tags to masks, a network, and a page of doubtful labels: the stages "start", "labels N" and
    "network N" of each round, and "results N" after it (0: without a round).

    num_images: tagged photographs. sizes_hw: int [N, 2], the sizes of some of them in px.
    """
    plan = OWN_ON_GPU if torch.cuda.is_available() else OWN_ON_CPU
    epochs = min(max(round(plan["steps"] * plan["batch"] / num_images), LEAST_EPOCHS), MOST_EPOCHS)
    args.backbone = args.backbone or plan["backbone"]
    shrink = min(1, OWN_SIDE_PX / np.median(sizes_hw.max(axis=1)))
    scales = " ".join(f"{factor * shrink:.3g}" for factor in (0.5, 1, 1.5, 2))
    corrected = f"--corrected {quote(args.corrected)}" if args.corrected else ""
    images, maps = quote(args.images), quote(args.saliency_dir) if args.saliency_dir else f"{out}/saliency"
    tree, listed = f"--data_dir {out}/data --list_dir {out}/data", f"--list {out}/data/all_id.txt"
    train = f"{network_flags(args)} {tree} --train_list all_id.txt --val_list none --max_epoch {epochs} \
        --train_batch {plan['batch']} --crop_size {plan['crop']} --long_side {plan['crop']} {plan['crop'] * 3 // 2} \
        --optimizer adamw"
    select = f"{tree} {listed} --image_labels labels.csv {corrected} --load_path {out}/runs/classifier/last.pth \
        --selector evidence --saliency_dir {maps}"
    stages = f"check: prepare_data.py check {tree} --list all_id.txt --image_labels labels.csv"
    if args.saliency_dir:
        stages += f" --saliency_dir {maps}"
    else:
        stages += f"""
        saliency: predict.py --load_path {quote(args.saliency_load_path)} --input {images} {listed} --output {maps}
        """
    groups = {}
    for number in range(args.rounds + 1):
        part, before = quote(own_folder(args, number)), quote(own_folder(args, max(number - 1, 0)))
        network = f"""
        network: train_segmentation.py {train} --label_name {part}/labels --lr 1e-4 --head_lr 20 --ema 0.995 \
            --class_balance 0.98 --head_width {plan["head"]} --dropout 0.3 --log_path {part}/runs --tag network
        """
        if number == 0:
            stages += f"""
        classifier: train_classification.py {train} --image_labels labels.csv --lr 3e-4 --head_lr 10 \
            --log_path {out}/runs --tag classifier
        labels: make_pseudo_labels.py {select} --label_name {part}/labels --cam_dir {out}/cams --scales {scales} \
            --expansion attention --bg_threshold 0.4
            """
            groups["start"] = read_stages(stages + network)
        else:
            groups[f"labels {number}"] = read_stages(f"""
        predicted labels: predict.py --load_path {before}/runs/network/last.pth --input {images} {listed} \
            --image_labels {out}/data/labels.csv --previous_dir {before}/labels --output {part}/predicted \
            --scales {scales} --flip
        labels of the round: make_pseudo_labels.py {select} --label_name {part}/labels --baseline_dir {part}/predicted
            """)
            groups[f"network {number}"] = read_stages(network)
        onnx = f"onnx: export.py onnx --load_path {part}/runs/network/last.pth --output {part}/network.onnx"
        groups[f"results {number}"] = read_stages(f"""
        predictions: predict.py --load_path {part}/runs/network/last.pth --input {images} {listed} \
            --output {part}/segmentations --scales {scales} --flip
        masks: export.py labels --input {part}/labels --classes {out}/data/classes.txt --images {images} \
            --format coco --output {part}/labels.json
        page: evaluate.py doubt --data_dir {out}/data {listed} --pred {part}/labels --predictions {part}/segmentations \
            --saliency_dir {maps} --csv {part}/doubt.csv --report {part}/doubt.html
        {"" if list_missing_packages() else onnx}
        """)
    return groups


def expect_minutes(commands: dict[str, str], num_images: int, sizes_hw: np.ndarray) -> float:
    """Estimate the time of `own_stages` from a training step of both networks; sizes_hw: int [N, 2] in px."""
    args = {name: parse_command(command)[1] for name, command in commands.items()}
    photograph_px, seconds = sizes_hw.prod(axis=1).mean(), 0.0
    for train, apply, build in (
        ("classifier", "labels", build_cam_classifier),
        ("network", "predictions", build_deeplabv3plus),
    ):
        settings = vars(args[train]) | options.backbone_settings(args[train]) | {"classes": ["object"]}
        step_s = time_step(build(settings), args[train].crop_size, args[train].train_batch)
        crops = 2 * sum(scale**2 for scale in args[apply].scales) * photograph_px / args[train].crop_size ** 2
        seconds += step_s * (args[train].max_epoch + crops / 3)  # a forward pass takes about a third of a step
    return num_images * seconds / 60


def time_step(network: torch.nn.Module, side_px: int, batch: int) -> float:
    """Measure the seconds per image of a forward and backward pass, the second one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, images = network.to(device), torch.rand(batch, 3, side_px, side_px, device=device)
    for _ in range(2):
        started_s = time.perf_counter()
        sum(output.mean() for output in find_tensors(network(images))).backward()
        if device == "cuda":
            torch.cuda.synchronize()
    return (time.perf_counter() - started_s) / batch


def row_stages(args, out: str) -> list[Stage]:
    """A row of the paper's table: segmentation trained on labels before and after the selector, and on masks."""
    backbone = "resnet-101" if args.row == "resnet101" else args.row
    route = "strong" if args.baseline_dir else "ours"
    train_list, masks = ROW_INPUTS[args.command]
    images = photograph_folder(find_voc_root(args.data_dir))
    data, lists, images = map(quote, (args.data_dir, args.list_dir, images))
    voc, runs = f"--data_dir {data} --list_dir {lists}", f"{out}/runs"
    train, make = f"{voc} --train_list {train_list}", f"make_pseudo_labels.py {voc} --list {train_list}"
    labels, tables = f"{out}/labels/{route}", f"{out}/tables/{route}"

    saliency, stages = quote(args.saliency_dir) if args.saliency_dir else f"{out}/saliency", ""
    if not args.saliency_dir:
        stages += f"""
        saliency: SOD_train.py --backbone swin-base-224 --max_epoch 150 --lr 1e-4 --train_batch 16 --decay_epoch 15 \
            --gamma 0.5 --edge_loss 1 --cache-mode part --train_root {quote(args.train_root)} \
            --log_path {runs} --tag saliency
        saliency maps: predict.py --load_path {runs}/saliency/last.pth --input {images} \
            --list {lists}/{train_list} --output {saliency}
        """
    if args.baseline_dir:
        selector = "sos --t0 0.4 --t1 0.2"  # the paper's, for strong labels
        stages += f"""
        labels: {make} --baseline_dir {quote(require_folder(args.baseline_dir))} --label_name {labels}/before
        """
    else:  # CAMs of a Puzzle-CAM classifier, expanded by a random walk, refined by a CRF
        selector = f"evidence --features {runs}/classifier/last.pth"  # it treats images of several classes too
        label = f"{make} --load_path {runs}/classifier/last.pth --cam_dir {out}/cams"
        stages += f"""
        classifier: train_classification.py {train} --backbone {backbone} --puzzle --log_path {runs} --tag classifier
        affinity labels: {label} --label_name {out}/labels/affinity --fusion affinity
        affinity: train_affinity.py {train} --backbone resnet-50 --label_name {out}/labels/affinity \
            --log_path {runs} --tag affinity
        labels: {label} --label_name {labels}/before --affinity_path {runs}/affinity/last.pth \
            --expanded_dir {out}/cams_expanded --bg_threshold 0.35 --crf --crf_iterations 1
        """
    stages += f"""
        selector: {make} --baseline_dir {labels}/before --label_name {labels}/selected --selector {selector} \
            --saliency_dir {saliency}
        scores of labels: evaluate.py labels --pred {labels}/before {labels}/selected --data_dir {data} \
            --list {lists}/train_id.txt --image_labels {lists}/cls_labels.npy --tables {tables}/labels \
            --json {tables}/labels.json
        """

    predict, predicted = f"predict.py --input {images} --scales 0.5 1 1.5 2 --flip", []
    for setting in (f"{route}/before", f"{route}/selected", "truth"):
        label_name = masks if setting == "truth" else f"{out}/labels/{setting}"
        for seed in args.seeds:  # last.pth is scored: best.pth was chosen on the same images
            stages += f"""
        segmentation: train_segmentation.py {train} --backbone {backbone} --mode fix --use_gn True --seed {seed} \
            --label_name {label_name} --log_path {runs}/{setting} --tag seed{seed}
        """
            for crf in ("", "+crf") if args.crf else ("",):
                predicted.append(f"{out}/segmentations/{setting}{crf}/seed{seed}")
                stages += f"""
        prediction: {predict} --load_path {runs}/{setting}/seed{seed}/last.pth --list {lists}/val_id.txt \
            --output {predicted[-1]} {"--crf" if crf else ""}
        """
    stages += f"""
        scores of segmentations: evaluate.py segmentation --pred {" ".join(predicted)} --data_dir {data} \
            --list {lists}/val_id.txt --tables {tables}/segmentation --json {tables}/segmentation.json
    """
    if args.command == "voc12" and args.submission:
        stages += f"""
        prediction: {predict} --load_path {runs}/{route}/selected/seed{args.seeds[0]}/last.pth \
            --list {lists}/test_id.txt --output {out}/segmentations/test/{route} {"--crf" if args.crf else ""} \
            --voc_submission {out}/submissions/{route}.tar.gz
        """
    return read_stages(stages)


def label_quality_stages(args, out: str) -> list[Stage]:
    """Labels made in every way this project has, scored before and after the selector with every kind of maps."""
    data, lists, *maps = map(quote, (args.data_dir, args.list_dir, *args.saliency_dir))
    voc, runs = f"--data_dir {data} --list_dir {lists}", f"{out}/runs"
    network, crops = network_flags(args), "--crop_size 256 --long_side 256 384 --train_batch 16"
    train = f"train_classification.py {network} {voc} {crops} --max_epoch 20 --optimizer adamw --lr 3e-4 --head_lr 10"
    train += f" --val_every 10 --log_path {runs}"
    label, plain, stages = f"make_pseudo_labels.py {voc}", f"{out}/cams/plain", ""
    for name, flags in {"plain": "", "puzzle": "--puzzle", "eps": f"--saliency_dir {maps[0]}"}.items():
        stages += f"""
        classifier: {train} --tag {name} {flags}
        labels: {label} --load_path {runs}/{name}/last.pth --cam_dir {out}/cams/{name} --bg_threshold 0.25 \
            --label_name {out}/{name}
        """
    walk = f"{label} --cam_dir {plain} --affinity_path {runs}/affinity/last.pth --expanded_dir {out}/cams/walk"
    stages += f"""
        labels: {label} --cam_dir {plain} --bg_threshold 0.25 --crf --label_name {out}/plain_crf
        labels: {label} --cam_dir {plain} --fusion affinity --label_name {out}/affinity
        affinity: train_affinity.py {network} {voc} {crops} --max_epoch 5 --label_name {out}/affinity \
            --log_path {runs} --tag affinity
        labels: {walk} --bg_threshold 0.45 --label_name {out}/walk
        labels: {walk} --bg_threshold 0.45 --crf --crf_iterations 1 --label_name {out}/walk_crf
    """
    scored = " ".join(f"{out}/{name}" for name in ("plain", "puzzle", "eps", "plain_crf", "walk", "walk_crf"))
    for folder, name in zip(maps, args.saliency_dir):
        stages += f"""
        scores: evaluate.py labels --data_dir {data} --list {lists}/train_id.txt --image_labels {lists}/cls_labels.npy \
            --baseline_dir {scored} --sweep \
            --saliency_dir {folder} --tables {out}/tables_{quote("_".join(Path(name).parts[-2:]))}
        """
    return read_stages(stages)


def network_flags(args) -> str:
    """The flags of the backbone as words of a command."""
    words = ["--backbone", args.backbone, "--pretrained", args.pretrained]
    if args.backbone_args:
        words += ["--backbone_args", *(f"{key}={value!r}" for key, value in args.backbone_args)]
    for name in ("pixel_mean", "pixel_std"):
        if getattr(args, name):
            words += [f"--{name}", *map(str, getattr(args, name))]
    return shlex.join(words)


def read_stages(text: str) -> list[Stage]:
    """The stages in a text with a line `name: command` for each."""
    stages = [line.strip().split(": ", 1) for line in text.splitlines() if line.strip()]
    return [(name, shlex.join(shlex.split(command))) for name, command in stages]


def add_flags(stages: list[Stage], given: list[str], names=()) -> list[Stage]:
    """Append flags of the user. Each text is the name of a stage and flags, such as "segmentation --lr 0.01".

    names: those of the whole sequence, if `stages` is a part of it.
    """
    names = names or {name for name, _ in stages}
    for text in given:
        name, _, flags = text.partition(" --")
        if name not in names or not flags:
            raise InputError(f"--flags {text!r}: begin with a stage, one of {', '.join(sorted(names))}, then its flags")
        stages = [(other, f"{command} --{flags}" if other == name else command) for other, command in stages]
    return stages


def quote(path) -> str:
    """A path as one word of a command, the same on all systems."""
    return shlex.quote(Path(path).as_posix())


def run_stages(folder: Path, stages: list[Stage], is_finished: bool = True) -> bool:
    """Run the unfinished commands in order, and append the time of each to <folder>/times.tsv.

    After the first command that runs, all others run too: what they read may have changed. They are quick if nothing is
    to be done. is_finished: no command ran before; returns whether that is still so.
    """
    for _, command in stages:
        parse_command(command)  # a mistake in the flags ends the sequence before its first stage
    hold_folder(folder)
    latest = load_latest_commands(folder / "times.tsv")
    for _, command in stages:  # a finished training is not continued with other flags
        if latest.get(find_run(command), command) not in (command, UNFINISHED):
            found = f"{find_run(command)} was trained by another command"
            raise InputError(f"{found}: give the flags of that run again, or delete the folder to train anew")
    finished = set(latest.values())
    for number, (name, command) in enumerate(stages, start=1):
        is_finished = is_finished and command in finished
        print(f"\n[{number}/{len(stages)}] {name}\n$ python {command}", flush=True)
        if is_finished:
            print("finished before, skipped", flush=True)
            continue
        started_s, state = time.perf_counter(), "stopped"
        try:
            run_command(command)
            state = "finished"
        except interruption.Interrupted:
            interruption.set_resume_hint("run the same command again")
            raise
        finally:
            note_time(folder / "times.tsv", name, time.perf_counter() - started_s, state, command)
    return is_finished


def run_command(command: str) -> None:
    """Call the `main` of a script of the project in this process; raises `InputError` if the exit code is not 0."""
    script, args = parse_command(command)
    interruption.listen()
    code = importlib.import_module(script).main(args)
    gc.collect()  # loaders and networks of this stage
    if code:
        raise InputError(f"{script}.py ended with exit code {code}: see above")


def parse_command(command: str):
    """Return the script of a command and its options; a training is resumed if its run folder exists."""
    script, *flags = shlex.split(command)
    script = script.removesuffix(".py")
    args = getattr(options, script)().parse_args(flags)
    if "resume" in args:
        args.resume = Path(args.log_path, args.tag).is_dir()
    return script, args


def find_run(command: str) -> str:
    """Return the run folder of a training, which another command may have written too, or any other command itself."""
    words = shlex.split(command)
    if "--tag" not in words:
        return command
    return "/".join(words[words.index(flag) + 1] for flag in ("--log_path", "--tag"))


def load_latest_commands(times: Path) -> dict[str, str]:
    """Map each run folder or command (see `find_run`) to the command that finished it, or `UNFINISHED`."""
    if not times.is_file():
        return {}
    with open(times, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {find_run(row["command"]): row["command"] if row["state"] == "finished" else UNFINISHED for row in rows}


def note_time(times: Path, name: str, seconds: float, state: str, command: str) -> None:
    gpus = torch.cuda.device_count()
    with open(times, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(["stage", "seconds", "GPUs", "GPU hours", "state", "command"])
        writer.writerow([name, f"{seconds:.1f}", gpus, f"{seconds * gpus / 3600:.4f}", state, command])
    print(f"({state}, {seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
