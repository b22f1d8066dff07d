"""Every flag of every script, each in the function named after its script. Defaults are the recipe."""

import argparse
import ast
import difflib
import json

FUSION_RULES = ("none", "oaa", "drs", "bed", "rca", "edam", "auxsegnet", "icd", "nsrom", "affinity")
PAPER_WIDTH = 1024  # of the saliency network's decoder
VOC12 = "Make the tree of VOC 2012, its lists and its image labels from the archives that one downloads."
CHECK = (
    "Look for faults in the data of all stages. Without --train_root, --benchmark and --data_dir it looks at the "
    "README's places: dataset, dataset/benchmark, and data/voc12 with the lists of voc12. Exit status: 0 for notes "
    "alone, 1 for errors, 2 for a mistake in the flags."
)
LARGEST_COUNT = 2**31 - 1
LARGEST_SEED = 2**64 - 1  # PyTorch's
LARGEST_SIDE = 1 << 14  # px, channels: `checkpoint_content.py` takes no network with more
LARGEST_NUMBER = 1e9  # float32 holds products of four of them


def SOD_train() -> argparse.ArgumentParser:
    parser = _Parser("Train the salient object network (stage 1).")
    _add_network(parser, "swin-base-224", "Swin by the README's names, or any timm name with four feature maps")
    parser.add_argument(
        "--decoder_width",
        type=_decoder_width,
        default=256,
        metavar="paper|N",
        help=f"channels of the decoder's coarsest stage, a multiple of 8; `paper` is {PAPER_WIDTH}",
    )
    parser.add_argument("--image_size", type=_side, default=224, help="side of the network's input, px")
    parser.add_argument("--dropout", type=_share, default=0.5, help="dropout of each decoder stage, 0..1")
    parser.add_argument("--edge_drop_path", type=_share, default=0.3, help="drop path of the edge head, 0..1")

    data = parser.add_argument_group("data")
    data.add_argument(
        "--train_root",
        nargs="+",
        action=_Collect,
        default=["dataset"],
        metavar="DIR",
        help="data sets with Images/ and Masks/, or folders of such; benchmark/ is never trained on; may be repeated",
    )
    data.add_argument(
        "--edge_dir",
        metavar="DIR",
        help="ready edge maps DIR/<data set>/<stem>.png, or DIR/<stem>.png of one data set (default: from masks)",
    )
    data.add_argument(
        "--val_root",
        nargs="+",
        action=_Collect,
        default=[],
        metavar="DIR",
        help="data sets, or folders of such, scored after every --val_every epochs and at the end",
    )
    data.add_argument(
        "--val_every",
        type=_positive,
        default=10,
        help="epochs between two validations, each with a picture of progress",
    )
    data.add_argument(
        "--colour_jitter",
        type=_share,
        default=1.0,
        help="strength of the change of colours, 0..1; 1 is the paper's",
    )
    data.add_argument(
        "--train_scales",
        nargs="+",
        type=_scale,
        default=[1.0],
        metavar="X",
        help="factors on --image_size; each batch draws one",
    )
    data.add_argument(
        "--cache-mode",
        choices=("no", "part", "full"),
        default="no",
        help="hold the image files in memory: no, each process its own share (part), or each all of them (full)",
    )

    training = _add_training(parser, max_epoch=150, batch=16, lr=1e-4)
    training.add_argument(
        "--decay_epoch",
        nargs="+",
        type=_positive,
        default=[15],
        metavar="N",
        help="one number: epochs between two decays of --lr; several: the epochs of the decays",
    )
    training.add_argument("--gamma", type=_positive_share, default=0.5, help="factor of each decay, up to 1")
    training.add_argument(
        "--clip", type=_at_least_zero, default=0.8, help="largest value of a gradient; 0: not clipped"
    )
    training.add_argument("--edge_loss", type=_at_least_zero, default=1.0, help="weight of the edge loss")
    _add_step(training, channels_last=True)
    _add_switch(training, "--grad_checkpointing", False, "compute activations twice, to hold fewer of them in memory")
    _add_run(parser)
    return parser


def train_classification() -> argparse.ArgumentParser:
    parser = _Parser("Train the classifier whose class activation maps find the classes (stage 2a).")
    _add_network(
        parser, "resnest101", "ResNeSt or ResNet by the README's names, or any timm name with an output stride of 16"
    )
    _add_image_labels(_add_voc(parser))
    _add_train_lists(parser)
    training = _add_training(parser, max_epoch=15, batch=32, lr=0.1)
    _add_optimizer(training, momentum=0.0, weight_decay=1e-4)
    _add_crops(training, crop_size=512, smallest=320, largest=640)
    _add_switch(training, "--puzzle", False, "Puzzle-CAM: the maps of four tiles must match those of the whole image")
    training.add_argument(
        "--saliency_dir", metavar="DIR", help="EPS: the maps must add up to the saliency maps <id>.png in DIR"
    )
    _add_channels_last(training, "gpu")
    _add_run(parser)
    return parser


def train_affinity() -> argparse.ArgumentParser:
    parser = _Parser("Train the affinity network, which keeps class activation maps within objects (stage 2b).")
    _add_network(
        parser, "resnet-50", "frozen; ResNet or ResNeSt by the README's names, or any timm name with output stride 16"
    )
    data = _add_voc(parser)
    data.add_argument(
        "--label_name",
        required=True,
        metavar="NAME",
        help="affinity labels: a name below experiments/pseudo_labels, a folder of the VOC tree, or a path",
    )
    data.add_argument(
        "--train_list", default="train_aug_id.txt", metavar="FILE", help="ids to train on, in --list_dir or a path"
    )
    training = _add_training(parser, max_epoch=3, batch=32, lr=0.1)
    _add_optimizer(training, momentum=0.0, weight_decay=1e-4, head_lr=None)
    training.add_argument(
        "--radius", type=_radius, default=10, help="pairs of pixels are nearer than this, in px of the edge map (H / 4)"
    )
    _add_crops(training, crop_size=512, smallest=320, largest=640)
    _add_channels_last(training, "gpu")
    _add_run(parser)
    return parser


def make_pseudo_labels() -> argparse.ArgumentParser:
    parser = _Parser(
        "Make pseudo labels: class activation maps, expansion, fusion with saliency, object selector (stage 2c)."
    )
    parser.add_argument(
        "--label_name",
        required=True,
        metavar="NAME",
        help="the labels go to experiments/pseudo_labels/NAME, or to NAME itself if it is a path with a slash",
    )
    _add_image_labels(_add_voc(parser))
    parser.add_argument(
        "--list",
        default="train_aug_id.txt",
        metavar="FILE",
        help="ids to label, in --list_dir or a path",
    )

    parser.add_argument(
        "--baseline_dir",
        metavar="DIR",
        help="labels by another method instead of all that comes before the selector: label maps <id>.png, or score "
        "dictionaries <id>.npy or <id>.npz",
    )
    _add_saliency(parser)

    cams = parser.add_argument_group("class activation maps")
    cams.add_argument(
        "--load_path", metavar="FILE", help="classifier checkpoint; not needed where --cam_dir has all maps"
    )
    cams.add_argument("--cam_dir", default="experiments/cams/default", metavar="DIR", help="maps are kept there")
    _add_multi_scale(cams, scales=(0.5, 1.0, 1.5, 2.0), flip=True, text="of the image; maps are joined by --combine")
    cams.add_argument(
        "--combine", choices=("sum", "max"), default="sum", help="what scales and mirror images are joined by"
    )
    cams.add_argument(
        "--batch",
        type=_count,
        default=0,
        help="images of one size at a time, fewer where they have over 1 MP at the largest scale; 0: 8 on GPUs, 1 on "
        "CPUs, where more slow down",
    )

    expansion = parser.add_argument_group("expansion by random walk")
    expansion.add_argument(
        "--affinity_path", metavar="FILE", help="checkpoint of train_affinity.py; maps are expanded where it is given"
    )
    expansion.add_argument(
        "--expanded_dir", metavar="DIR", help="expanded maps are kept there (default: --cam_dir with _expanded)"
    )
    expansion.add_argument("--beta", type=_above_zero, default=10.0, help="power of the affinities")
    expansion.add_argument("--exp_times", type=_doublings, default=8, help="the walk takes 2^N steps")
    expansion.add_argument(
        "--radius", type=_radius, default=5, help="steps are shorter than this, px of the edge map (H / 4)"
    )

    labels = parser.add_argument_group("labels")
    _add_fusion(labels)
    _add_switch(labels, "--crf", False, "dense CRF on the labels")
    labels.add_argument("--crf_iterations", type=_positive, default=10, help="of mean field")
    _add_selector(parser, default="none")
    _add_amp(parser)
    _add_deterministic(parser)
    _add_crf_workers(_add_devices(parser))
    return parser


def train_segmentation() -> argparse.ArgumentParser:
    parser = _Parser("Train DeepLabV3+ on pseudo labels or masks (stage 3).")
    _add_network(parser, "resnest101", "ResNeSt or ResNet by the README's names, or any timm name that can be dilated")
    parser.add_argument(
        "--load_path",
        metavar="FILE",
        help="start from all weights of this segmentation checkpoint, made here or by Puzzle-CAM; then no --pretrained",
    )
    parser.add_argument(
        "--mode",
        choices=("fix", "normal"),
        default="fix",
        help="fix: the backbone's batch norm keeps its statistics; normal: ordinary batch norm, shared by all GPUs",
    )
    _add_switch(parser, "--use_gn", True, "GroupNorm (4 groups) in the head; False: batch norm")
    parser.add_argument("--head_width", type=_side, default=256, help="channels of ASPP and decoder")
    parser.add_argument(
        "--output_stride",
        type=int,
        choices=(16, 8),
        default=16,
        help="px of the image per px of the coarsest features; 8 is finer, slower and needs more memory",
    )
    parser.add_argument(
        "--dropout", type=_below_one, default=0.5, help="in the head, 0..1; a fifth of it before the last convolution"
    )
    _add_voc(parser)
    parser.add_argument(
        "--label_name",
        required=True,
        metavar="NAME",
        help="labels to train on: a name below experiments/pseudo_labels, a folder of the VOC tree, or a path",
    )
    _add_train_lists(parser)
    training = _add_training(parser, max_epoch=50, batch=16, lr=0.007)
    _add_optimizer(training, momentum=0.9, weight_decay=4e-5)
    training.add_argument(
        "--warmup_steps",
        type=_count,
        default=0,
        help="steps over which --lr rises to its value; 0: the recipe has none",
    )
    _add_crops(training, crop_size=512, smallest=256, largest=1024)
    _add_segmentation_loss(training)
    _add_step(training, channels_last="gpu")
    _add_run(parser)
    return parser


def predict() -> argparse.ArgumentParser:
    parser = _Parser("Write what a checkpoint predicts: saliency maps, segmentations, or CAM overlays.")
    parser.add_argument(
        "--load_path",
        required=True,
        metavar="FILE",
        help="saliency, classifier or segmentation checkpoint, the last also of Puzzle-CAM",
    )
    parser.add_argument("--input", required=True, nargs="+", metavar="PATH", help="image files and folders of them")
    parser.add_argument("--list", metavar="FILE", help="only the images of these ids, one per line")
    parser.add_argument("--output", required=True, metavar="DIR", help="results go to DIR/<stem>.png")
    _add_multi_scale(
        parser,
        scales=(1.0,),
        flip=False,
        text="of the image, or for saliency of the network's input size; their maps are joined",
    )
    parser.add_argument(
        "--batch",
        type=_count,
        default=0,
        help="images at a time; for segmentation of one size, fewer where they have over 1 MP at the largest scale; "
        "always one for CAMs; 0: 8, for segmentation on CPUs 1",
    )
    _add_amp(parser)
    _add_deterministic(parser)
    parser.add_argument("--overlay", action="store_true", help="also write DIR/overlays/<stem>.jpg: results on images")
    _add_segmentation_results(parser)
    _add_crf_workers(_add_devices(parser))
    return parser


def export() -> argparse.ArgumentParser:
    export = _Parser("Write a network in the form of other tools.")
    commands = export.add_subparsers(dest="command", required=True, metavar="onnx")
    parser = commands.add_parser("onnx", help="a saliency network; onnxruntime must give the same maps")
    parser.add_argument("--load_path", required=True, metavar="FILE", help="checkpoint of SOD_train.py")
    parser.add_argument("--output", required=True, metavar="FILE", help="the ONNX file to write")
    return export


def evaluate() -> argparse.ArgumentParser:
    parser = _Parser("Score files against the truth and print benchmark tables (stage 4).")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="saliency|labels|segmentation|submission")
    kinds.type = str  # a kind's flags are read by its own parser, which names the one that is wrong
    saliency = kinds.add_parser("saliency", help="MAE, F, weighted F, S, E, IoU … of saliency maps")
    saliency.add_argument(
        "--pred",
        required=True,
        nargs="+",
        action=_Collect,
        default=[],
        metavar="METHOD_DIR",
        help="maps in METHOD_DIR/<data set>/<stem>.png; several methods",
    )
    saliency.add_argument("--gt_root", required=True, metavar="DIR", help="truth in DIR/<data set>/Masks/<stem>.png")
    _add_switch(saliency, "--weighted_f", True, "weighted F; False: in half the time")
    _add_switch(
        saliency,
        "--strict_reference",
        False,
        "give what PySODMetrics gives, also where that is more than 1 or not a number",
    )
    _add_scoring(saliency)
    for kind, text in (("labels", "pseudo labels"), ("segmentation", "segmentations")):
        scored = kinds.add_parser(kind, help=f"pixel accuracy and IoU of {text}")
        _add_scored_folders(scored, kind)
        scored.add_argument("--data_dir", required=True, metavar="DIR", help="the VOC2012 folder or a parent of it")
        scored.add_argument("--list", required=True, metavar="FILE", help="ids to score, one per line")
        scored.add_argument(
            "--gt",
            metavar="NAME",
            help="folder of the truth (default SegmentationClass where it has every mask, else SegmentationClassAug)",
        )
        scored.add_argument(
            "--image_labels",
            metavar="FILE",
            help="cls_labels.npy, a table or XML: tells single- and multi-class images apart (default, where they must "
            "be known: cls_labels.npy beside --list)",
        )
        scored.add_argument(
            "--single_class", metavar="FILE", help="the same, to score only the images with exactly one class"
        )
        _add_scoring(scored)
    _add_saliency(kinds.choices["labels"])
    _add_selector(kinds.choices["labels"], default="sos")
    submission = kinds.add_parser("submission", help="check an archive of masks for the test server of VOC 2012")
    submission.add_argument("--archive", required=True, metavar="FILE", help="the .tar.gz that predict.py packs")
    submission.add_argument("--list", required=True, metavar="FILE", help="ids that it must hold, one per line")
    submission.add_argument(
        "--data_dir", required=True, metavar="DIR", help="the VOC2012 folder or a parent of it, with the photographs"
    )
    for scored in kinds.choices.values():
        scored.add_argument("--json", metavar="FILE", help="also write the scores to FILE")
        scored.add_argument(
            "--tables", metavar="DIR", help="also write the tables to DIR: Markdown, CSV, LaTeX, and curves as PNG"
        )
    return parser


def prepare_data() -> argparse.ArgumentParser:
    parser = _Parser("Prepare the data of all stages, and check it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="check|voc12")
    _add_check(commands.add_parser("check", help="look for faults", description=CHECK))
    _add_voc12(commands.add_parser("voc12", help="make the tree of VOC 2012 from its archives", description=VOC12))
    return parser


def _add_check(parser) -> None:
    for name, text in (
        ("--train_root", "saliency training sets with Images/ and Masks/, or folders of such; may be repeated"),
        ("--benchmark", "saliency test sets, or folders of such; may be repeated"),
    ):
        parser.add_argument(name, nargs="+", action=_Collect, default=[], metavar="DIR", help=text)

    voc = parser.add_argument_group("VOC")
    voc.add_argument("--data_dir", metavar="DIR", help="the VOC2012 folder or a parent of it")
    voc.add_argument("--list_dir", default="voc12", metavar="DIR", help="holds cls_labels.npy and *_id.txt")
    voc.add_argument(
        "--list", nargs="+", metavar="FILE", help="lists, in --list_dir or paths (default: every *_id.txt there)"
    )
    voc.add_argument(
        "--image_labels",
        metavar="FILE",
        help="classes of the images, in --list_dir or a path (default: cls_labels.npy where it is there)",
    )
    for name, metavar, text in (
        ("--label_name", "NAME", "labels: names below experiments/pseudo_labels, folders of the VOC tree, or paths"),
        ("--saliency_dir", "DIR", "folders of saliency maps <id>.png"),
        ("--cam_dir", "DIR", "folders of class activation maps <id>.npz"),
    ):
        voc.add_argument(name, nargs="+", default=[], metavar=metavar, help=text)
    parser.add_argument("--csv", metavar="FILE", help="also write everything that was found to FILE")
    parser.add_argument("--workers", type=_processes, default=0, help="processes that read files; 0: one for each core")


def _add_voc12(parser) -> None:
    parser.add_argument(
        "--trainval", required=True, metavar="PATH", help="VOCtrainval_11-May-2012.tar, or the folder it unpacks to"
    )
    parser.add_argument(
        "--aug", required=True, metavar="PATH", help="SegmentationClassAug.zip, or the folder it unpacks to"
    )
    parser.add_argument("--test", metavar="PATH", help="VOC2012test.tar, or its folder, for the photographs of test")
    parser.add_argument(
        "--data_dir", default="data/voc12", metavar="DIR", help="the tree goes to DIR/VOCdevkit/VOC2012"
    )
    parser.add_argument("--list_dir", default="voc12", metavar="DIR", help="cls_labels.npy and *_id.txt go there")


def pipeline() -> argparse.ArgumentParser:
    pipeline = _Parser("Run a whole sequence of commands.")
    commands = pipeline.add_subparsers(dest="command", required=True, metavar="demo")
    parser = commands.add_parser("demo", help="the whole sequence on scenes drawn here: a few minutes on two CPU cores")
    parser.add_argument(
        "--work_dir",
        default="experiments/demo",
        metavar="DIR",
        help="everything goes there; an earlier demo in it is replaced",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="of scenes and trainings")
    parser.add_argument("--num_saliency", type=_positive, default=600, help="scenes to train the saliency network")
    parser.add_argument("--num_train", type=_positive, default=700, help="scenes to train classifier and segmentation")
    parser.add_argument("--num_val", type=_positive, default=120, help="held-out scenes of each kind")
    parser.add_argument("--height", type=_side, default=128, help="of the scenes, px")
    parser.add_argument("--width", type=_side, default=160, help="of the scenes, px")
    parser.add_argument("--draw_only", action="store_true", help="draw the scenes in the README's layouts and stop")
    return pipeline


def backbone_settings(args: argparse.Namespace) -> dict:
    """What a checkpoint has to know of the backbone."""
    return {
        "backbone": args.backbone,
        "backbone_args": dict(args.backbone_args),
        "pixel_mean": args.pixel_mean,
        "pixel_std": args.pixel_std,
    }


class _Help(argparse.HelpFormatter):
    """Appends the default of each flag that has one, so that it is written once."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default in (None, argparse.SUPPRESS, []) or (action.const is not None and action.nargs == 0):
            return action.help
        values = action.default if isinstance(action.default, (list, tuple)) else [action.default]
        return f"{action.help} (default {' '.join(map(str, values))})"


class _Collect(argparse.Action):
    """A flag that may be repeated: what is given adds up, and replaces the default."""

    def __call__(self, parser, namespace, values, option_string=None):
        given = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if given is self.default else given + values)


class _Parser(argparse.ArgumentParser):
    """Flags are never abbreviated, and no value of one is empty."""

    def __init__(self, description: str | None = None, **settings):
        super().__init__(description=description, allow_abbrev=False, formatter_class=_Help, **settings)
        self.register("type", None, _text)  # of flags that name no type

    def error(self, message: str):
        """Ends in one line, with the flags that look like an unknown one, and exit code 2."""
        unknown = message.split()[2:] if message.startswith("unrecognized arguments: ") else []
        unknown = [word.split("=")[0] for word in unknown if word.startswith("--")]
        likely = [flag for word in unknown for flag in difflib.get_close_matches(word, self._flags(), n=1)]
        hint = f"did you mean {', '.join(likely)}? " if likely else ""
        command = f"{self.prog} COMMAND" if self._commands() else self.prog
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} ({hint}{command} --help tells all flags)\n")

    def _commands(self) -> list:
        actions = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return [parser for action in actions for parser in action.choices.values()]

    def _flags(self) -> list[str]:
        """Those of its commands, too."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        return flags + [flag for parser in self._commands() for flag in parser._flags()]


def _add_network(parser, default: str, text: str) -> None:
    network = parser.add_argument_group("network")
    network.add_argument("--backbone", default=default, metavar="NAME", help=text)
    network.add_argument(
        "--backbone_args",
        nargs="+",
        type=_setting,
        default=[],
        metavar="KEY=VALUE",
        help="settings of the timm network, such as embed_dim=32 depths=2,2,2,2",
    )
    network.add_argument(
        "--pretrained",
        default="imagenet",
        metavar="imagenet|none|PATH",
        help="initial weights: ImageNet's from the hub, none, or a file: timm's, or a checkpoint made here",
    )

    for name, number, text in (("--pixel_mean", _share, "mean"), ("--pixel_std", _deviation, "standard deviation")):
        network.add_argument(
            name,
            nargs=3,
            type=number,
            metavar=("R", "G", "B"),
            help=f"{text} of the input's colours, 0..1 (default: timm's for NAME)",
        )


def _add_voc(parser):
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data_dir",
        default="data/voc12",
        metavar="DIR",
        help="the VOC2012 folder or a parent of it",
    )
    data.add_argument("--list_dir", default="voc12", metavar="DIR", help="holds cls_labels.npy and *_id.txt")
    return data


def _add_image_labels(data) -> None:
    data.add_argument(
        "--image_labels",
        default="cls_labels.npy",
        metavar="FILE",
        help="classes of the images, in --list_dir or a path: cls_labels.npy, a table id,classes (.csv), or a folder "
        "of VOC's XML",
    )


def _add_saliency(parser) -> None:
    saliency = parser.add_argument_group("saliency")
    saliency.add_argument("--saliency_dir", metavar="DIR", help="maps <id>.png of the images, by any network")
    saliency.add_argument(
        "--saliency_threshold", type=_share, default=0.5, help="saliency above it is the selector's mask, 0..1"
    )


def _add_fusion(parser) -> None:
    parser.add_argument(
        "--fusion",
        choices=FUSION_RULES,
        default="none",
        help="rule that joins maps and saliency; `none` is a constant background; all: pseudo_labels/fusion_rules.py",
    )
    parser.add_argument(
        "--fusion_args",
        nargs="+",
        type=_setting,
        default=[],
        metavar="KEY=VALUE",
        help="parameters of the rule, such as cam_threshold=0.2",
    )
    parser.add_argument(
        "--bg_threshold",
        type=_share,
        default=0.2,
        help="score of the constant background (rule `none`, and brought score dictionaries), 0..1",
    )
    parser.add_argument(
        "--second_cam_dir", metavar="DIR", help="maps of another classifier, for rule `nsrom` (default: the same maps)"
    )


def _add_selector(parser, default: str) -> None:
    """The salient object selector; `default` of `--selector`."""
    selector = parser.add_argument_group("salient object selector")
    selector.add_argument(
        "--selector", choices=("none", "sos"), default=default, help="replace labels by saliency masks"
    )
    selector.add_argument(
        "--selector_form",
        choices=("algorithm", "formula"),
        default="algorithm",
        help="replace where overlap > t0 (+ t1 for non-salient classes), or where overlap + class saliency > tau",
    )
    selector.add_argument(
        "--t0",
        type=_threshold,
        default=0.4,
        metavar="auto|X",
        help="what the IoU of mask and label must exceed, for salient classes; auto: chosen from the overlaps, without "
        "truth",
    )
    selector.add_argument("--t1", type=_at_least_zero, default=0.2, help="added to --t0 for non-salient classes")
    selector.add_argument("--tau", type=_at_least_zero, help="threshold of the formula (default: t0 + 1)")
    selector.add_argument(
        "--non_salient_classes",
        nargs="+",
        default=["measured"],
        metavar="NAME",
        help="class names, `none`, or `measured`: class saliency below --salient_norm",
    )
    selector.add_argument(
        "--salient_norm", type=_share, default=0.5, help="least saliency of a salient class, relative to the largest"
    )
    selector.add_argument(
        "--class_saliency",
        nargs="+",
        type=_class_value,
        default=[],
        metavar="NAME=VALUE",
        help="relative saliency of classes, 0..1, others 1 (default: measured, the mean norm of their maps)",
    )
    selector.add_argument(
        "--multi_class",
        choices=("keep", "split"),
        default="keep",
        help="images of several classes: keep their labels, or split the mask by the strongest map and select by class",
    )


def _add_scored_folders(scored, kind: str) -> None:
    folders = "folders of <id>.png" + (", or of score dictionaries <id>.npy or <id>.npz" if kind == "labels" else "")
    names = ("--pred", "--baseline_dir") if kind == "labels" else ("--pred",)
    scored.add_argument(*names, nargs="+", action=_Collect, default=[], metavar="DIR", help=folders)
    if kind == "labels":
        scored.add_argument(
            "--bg_threshold", type=_share, default=0.2, help="background of score dictionaries and rule `none`, 0..1"
        )
        scored.add_argument(
            "--cam_dir", metavar="DIR", help="class activation maps, for --rules and --multi_class split"
        )
        scored.add_argument("--second_cam_dir", metavar="DIR", help="maps of another classifier, for rule `nsrom`")
        scored.add_argument(
            "--rules",
            nargs="*",
            choices=FUSION_RULES,
            metavar="RULE",
            help="also score what these fusion rules make of --cam_dir (no name: all of them)",
        )
        scored.add_argument(
            "--sweep",
            nargs="*",
            type=_share,
            metavar="T",
            help="table of single-class images by overlap threshold, without t1 (no number: the paper's)",
        )


def _add_scoring(scored) -> None:
    _add_switch(
        scored, "--allow_missing", False, "leave out images whose file of --pred is missing or unusable, and count them"
    )
    scored.add_argument(
        "--workers", type=_processes, default=0, help="processes that read and score files; 0: one for each core"
    )
    scored.add_argument(
        "--bootstrap",
        type=_resamples,
        default=1000,
        metavar="N",
        help="resamples of the images, for 95%% intervals and the comparison with the first --pred; 0: none",
    )
    scored.add_argument(
        "--report", metavar="FILE", help="also write a page to FILE: tables, curves and pictures (HTML)"
    )
    scored.add_argument(
        "--report_images", type=_count, default=200, metavar="N", help="pictures on the page, the worst first"
    )


def _add_train_lists(parser) -> None:
    lists = parser.add_argument_group("lists")
    lists.add_argument(
        "--train_list",
        default="train_aug_id.txt",
        metavar="FILE",
        help="ids to train on, in --list_dir or a path",
    )
    lists.add_argument(
        "--val_list",
        default="val_id.txt",
        metavar="FILE|none",
        help="ids to validate on, in --list_dir or a path; none: no validation",
    )
    lists.add_argument("--val_every", type=_positive, default=5, help="epochs between two validations")


def _add_training(parser, max_epoch: int, batch: int, lr: float):
    training = parser.add_argument_group("training")
    training.add_argument("--max_epoch", type=_positive, default=max_epoch, help="epochs in all")
    training.add_argument("--train_batch", type=_positive, default=batch, help="images per step, over all processes")
    training.add_argument("--lr", type=_above_zero, default=lr, help="learning rate")
    training.add_argument("--seed", type=_seed, default=0, help="of weights, order and augmentation")
    _add_amp(training)
    _add_deterministic(training)
    return training


def _add_amp(parser) -> None:
    parser.add_argument(
        "--amp",
        type=_precision,
        nargs="?",
        const=True,
        default=True,
        metavar="True|False|cpu",
        help="mixed precision on GPUs (bfloat16, else float16); cpu: also on CPUs that multiply in bfloat16",
    )


def _add_deterministic(parser) -> None:
    text = (
        "the same bits twice also on GPUs of one kind: slower, and with more memory; an operation that has no such "
        "form, as the backward pass of some poolings, is named in a warning"
    )
    _add_switch(parser, "--deterministic", False, text)


def _add_step(training, channels_last: bool | str) -> None:
    """How a step is computed, whatever is learned in it."""
    training.add_argument(
        "--accumulate", type=_positive, default=1, help="parts of a batch that pass the network one after the other"
    )
    training.add_argument(
        "--ema",
        type=_below_one,
        default=0.0,
        help="decay of the running mean of the weights, 0..1, which then is what is saved and scored; 0: none",
    )
    _add_channels_last(training, channels_last)
    _add_switch(
        training,
        "--compile",
        False,
        "compile the network: minutes at the start, then faster steps, but for those in float32 on CPUs",
    )


def _add_channels_last(training, default: bool | str) -> None:
    training.add_argument(
        "--channels_last",
        type=_memory_format,
        nargs="?",
        const=True,
        default=default,
        metavar="True|False|gpu",
        help="memory format of images and weights: channels last; gpu: on GPUs only",
    )


def _add_segmentation_loss(training) -> None:
    """Variants of the cross entropy, each off as in the recipe."""
    training.add_argument(
        "--label_smoothing",
        type=_share,
        default=0.0,
        help="share of each label's weight spread over all labels, 0..1: for labels that are often wrong",
    )
    training.add_argument(
        "--class_balance",
        type=_below_one,
        default=0.0,
        metavar="BETA",
        help="class-balanced loss: weights by the effective number of images of a class, such as 0.999; 0: none",
    )
    training.add_argument(
        "--ohem",
        type=_positive_share,
        default=1.0,
        metavar="SHARE",
        help="online hard example mining: only this share of each image's labelled pixels counts, the hardest; 1: all",
    )


def _add_optimizer(training, momentum: float, weight_decay: float, head_lr: float | None = 10.0) -> None:
    training.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd", help="sgd (Nesterov) or adamw")
    training.add_argument(
        "--momentum",
        type=_share,
        default=momentum,
        help="of sgd, 0..1; Nesterov has an effect only above 0",
    )
    training.add_argument(
        "--weight_decay", type=_at_least_zero, default=weight_decay, help="of weights; biases have none"
    )
    if head_lr:  # none where the backbone is frozen
        training.add_argument(
            "--head_lr", type=_above_zero, default=head_lr, help="factor on --lr for what is not backbone"
        )
    training.add_argument("--power", type=_at_least_zero, default=0.9, help="of the polynomial decay of --lr")


def _add_crops(training, crop_size: int, smallest: int, largest: int) -> None:
    training.add_argument("--crop_size", type=_side, default=crop_size, help="side of the training crops, px")
    training.add_argument(
        "--long_side",
        nargs=2,
        type=_side,
        default=(smallest, largest),
        metavar=("MIN", "MAX"),
        help="before cropping, images are resized to a longer side in this range, px",
    )


def _add_multi_scale(parser, scales, flip: bool, text: str) -> None:
    parser.add_argument(
        "--scales",
        nargs="+",
        type=_scale,
        default=list(scales),
        help=text,
    )
    _add_switch(parser, "--flip", flip, "add the mirrored image")


def _add_segmentation_results(parser) -> None:
    """How predict.py uses a segmentation checkpoint, which other checkpoints refuse."""
    segmentation = parser.add_argument_group("segmentation checkpoints")
    segmentation.add_argument(
        "--window",
        type=_count,
        default=0,
        metavar="PX",
        help="side of the windows in which larger images, after scaling, pass the network, px; 0: as a whole",
    )
    segmentation.add_argument(
        "--window_stride",
        type=_positive,
        metavar="PX",
        help="between the beginnings of two windows, px (default: two thirds of --window)",
    )
    _add_switch(segmentation, "--crf", False, "dense CRF on the probabilities")
    segmentation.add_argument("--crf_iterations", type=_positive, default=10, help="of mean field")
    segmentation.add_argument(
        "--crf_setting",
        choices=("probabilities", "deeplab"),
        default="probabilities",
        help="kernels of the CRF: those for soft scores, or DeepLab's",
    )
    segmentation.add_argument(
        "--voc_submission",
        metavar="FILE.tar.gz",
        help="also pack the masks for the test server of VOC 2012; for networks of its 20 classes",
    )
    segmentation.add_argument(
        "--voc_competition",
        choices=("comp6", "comp5"),
        default="comp6",
        help="of --voc_submission: comp5 is for networks trained on VOC's own data alone",
    )


def _add_devices(parser):
    devices = parser.add_argument_group("devices")
    devices.add_argument(
        "--gpu_id",
        nargs="+",
        type=_count,
        metavar="N",
        help="GPUs to use (default all that are visible; the CPU, where none is)",
    )
    return devices


def _add_crf_workers(devices) -> None:
    text = "processes that refine labels by the CRF, on each machine; 0: one for each core"
    devices.add_argument("--workers", type=_processes, default=0, help=text)


def _add_run(parser) -> None:
    devices = _add_devices(parser)
    devices.add_argument("--workers", type=_processes, default=4, help="processes that load images, for each device")
    run = parser.add_argument_group("run folder")
    run.add_argument("--log_path", default="experiments", metavar="DIR", help="holds the run folders")
    run.add_argument("--tag", metavar="NAME", help="name of the run folder (default: the time)")
    run.add_argument("--resume", action="store_true", help="go on with the run --tag from its last.pth")
    run.add_argument("--save_every", type=_count, default=500, help="steps between two saves within an epoch; 0: none")


def _add_switch(parser, name: str, default: bool, text: str) -> None:
    """A flag that takes True, False, or nothing for True."""
    parser.add_argument(name, type=_boolean, nargs="?", const=True, default=default, help=text)


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return values[text.lower()]


def _memory_format(text: str) -> bool | str:
    return text if text == "gpu" else _boolean(text)


def _precision(text: str) -> bool | str:
    return text if text == "cpu" else _boolean(text)


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("an empty text names nothing")
    return text


def _whole(text: str, least: int, most: int) -> int:
    # Python reads no numbers of more digits than 4300
    value = int(text) if text.isdecimal() and len(text) < 4300 else -1
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
    return value


def _count(text: str) -> int:
    return _whole(text, 0, LARGEST_COUNT)


def _positive(text: str) -> int:
    return _whole(text, 1, LARGEST_COUNT)


def _side(text: str) -> int:
    return _whole(text, 1, LARGEST_SIDE)


def _seed(text: str) -> int:
    return _whole(text, 0, LARGEST_SEED)


def _processes(text: str) -> int:
    return _whole(text, 0, 1024)


def _resamples(text: str) -> int:
    return _whole(text, 0, 100_000)


def _doublings(text: str) -> int:
    return _whole(text, 0, 12)  # above, the polynomial of the walk alone takes seconds for each image


def _radius(text: str) -> int:
    return _whole(text, 2, 64)  # no two pixels are nearer than 1 px; the paths grow with the cube


def _number(text: str, fits, wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = None
    if value is None or not (fits(value) and value <= LARGEST_NUMBER):  # which nothing is of NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a number {wanted}")
    return value


def _share(text: str) -> float:
    return _number(text, lambda value: 0 <= value <= 1, "in 0..1")


def _positive_share(text: str) -> float:
    return _number(text, lambda value: 0 < value <= 1, "above 0 and up to 1")


def _below_one(text: str) -> float:
    return _number(text, lambda value: 0 <= value < 1, "from 0 to below 1")


def _at_least_zero(text: str) -> float:
    return _number(text, lambda value: value >= 0, f"from 0 to {LARGEST_NUMBER:.0e}")


def _threshold(text: str) -> float | str:
    return text if text == "auto" else _at_least_zero(text)


def _above_zero(text: str) -> float:
    return _number(text, lambda value: value > 0, f"above 0 and up to {LARGEST_NUMBER:.0e}")


def _scale(text: str) -> float:
    return _number(text, lambda value: 0 < value <= 16, "above 0 and up to 16")


def _deviation(text: str) -> float:
    return _number(text, lambda value: 0.001 <= value <= 1, "in 0.001..1")  # colours come in steps of 1 / 255


def _decoder_width(text: str) -> int:
    width = PAPER_WIDTH if text == "paper" else _side(text)
    if width % 8:
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of 8")
    return width


def _class_value(text: str) -> tuple[str, float]:
    name, equals, value = text.rpartition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, _share(value)


def _setting(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not (key.isidentifier() and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        value = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return key, value  # a text
    try:
        json.dumps(value, allow_nan=False)  # as it is recorded
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(f"{text!r} gives neither finite numbers nor texts") from None
    return key, value
