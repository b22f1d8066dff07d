"""Run whole sequences of commands.

    python pipeline.py demo      all stages on drawn scenes: a few minutes on two CPU cores

The demo writes to experiments/demo: scenes in the two layouts of the README, runs, maps, labels, segmentations, the
scores as results.json, and demo.png with image | CAM | saliency | label before | label after | prediction | truth.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.pipeline().parse_args()

import json
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np

from datasets.drawn_objects import CLASS_NAMES
from datasets.drawn_scenes import write_saliency_scenes, write_voc_scenes
from formats.atomic_files import write_json
from formats.cams import load_cams
from formats.errors import InputError
from formats.image_labels import load_image_labels
from formats.images import load_grey, load_image, save_image
from formats.labels import load_label, paint_label
from formats.voc_layout import load_ids, save_ids
from metrics.tables import markdown_table, percent
from utils.folder_lock import LOCK, hold_folder
from utils.interruption import run_script

PROJECT = Path(__file__).resolve().parent
MARKER = "made_by_demo.json"  # marks folders that may be emptied
PICTURE_ROWS = 6
SCENE_HW = 128, 160  # px

# narrow networks, trained from scratch
RESNEST = "--backbone resnest14 --backbone_args channels=16,32,64,128 stem_width=16"
SALIENCY_FLAGS = """--backbone swin_tiny_patch4_window7_224 --pretrained none --decoder_width 192 --image_size 112
    --backbone_args embed_dim=32 depths=1,1,2,1 num_heads=1,2,4,8 window_size=7 --dropout 0 --edge_drop_path 0
    --colour_jitter 0 --max_epoch 6 --train_batch 8 --lr 2e-3 --decay_epoch 2"""
CLASSIFIER_FLAGS = f"""{RESNEST} --pretrained none --max_epoch 10 --train_batch 16 --optimizer adamw --lr 2e-3
    --head_lr 1 --crop_size 128 --long_side 128 192 --val_list none"""
SEGMENTATION_FLAGS = f"""{RESNEST} --mode normal --use_gn False --head_width 48 --max_epoch 6 --train_batch 16
    --optimizer adamw --lr 1e-3 --head_lr 3 --crop_size 128 --long_side 144 192 --val_list none"""
CAM_FLAGS = "--scales 1 1.5"
SELECTOR_FLAGS = "--selector sos --t0 0.1 --t1 0.1"  # low thresholds, because the labels are weak
TEST_FLAGS = "--scales 1 1.5 --flip"


def main(args) -> None:
    demo(args)


def demo(args) -> None:
    # data
    work = Path(args.work_dir)
    clear(work)
    started = time.perf_counter()
    print(f"drawing {args.num_saliency + args.num_train + 2 * args.num_val} scenes in {work}", flush=True)
    draw(work, args)
    write_lists(work)
    if args.draw_only:
        return

    # train, evaluate: every script
    for command in commands(work, args.seed):
        run(command)

    # save
    results = collect(work)
    results["minutes"] = (time.perf_counter() - started) / 60
    write_json(work / "results.json", results)
    draw_picture(work)
    print(summary(results))
    print(f"picture: {work / 'demo.png'}")


def clear(work: Path) -> None:
    """Empty the folder of an earlier demo; raises `InputError` for a folder with other files."""
    if work.exists() and any(work.iterdir()) and not (work / MARKER).is_file():
        raise InputError(f"--work_dir {work} holds files that no demo wrote: choose another folder")
    write_json(work / MARKER, {"note": "this folder is emptied when the demo is run again"})
    hold_folder(work)
    for path in work.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (MARKER, LOCK):
            path.unlink()


def draw(work: Path, args) -> None:
    """Draw three sets of scenes: to train the saliency network, to test it, and a VOC tree."""
    seed, voc_root = 3 * args.seed, work / "data/voc12/VOCdevkit/VOC2012"
    write_saliency_scenes(work / "dataset/DRAWN-TR", args.num_saliency, seed, *SCENE_HW)
    write_saliency_scenes(work / "dataset/benchmark/DRAWN-TE", args.num_val, seed + 1, *SCENE_HW)
    write_voc_scenes(voc_root, work / "voc12", args.num_train, args.num_val, seed + 2, *SCENE_HW)


def commands(folder: Path, seed: int) -> list[str]:
    """The commands of all stages, which write below `folder`."""
    work = shlex.quote(folder.as_posix())
    voc = f"--data_dir {work}/data/voc12 --list_dir {work}/voc12"
    images, maps = f"{work}/data/voc12/VOCdevkit/VOC2012/JPEGImages", f"{work}/saliency/ours"
    runs = f"--log_path {work}/runs --workers 1 --seed {seed}"
    find = f"predict.py --load_path {work}/runs/sod/last.pth --flip"
    label = f"make_pseudo_labels.py {voc} --list single_class_id.txt --cam_dir {work}/cams {CAM_FLAGS}"
    label += f" --load_path {work}/runs/classifier/last.pth"
    return [
        f"SOD_train.py --train_root {work}/dataset --tag sod {runs} {SALIENCY_FLAGS}",
        f"{find} --input {work}/dataset/benchmark/DRAWN-TE --output {maps}/DRAWN-TE",
        f"evaluate.py saliency --pred {maps} --gt_root {work}/dataset/benchmark --json {work}/saliency.json",
        f"{find} --input {images} --list {work}/voc12/single_class_id.txt --output {maps}/VOC2012",
        f"train_classification.py {voc} --tag classifier {runs} {CLASSIFIER_FLAGS}",
        f"{label} --label_name {work}/labels/cam",
        f"{label} --label_name {work}/labels/sos {SELECTOR_FLAGS} --saliency_dir {maps}/VOC2012",
        f"evaluate.py labels --pred {work}/labels/cam {work}/labels/sos --data_dir {work}/data/voc12"
        f" --list {work}/voc12/single_class_id.txt --json {work}/labels.json",
        f"train_segmentation.py {voc} --train_list single_class_id.txt --label_name {work}/labels/sos"
        f" --tag segmentation {runs} {SEGMENTATION_FLAGS} --pretrained {work}/runs/classifier/last.pth",
        f"predict.py --load_path {work}/runs/segmentation/last.pth --input {images} --list {work}/voc12/demo_id.txt"
        f" --output {work}/segmentations {TEST_FLAGS}",
        f"evaluate.py segmentation --pred {work}/segmentations --data_dir {work}/data/voc12"
        f" --list {work}/voc12/val_id.txt --json {work}/segmentation.json",
    ]


def write_lists(work: Path) -> None:
    """Write lists of the single-class training scenes, of those in the picture, and of the scenes to segment.

    The segmentation network is trained on single-class scenes only: the selector does not improve the other labels.
    """
    ids = load_ids(work / "voc12/train_aug_id.txt")
    image_labels = load_image_labels(work / "voc12/cls_labels.npy", ids, CLASS_NAMES)
    single = [name for name, row in zip(ids, image_labels) if row.sum() == 1]
    save_ids(work / "voc12/single_class_id.txt", single)
    save_ids(work / "voc12/picture_id.txt", single[:PICTURE_ROWS])
    save_ids(work / "voc12/demo_id.txt", load_ids(work / "voc12/val_id.txt") + single[:PICTURE_ROWS])


def run(command: str) -> None:
    """Print a command, run it with this Python, and print its duration."""
    command = " ".join(command.split())
    print(f"\n$ python {command}", flush=True)
    started = time.perf_counter()
    script, *flags = shlex.split(command)
    code = subprocess.run([sys.executable, str(PROJECT / script), *flags]).returncode
    if code:
        raise InputError(f"the command above failed with exit code {code}, see its message")
    print(f"({time.perf_counter() - started:.0f} s)", flush=True)


def collect(work: Path) -> dict:
    """Collect the scores that evaluate.py wrote."""
    saliency, labels, segmentation = (
        json.loads((work / f"{name}.json").read_text()) for name in ("saliency", "labels", "segmentation")
    )
    root = work.as_posix()
    held_out = saliency[f"{root}/saliency/ours"]["DRAWN-TE"]
    return {
        "saliency_maxF": held_out["maxF"],
        "saliency_MAE": held_out["MAE"],
        "single_class_mIoU_cam": labels[f"{root}/labels/cam"]["mIoU"],
        "single_class_mIoU_sos": labels[f"{root}/labels/sos"]["mIoU"],
        "segmentation_mIoU": segmentation[f"{root}/segmentations"]["mIoU"],
    }


def summary(results: dict) -> str:
    saliency = f"max F {results['saliency_maxF']:.3f}, MAE {results['saliency_MAE']:.3f}"
    miou = {name: f"mIoU {percent(score)}" for name, score in results.items() if "mIoU" in name}
    rows = [
        ["saliency maps", "held-out scenes", saliency],
        ["labels from CAMs", "single-class training scenes", miou["single_class_mIoU_cam"]],
        ["labels after the selector", "single-class training scenes", miou["single_class_mIoU_sos"]],
        ["segmentation", "held-out scenes", miou["segmentation_mIoU"]],
    ]
    table = markdown_table(["result", "measured on", "score"], rows)
    return f"\n{table}\nthe whole sequence took {results['minutes']:.1f} minutes"


def draw_picture(work: Path) -> None:
    """Write demo.png, a row per scene: image | CAM | saliency | label before | label after | prediction | truth."""
    voc_root = work / "data/voc12/VOCdevkit/VOC2012"
    titles = ("image", "CAM", "saliency", "label before", "label after", "prediction", "truth")
    rows = []
    for name in load_ids(work / "voc12/picture_id.txt"):
        image = load_image(voc_root / "JPEGImages" / f"{name}.jpg")
        cams, _ = load_cams(work / "cams" / f"{name}.npz")
        heat = cv2.applyColorMap((cams.max(axis=0) * 255).astype(np.uint8), cv2.COLORMAP_JET)[:, :, ::-1]
        saliency = load_grey(work / "saliency/ours/VOC2012" / f"{name}.png")
        folders = (
            work / "labels/cam",
            work / "labels/sos",
            work / "segmentations",
            voc_root / "SegmentationClassAug",
        )
        labels = [paint_label(load_label(folder / f"{name}.png")) for folder in folders]
        cells = [image, (image * 0.4 + heat * 0.6).astype(np.uint8), np.repeat(saliency[..., None], 3, axis=2), *labels]
        rows.append(np.hstack([np.pad(cell, ((2, 2), (2, 2), (0, 0)), constant_values=255) for cell in cells]))
    picture = np.vstack(rows)
    cell_width = picture.shape[1] // len(titles)
    caption = np.full((24, picture.shape[1], 3), 255, np.uint8)
    for place, title in enumerate(titles):
        cv2.putText(
            caption, title, (place * cell_width + 4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA
        )
    save_image(work / "demo.png", np.vstack([caption, picture]))


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
