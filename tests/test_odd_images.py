"""make_pseudo_labels.py and evaluate.py on images of unusual shapes, colour types and numbers of classes."""

import json

import cv2
import numpy as np
import pytest
from conftest import labels_in, run_main
from PIL import Image

from formats.cams import load_cams
from formats.image_labels import save_image_labels
from formats.images import save_grey
from formats.labels import save_label
from formats.voc_layout import save_ids


def rgb(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)


def save_rotated(path) -> None:
    """Save an image of 40 rows whose EXIF data asks for a rotation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb(40, 30)).save(path, exif=exif)


WRITERS = {
    "one_row": lambda path: cv2.imwrite(path, rgb(1, 70)),
    "one_column": lambda path: cv2.imwrite(path, rgb(65, 1)),
    "one_pixel": lambda path: cv2.imwrite(path, rgb(1, 1)),
    "grey": lambda path: cv2.imwrite(path, rgb(40, 30)[:, :, 0]),
    "cmyk": lambda path: Image.fromarray(rgb(40, 30)).convert("CMYK").save(path),
    "rotated": save_rotated,
    "alpha": lambda path: Image.fromarray(np.dstack([rgb(40, 30), rgb(40, 30)[:, :, 0]])).save(path, format="PNG"),
    "grey_alpha": lambda path: Image.fromarray(rgb(40, 30)[:, :, :2], "LA").save(path, format="PNG"),
    "palette": lambda path: Image.fromarray(rgb(40, 30)).convert("P").save(path, format="PNG"),
    "16_bit": lambda path: Image.fromarray(rgb(40, 30)[:, :, 0].astype(np.uint16) * 257).save(path, format="PNG"),
    "no_class": lambda path: cv2.imwrite(path, rgb(40, 30)),
    "all_classes": lambda path: cv2.imwrite(path, rgb(40, 30)),
}
SIZES = {"one_row": (1, 70), "one_column": (65, 1), "one_pixel": (1, 1)}


@pytest.fixture(scope="module")
def odd(scenes, tmp_path_factory):
    """Create a VOC tree of unusual images, with saliency maps and masks."""
    root, rows = tmp_path_factory.mktemp("odd"), {}
    (root / "JPEGImages").mkdir()
    (root / "classes.txt").write_bytes((scenes / "data/VOCdevkit/VOC2012/classes.txt").read_bytes())
    for place, (name, write) in enumerate(WRITERS.items()):
        write(str(root / f"JPEGImages/{name}.jpg"))
        size = SIZES.get(name, (40, 30))
        rows[name] = np.isin(np.arange(10), [] if name == "no_class" else place % 10)
        rows[name] |= name == "all_classes"
        save_grey(root / f"saliency/{name}.png", rgb(*size)[:, :, 0])
        save_label(root / f"SegmentationClassAug/{name}.png", np.full(size, rows[name].argmax() + 1, np.uint8))
    save_image_labels(root / "cls_labels.npy", rows)
    save_ids(root / "ids.txt", rows)
    return root


@pytest.mark.parametrize(
    ("fusion", "selector"), [("--fusion rca --combine max", "sos"), ("--fusion affinity", "sos"), ("--crf", "evidence")]
)
def test_every_stage(fusion, selector, odd, label_parts, tmp_path):
    tree = f"--data_dir {odd} --list {odd}/ids.txt --image_labels {odd}/cls_labels.npy"
    maps = f"--load_path {label_parts}/classifier/last.pth --cam_dir {tmp_path}/cams --scales 0.5 1"
    walk = f"--affinity_path {label_parts}/affinity/last.pth --exp_times 3"
    select = f"--selector {selector} --saliency_dir {odd}/saliency --t0 0 --features {label_parts}/classifier/last.pth"
    flags = f"{tree} {maps} {walk} {fusion} --crf_iterations 2 {select}"
    run_main("make_pseudo_labels", f"{flags} --label_name {tmp_path}/labels")
    labels = labels_in(tmp_path / "labels")
    assert {name: label.shape for name, label in labels.items()} == {
        name: SIZES.get(name, (40, 30)) for name in WRITERS
    }
    assert not labels["no_class"].any()
    for name, count in (("no_class", 0), ("all_classes", 10), ("one_row", 1)):
        for folder in ("cams", "cams_expanded"):
            cams, classes = load_cams(tmp_path / folder / f"{name}.npz")
            assert cams.shape == (count, *labels[name].shape)
            assert len(classes) == count

    flags = f"{tree} --cam_dir {tmp_path}/cams_expanded --rules --json {tmp_path}/scores.json {select}"
    run_main("evaluate", f"labels {flags} --pred {tmp_path}/labels")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores[f"{tmp_path}/labels"]["multi_class"]["images"] == 2
    assert len(scores) == 11
