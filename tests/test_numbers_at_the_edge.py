"""Extreme numbers in whole scripts: the smallest images, batches and data sets, constant masks, maps and labels, absent
classes, numbers that are not finite. The result is correct, or one line explains the error.
"""

import json

import numpy as np
import pytest
import torch
from conftest import TINY_RESNEST, TINY_SWIN, labels_in, run_main
from training_commands import log_of

from datasets.distributed_batch_sampler import DistributedBatchSampler
from formats.cams import save_cams
from formats.errors import InputError
from formats.image_labels import save_image_labels
from formats.images import load_image, save_grey, save_image
from formats.labels import IGNORE_LABEL, save_label
from formats.voc_layout import save_ids
from utils.checkpoint import load_checkpoint
from utils.run_folder import RunFolder
from utils.training_state import TrainingState

CLASSES = ("ant", "bee", "cat")
TRAININGS = ("SOD_train", "train_classification", "train_affinity", "train_segmentation")
LOSSES = ("", "--class_balance 0.9 --ohem 0.3 --label_smoothing 0.1 --accumulate 2")
IGNORED = np.full((40, 50), IGNORE_LABEL, np.uint8)
BATCH_NORM = "batch norm needs at least two images per part"
TINY = {"pixel": (1, 1), "row": (1, 70), "column": (70, 1), "square": (3, 3)}


def objects(count: int, labels=(1, 2, 3)) -> dict[str, np.ndarray]:
    """Draw label maps with a box of one class on background."""
    maps = {f"image{index}": np.zeros((40, 50), np.uint8) for index in range(count)}
    for index, label in enumerate(maps.values()):
        label[5:25, 5:30] = labels[index % len(labels)]
    return maps


def write_tree(root, train: dict[str, np.ndarray], val: dict[str, np.ndarray] | None = None):
    """Write a VOC tree with a saliency data set of its training images, whose masks are their objects."""
    rng, val = np.random.default_rng(0), val or {"val": objects(1)["image0"]}
    for name, label in (train | val).items():
        image = rng.integers(0, 256, (*label.shape, 3)).astype(np.uint8)
        save_image(root / f"JPEGImages/{name}.jpg", image)
        save_label(root / f"SegmentationClassAug/{name}.png", label)
        if name in train:
            save_image(root / f"dataset/Images/{name}.jpg", image)
            save_grey(root / f"dataset/Masks/{name}.png", (np.isin(label, (1, 2, 3)) * 255).astype(np.uint8))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    save_image_labels(
        root / "cls_labels.npy", {name: np.isin([1, 2, 3], label) for name, label in (train | val).items()}
    )
    save_ids(root / "train_aug_id.txt", train)
    save_ids(root / "val_id.txt", val)
    return root


def train(script: str, root, flags: str = "", tag: str = "run") -> list[dict]:
    """Train on such a tree for an epoch or more. Returns the logged numbers, all of them finite."""
    if script == "SOD_train":
        data = f"{TINY_SWIN} --train_root {root}/dataset --val_root {root}/dataset"
    else:
        data = f"{TINY_RESNEST} --pretrained none --data_dir {root} --list_dir {root} --crop_size 48 --long_side 48 80"
    labels = {"train_affinity": "--label_name SegmentationClassAug"}
    labels["train_segmentation"] = labels["train_affinity"] + " --head_width 16"
    run_main(
        script, f"{data} {labels.get(script, '')} --log_path {root} --tag {tag} --max_epoch 1 --train_batch 4 {flags}"
    )
    rows = log_of(root / tag)
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert has_finite_weights(root / tag / "last.pth")
    return rows


def has_finite_weights(path) -> bool:
    return all(weight.isfinite().all() for weight in load_checkpoint(path)["network"].values())


@pytest.mark.parametrize(("count", "size"), [(1, 4), (2, 1), (5, 4)])
@pytest.mark.parametrize("script", TRAININGS)
def test_the_smallest_batches_and_data_sets(script, count, size, tmp_path):
    """Images that do not fill a batch are left out, so that no batch is smaller than the others."""
    root = write_tree(tmp_path, objects(count))
    if script == "train_classification" and min(count, size) == 1:
        with pytest.raises(InputError, match=BATCH_NORM):
            train(script, root, f"--train_batch {size}")
        assert not (root / "run").exists()
    else:
        assert train(script, root, f"--train_batch {size}")[-1]["step"] == max(1, count // size)


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("SOD_train", "--train_batch 1 --train_scales 0.5 1"),
        ("train_segmentation", "--train_batch 1 --mode normal"),
        ("train_segmentation", "--train_batch 2 --accumulate 2 --mode normal"),
    ],
)
def test_batch_norm_of_one_value(script, flags, tmp_path):
    root = write_tree(tmp_path, objects(4))
    with pytest.raises(InputError, match=BATCH_NORM):
        train(script, root, flags)
    assert not (root / "run").exists()


@pytest.mark.parametrize("script", TRAININGS)
def test_the_smallest_images(script, tmp_path):
    """Training, validation and prediction, each at the size of the image."""
    labels = {name: np.full(size, 1 + place % 3, np.uint8) for place, (name, size) in enumerate(TINY.items())}
    root = write_tree(tmp_path, labels, labels)
    train(script, root, "--max_epoch 2")
    if script == "train_affinity":  # predict.py rejects such checkpoints
        return
    where = f"--load_path {root}/run/last.pth --input {root}/JPEGImages --output {root}/out"
    run_main("predict", f"{where} --scales 0.001 1 2.5 --flip")
    assert {path.stem: load_image(path).shape[:2] for path in (root / "out").glob("*.png")} == TINY


@pytest.mark.parametrize(("fill", "best"), [(0, 0), (255, 1)])
def test_masks_of_one_value(fill, best, tmp_path):
    """Scores equal those of PySODMetrics for empty and full masks."""
    root = write_tree(tmp_path, objects(4))
    for path in (root / "dataset/Masks").iterdir():
        save_grey(path, np.full((40, 50), fill, np.uint8))
    rows = train("SOD_train", root)
    assert rows[-1]["val/maxF"] == best
    assert rows[-1]["val/maxE"] == 1
    assert 0 < rows[-1]["val/MAE"] < 1


@pytest.mark.parametrize(("cam", "saliency"), [(0, 0), (0, 255), (1, 0), (0.5, 255)])
def test_labels_of_maps_of_one_value(cam, saliency, tmp_path):
    """A map of zeros labels nothing, a map of ones everything; an empty mask replaces no label."""
    root = write_tree(tmp_path, objects(3))
    for index, name in enumerate(objects(3)):
        save_cams(root / f"cams/{name}.npz", np.full((1, 40, 50), cam, np.float32), np.array([index + 1], np.uint8))
        save_grey(root / f"saliency/{name}.png", np.full((40, 50), saliency, np.uint8))
    tree = f"--data_dir {root} --list_dir {root} --saliency_dir {root}/saliency --selector sos --cam_dir {root}/cams"
    run_main("make_pseudo_labels", f"{tree} --label_name {root}/labels --crf --crf_iterations 2")
    for index, label in enumerate(labels_in(root / "labels").values()):
        assert (label == (index + 1 if cam else 0)).all()
    pred = f"--pred {root}/labels --data_dir {root} --list {root}/train_aug_id.txt --bootstrap 0 --workers 1"
    run_main("evaluate", f"segmentation {pred} --json {root}/scores.json")
    (scores,) = json.loads((root / "scores.json").read_text()).values()
    share = 20 * 25 / (40 * 50)
    assert scores["Acc"] == pytest.approx(share if cam else 1 - share)
    assert scores["mIoU"] == pytest.approx(0.75 * share if cam else (1 - share) / 4)


@pytest.mark.parametrize("flags", LOSSES)
def test_images_that_are_ignored(flags, tmp_path):
    """Other images are learned if one image, or a whole batch, has no label but 255."""
    first_batch = DistributedBatchSampler(4, 2, seed=0).list_indices(epoch=0, step=0)
    for ignored in (first_batch[:1], first_batch):
        labels = objects(4) | {f"image{index}": IGNORED for index in ignored}
        root = write_tree(tmp_path / f"{len(ignored)}", labels, objects(1))
        assert train("train_segmentation", root, f"--train_batch 2 {flags}")[0]["loss"] > 0
        if not flags:
            assert train("train_affinity", root, "--train_batch 2", tag="affinity")[0]["loss"] > 0


@pytest.mark.parametrize("label", [IGNORED, np.eye(40, 50, dtype=np.uint8) * 255])
@pytest.mark.parametrize("flags", LOSSES)
def test_labels_that_are_all_ignored(flags, label, tmp_path):
    """They, and masks of 0 and 255, are refused before training or scoring."""
    ignored = dict.fromkeys(objects(4), label)
    for script in ("train_affinity", "train_segmentation") if not flags else ("train_segmentation",):
        root = write_tree(tmp_path / script, ignored, {"val": objects(1)["image0"]})
        with pytest.raises(InputError, match=r"the 4 labels hold only 255 \(ignored\)"):
            train(script, root, flags)
        assert not (root / "run").exists()
    root = write_tree(tmp_path / "val", objects(4), {"val": label})
    with pytest.raises(InputError, match=r"the 1 labels hold only 255 \(ignored\)"):
        train("train_segmentation", root, flags)
    assert not (root / "run").exists()


def test_affinity_labels_without_a_pair(tmp_path):
    """An image with a single labelled pixel has no pair of pixels."""
    point = np.where(np.arange(2000).reshape(40, 50) == 1025, 1, IGNORE_LABEL).astype(np.uint8)
    root = write_tree(tmp_path, dict.fromkeys(objects(4), point))
    with pytest.raises(InputError, match="no crop of epoch 1 holds two labelled pixels closer than --radius 2 px"):
        train("train_affinity", root, "--radius 2")
    assert not (root / "run/last.pth").exists()


@pytest.mark.parametrize("flags", ["", "--class_balance 0.9"])
def test_classes_that_a_split_lacks(flags, tmp_path, capsys):
    """Training has only the first class, validation only the second."""
    root = write_tree(tmp_path, objects(4, labels=(1,)), {"val": np.full((40, 50), 2, np.uint8)})
    assert train("train_segmentation", root, flags)[-1]["val/mIoU"] == 0
    assert train("train_affinity", root, tag="affinity")[-1]["loss"] > 0
    if not flags:
        assert train("train_classification", root, tag="classifier")[-1]["val/mAP"] == 1  # of one image, of one class
        assert "no training image holds bee, cat: these classes are not learned" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train_aug_id.txt", "val_id.txt"])
def test_splits_without_any_class(name, tmp_path):
    """Images of pure background can be segmented, but not classified."""
    nothing, something = {"black": np.zeros((40, 50), np.uint8), "dark": np.zeros((40, 50), np.uint8)}, objects(2)
    root = write_tree(tmp_path, *((nothing, something) if name.startswith("train") else (something, nothing)))
    with pytest.raises(InputError, match=rf"{name}: by --image_labels cls_labels\.npy none of the 2 images holds a"):
        train("train_classification", root)
    assert not (root / "run").exists()
    assert train("train_segmentation", root, "--class_balance 0.9")[-1]["val/mIoU"] >= 0


@pytest.mark.parametrize("script", TRAININGS)
def test_a_training_that_diverges(script, tmp_path):
    """No checkpoint of a training with a far too high learning rate is saved after it diverged."""
    root = write_tree(tmp_path, objects(8), objects(1))
    with pytest.raises(InputError, match=r"not finite in epoch \d.* lower --lr") as error:
        train(script, root, "--lr 1e9 --max_epoch 40 --save_every 1")
    assert "earlier checkpoints are intact" in str(error.value)
    if (root / "run/last.pth").exists():
        assert has_finite_weights(root / "run/last.pth")


def test_statistics_that_are_not_finite_are_not_saved(tmp_path):
    """The variance of activations overflows: the loss stays finite, but no script could load the checkpoint."""
    network = torch.nn.BatchNorm1d(1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainingState("segmentation", {}, network, optimizer, scaler, ["a"], DistributedBatchSampler(1, 1, 0))
    loss = network(torch.tensor([[-3e19], [3e19]])).sum()
    loss.backward()
    state.take_step({"loss": loss})
    assert loss.isfinite()
    with pytest.raises(InputError, match="not finite in epoch 1 after step 1"):
        state.save(RunFolder(tmp_path, "run", resume=False, is_main=True, options={}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["saliency", "segmentation", "classification"])
def test_a_network_whose_output_is_not_finite(stage, networks, scenes, tmp_path):
    """Finite weights whose products are not finite: no file is written."""
    content = load_checkpoint(networks / f"{stage}.pth")
    weights = content["network"]
    wild = {name: value * 1e30 if name.endswith("weight") else value for name, value in weights.items()}
    torch.save(content | {"network": wild}, tmp_path / "wild.pth")
    images = scenes / "data/VOCdevkit/VOC2012/JPEGImages"
    with pytest.raises(InputError, match=r"numbers that are not finite: .* lower --lr"):
        run_main("predict", f"--load_path {tmp_path}/wild.pth --input {images} --output {tmp_path}/out")
    assert not list((tmp_path / "out").glob("*.png"))
    if stage == "classification":
        tree = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --load_path {tmp_path}/wild.pth"
        with pytest.raises(InputError, match="numbers that are not finite"):
            run_main("make_pseudo_labels", f"{tree} --cam_dir {tmp_path}/cams --label_name {tmp_path}/labels")
        assert not list((tmp_path / "cams").glob("*.npz"))
