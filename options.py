"""The command-line flags of every script, one function per script. The defaults are the recipe.

`add(name, kind, default, help)` adds one flag. `kind` is a parsing function, a placeholder such as "DIR" for a text, a
tuple of choices, or `bool` for a switch; a list around it stands for one or more values.
"""

import argparse
import ast
import difflib
import json
import os
import sys

FUSION_RULES = ("none", "oaa", "drs", "bed", "rca", "edam", "auxsegnet", "icd", "nsrom", "affinity")
ANY_NETWORK = "a name of the README, or any timm name with four feature maps"
PAPER_WIDTH = 1024  # channels of the saliency decoder in the paper
REQUIRED = object()  # as `default`: the flag must be given
LARGEST_SIDE = 1 << 14  # px or channels
LARGEST_NUMBER = 1e9  # the product of four such numbers fits into float32
TINY = 1e-12  # the least number above 0


def SOD_train() -> argparse.ArgumentParser:
    parser = _Parser("Train the salient object network (stage 1).")
    add = _add_network(parser, "swin-base-224", ANY_NETWORK)
    text = f"channels of the coarsest decoder stage, a multiple of 8; `paper` is {PAPER_WIDTH}"
    add("--decoder_width", _decoder_width, 256, text, metavar="paper|N")
    add("--image_size", _side, 224, "side of the network input, px")
    add("--dropout", _share, 0.5, "dropout of each decoder stage")
    add("--edge_drop_path", _share, 0.3, "drop path of the edge head")

    add = _group(parser, "data")
    add("--train_root", ["DIR"], ["dataset"], "data sets, or folders of data sets; not benchmark/", action=_Collect)
    add("--edge_dir", "DIR", None, "edge maps DIR/[<data set>/]<stem>.png (default: made from the masks)")
    add("--val_root", ["DIR"], [], "data sets, or folders of data sets, to validate on", action=_Collect)
    add("--val_every", _positive, 10, "epochs between two validations, each with a picture in TensorBoard")
    add("--colour_jitter", _share, 1.0, "strength of the colour augmentation; 1 is the paper's")
    add("--train_scales", [_scale], [1.0], "factors on --image_size; each batch draws one")
    text = "cache image files in memory: no; part: each process caches its share; full: each process caches all"
    add("--cache-mode", ("no", "part", "full"), "no", text)

    add = _add_training(parser, max_epoch=150, batch=16, lr=1e-4)
    add("--optimizer", ("adam", "adamw"), "adam", "adam, as in the paper, or adamw")
    add("--weight_decay", _at_least_zero, 0.0, "weight decay; biases have none")
    add("--head_lr", _above_zero, 1.0, "factor on --lr for all parameters outside the backbone")
    add("--warmup_steps", _count, 0, "steps of linear warm-up of --lr")
    add("--decay_epoch", [_positive], [15], "one number: epochs between decays of --lr; several: epochs of the decays")
    add("--gamma", _positive_share, 0.5, "factor of each decay")
    add("--clip", _at_least_zero, 0.8, "largest absolute value of a gradient; 0: no clipping")
    add("--edge_loss", _at_least_zero, 1.0, "weight of the edge loss")
    add("--grad_checkpointing", bool, False, "recompute the backbone's activations in the backward pass: less memory")
    _add_step(add)
    _add_run(parser)
    return parser


def train_classification() -> argparse.ArgumentParser:
    parser = _Parser("Train the classifier whose class activation maps locate the classes (stage 2a).")
    _add_network(parser, "resnest101", f"{ANY_NETWORK}, dilated to stride 16 if possible")
    _add_image_labels(_add_voc(parser))
    _add_train_lists(parser)
    add = _add_training(parser, max_epoch=15, batch=32, lr=0.1)
    _add_sgd(add, momentum=0.0, weight_decay=1e-4)
    add("--head_lr", _above_zero, 10.0, "factor on --lr for all parameters outside the backbone")
    _add_crops(add, crop_size=512, long_side=(320, 640))
    add("--puzzle", bool, False, "Puzzle-CAM: the maps of four tiles must match those of the whole image")
    add("--saliency_dir", "DIR", None, "EPS: the maps must sum to the saliency maps <id>.png in DIR")
    _add_run(parser)
    return parser


def train_affinity() -> argparse.ArgumentParser:
    parser = _Parser("Train the affinity network, which keeps class activation maps within objects (stage 2b).")
    _add_network(parser, "resnet-50", f"{ANY_NETWORK}, dilated to stride 16 if possible")
    add = _add_voc(parser)
    _add_train_labels(add, "affinity labels")
    add("--train_list", "FILE", "train_aug_id.txt", "ids to train on, in --list_dir or a path")
    add = _add_training(parser, max_epoch=3, batch=32, lr=0.1)
    _add_sgd(add, momentum=0.0, weight_decay=1e-4)
    add("--radius", _radius, 10, "pairs of pixels are closer than this, px of the edge map (H / 4)")
    _add_crops(add, crop_size=512, long_side=(320, 640))
    _add_run(parser)
    return parser


def make_pseudo_labels() -> argparse.ArgumentParser:
    parser = _Parser("Make pseudo labels: class activation maps, expansion, fusion, object selector (stage 2c).")
    add = _add_voc(parser)
    add("--label_name", "NAME", REQUIRED, "write to experiments/pseudo_labels/NAME, or to NAME if it has a slash")
    _add_image_labels(add)
    add("--list", "FILE", "train_aug_id.txt", "ids to label, in --list_dir or a path")
    text = "labels of another method, in place of all steps before the selector: label maps <id>.png, or score "
    add("--baseline_dir", "DIR", None, text + "dictionaries <id>.npy or <id>.npz")
    _add_corrected(add)
    _add_saliency(parser)

    add = _group(parser, "class activation maps")
    add("--load_path", "FILE", None, "classifier checkpoint; not needed if --cam_dir holds all maps")
    add("--cam_dir", "DIR", "experiments/cams/default", "folder of the maps")
    add("--scales", [_scale], [0.5, 1.0, 1.5, 2.0], "factors on the image size; --combine merges the maps")
    add("--flip", bool, True, "add the mirror image")
    add("--combine", ("sum", "max"), "sum", "how to merge the maps of scales and mirror images")
    add("--batch", _count, 0, "images per batch, fewer above 1 MP at the largest scale; 0: 8 on GPUs, 1 on CPUs")

    add = _group(parser, "expansion")
    text = "walk: random walk by an affinity network; attention: to places of similar features of the classifier, "
    text += "without training (default: walk with --affinity_path, else none)"
    add("--expansion", ("none", "walk", "attention"), None, text)
    add("--affinity_path", "FILE", None, "checkpoint of train_affinity.py")
    add("--expanded_dir", "DIR", None, "folder of the expanded maps (default: --cam_dir with _expanded appended)")
    add("--beta", _above_zero, 10.0, "exponent of the affinities")
    add("--exp_times", _doublings, 8, "the walk takes 2^N steps")
    add("--radius", _radius, 5, "steps are shorter than this, px of the edge map (H / 4)")

    add = _group(parser, "labels")
    text = "rule that joins maps and saliency, see pseudo_labels/fusion_rules.py; `none` is a constant background"
    add("--fusion", FUSION_RULES, "none", text)
    add("--fusion_args", [_setting], [], "parameters of the rule, such as cam_threshold=0.2", metavar="KEY=VALUE")
    add("--bg_threshold", _share, 0.2, "score of the constant background, for rule `none` and score dictionaries")
    add("--second_cam_dir", "DIR", None, "maps of another classifier, for rule `nsrom` (default: the same maps)")
    add("--crf", bool, False, "refine the labels by a dense CRF")
    add("--crf_iterations", _positive, 10, "mean-field iterations")
    _add_selector(parser, default="none")
    text = "; `learn`: the images that --selector evidence learns from, before all parts"
    _add_prediction_devices(parser, _word_or("learn", _part), text)
    return parser


def train_segmentation() -> argparse.ArgumentParser:
    parser = _Parser("Train DeepLabV3+ on pseudo labels or masks (stage 3).")
    add = _add_network(parser, "resnest101", f"{ANY_NETWORK}, dilated to --output_stride if possible")
    add("--freeze_backbone", bool, False, "train the head alone; weights and batch norms of the backbone are fixed")
    add("--load_path", "FILE", None, "segmentation checkpoint to start from, also of Puzzle-CAM; replaces --pretrained")
    add("--mode", ("fix", "normal"), "fix", "statistics of the backbone's batch norm: fixed, or updated (normal)")
    add("--use_gn", bool, True, "GroupNorm (4 groups) in the head; False: batch norm")
    add("--head_width", _side, 256, "channels of ASPP and decoder")
    text = "stride of the coarsest features of networks that can be dilated; 8 is slower and takes more memory"
    add("--output_stride", (16, 8), 16, text, type=int)
    add("--dropout", _below_one, 0.5, "dropout of the head; a fifth of it before the last convolution")
    add = _add_voc(parser)
    _add_train_labels(add, "labels to train on")
    _add_corrected(add)
    _add_train_lists(parser)
    add = _add_training(parser, max_epoch=50, batch=16, lr=0.007)
    _add_sgd(add, momentum=0.9, weight_decay=4e-5)
    add("--head_lr", _above_zero, 10.0, "factor on --lr for all parameters outside the backbone")
    add("--warmup_steps", _count, 0, "steps of linear warm-up of --lr")
    _add_crops(add, crop_size=512, long_side=(256, 1024))
    add("--label_smoothing", _share, 0.0, "share of each label's weight spread over all labels, for noisy labels")
    text = "beta of the class-balanced loss (weights by the effective number of images), such as 0.999; 0: no weights"
    add("--class_balance", _below_one, 0.0, text, metavar="BETA")
    add("--ohem", _positive_share, 1.0, "online hard example mining: share of the labelled pixels that counts; 1: all")
    _add_step(add)
    _add_run(parser)
    return parser


def predict() -> argparse.ArgumentParser:
    parser = _Parser("Write the predictions of a checkpoint: saliency maps, segmentations, or CAM overlays.")
    add = _group(parser)
    add("--load_path", "FILE", REQUIRED, "saliency, classifier or segmentation checkpoint, the last also of Puzzle-CAM")
    add("--input", ["PATH"], REQUIRED, "image files and folders of images")
    add("--list", "FILE", None, "predict only the images of these ids, one per line")
    add("--output", "DIR", REQUIRED, "write DIR/<stem>.png")
    text = "factors on the image size, for saliency on the network input; the logits of saliency are averaged, "
    add("--scales", [_scale], [1.0], text + "those of segmentations are summed, also before --crf")
    add("--flip", bool, False, "add the mirror image")
    text = "images per batch; segmentation batches only images of equal size, and fewer above 1 MP; CAMs always use 1; "
    add("--batch", _count, 0, text + "0: 8, or 1 for segmentation on CPUs")
    add("--overlay", bool, False, "also write DIR/overlays/<stem>.jpg: results on the images")

    add = _group(parser, "segmentation checkpoints")
    add("--window", _count, 0, "predict larger images in windows of this side, after scaling, px; 0: whole images")
    add("--window_stride", _positive, None, "distance of two windows, px (default: two thirds of --window)")
    add("--crf", bool, False, "refine the probabilities by a dense CRF")
    add("--crf_iterations", _positive, 10, "mean-field iterations")
    add("--crf_setting", ("probabilities", "deeplab"), "probabilities", "CRF kernels: for soft scores, or DeepLab's")
    add("--voc_submission", "FILE.tar.gz", None, "also pack the masks for the test server of VOC 2012, competition 6")
    add("--image_labels", "FILE", None, "image labels: predict only the classes of each image, for rounds of training")
    text = "labels that the network was trained on: 255 where it differs from them and is unsure"
    add("--previous_dir", "DIR", None, text)
    _add_prediction_devices(parser, _part)
    return parser


def export() -> argparse.ArgumentParser:
    parser = _Parser("Write a network or label maps in the format of another tool.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="labels|onnx|weights")
    add = _group(commands.add_parser("labels", help="label maps: labels, or predictions of a segmentation network"))
    add("--input", "DIR", REQUIRED, "label maps DIR/<id>.png, also in folders below")
    add("--classes", "FILE", None, "names of the foreground classes, one per line (default: VOC's)")
    text = "grey: PNG of class ids and a YAML; coco: JSON with RLE masks; yolo: text files of polygons and a YAML"
    add("--format", ("grey", "coco", "yolo"), REQUIRED, text)
    add("--output", "PATH", REQUIRED, "folder to write to; of coco, the JSON file")
    add("--images", "DIR", None, "photographs DIR/<id>.*, which coco names and sizes must equal (default: <id>.jpg)")

    onnx = commands.add_parser("onnx", help="a network as ONNX file; its outputs are compared with those of PyTorch")
    weights = commands.add_parser("weights", help="a network as safetensors file, with a card FILE.md beside it")
    text = "saliency, classifier or segmentation checkpoint, the last also of Puzzle-CAM"
    for command, suffix in ((onnx, ".onnx"), (weights, ".safetensors")):
        add = _group(command)
        add("--load_path", "FILE", REQUIRED, text)
        add("--output", f"FILE{suffix}", REQUIRED, "file to write")
    add("--license", "TEXT", "not stated", "licence of the weights, for the card")
    return parser


def evaluate() -> argparse.ArgumentParser:
    parser = _Parser("Score files against the ground truth and print benchmark tables (stage 4).")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="saliency|labels|segmentation|submission|doubt")

    saliency = kinds.add_parser("saliency", help="saliency maps: MAE, F, weighted F, S, E, IoU")
    add = _group(saliency)
    text = "folders METHOD_DIR with maps <data set>/<stem>.png, one per method; repeatable"
    add("--pred", ["METHOD_DIR"], REQUIRED, text, action=_Collect)
    add("--gt_root", "DIR", REQUIRED, "ground truth DIR/<data set>/Masks/<stem>.png")
    add("--strict_reference", bool, False, "return what PySODMetrics returns, even if above 1 or NaN")
    _add_scoring(add)

    labels = kinds.add_parser("labels", help="pseudo labels: pixel accuracy and IoU")
    add = _group(labels)
    text = "folders of label maps <id>.png, or of score dictionaries <id>.npy or <id>.npz; repeatable"
    add("--pred", ["DIR"], [], text, "--baseline_dir", action=_Collect)
    _add_scored_ids(add)
    add("--bg_threshold", _share, 0.2, "score of the constant background, for rule `none` and score dictionaries")
    add("--cam_dir", "DIR", None, "class activation maps, for --rules")
    add("--second_cam_dir", "DIR", None, "maps of another classifier, for rule `nsrom`")
    text = "also score the labels that these fusion rules make from --cam_dir (no name: all rules)"
    add("--rules", [FUSION_RULES], None, text, nargs="*", metavar="RULE")
    text = "also score single-class images at these values of t0, with t1 = 0 (no value: those in the paper)"
    add("--sweep", [_share], None, text, nargs="*")
    _add_scoring(add)
    _add_saliency(labels)
    _add_selector(labels, default="sos")

    segmentation = kinds.add_parser("segmentation", help="segmentations: pixel accuracy and IoU")
    add = _group(segmentation)
    add("--pred", ["DIR"], REQUIRED, "folders of label maps <id>.png; repeatable", action=_Collect)
    _add_scored_ids(add)
    _add_scoring(add)
    # evaluate.py scores segmentations by the function of labels, which reads these
    segmentation.set_defaults(selector="none", **dict.fromkeys(("rules", "sweep", "bg_threshold")))

    submission = kinds.add_parser("submission", help="check an archive for the test server of VOC 2012")
    submission.set_defaults(report=None)
    add = _group(submission)
    add("--archive", "FILE", REQUIRED, "the .tar.gz of predict.py --voc_submission")
    add("--list", "FILE", REQUIRED, "ids that it must hold, one per line")
    add("--data_dir", "DIR", REQUIRED, "the VOC2012 folder or a parent of it, with the photographs")

    for scored in kinds.choices.values():
        add = _group(scored)
        add("--json", "FILE", None, "also write the scores to FILE")
        add("--tables", "DIR", None, "also write the tables as Markdown, CSV and LaTeX, and the curves as PNG")

    doubt = kinds.add_parser("doubt", help="which labels to correct first, without ground truth")
    doubt.set_defaults(json=None, tables=None)
    add = _group(doubt)
    add("--pred", ["DIR"], REQUIRED, "folder of label maps <id>.png", nargs=1)
    add("--predictions", "DIR", REQUIRED, "predictions <id>.png of a segmentation network trained on these labels")
    add("--saliency_dir", "DIR", None, "saliency maps <id>.png to show on the page")
    add("--data_dir", "DIR", REQUIRED, "the VOC2012 folder or a parent of it, with the photographs")
    add("--list", "FILE", REQUIRED, "ids of the labels, one per line")
    add("--csv", "FILE", None, "also write the doubt in all labels to FILE, most doubtful first")
    _add_page(add)
    return parser


def prepare_data() -> argparse.ArgumentParser:
    parser = _Parser("Prepare the data of all stages, and check it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="check|voc12|coco14|own")

    text = "Check the data in dataset, dataset/benchmark and data/voc12, or of the flags. Exit status: 0 only notes, "
    text += "1 errors, 2 a mistake in the flags."
    check = commands.add_parser("check", help="find faults in the data", description=text)
    add = _group(check)
    add("--train_root", ["DIR"], [], "saliency training sets, or folders of data sets; repeatable", action=_Collect)
    add("--benchmark", ["DIR"], [], "saliency test sets, or folders of data sets; repeatable", action=_Collect)
    add("--csv", "FILE", None, "also write all findings to FILE")
    add("--workers", _count, 0, "processes that read files; 0: one per core")
    add = _add_voc(check, "VOC", data_dir=None)
    add("--list", ["FILE"], None, "lists, in --list_dir or paths (default: every *_id.txt there)")
    add("--image_labels", "FILE", None, "classes of the images, in --list_dir or a path (default: cls_labels.npy)")
    add("--label_name", ["NAME"], [], "labels: names below experiments/pseudo_labels, VOC folders, or paths")
    add("--saliency_dir", ["DIR"], [], "folders of saliency maps <id>.png")
    add("--cam_dir", ["DIR"], [], "folders of class activation maps <id>.npz")

    add = _group(commands.add_parser("voc12", help="make the tree of VOC 2012, lists and labels from its archives"))
    add("--trainval", "PATH", REQUIRED, "VOCtrainval_11-May-2012.tar, or the folder it unpacks to")
    add("--aug", "PATH", REQUIRED, "SegmentationClassAug.zip, or the folder it unpacks to")
    add("--test", "PATH", None, "VOC2012test.tar, or the folder it unpacks to, for the photographs of the test set")
    add("--data_dir", "DIR", "data/voc12", "write the tree to DIR/VOCdevkit/VOC2012")
    add("--list_dir", "DIR", "voc12", "write cls_labels.npy and *_id.txt to DIR")

    add = _group(commands.add_parser("coco14", help="make a tree of COCO 2014 with masks, lists and labels"))
    for split in ("train2014", "val2014"):
        add(f"--{split}", "PATH", REQUIRED, f"{split}.zip, or the folder it unpacks to, where photographs stay")
    add("--annotations", "PATH", REQUIRED, "annotations_trainval2014.zip, or the folder it unpacks to")
    add("--data_dir", "DIR", "data/coco14", "write the tree to DIR")
    add("--list_dir", "DIR", "coco14", "write cls_labels.npy and *_id.txt to DIR")
    add("--workers", _count, 0, "processes that paint masks; 0: one per core")

    add = _group(commands.add_parser("own", help="write lists and image labels for photographs and tags of your own"))
    add("--images", "DIR", REQUIRED, "photographs, in DIR and folders below; they stay there")
    text = "their classes: a folder per class, YOLO text, VOC XML, COCO JSON, CSV, class numbers; see docs/inputs.md"
    add("--tags", "PATH", REQUIRED, text)
    add("--output", "DIR", REQUIRED, "write classes.txt, all_id.txt, labels.csv and untagged_id.txt to DIR")
    return parser


def pipeline() -> argparse.ArgumentParser:
    parser = _Parser("Run a whole sequence of the README's commands; a stopped sequence continues when run again.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="own|demo|voc12|coco14|label_quality")
    text = "your own photographs and tags: labels, a network, masks for other tools, a page of doubtful labels"
    own = commands.add_parser("own", help=text)
    _add_network(own, None, "backbone of classifier and segmentation (default: chosen from the device)")
    add = _group(own, "data")
    add("--images", "DIR", REQUIRED, "photographs, in DIR and folders below; they stay there")
    add("--tags", "PATH", REQUIRED, "classes of the photographs: see prepare_data.py own --help")
    add("--saliency_dir", "DIR", None, "ready saliency maps <id>.png, by any network")
    add("--saliency_load_path", "FILE", None, "saliency checkpoint, in place of --saliency_dir")
    text = "masks corrected in another tool, COCO JSON or PNG: labels and network again, in <output>/corrected/<name>"
    add("--corrected", "PATH", None, text)
    add("--rounds", _count, 0, "rounds of self-training at most: labels from the network's predictions, a new network")
    add("--output", "DIR", REQUIRED, "folder of all results")

    text = "all stages on scenes drawn by the demo: a few minutes on two CPU cores"
    add = _group(commands.add_parser("demo", help=text))
    add("--work_dir", "DIR", "experiments/demo", "write everything to DIR")
    add("--seed", _seed, 0, "seed of scenes and trainings")
    add("--num_saliency", _positive, 600, "scenes to train the saliency network")
    add("--num_train", _positive, 700, "scenes to train classifier and segmentation")
    add("--num_val", _positive, 120, "held-out scenes of each kind")
    add("--draw_only", bool, False, "draw the scenes in the layouts of the README and stop")

    text = "a row of the paper's table on VOC 2012, from images to mean ± deviation"
    voc12 = commands.add_parser("voc12", help=text)
    coco14 = commands.add_parser("coco14", help="the same on COCO 2014, which prepare_data.py coco14 makes")
    for row, data_dir, list_dir in ((voc12, "data/voc12", "voc12"), (coco14, "data/coco14", "coco14")):
        add = _group(row)
        text = "backbone of the paper, which claims mIoU 74.9 (from COCO's weights), 76.55, and 77.52 on VOC val"
        add("--row", ("resnet101", "resnest101", "resnest269"), REQUIRED, text)
        add("--baseline_dir", "DIR", None, "labels of another method for the selector (default: labels made here)")
        add("--saliency_dir", "DIR", None, "ready saliency maps <id>.png (default: a saliency network is trained)")
        add("--train_root", "DIR", "dataset/DUTS-TR", "data set to train the saliency network on")
        add("--seeds", [_seed], [0, 1, 2], "seeds of the segmentation network")
        add("--crf", bool, False, "also score segmentations refined by the dense CRF")
        if row is voc12:
            add("--submission", bool, False, "also write the archive for VOC's test server; needs test_id.txt")
        add("--output", "DIR", None, "folder of all results (default: experiments/<command>_<row>)")
        _add_voc(row, data_dir=data_dir, list_dir=list_dir)

    text = "labels made in every way, scored before and after the selector; about two hours on two CPU cores"
    quality = commands.add_parser("label_quality", help=text)
    _add_network(quality, "resnest101", "backbone of classifier and affinity network")
    add = _add_voc(quality)
    add("--saliency_dir", ["DIR"], REQUIRED, "folders of saliency maps <id>.png; EPS is trained with the first")
    add("--output", "DIR", "experiments/label_quality", "folder of all results")
    stages = {own: "network", voc12: "segmentation", coco14: "segmentation", quality: "classifier"}
    for command, stage in stages.items():
        text = f'extra flags of a stage, such as "{stage} --train_batch 32"; repeatable'
        command.add_argument("--flags", action="append", type=_text, default=[], metavar='"STAGE FLAGS"', help=text)
    return parser


def backbone_settings(args: argparse.Namespace) -> dict:
    """Return the backbone flags as the settings that are stored in a checkpoint."""
    settings = {name: getattr(args, name) for name in ("backbone", "backbone_args", "pixel_mean", "pixel_std")}
    return settings | {"backbone_args": dict(args.backbone_args)}


def selector_settings(args: argparse.Namespace) -> dict:
    """Return the selector flags as settings of a `ThresholdRule`."""
    settings = {"form": args.selector_form, "t0": args.t0, "t1": args.t1, "tau": args.tau}
    return settings | {"non_salient": args.non_salient_classes, "least_saliency": args.salient_norm}


# flags that several scripts share


def _add_network(parser, default: str, text: str):
    add = _group(parser, "network")
    add("--backbone", "NAME", default, text)
    add("--backbone_args", [_setting], [], "settings of the timm network, such as depths=2,2,2,2", metavar="KEY=VALUE")
    text = "initial weights: ImageNet's from the hub, none, or a file of timm or of this project"
    add("--pretrained", "imagenet|none|PATH", "imagenet", text)
    channels = {"nargs": 3, "metavar": ("R", "G", "B")}
    add("--pixel_mean", _share, None, "mean of the input colours, 0..1 (default: timm's for NAME)", **channels)
    add("--pixel_std", _deviation, None, "deviation of the input colours (default: timm's for NAME)", **channels)
    return add


def _add_voc(parser, title: str = "data", data_dir: str | None = "data/voc12", list_dir: str = "voc12"):
    add = _group(parser, title)
    add("--data_dir", "DIR", data_dir, "the VOC2012 folder or a parent of it")
    add("--list_dir", "DIR", list_dir, "folder of cls_labels.npy and *_id.txt")
    return add


def _add_image_labels(add) -> None:
    text = "classes of the images, in --list_dir or a path: cls_labels.npy, a table (.csv), class numbers (.txt) or XML"
    add("--image_labels", "FILE", "cls_labels.npy", text)


def _add_train_labels(add, text: str) -> None:
    text += ": a name below experiments/pseudo_labels, a folder of the VOC tree, or a path"
    add("--label_name", "NAME", REQUIRED, text)


def _add_corrected(add) -> None:
    text = "labels corrected in another tool replace those of their images: COCO .json, <id>.png, or a folder of these"
    add("--corrected", "PATH", None, text)


def _add_train_lists(parser) -> None:
    add = _group(parser, "lists")
    add("--train_list", "FILE", "train_aug_id.txt", "ids to train on, in --list_dir or a path")
    add("--val_list", "FILE|none", "val_id.txt", "ids to validate on, in --list_dir or a path; none: no validation")
    add("--val_every", _positive, 5, "epochs between two validations")


def _add_training(parser, max_epoch: int, batch: int, lr: float):
    add = _group(parser, "training")
    add("--max_epoch", _positive, max_epoch, "number of epochs")
    add("--train_batch", _positive, batch, "images per step, over all processes")
    add("--lr", _above_zero, lr, "learning rate")
    add("--seed", _seed, 0, "seed of weights, order and augmentation")
    _add_precision(add)
    return add


def _add_precision(add) -> None:
    text = "mixed precision on GPUs (bfloat16, else float16); cpu: also on CPUs with bfloat16 instructions"
    add("--amp", _precision, True, text, nargs="?", const=True, metavar="True|False|cpu")
    text = "bit-identical results on GPUs of one kind: slower, more memory; a warning names unsupported operations"
    add("--deterministic", bool, False, text)


def _add_step(add) -> None:
    add("--accumulate", _positive, 1, "parts of a batch that pass the network one after the other")
    add("--ema", _below_one, 0.0, "decay of the running mean of the weights, which is saved and scored; 0: none")
    add("--compile", bool, False, "compile the network: a slow start, then faster steps (not in float32 on CPUs)")


def _add_sgd(add, momentum: float, weight_decay: float) -> None:
    add("--optimizer", ("sgd", "adamw"), "sgd", "sgd (Nesterov) or adamw")
    add("--momentum", _share, momentum, "momentum of sgd; Nesterov's has no effect at 0")
    add("--weight_decay", _at_least_zero, weight_decay, "weight decay; biases have none")
    add("--power", _at_least_zero, 0.9, "exponent of the polynomial decay of --lr")


def _add_crops(add, crop_size: int, long_side: tuple[int, int]) -> None:
    add("--crop_size", _side, crop_size, "side of the training crops, px")
    text = "before cropping, resize images to a longer side in this range, px"
    add("--long_side", _side, long_side, text, nargs=2, metavar=("MIN", "MAX"))


def _add_saliency(parser) -> None:
    add = _group(parser, "saliency")
    add("--saliency_dir", "DIR", None, "saliency maps <id>.png, by any network")
    add("--saliency_threshold", _share, 0.5, "pixels above it form the saliency mask of the selector")


def _add_selector(parser, default: str) -> None:
    add = _group(parser, "salient object selector")
    text = "sos: replace labels by saliency masks, as in the paper; evidence: decide by features where they differ"
    add("--selector", ("none", "sos", "evidence"), default, text)
    text = "network of `evidence`: a name of the README or of timm, or a checkpoint"
    text += " (default: the classifier of --load_path)" if default == "none" else ""
    add("--features", "NAME|PATH", None, text)
    add("--pretrained", "imagenet|none|PATH", "imagenet", "weights of the network of --features: as in training")
    text = "replace where overlap > t0 (+ t1 for non-salient classes), or where overlap + class saliency > tau"
    add("--selector_form", ("algorithm", "formula"), "algorithm", text)
    add("--t0", _share, 0.4, "threshold on the IoU of mask and label, for salient classes")
    add("--t1", _at_least_zero, 0.2, "added to --t0 for non-salient classes")
    add("--tau", _at_least_zero, None, "threshold of the formula (default: t0 + 1)")
    add("--non_salient_classes", ["NAME"], ["measured"], "names, `none`, or `measured`: saliency below --salient_norm")
    add("--salient_norm", _share, 0.5, "least saliency of a salient class, relative to the largest")


def _add_scored_ids(add) -> None:
    add("--data_dir", "DIR", REQUIRED, "the VOC2012 folder or a parent of it")
    add("--list", "FILE", REQUIRED, "ids to score, one per line")
    text = "classes of the images: cls_labels.npy, a table (.csv), class numbers (.txt) or XML (default, if needed: "
    text += "cls_labels.npy beside --list)"
    add("--image_labels", "FILE", None, text)
    add("--single_class", "FILE", None, "same formats as --image_labels; score only images with exactly one class")


def _add_scoring(add) -> None:
    add("--allow_missing", bool, False, "skip and count images whose file of --pred is missing or unusable")
    text = "resamples of the images, for 95%% intervals and comparisons with the first --pred; 0: none"
    add("--bootstrap", _count, 1000, text)
    _add_page(add)


def _add_page(add) -> None:
    add("--workers", _count, 0, "processes that read and score files; 0: one per core")
    add("--report", "FILE", None, "also write an HTML page to FILE: tables, curves and pictures")
    add("--report_images", _count, 200, "pictures on the page, worst first")


def _add_devices(parser, workers: int, text: str):
    add = _group(parser, "devices")
    add("--gpu_id", [_count], None, "GPUs to use (default: all visible ones, or the CPU if there is none)")
    add("--workers", _count, workers, text)
    text = "options.json of an earlier run: its options are the defaults, except --tag, --resume and --part"
    add("--config", "FILE", None, text)
    return add


def _add_prediction_devices(parser, read_part, more: str = "") -> None:
    add = _add_devices(parser, 0, "processes that run the CRF, per machine; 0: one per core")
    text = "only part I of N of the images, on machines of one kind; `slurm`: the task of an array 1-N"
    add("--part", read_part, None, text + more, metavar="I/N|slurm")
    _add_precision(add)


def _add_run(parser) -> None:
    _add_devices(parser, 4, "processes that load images, per device")
    add = _group(parser, "run folder")
    add("--log_path", "DIR", "experiments", "parent of the run folders")
    add("--tag", "NAME", None, "name of the run folder (default: the time)")
    add("--resume", bool, False, "continue the run --tag from its last.pth")
    add("--save_every", _count, 500, "steps between two saves within an epoch; 0: none")


# parsing


def _group(parser, title: str | None = None):
    """The function that adds flags to a parser, under a title of --help."""
    group = parser.add_argument_group(title) if title else parser

    def add(name: str, kind, default, text: str, *aliases: str, **settings) -> None:
        if isinstance(kind, list):
            (kind,), settings = kind, {"nargs": "+"} | settings
        if kind is bool:
            settings |= {"type": _boolean, "nargs": "?", "const": True, "metavar": "True|False"}
        elif isinstance(kind, tuple):
            settings |= {"choices": kind}
        elif isinstance(kind, str):
            settings |= {"type": _text, "metavar": kind}
        else:
            settings = {"type": kind, "metavar": getattr(kind, "metavar", None)} | settings
        settings |= {"required": True} if default is REQUIRED else {"default": default}
        if default not in (None, [], REQUIRED):
            values = default if isinstance(default, (list, tuple)) else [default]
            text += f" (default {' '.join(map(str, values))})"
        group.add_argument(name, *aliases, help=text, **settings)

    return add


class _Parser(argparse.ArgumentParser):
    """Parser that rejects abbreviated flags and prints errors on one line."""

    def __init__(self, description: str | None = None, **settings):
        super().__init__(description=description, allow_abbrev=False, **settings)

    def parse_known_args(self, args=None, namespace=None):
        self.words = sys.argv[1:] if args is None else args
        if "--config" in self._option_string_actions:
            early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            early.add_argument("--config", nargs="?")
            if path := early.parse_known_args(self.words)[0].config:
                self._take_options(path)
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        vars(namespace).pop("config", None)  # what it holds is recorded in its place
        return namespace, unknown

    def _take_options(self, path: str) -> None:
        """Make the options of an earlier run the defaults, but for the names of that run."""
        try:
            with open(path, encoding="utf-8") as file:
                saved = dict(json.load(file)["options"])
        except (OSError, ValueError, TypeError, LookupError):
            self.error(f"--config {path} holds no options of a run: name the options.json that it wrote")
        saved = {name: _restore(saved[name]) for name in saved.keys() - {"tag", "resume", "part"}}
        if unknown := sorted(saved.keys() - {action.dest for action in self._actions}):
            self.error(f"--config {path} is of another script or version, with {', '.join(unknown[:3])}")
        self.set_defaults(**saved)
        for action in self._actions:
            action.required &= action.dest not in saved

    def error(self, message: str):
        """Exit with code 2 and one line, which suggests flags similar to unknown ones."""
        known = self._option_string_actions
        unknown = [word.split("=")[0] for word in self.words if word.startswith("--")]
        likely = [near for flag in unknown if flag not in known for near in difflib.get_close_matches(flag, known, n=1)]
        hint = f"did you mean {', '.join(likely)}? " if likely else ""
        message = " ".join(message.split())[:200]
        self.exit(2, f"{self.prog}: error: {message} ({hint}{self.prog} --help lists all flags)\n")


class _Collect(argparse.Action):
    """A repeatable flag: its values add up and replace the default."""

    def __call__(self, parser, namespace, values, option_string=None):
        given = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if given is self.default else given + values)


def _in_range(read, low, high, metavar: str = "X"):
    """A parsing function for numbers in [low, high]."""

    def parse(text: str):
        try:
            value = read(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            noun = "whole number" if read is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {noun} in [{low}, {high}]")
        return value

    parse.metavar = metavar
    return parse


def _word_or(word: str, read):
    """A parsing function that also accepts one word."""
    return lambda text: word if text == word else read(text)


_count = _in_range(int, 0, 2**31 - 1, metavar="N")
_positive = _in_range(int, 1, 2**31 - 1, metavar="N")
_side = _in_range(int, 1, LARGEST_SIDE, metavar="N")
_seed = _in_range(int, 0, 2**64 - 1, metavar="N")  # the range of PyTorch
_doublings = _in_range(int, 0, 12, metavar="N")  # above, the polynomial of the walk takes seconds per image
_radius = _in_range(int, 2, 64, metavar="N")  # no two pixels are closer than 1 px; the paths grow with the cube
_share = _in_range(float, 0, 1, metavar="0..1")
_positive_share = _in_range(float, TINY, 1, metavar="0..1")
_below_one = _in_range(float, 0, 1 - TINY, metavar="0..1")
_at_least_zero = _in_range(float, 0, LARGEST_NUMBER)
_above_zero = _in_range(float, TINY, LARGEST_NUMBER)
_scale = _in_range(float, 0.001, 16)
_deviation = _in_range(float, 0.001, 1)  # the step of 8-bit colours is 1 / 255


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return values[text.lower()]


_precision = _word_or("cpu", _boolean)


def _part(text: str) -> tuple[int, int]:
    """I/N with 1 <= I <= N; `slurm` is the task of an array 1-N."""
    if text == "slurm":
        names = ("MIN", "MAX", "ID", "COUNT")
        first, last, task, count = (os.environ.get(f"SLURM_ARRAY_TASK_{name}") for name in names)
        if first != "1" or last != count:
            raise argparse.ArgumentTypeError("`slurm` needs a job array 1-N without gaps: give I/N instead")
        text = f"{task}/{count}"
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N")
    return int(index), int(count)


def _restore(value, kind=list):
    """Restore an option from JSON: lists inside a list become tuples."""
    return kind(_restore(item, tuple) for item in value) if isinstance(value, list) else value


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the value is empty")
    return text


def _decoder_width(text: str) -> int:
    width = PAPER_WIDTH if text == "paper" else _side(text)
    if width % 8:
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of 8")
    return width


def _setting(text: str) -> tuple[str, object]:
    """KEY=VALUE; the value is a Python literal, or else a text."""
    key, equals, value = text.partition("=")
    if not (key.isidentifier() and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
