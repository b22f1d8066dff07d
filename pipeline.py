r"""Run a whole sequence of the README's commands: every stage, from data to tables.

    python pipeline.py demo                          every stage on drawn scenes: minutes on two CPU cores
    python pipeline.py voc12 --row resnest269        a row of the paper's table, from raw data to mean ± deviation
    python pipeline.py voc12 --row resnest269 --baseline_dir other_method/labels
    python pipeline.py label_quality --saliency_dir experiments/saliency/ours/VOC2012

Each command is shown and timed (<output>/times.tsv). A sequence that was stopped continues when it is started again:
finished stages are skipped, trainings are resumed, and files that exist are not made again. All stages share one
process. `voc12` and `label_quality` say what they write in `--help`.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets.drawn_scenes import write_demo_scenes
from formats.atomic_files import write_json
from formats.cams import load_cams
from formats.errors import InputError, existing_folder
from formats.images import load_grey, load_image
from formats.labels import load_label, paint_label
from formats.voc_layout import find_voc_root, load_ids
from metrics.plots import save_picture_grid
from metrics.tables import markdown_table, percent
from utils import interruption
from utils.interruption import run_script
from utils.output_folder import hold_folder, release_folder

TIMES_HEADER = ["stage", "seconds", "GPUs", "GPU hours", "state", "command"]

# The demo: narrow networks from random weights.
DEMO_RESNEST = "--backbone resnest14 --backbone_args channels=16,32,64,128 stem_width=16"
DEMO_SALIENCY = """--backbone swin_tiny_patch4_window7_224 --pretrained none --decoder_width 192 --image_size 112
    --backbone_args embed_dim=32 depths=1,1,2,1 num_heads=1,2,4,8 window_size=7 --dropout 0 --edge_drop_path 0
    --colour_jitter 0 --max_epoch 6 --train_batch 8 --lr 2e-3 --decay_epoch 2"""
DEMO_CLASSIFIER = f"""{DEMO_RESNEST} --pretrained none --max_epoch 10 --train_batch 16 --optimizer adamw --lr 2e-3
    --head_lr 1 --crop_size 128 --long_side 128 192 --val_list none"""
DEMO_SEGMENTATION = f"""{DEMO_RESNEST} --mode normal --use_gn False --head_width 48 --max_epoch 6 --train_batch 16
    --optimizer adamw --lr 1e-3 --head_lr 3 --crop_size 128 --long_side 144 192 --val_list none"""

# The rows of the paper's table: backbone of classifier and segmentation network, mIoU that the paper claims.
VOC12_ROWS = {
    "resnet101": ("resnet-101", "74.9 on val, 74.59 on test, from COCO-pretrained weights"),
    "resnest101": ("resnest101", "76.55 on val, 77.06 on test"),
    "resnest269": ("resnest269", "77.52 on val, 77.73 on test"),
}
TEST_SCALES = "--scales 0.5 1 1.5 2 --flip"


@dataclass(frozen=True)
class Stage:
    """A command of a sequence: a script and its flags. `run_folder` belongs to a training, which can be resumed."""

    name: str
    command: str
    run_folder: Path | None = None


def main(args) -> None:
    {"demo": demo, "voc12": voc12, "label_quality": label_quality}[args.command](args)


def demo(args) -> None:
    """Draw scenes, run every stage on them, and print a table of scores."""
    folder = Path(args.work_dir)
    hold_folder(folder)
    claim_demo_folder(folder, {name: getattr(args, name) for name in ("seed", "num_saliency", "num_train", "num_val")})
    print(f"drawing {args.num_saliency + args.num_train + 2 * args.num_val} scenes in {folder}", flush=True)
    write_demo_scenes(folder, args.num_saliency, args.num_train, args.num_val, args.seed)
    if not args.draw_only:
        started_s = time.perf_counter()
        run_stages(folder, demo_stages(quote(folder), args.seed))
        scores = collect_demo_scores(folder)
        write_json(folder / "results.json", scores | {"minutes": (time.perf_counter() - started_s) / 60})
        draw_demo_picture(folder)
        print(demo_table(scores))
        print(f"picture: {folder / 'demo.png'}")


def claim_demo_folder(folder: Path, settings: dict) -> None:
    """Record the settings of a demo in its folder. Raises `InputError` if the folder contains other files or another
    demo.
    """
    path = folder / "demo.json"
    if path.is_file():
        recorded = json.loads(path.read_text())
        if recorded != settings:
            raise InputError(f"--work_dir {folder} holds a demo of {recorded}, not {settings}: choose another folder")
    elif any(not other.name.startswith(".") for other in folder.iterdir()):
        raise InputError(f"--work_dir {folder} contains files that are not from a demo: choose another folder")
    write_json(path, settings)


def demo_stages(work: str, seed: int) -> list[Stage]:
    voc = f"--data_dir {work}/data/voc12 --list_dir {work}/voc12"
    images, maps = f"{work}/data/voc12/VOCdevkit/VOC2012/JPEGImages", f"{work}/saliency/ours"
    run = f"--log_path {work}/runs --workers 1 --seed {seed}"
    predict_maps = f"predict.py --load_path {work}/runs/sod/last.pth --flip"
    # single-class scenes alone: the selector works on these, and a weak classifier's labels of the others stay weak
    label = f"make_pseudo_labels.py {voc} --list single_class_id.txt --cam_dir {work}/cams --scales 1 1.5"
    label += f" --load_path {work}/runs/classifier/last.pth"
    labels = f"{work}/labels/cam {work}/labels/sos"
    stages = {
        "train saliency": f"SOD_train.py --train_root {work}/dataset --tag sod {run} {DEMO_SALIENCY}",
        "saliency maps of the benchmark": f"{predict_maps} --input {work}/dataset/benchmark/DRAWN-TE"
        f" --output {maps}/DRAWN-TE",
        "scores of saliency maps": f"evaluate.py saliency --pred {maps} --gt_root {work}/dataset/benchmark"
        f" --json {work}/saliency.json",
        "saliency maps": f"{predict_maps} --input {images} --list {work}/voc12/single_class_id.txt"
        f" --output {maps}/VOC2012",
        "train classifier": f"train_classification.py {voc} --tag classifier {run} {DEMO_CLASSIFIER}",
        "labels from CAMs": f"{label} --label_name {work}/labels/cam",
        # labels are weak: a low threshold, so that the mask wins more often
        "labels after the selector": f"{label} --label_name {work}/labels/sos --selector sos --t0 0.1 --t1 0.1"
        f" --saliency_dir {maps}/VOC2012",
        "scores of labels": f"evaluate.py labels --pred {labels} --data_dir {work}/data/voc12"
        f" --list {work}/voc12/single_class_id.txt --json {work}/labels.json",
        "train segmentation": f"train_segmentation.py {voc} --train_list single_class_id.txt --tag segmentation {run}"
        f" --label_name {work}/labels/sos {DEMO_SEGMENTATION} --pretrained {work}/runs/classifier/last.pth",
        "segmentations": f"predict.py --load_path {work}/runs/segmentation/last.pth --input {images}"
        f" --list {work}/voc12/demo_id.txt --output {work}/segmentations --scales 1 1.5 --flip",
        "scores of segmentations": f"evaluate.py segmentation --pred {work}/segmentations"
        f" --data_dir {work}/data/voc12 --list {work}/voc12/val_id.txt --json {work}/segmentation.json",
    }
    runs = {"train saliency": "sod", "train classifier": "classifier", "train segmentation": "segmentation"}
    return [
        Stage(name, command, Path(shlex.split(work)[0], "runs", runs[name]) if name in runs else None)
        for name, command in stages.items()
    ]


def collect_demo_scores(folder: Path) -> dict[str, float]:
    """The scores that evaluate.py wrote, as one flat dict."""
    saliency, labels, segmentation = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("saliency", "labels", "segmentation")
    )
    root = folder.as_posix()
    benchmark = saliency[f"{root}/saliency/ours"]["DRAWN-TE"]
    return {
        "saliency_maxF": benchmark["maxF"],
        "saliency_MAE": benchmark["MAE"],
        "single_class_mIoU_cam": labels[f"{root}/labels/cam"]["mIoU"],
        "single_class_mIoU_sos": labels[f"{root}/labels/sos"]["mIoU"],
        "segmentation_mIoU": segmentation[f"{root}/segmentations"]["mIoU"],
    }


def demo_table(scores: dict[str, float]) -> str:
    saliency = f"max F {scores['saliency_maxF']:.3f}, MAE {scores['saliency_MAE']:.3f}"
    mious = {
        ("labels from CAMs", "single-class training scenes"): "single_class_mIoU_cam",
        ("labels after the selector", "single-class training scenes"): "single_class_mIoU_sos",
        ("segmentation", "held-out scenes"): "segmentation_mIoU",
    }
    rows = [["saliency maps", "held-out scenes", saliency]]
    rows += [[*what, f"mIoU {percent(scores[key])}"] for what, key in mious.items()]
    return f"\n{markdown_table(['result', 'measured on', 'score'], rows)}"


def draw_demo_picture(folder: Path) -> None:
    """Write demo.png with one row per scene."""
    voc_root, rows = folder / "data/voc12/VOCdevkit/VOC2012", []
    label_folders = {
        "label before": folder / "labels/cam",
        "label after": folder / "labels/sos",
        "prediction": folder / "segmentations",
        "truth": voc_root / "SegmentationClassAug",
    }
    for name in load_ids(folder / "voc12/picture_id.txt"):
        image = load_image(voc_root / "JPEGImages" / f"{name}.jpg")
        cams, _ = load_cams(folder / "cams" / f"{name}.npz")
        heat = cv2.applyColorMap((cams.max(axis=0) * 255).astype(np.uint8), cv2.COLORMAP_JET)[:, :, ::-1]
        saliency = load_grey(folder / "saliency/ours/VOC2012" / f"{name}.png")
        row = {"image": image, "CAM": (image * 0.4 + heat * 0.6).astype(np.uint8)}
        row["saliency"] = np.repeat(saliency[..., None], 3, axis=2)
        rows.append(row | {key: paint_label(load_label(path / f"{name}.png")) for key, path in label_folders.items()})
    save_picture_grid(folder / "demo.png", rows)


def voc12(args) -> None:
    """A row of the paper's table: segmentation trained on labels before and after the selector, and on masks."""
    output = Path(args.output or f"experiments/voc12_{args.row}")
    if args.baseline_dir:
        existing_folder(args.baseline_dir)
    run_stages(output, add_flags(voc12_stages(args, quote(output)), args.flags))
    print(f"claimed by the paper: mIoU {VOC12_ROWS[args.row][1]}")


def voc12_stages(args, out: str) -> list[Stage]:
    backbone, route = VOC12_ROWS[args.row][0], "strong" if args.baseline_dir else "ours"
    data, lists = quote(args.data_dir), quote(args.list_dir)
    voc, labels, tables = f"--data_dir {data} --list_dir {lists}", f"{out}/labels/{route}", f"{out}/tables/{route}"
    stages = []
    if args.trainval:
        test = f" --test {quote(args.test)}" if args.test else ""
        archives = f"--trainval {quote(args.trainval)} --aug {quote(args.aug)}{test}"
        stages.append(Stage("prepare", f"prepare_data.py voc12 {archives} {voc}"))
        images = f"{data}/VOCdevkit/VOC2012/JPEGImages"
    else:
        images = quote(find_voc_root(args.data_dir) / "JPEGImages")

    saliency = quote(args.saliency_dir) if args.saliency_dir else f"{out}/saliency"
    if not args.saliency_dir:
        paper = (
            "--max_epoch 150 --lr 1e-4 --train_batch 16 --decay_epoch 15 --gamma 0.5 --edge_loss 1 --cache-mode part"
        )
        stages += [
            training("saliency", f"SOD_train.py --backbone swin-base-224 {paper} --train_root {args.train_root}", out),
            Stage(
                "saliency maps",
                f"predict.py --load_path {out}/runs/saliency/last.pth --input {images}"
                f" --list {lists}/train_aug_id.txt --output {saliency}",
            ),
        ]
    stages += ours_label_stages(backbone, voc, out, labels) if route == "ours" else []
    if route == "strong":
        baseline = f"make_pseudo_labels.py {voc} --baseline_dir {quote(args.baseline_dir)}"
        stages.append(Stage("labels", f"{baseline} --label_name {labels}/before"))
    # the paper's thresholds for strong labels; for weak ones the mask is nearly always better
    thresholds = "--t0 auto --t1 0" if route == "ours" else "--t0 0.4 --t1 0.2"
    select = f"make_pseudo_labels.py {voc} --baseline_dir {labels}/before --label_name {labels}/selected"
    score = f"evaluate.py labels --pred {labels}/before {labels}/selected --data_dir {data} --list {lists}/train_id.txt"
    stages += [
        Stage("selector", f"{select} --selector sos --saliency_dir {saliency} {thresholds}"),
        Stage(
            "scores of labels",
            f"{score} --image_labels {lists}/cls_labels.npy --tables {tables}/labels --json {tables}/labels.json",
        ),
    ]

    predicted = []
    settings = {f"{route}/before": f"{labels}/before", f"{route}/selected": f"{labels}/selected"}
    settings["truth"] = "SegmentationClassAug"
    predict = f"predict.py --input {images} {TEST_SCALES}"
    for setting, label_name in settings.items():
        for seed in args.seeds:
            run = f"{setting}/seed{seed}"
            train = f"train_segmentation.py {voc} --backbone {backbone} --mode fix --use_gn True --seed {seed}"
            stages.append(training("segmentation", f"{train} --label_name {label_name}", out, run))
            checkpoint = f"--load_path {out}/runs/{run}/last.pth"  # best.pth was chosen on the images to score
            for crf in (False, True)[: 1 + args.crf]:
                folder = f"{out}/segmentations/{setting}{'+crf' * crf}/seed{seed}"
                predicted.append(folder)
                command = f"{predict} {checkpoint} --list {lists}/val_id.txt --output {folder}{' --crf' * crf}"
                stages.append(Stage("prediction", command))
    score = f"evaluate.py segmentation --pred {' '.join(predicted)} --data_dir {data} --list {lists}/val_id.txt"
    stages.append(
        Stage("scores of segmentations", f"{score} --tables {tables}/segmentation --json {tables}/segmentation.json")
    )
    if args.submission:
        run = f"{route}/selected/seed{args.seeds[0]}"
        command = f"{predict} --load_path {out}/runs/{run}/last.pth --list {lists}/test_id.txt{' --crf' * args.crf}"
        archive = f"{out}/submissions/{route}.tar.gz"
        stages.append(
            Stage("prediction", f"{command} --output {out}/segmentations/{run}/test --voc_submission {archive}")
        )
    return stages


def ours_label_stages(backbone: str, voc: str, out: str, labels: str) -> list[Stage]:
    """Labels from CAMs of a Puzzle-CAM classifier, expanded by a random walk, refined by a CRF."""
    cams = f"make_pseudo_labels.py {voc} --load_path {out}/runs/classifier/last.pth --cam_dir {out}/cams"
    walk = f"--affinity_path {out}/runs/affinity/last.pth --expanded_dir {out}/cams_expanded"
    affinity = f"train_affinity.py {voc} --backbone resnet-50 --label_name {out}/labels/affinity"
    return [
        training("classifier", f"train_classification.py {voc} --backbone {backbone} --puzzle", out),
        Stage("affinity labels", f"{cams} --label_name {out}/labels/affinity --fusion affinity"),
        training("affinity", affinity, out),
        Stage("labels", f"{cams} --label_name {labels}/before {walk} --bg_threshold 0.35 --crf --crf_iterations 1"),
    ]


def label_quality(args) -> None:
    """Labels made in every way this project has, scored before and after the selector with every kind of maps."""
    run_stages(Path(args.output), add_flags(label_quality_stages(args), args.flags))


def label_quality_stages(args) -> list[Stage]:
    out, data, lists = quote(args.output), quote(args.data_dir), quote(args.list_dir)
    voc, maps = f"--data_dir {data} --list_dir {lists}", [quote(folder) for folder in args.saliency_dir]
    network = network_flags(args)
    crops = "--crop_size 256 --long_side 256 384 --train_batch 16"
    schedule = f"{crops} --max_epoch 20 --optimizer adamw --lr 3e-4 --head_lr 10 --val_every 10"
    methods = {"plain": "", "puzzle": " --puzzle", "eps": f" --saliency_dir {maps[0]}"}
    label, background = f"make_pseudo_labels.py {voc}", "--bg_threshold 0.25"
    stages = [
        training("classifier", f"train_classification.py {network} {voc} {schedule}{flags}", out, name)
        for name, flags in methods.items()
    ]
    labels = {
        name: f"--load_path {out}/runs/{name}/last.pth --cam_dir {out}/cams/{name} {background}" for name in methods
    }
    labels["plain_crf"] = f"--cam_dir {out}/cams/plain {background} --crf"
    labels["affinity"] = f"--cam_dir {out}/cams/plain --fusion affinity"
    stages += [Stage("labels", f"{label} {flags} --label_name {out}/{name}") for name, flags in labels.items()]
    affinity = f"train_affinity.py {network} {voc} {crops} --label_name {out}/affinity --max_epoch 5"
    walk = f"--cam_dir {out}/cams/plain --affinity_path {out}/runs/affinity/last.pth --expanded_dir {out}/cams/walk"
    stages += [
        training("affinity", affinity, out),
        Stage("labels", f"{label} {walk} --bg_threshold 0.45 --label_name {out}/walk"),
        Stage("labels", f"{label} {walk} --bg_threshold 0.45 --crf --crf_iterations 1 --label_name {out}/walk_crf"),
    ]
    scored = " ".join(f"{out}/{name}" for name in ("plain", "puzzle", "eps", "plain_crf", "walk", "walk_crf"))
    score = f"evaluate.py labels --data_dir {data} --list {lists}/train_id.txt --image_labels {lists}/cls_labels.npy"
    score += f" --baseline_dir {scored} --t0 auto --t1 0 --sweep --multi_class split --cam_dir {out}/cams/plain"
    for folder in maps:
        name = "_".join(Path(shlex.split(folder)[0]).parts[-2:])
        stages.append(Stage("scores", f"{score} --saliency_dir {folder} --tables {out}/tables_{name}"))
    return stages


def network_flags(args) -> str:
    """The flags of the backbone as words of a command."""
    flags = f"--backbone {args.backbone} --pretrained {quote(args.pretrained)}"
    if args.backbone_args:
        settings = (quote(f"{key}={value}".replace(" ", "")) for key, value in args.backbone_args)
        flags += f" --backbone_args {' '.join(settings)}"
    for name in ("pixel_mean", "pixel_std"):
        if getattr(args, name):
            flags += f" --{name} {' '.join(map(str, getattr(args, name)))}"
    return flags


def training(name: str, command: str, out: str, run: str | None = None) -> Stage:
    """A training whose run folder is <out>/runs/<run>."""
    folder = Path(shlex.split(out)[0], "runs", run or name)
    return Stage(name, f"{command} --log_path {quote(folder.parent)} --tag {quote(folder.name)}", folder)


def add_flags(stages: list[Stage], given: list[str]) -> list[Stage]:
    """Append flags of the user. Each text is the name of a stage and flags, such as "segmentation --lr 0.01"."""
    names, commands = {stage.name for stage in stages}, {stage: stage.command for stage in stages}
    for text in given:
        name = max((name for name in names if text.startswith(f"{name} -")), key=len, default=None)
        if name is None:
            raise InputError(f"--flags {text!r}: begin with a stage, one of {', '.join(sorted(names))}, then its flags")
        for stage in stages:
            if stage.name == name:
                commands[stage] += text.removeprefix(name)
    return [Stage(stage.name, commands[stage], stage.run_folder) for stage in stages]


def quote(path) -> str:
    """A path as one word of a command, the same on all systems."""
    return shlex.quote(Path(path).as_posix())


def run_stages(folder: Path, stages: list[Stage]) -> None:
    """Run the unfinished commands in order, and append the time of each to <folder>/times.tsv.

    After the first command that runs, all others run too: what they read may have changed. They are quick if nothing is
    to be done.
    """
    hold_folder(folder)
    finished, is_finished = finished_commands(folder / "times.tsv"), True
    for number, stage in enumerate(stages, start=1):
        command = " ".join(stage.command.split())
        is_finished = is_finished and command in finished
        print(f"\n[{number}/{len(stages)}] {stage.name}\n$ python {command}", flush=True)
        if is_finished:
            print("finished before, skipped", flush=True)
            continue
        started_s, state = time.perf_counter(), "stopped"
        try:
            run_command(command + " --resume" * bool(stage.run_folder and stage.run_folder.is_dir()))
            state = "finished"
        except interruption.Interrupted:
            interruption.set_resume_hint("run the same command again")
            raise
        finally:
            note_time(folder / "times.tsv", stage.name, time.perf_counter() - started_s, state, command)
    release_folder(folder)


def run_command(command: str) -> None:
    """Call the `main` of a script of the project in this process; raises `InputError` if the exit code is not 0."""
    script, *flags = shlex.split(command)
    name = script.removesuffix(".py")
    parser: Callable = getattr(options, name)
    interruption.listen()
    code = importlib.import_module(name).main(parser().parse_args(flags))
    gc.collect()  # loaders and networks of this stage
    if code:
        raise InputError(f"{script} ended with exit code {code}: see above")


def finished_commands(times: Path) -> set[str]:
    if not times.is_file():
        return set()
    with open(times, newline="", encoding="utf-8") as file:
        return {row["command"] for row in csv.DictReader(file, delimiter="\t") if row["state"] == "finished"}


def note_time(times: Path, name: str, seconds: float, state: str, command: str) -> None:
    torch = sys.modules.get("torch")
    gpus = torch.cuda.device_count() if torch else 0
    is_new = not times.is_file()
    with open(times, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        if is_new:
            writer.writerow(TIMES_HEADER)
        writer.writerow([name, f"{seconds:.1f}", gpus, f"{seconds * gpus / 3600:.4f}", state, command])
    print(f"({state}, {seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
