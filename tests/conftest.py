"""Shared fixtures: small drawn scenes, scripts as functions, and real images if available."""

import importlib
import os
import shlex
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

import options
from datasets.drawn_scenes import write_saliency_scenes, write_voc_scenes
from formats.cams import save_cams
from formats.images import load_image, save_grey
from formats.labels import load_label, save_label
from formats.voc_layout import load_class_names
from utils import interruption

PROJECT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.stem for path in PROJECT.glob("*.py") if path.stem != "options")
TINY_SWIN = (
    "--backbone swin_tiny_patch4_window7_224 --pretrained none --decoder_width 8 --image_size 64 --workers 0"
    " --backbone_args embed_dim=16 depths=1,1,1,1 num_heads=1,1,2,2 window_size=4"
)
TINY_RESNEST = "--backbone resnest14 --backbone_args channels=8,8,16,32 stem_width=8 --workers 0"


def parse(command: str):
    """The options of a command `script.py flags`."""
    script, *flags = shlex.split(command)
    return getattr(options, script.removesuffix(".py"))().parse_args(flags)


def run_main(script: str, command: str) -> None:
    """Call `main` of a script with a command line; `script` is its name, or "export onnx" with a command."""
    script, *subcommand = script.split()
    args = getattr(options, script)().parse_args([*subcommand, *shlex.split(command)])
    importlib.import_module(script).main(args)


def labels_in(folder) -> dict[str, np.ndarray]:
    return {path.stem: load_label(path) for path in sorted(folder.glob("*.png"))}


def bytes_in(folder) -> dict[str, bytes]:
    """Contents of the files of a folder by path, without options.json, which names folders."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "options.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(autouse=True)
def own_signals():
    """Restore the signal handlers after each test, which `run_script` replaces, and never ignore SIGINT in a test."""
    before = {signum: signal.getsignal(signum) for signum in interruption.SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    interruption.listen()  # forgets what was received
    for signum, handler in before.items():
        signal.signal(signum, handler)


def balance_labels(path, images: list[Path]) -> None:
    """Give all labels of a segmentation checkpoint the same mean logit on these images of one size, so that a network
    after a few steps does not predict one label everywhere."""
    import torch

    from models.deeplabv3plus import build_deeplabv3plus
    from models.segmentation_prediction import segmentation_logits
    from utils.checkpoint import load_checkpoint, rebuild, save_checkpoint

    checkpoint = load_checkpoint(path)
    network = rebuild(build_deeplabv3plus, checkpoint, path).eval()
    pixels = np.stack([load_image(image) for image in images])
    logits = segmentation_logits(network, pixels, torch.device("cpu"))
    network.decoder.classifier[-1].bias.data -= logits.mean(dim=(0, 2, 3))
    save_checkpoint(path, checkpoint["stage"], checkpoint["settings"], network, checkpoint["training"])


def plain_network(network, device, *args):
    """Replace `prepare_for_inference` by a version without rounding, for comparisons to the last digit."""
    return network.to(device).eval()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """A read-only folder of small drawn scenes, with dataset/, data/ and voc12/ as in the README."""
    root = tmp_path_factory.mktemp("scenes")
    size = {"height": 64, "width": 80}
    write_saliency_scenes(root / "dataset/DRAWN-TR", count=12, seed=1, **size)
    write_saliency_scenes(root / "dataset/benchmark/DRAWN-TE", count=5, seed=2, **size)
    write_voc_scenes(root / "data/VOCdevkit/VOC2012", root / "voc12", num_train=14, num_val=6, seed=3, **size)
    return root


@pytest.fixture(scope="session")
def label_parts(scenes, tmp_path_factory) -> Path:
    """A read-only folder of inputs of label generation, derived from the ground truth.

    classifier/last.pth, affinity/last.pth   networks after one epoch
    cams/                                    maps: each class blurred, plus a share of the other classes
    saliency/                                objects blurred: every second image so dark that its mask is small, one
                                             image black
    rough/                                   labels: the truth moved by up to 9 px
    """
    root = tmp_path_factory.mktemp("label_parts")
    voc = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --log_path {root} --crop_size 48 --long_side 48 80"
    short = f"{TINY_RESNEST} {voc} --max_epoch 1 --train_batch 4 --pretrained none"
    run_main("train_classification", f"{short} --tag classifier --val_list none")
    run_main("train_affinity", f"{short} --tag affinity --label_name SegmentationClassAug")
    for place, path in enumerate(sorted((scenes / "data/VOCdevkit/VOC2012/SegmentationClassAug").iterdir())):
        truth = load_label(path)
        classes = np.setdiff1d(truth, (0, 255))
        near = np.stack([cv2.GaussianBlur((truth == label).astype(np.float32), (0, 0), 6) for label in classes])
        cams = near + 0.3 * near.sum(axis=0)  # [K, H, W]
        save_cams(root / f"cams/{path.stem}.npz", cams / cams.max(axis=(1, 2), keepdims=True), classes)
        objects = np.isin(truth, classes).astype(np.float32)
        blurred = cv2.GaussianBlur(objects, (0, 0), 2) * (255, 160)[place % 2] * (place != 4)
        save_grey(root / "saliency" / path.name, blurred.astype(np.uint8))
        save_label(root / "rough" / path.name, np.roll(truth, (place % 4) * 3, axis=1))
    return root


@pytest.fixture(scope="session")
def networks(scenes, tmp_path_factory) -> Path:
    """A folder with saliency.pth, segmentation.pth, classification.pth and affinity.pth, of random weights."""
    from models.affinity_net import build_affinity_net
    from models.cam_classifier import build_cam_classifier
    from models.deeplabv3plus import build_deeplabv3plus
    from models.saliency_net import build_saliency_net
    from utils.checkpoint import save_checkpoint

    root = tmp_path_factory.mktemp("networks")
    swin = options.SOD_train().parse_args(TINY_SWIN.split())
    resnest = options.train_segmentation().parse_args(f"{TINY_RESNEST} --label_name a".split())
    swin, resnest = map(options.backbone_settings, (swin, resnest))
    classes = list(load_class_names(scenes / "data/VOCdevkit/VOC2012"))
    head = {"classes": classes, "head_width": 16, "use_gn": True, "mode": "fix", "output_stride": 16}
    for stage, build, settings in (
        ("saliency", build_saliency_net, swin | {"decoder_width": 8, "image_size": 64}),
        ("segmentation", build_deeplabv3plus, resnest | head),
        ("classification", build_cam_classifier, resnest | {"classes": classes}),
        ("affinity", build_affinity_net, resnest),
    ):
        save_checkpoint(root / f"{stage}.pth", stage, settings, build(settings), {})
    return root


@pytest.fixture
def make(scenes, label_parts, tmp_path):
    """Make the labels tmp_path/NAME and return them, by default from existing maps. In the flags, PARTS stands for the
    folder `label_parts`, HERE for tmp_path."""

    def run(name: str, flags: str = "", cams="PARTS/cams") -> dict[str, np.ndarray]:
        voc = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --label_name HERE/{name} --cam_dir {cams}"
        command = f"{voc} {flags}".replace("PARTS", str(label_parts)).replace("HERE", str(tmp_path))
        run_main("make_pseudo_labels", command)
        return labels_in(tmp_path / name)

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs and masks that WSSS_TEST_DATA names."""
    folder = os.environ.get("WSSS_TEST_DATA")
    if not folder:
        pytest.skip("WSSS_TEST_DATA names no folder of real images")
    return Path(folder)


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; tests skip where it or its driver is not installed."""
    paths = chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if None in paths:
        pytest.skip("needs chromium and chromedriver on the PATH")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        yield browser
