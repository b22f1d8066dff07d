r"""Export for other tools: label maps as masks and polygons, a network as an ONNX file or as weights with a card.

    python export.py labels --input experiments/pseudo_labels/own --classes data/own/classes.txt \
        --format grey --output own
    python export.py labels --input segmentations --format coco --output segmentations.json --images photographs
    python export.py weights --load_path experiments/sod/last.pth --output sod.safetensors --license CC-BY-4.0
    pip install -r requirements-onnx.txt
    python export.py onnx --load_path experiments/sod/last.pth --output sod.onnx

`labels` reads labels or predictions <id>.png and writes one of
    grey    masks/<id>.png of class ids, 0 = background, 255 = ignore, and dataset.yaml with the names
    coco    one JSON file with a mask for each connected part of a class; ignored pixels become background
    yolo    labels/<id>.txt of polygons and dataset.yaml; holes and tiny parts are lost, and the mean IoU with the
            labels is printed

`onnx`: input "images": uint8 [B, 3, H, W], RGB, of any size. Outputs of a saliency network: "saliency", float32
[B, 1, H, W] in 0..1; of a segmentation network: "probs", float32 [B, L, H, W]; of a classifier: "probs", float32
[B, C], and "cams", float32 [B, C, h, w], maps after ReLU. The file also holds stage and class names. It is kept only if
ONNX Runtime computes the outputs of PyTorch. recipes/onnx_predict.py predicts with it, without PyTorch.

`weights`: safetensors, which --load_path and --pretrained of the scripts take, and a card FILE.md: classes, input, and
data and command of the training if options.json is beside the checkpoint.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.export().parse_args()  # before the heavy imports, so that --help answers at once

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from formats.atomic_files import atomic_path, check_output_file, write_text
from formats.coco import save_coco
from formats.errors import InputError, MissingInputError, shorten
from formats.images import check_size, image_size, images_below, save_grey
from formats.labels import check_labels, load_label
from formats.ultralytics import save_dataset_yaml, save_polygons
from formats.voc_layout import VOC_CLASSES, read_class_names
from metrics.segmentation import ConfusionMatrix
from models.builders import BUILDERS
from models.onnx_export import DESCRIPTIONS, export_onnx, list_missing_packages
from models.puzzle_cam_checkpoint import from_puzzle_cam
from utils.checkpoint import load_checkpoint, rebuild, save_safetensors
from utils.interruption import run_script
from utils.output_folder import load_json

LARGEST_DIFFERENCE = 1e-4  # of probabilities
SCRIPTS = {"saliency": "SOD_train", "classification": "train_classification", "segmentation": "train_segmentation"}
PURPOSES = {
    "saliency": "salient object detection: a map in 0..1",
    "classification": "image classification, whose class maps locate the objects",
    "segmentation": "semantic segmentation by DeepLabV3+",
}
DATA_FLAGS = ("_root", "_dir", "_list", "label_name", "pretrained")  # ends of names of flags: what it learnt from


def main(args) -> None:
    {"labels": export_labels, "onnx": export_network, "weights": export_weights}[args.command](args)


def export_network(args) -> None:
    if missing := list_missing_packages():
        raise InputError(f"{', '.join(missing)} not installed: pip install -r requirements-onnx.txt")
    check_output_file("--output", args.output)

    # model
    checkpoint = load_checkpoint(args.load_path, BUILDERS, from_puzzle_cam)
    stage, settings = checkpoint["stage"], checkpoint["settings"]
    network = rebuild(BUILDERS[stage], checkpoint, args.load_path)

    # save
    with atomic_path(args.output) as temporary:
        difference = export_onnx(network, stage, settings, temporary)
        if not difference <= LARGEST_DIFFERENCE:
            raise RuntimeError(f"the outputs of the exported network differ from PyTorch's by up to {difference:.1e}")
    print(f"{args.output}: images uint8 [B, 3, H, W] →", "; ".join(map(" ".join, DESCRIPTIONS[stage].items())))
    print(f"largest difference to PyTorch: {difference:.1e}")


def export_weights(args) -> None:
    output = Path(args.output)
    if output.suffix != ".safetensors":
        raise InputError(f"--output {output}: the name must end in .safetensors")

    # model
    checkpoint = load_checkpoint(args.load_path, BUILDERS, from_puzzle_cam)
    network = rebuild(BUILDERS[checkpoint["stage"]], checkpoint, args.load_path)
    card = write_card(checkpoint, network, output.name, args)

    # save
    save_safetensors(output, checkpoint["stage"], checkpoint["settings"], checkpoint["network"])
    write_text(output.with_suffix(".md"), card)
    print(f"weights and their card written: {output}, {output.with_suffix('.md').name}")


def write_card(checkpoint: dict, network, name: str, args) -> str:
    """Markdown that says what the network in the file `name` is and, as far as known, how it was trained."""
    stage, settings, backbone = checkpoint["stage"], checkpoint["settings"], network.backbone
    mean, std = (", ".join(f"{value:.4g}" for value in colour.flatten()) for colour in (backbone.mean, backbone.std))
    side, labels = settings.get("image_size"), ["background"] if stage == "segmentation" else []
    rows = {
        "network": f"{PURPOSES[stage]}, on the backbone {settings['backbone']}",
        "parameters": f"{sum(weight.numel() for weight in network.parameters()) / 1e6:.1f} M",
        "classes": ", ".join(labels + settings.get("classes", [])) or "none",
        "input": f"RGB in 0..1, {f'resized to {side}×{side} px' if side else 'of any size'}",
        "normalisation": f"minus ({mean}), divided by ({std})",
        **describe_training(checkpoint, Path(args.load_path).parent / "options.json"),
        "licence": args.license,
    }
    lines = [f"* **{key}**: {value}" for key, value in rows.items()]
    use = f"    python predict.py --load_path {name} --input photo.jpg --output results"
    return "\n".join([f"# {name}", "", *lines, "", use, ""])


def describe_training(checkpoint: dict, path: Path) -> dict[str, str]:
    """Epochs, data and command of a training, from its checkpoint and the options.json at `path`, if there is one."""
    rows = {"epochs": str(checkpoint["training"].get("epoch", "not known"))}
    if not path.is_file():
        return rows | {"training": f"not known: there was no {path.name} beside the checkpoint"}
    recorded = load_json(path, "move it away").get("options", {})
    script = SCRIPTS[checkpoint["stage"]]
    defaults = vars(getattr(options, script)().parse_args(["--label_name", "any"] * (script == "train_segmentation")))
    changed = {key: value for key, value in recorded.items() if value != json.loads(json.dumps(defaults.get(key)))}
    command = [script + ".py"]
    for key, value in changed.items():
        flag = "--cache-mode" if key == "cache_mode" else f"--{key}"
        values = value if isinstance(value, list) else [value]
        command += [flag, *("{}={}".format(*one) if isinstance(one, list) else str(one) for one in values)]
    data = {key: value for key, value in recorded.items() if key.endswith(DATA_FLAGS) and value}
    data = ", ".join(f"{key} {value}" for key, value in data.items())
    return rows | {"data": data, "command": f"`python {shlex.join(command)}`"}


def export_labels(args) -> None:
    # data
    output = Path(args.output)
    classes = read_class_names(args.classes) if args.classes else VOC_CLASSES
    paths = images_below(args.input, (".png",))
    if (Path(args.input) / "options.json").is_file():  # labels by make_pseudo_labels.py; `before` is an earlier step
        paths = {image_id: path for image_id, path in paths.items() if not image_id.startswith("before/")}
    if not paths:
        raise MissingInputError(f"--input {args.input} and the folders below it hold no .png file")
    photographs = images_below(args.images) if args.images else {}
    if args.images and (missing := [image_id for image_id in paths if image_id not in photographs]):
        lacks = f"--images {args.images} lacks {len(missing)} of {len(paths)} photographs ({shorten(missing, 3)})"
        raise MissingInputError(f"{lacks}: name their folder, or leave out --images")
    labels = read_labels(paths, photographs, len(classes) + 1)

    # save
    if args.format == "grey":
        for image_id, label in labels:
            save_grey(output / f"masks/{image_id}.png", label)
        save_dataset_yaml(output / "dataset.yaml", ("background", *classes), masks_dir="masks")
    elif args.format == "coco":
        check_output_file("--output", output)
        names = {image_id: f"{image_id}.jpg" for image_id in paths}
        names |= {image_id: path.relative_to(args.images).as_posix() for image_id, path in photographs.items()}
        save_coco(output, ((names[image_id], label) for image_id, label in labels), classes)
    else:
        confusion = ConfusionMatrix(len(classes) + 1)
        for image_id, label in labels:
            confusion.add(save_polygons(output / f"labels/{image_id}.txt", label), label)
        save_dataset_yaml(output / "dataset.yaml", classes)
        print(f"mean IoU of the polygons with the labels: {confusion.scores()['mIoU']:.4f}")
    print(f"{len(paths)} label maps written as {args.format}: {output}")


def read_labels(paths: dict, photographs: dict, num_labels: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield id and label map, uint8 [H, W]. Raises `InputError` for unknown labels and photographs of another size."""
    for image_id, path in tqdm(paths.items(), unit="label", mininterval=1, leave=False):
        label = load_label(path)
        check_labels(label, num_labels, path)
        if photographs:
            check_size(path, label.shape, photographs[image_id], image_size(photographs[image_id]))
        yield image_id, label


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
