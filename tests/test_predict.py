"""predict.py by running it: all kinds of networks, repeated runs, broken images, mistakes of the user."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PROJECT, TINY_RESNEST, TINY_SWIN, balance_labels, bytes_in, labels_in, plain_network, run_main

import options
import predict
from datasets.drawn_objects import CLASS_NAMES
from formats.atomic_files import write_json
from formats.errors import InputError, MissingInputError
from formats.image_labels import load_image_labels
from formats.images import load_grey, load_image, save_grey, save_image
from formats.labels import load_label
from models.deeplabv3plus import build_deeplabv3plus
from models.saliency_net import build_saliency_net
from models.segmentation_prediction import predict_segmentation, segmentation_logits
from predict import highlight, predict_batch, save_result
from pseudo_labels import self_training
from pseudo_labels.dense_crf import DEEPLAB, PROBABILITIES, DenseCrf, refine_probs
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.multi_scale import merge_scales, slide_windows, window_starts
from utils.output_folder import load_options

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(scenes, label_parts, tmp_path_factory):
    """A checkpoint of each kind of network after one epoch; the segmentation network predicts several labels."""
    root = tmp_path_factory.mktemp("runs")
    voc = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --label_name SegmentationClassAug --val_list none"
    short = f"--log_path {root} --max_epoch 1 --train_batch 4 --pretrained none"
    crops = "--crop_size 48 --long_side 48 80"
    run_main("SOD_train", f"{TINY_SWIN} --train_root {scenes}/dataset {short} --tag saliency")
    run_main("train_segmentation", f"{TINY_RESNEST} {voc} {short} {crops} --head_width 16 --tag seg")
    balance_labels(root / "seg/last.pth", sorted((scenes / "dataset/DRAWN-TR/Images").iterdir()))
    shutil.copytree(label_parts / "classifier", root / "classifier")
    return root


def test_predictions(scenes, runs, tmp_path, capsys):
    images = scenes / "data/VOCdevkit/VOC2012/JPEGImages"
    first = sorted(images.iterdir())[0]
    for run in ("saliency", "classifier", "seg"):
        run_main(
            "predict",
            f"--load_path {runs}/{run}/last.pth --input {first} --output {tmp_path}/{run} --scales 1 1.5 --flip",
        )
    assert load_grey(tmp_path / f"saliency/{first.stem}.png").shape == (64, 80)
    assert load_label(tmp_path / f"seg/{first.stem}.png").max() <= 10
    assert load_image(tmp_path / f"classifier/{first.stem}.png").shape == (64, 80, 3)
    run_main(
        "predict", f"--load_path {runs}/seg/last.pth --input {first} --output {tmp_path}/seg --scales 1 1.5 --flip"
    )
    assert "0 files written, 1 already existed" in capsys.readouterr().out
    with pytest.raises(InputError, match="made with scales"):
        run_main("predict", f"--load_path {runs}/seg/last.pth --input {first} --output {tmp_path}/seg")


def test_batches_of_mixed_sizes_change_nothing(scenes, runs, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate([(40, 60), (1, 50), (90, 30), (64, 64)]):
        save_grey(images / f"{index}.png", rng.integers(0, 256, (height, width)).astype(np.uint8))
    for batch in (1, 3):
        run_main(
            "predict",
            f"--load_path {runs}/saliency/last.pth --input {images} --output {tmp_path}/b{batch} --batch {batch}",
        )
    for index in range(4):
        one, other = (load_grey(tmp_path / f"b{batch}/{index}.png") for batch in (1, 3))
        assert one.shape == load_grey(images / f"{index}.png").shape
        assert np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.parametrize(
    ("run", "content"),
    [("saliency", b"\xff\xd8\xff nothing more"), ("seg", b"\xff\xd8\xff nothing more"), ("seg", None)],
)
def test_broken_images_do_not_stop_a_prediction(run, content, scenes, runs, tmp_path, capsys):
    """Images whose header is broken, and images whose pixels are."""
    (tmp_path / "in").mkdir()
    shutil.copy(next((scenes / "dataset/DRAWN-TR/Images").iterdir()), tmp_path / "in/good.jpg")
    (tmp_path / "in/broken.jpg").write_bytes(content or (tmp_path / "in/good.jpg").read_bytes()[:-2])  # lacks its end
    run_main("predict", f"--load_path {runs}/{run}/last.pth --input {tmp_path}/in --output {tmp_path}/out")
    output = capsys.readouterr()
    assert "1 files written" in output.out
    assert re.search(
        "left out: .*broken.jpg (is damaged or truncated|cannot be read as an image|is not a PNG)", output.err
    )
    assert (tmp_path / "out/good.png").is_file()


def test_a_prediction_without_any_file_fails(networks, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"no file was made: none of 1 images of --input can be read: .*a\.jpg is not"):
        run_main("predict", f"--load_path {networks}/saliency.pth --input {tmp_path}/a.jpg --output {tmp_path}/out")


def test_files_of_other_formats_are_counted(scenes, networks, tmp_path, capsys):
    for name in ("a.HEIC", "b.heic", "c.gif", "no_suffix", ".hidden.gif"):
        (tmp_path / name).touch()
    command = f"--load_path {networks}/saliency.pth --input {tmp_path} --output {tmp_path}/out"
    with pytest.raises(InputError, match=r"holds no image \(\.jpg, .*, but 1 \.gif, 2 \.heic files$"):
        run_main("predict", command)
    shutil.copy(next((scenes / "dataset/DRAWN-TR/Images").iterdir()), tmp_path / "d.jfif")  # as Windows names JPEG
    run_main("predict", command)
    assert capsys.readouterr().err.startswith("left out: 1 .gif, 2 .heic files; predict.py reads .jpg, .jpeg, .jfif")
    assert (tmp_path / "out/d.png").is_file()


def test_scales_that_a_network_cannot_process(scenes, tmp_path):
    settings = {"backbone": "efficientformer_l1", "backbone_args": {}, "pixel_mean": None, "pixel_std": None}
    settings |= {"decoder_width": 8, "image_size": 224}
    save_checkpoint(tmp_path / "a.pth", "saliency", settings, build_saliency_net(settings), {})
    command = f"--load_path {tmp_path}/a.pth --input {scenes}/dataset/DRAWN-TR --output {tmp_path}/out --scales 1 0.5"
    with pytest.raises(InputError, match=r"--scales: the backbone cannot process 128×128 px .*choose 224 px"):
        run_main("predict", command)


@pytest.mark.parametrize("stage", ["saliency", "segmentation", "classification"])
def test_mixed_precision_on_cpus(stage, scenes, networks, tmp_path, monkeypatch):
    """Every call of the network runs under bfloat16 autocast, and the result hardly differs."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    prepare, types = predict.prepare_for_inference, []

    def prepare_and_record(*args):
        network = prepare(*args)
        network.register_forward_pre_hook(
            lambda *_: types.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        )
        return network

    monkeypatch.setattr(predict, "prepare_for_inference", prepare_and_record)
    image = next((scenes / "dataset/DRAWN-TR/Images").iterdir())
    results = []
    for amp, dtype in (("False", None), ("cpu", torch.bfloat16)):
        types.clear()
        flags = f"--load_path {networks}/{stage}.pth --input {image} --output {tmp_path}/{amp} --amp {amp}"
        run_main("predict", f"{flags} --scales 1 1.5 --flip")
        assert len(types) >= 2
        assert set(types) == {dtype}
        results.append(load_image(tmp_path / amp / f"{image.stem}.png").astype(int))
    if stage == "saliency":  # others decide for labels or classes, of which random weights make several equally likely
        assert np.abs(results[0] - results[1]).max() <= 8


def test_overlays(scenes, runs, tmp_path, capsys):
    image = next((scenes / "dataset/DRAWN-TR/Images").iterdir())
    for run in ("saliency", "seg"):
        command = f"--load_path {runs}/{run}/last.pth --input {image} --output {tmp_path}/{run}"
        run_main("predict", command)
        run_main("predict", f"{command} --overlay")  # the result is there, its overlay is not
        assert "1 files written" in capsys.readouterr().out
        assert load_image(tmp_path / f"{run}/overlays/{image.stem}.jpg").shape == (64, 80, 3)
        run_main("predict", f"{command} --overlay")
        assert "0 files written, 1 already existed" in capsys.readouterr().out


def test_highlight():
    image, saliency = np.full((1, 2, 3), 100, np.uint8), np.array([[0, 255]], np.uint8)
    assert highlight(image, saliency)[0, :, 0].tolist() == [20, 100]


@pytest.mark.slow
def test_recipe_over_the_benchmarks(scenes, runs, tmp_path):
    recipe = [PROJECT / "recipes/saliency_benchmarks.sh", runs / "saliency/last.pth", "tiny"]
    command = [str(part) for part in [*recipe, scenes / "dataset/benchmark", "--flip"]]
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "| experiments/saliency/tiny | DRAWN-TE | 5 |" in re.sub(" +", " ", done.stdout)
    assert len(list((tmp_path / "experiments/saliency/tiny/DRAWN-TE").glob("*.png"))) == 5
    command[3] = str(tmp_path)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "holds no data set" in done.stderr


def test_ids_of_several_words(runs, tmp_path):
    for name in ("IMG", "IMG 0001", "photo (1)"):
        save_grey(tmp_path / f"in/{name}.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "ids.txt").write_text("IMG 0001\nphoto (1)\n")
    names = f"--input {tmp_path}/in --list {tmp_path}/ids.txt --output {tmp_path}/out"
    run_main("predict", f"--load_path {runs}/saliency/last.pth {names}")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"IMG 0001.png", "photo (1).png"}


def test_refusals_of_predict(runs, tmp_path):
    load = f"--load_path {runs}/saliency/last.pth --output {tmp_path}/out"
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        run_main("predict", f"{load} --input {tmp_path}/nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        run_main("predict", f"{load} --input {tmp_path}/empty")
    save_grey(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "ids.txt").write_text("b\n")
    with pytest.raises(MissingInputError, match=r"lacks 1 of 1 ids of --list \(b\)"):
        run_main("predict", f"{load} --input {tmp_path}/a.png --list {tmp_path}/ids.txt")
    (tmp_path / "cafe\u0301.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "ids.txt").write_text("caf\u00e9\n", encoding="utf-8")
    with pytest.raises(
        MissingInputError, match=r"lacks 1 of 1 ids .*; there is cafe\u0301\.png, in another Unicode form"
    ):
        run_main("predict", f"{load} --input {tmp_path} --list {tmp_path}/ids.txt")
    affinity = load_checkpoint(f"{runs}/saliency/last.pth") | {"stage": "affinity"}
    torch.save(affinity, tmp_path / "affinity.pth")
    with pytest.raises(InputError, match="is of stage affinity: name a checkpoint"):
        run_main("predict", f"--load_path {tmp_path}/affinity.pth --input {tmp_path}/a.png --output {tmp_path}/out")
    torch.save({"epoch": 1}, tmp_path / "other.pth")
    for path, words in (
        ("other.pth", "is not a checkpoint"),
        ("a.png", "cannot be read"),
        ("none.pth", "does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            run_main("predict", f"--load_path {tmp_path}/{path} --input {tmp_path}/a.png --output {tmp_path}/out")


@pytest.mark.parametrize(
    ("length", "window", "stride", "expected"),
    [(10, 4, 3, [0, 3, 6]), (10, 4, 4, [0, 4, 6]), (9, 4, 3, [0, 3, 5]), (5, 4, 3, [0, 1]), (4, 4, 3, [0])],
)
def test_windows_end_at_the_border(length, window, stride, expected):
    assert window_starts(length, window, stride) == expected


def test_overlapping_windows_are_averaged():
    """The network outputs the number of the window: 0 to 3, at columns 0–3, 2–5, 4–7 and 5–8."""
    seen = []

    def number(window):
        seen.append(tuple(window.shape))
        return torch.full((len(window), 1, 2, 2), float(len(seen) - 1))  # maps smaller than the window

    maps = slide_windows(number, torch.zeros(2, 3, 3, 9), window_px=4, stride_px=2)
    assert seen == [(2, 3, 3, 4)] * 4
    expected = [0, 0, 0.5, 0.5, 1.5, 2, 2.5, 2.5, 3]  # column 5 lies in windows 1, 2 and 3
    assert maps.shape == (2, 1, 3, 9)
    assert maps[1, 0, 2].tolist() == expected
    rows = slide_windows(lambda x: x[:, :1], torch.arange(7.0).view(1, 1, 7, 1).expand(1, 3, 7, 5), 3, 2)
    assert rows[0, 0, :, 0].tolist() == list(range(7))


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (5, 1), (5, 3), (5, 5), (16, 7), (17, 3), (23, 11), (24, 1)])
def test_windows_do_not_change_a_pointwise_network(window, stride):
    """A 1×1 convolution of integers, whose sums are exact."""
    generator = torch.Generator().manual_seed(0)
    images, weight = (torch.randint(-9, 9, shape, generator=generator).float() for shape in ((1, 3, 17, 23), (4, 3)))

    def pixelwise(x):
        return torch.einsum("kc,bchw->bkhw", weight, x)

    windows = slide_windows(pixelwise, images, window, stride)
    assert torch.equal(windows, pixelwise(images))
    whole, parts = (
        merge_scales(predict, images, scales=(0.5, 1.0, 2.0), flip=True)
        for predict in (pixelwise, lambda x: slide_windows(pixelwise, x, window, stride))
    )
    assert torch.allclose(parts, whole, atol=1e-4)


@pytest.fixture(scope="module")
def segmentation_network(runs):
    checkpoint = load_checkpoint(runs / "seg/last.pth")
    network = build_deeplabv3plus(checkpoint["settings"])
    network.load_state_dict(checkpoint["network"])
    return network.eval()


def test_a_window_larger_than_the_image_changes_nothing(scenes, segmentation_network):
    image = load_image(next((scenes / "dataset/DRAWN-TR/Images").iterdir()))  # 64 × 80
    how = {"scales": (0.5, 1.5), "flip": True}
    whole = segmentation_logits(segmentation_network, image[None], CPU, **how)
    assert whole.shape == (1, 11, 64, 80)
    held = segmentation_logits(segmentation_network, image[None], CPU, **how, window_px=120, stride_px=80)
    assert torch.equal(held, whole)
    parts = segmentation_logits(segmentation_network, image[None], CPU, **how, window_px=119, stride_px=80)
    assert not torch.equal(parts, whole)
    labels = predict_segmentation(segmentation_network, image[None], CPU, **how, window_px=119, stride_px=80)
    assert np.array_equal(labels, parts.argmax(dim=1).numpy())


def test_windows_by_command(scenes, runs, segmentation_network, tmp_path, monkeypatch):
    monkeypatch.setattr("predict.prepare_for_inference", plain_network)
    image = next((scenes / "dataset/DRAWN-TR/Images").iterdir())
    command = f"--load_path {runs}/seg/last.pth --input {image} --output {tmp_path}"
    run_main("predict", f"{command}/whole")
    run_main("predict", f"{command}/large --window 80")
    assert bytes_in(tmp_path / "whole") == bytes_in(tmp_path / "large")
    for name, flags, stride in (("parts", "", 32), ("dense", "--window_stride 5", 5)):
        run_main("predict", f"{command}/{name} --window 48 {flags}")
        whole = load_image(image)[None]
        (expected,) = predict_segmentation(segmentation_network, whole, CPU, window_px=48, stride_px=stride)
        label = load_label(tmp_path / f"{name}/{image.stem}.png")
        assert len(np.unique(label)) > 1
        assert np.array_equal(label, expected)
        assert not np.array_equal(label, load_label(tmp_path / f"whole/{image.stem}.png"))
    assert json.loads((tmp_path / "parts/options.json").read_text())["window_stride"] == 32


def test_windows_and_crf_never_mix_with_other_results(scenes, runs, tmp_path):
    image = next((scenes / "dataset/DRAWN-TR/Images").iterdir())
    command = f"--load_path {runs}/seg/last.pth --input {image} --output {tmp_path}"
    run_main("predict", f"{command}/plain")
    used = {name: value for name, value in load_options(tmp_path / "plain").items() if value is not None}
    assert sorted(used) == ["checkpoint", "flip", "scales"]
    write_json(tmp_path / "plain/options.json", used)  # as in version 0.1.0
    run_main("predict", f"{command}/plain --window 0 --crf False --crf_iterations 3")
    with pytest.raises(InputError, match="made with window = None, not 48"):
        run_main("predict", f"{command}/plain --window 48")
    with pytest.raises(InputError, match="made with crf_setting = None, not deeplab"):
        run_main("predict", f"{command}/plain --crf --crf_setting deeplab")
    run_main("predict", f"{command}/refined --window 48 --crf --crf_iterations 1")
    run_main("predict", f"{command}/refined --window 48 --crf --crf_iterations 1")
    with pytest.raises(InputError, match="made with window = 48, not None"):
        run_main("predict", f"{command}/refined --crf --crf_iterations 1")
    with pytest.raises(InputError, match="made with crf_iterations = 1, not 10"):
        run_main("predict", f"{command}/refined --window 48 --crf")


class NoisyHalves(torch.nn.Module):
    """Two labels, the second right of column 23, each pixel's logits under noise."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Module()
        self.backbone.normalise = torch.Tensor.float

    def forward(self, images):
        right = (torch.arange(images.shape[3]) >= 23).float().expand(len(images), 1, *images.shape[2:])
        noise = torch.randn(len(images), 2, *images.shape[2:], generator=torch.Generator().manual_seed(0))
        return torch.cat([1 - right, right], dim=1) + noise  # [B, 2, H, W]


def test_the_crf_removes_noise_and_moves_the_boundary_to_the_edge(tmp_path):
    image = np.full((40, 40, 3), 30, np.uint8)
    image[:, 20:] = 220
    halves = np.tile(np.arange(40) >= 20, (40, 1))

    def labels(flags: str) -> np.ndarray:
        args = options.predict().parse_args(f"--load_path a --input b --output c {flags}".split())
        (result,) = predict_batch("segmentation", NoisyHalves(), {}, [image], args, CPU)
        save_result("segmentation", tmp_path, args, ("halves", image, result))
        return load_label(tmp_path / "halves.png")

    assert np.count_nonzero(labels("") != halves) > 200
    assert np.array_equal(labels("--crf"), halves)
    probs = segmentation_logits(NoisyHalves(), image[None], CPU)[0].softmax(dim=0)
    refined = set()
    for flags, setting, iterations in (
        ("--crf --crf_iterations 1", PROBABILITIES, 1),
        ("--crf --crf_setting deeplab --crf_iterations 1", DEEPLAB, 1),
        ("--crf --crf_setting deeplab", DEEPLAB, 10),
    ):
        expected = refine_probs(DenseCrf(image, setting), probs, iterations).argmax(dim=0).numpy()
        assert labels(flags).dtype == np.uint8
        assert np.array_equal(labels(flags), expected)
        refined.add(expected.tobytes())
    assert len(refined) == 3


def test_flags_of_segmentation_are_refused_elsewhere(scenes, runs, tmp_path):
    image = next((scenes / "dataset/DRAWN-TR/Images").iterdir())
    command = f"--input {image} --output {tmp_path}/out --load_path {runs}"
    for run, stage in (("saliency", "saliency"), ("classifier", "classification")):
        for flags in ("--window 48", "--crf", f"--voc_submission {tmp_path}/a.tar.gz"):
            words = f"{flags.split()[0]} need a segmentation checkpoint: .* is of stage {stage}"
            with pytest.raises(InputError, match=words):
                run_main("predict", f"{command}/{run}/last.pth {flags}")
    with pytest.raises(InputError, match="--window_stride needs --window"):
        run_main("predict", f"{command}/seg/last.pth --window_stride 9")
    with pytest.raises(InputError, match="--window_stride 49 is larger than --window 48"):
        run_main("predict", f"{command}/seg/last.pth --window 48 --window_stride 49")
    assert not (tmp_path / "out").exists()


def test_labels_of_a_round(scenes, runs, label_parts, tmp_path, monkeypatch):
    """Only classes of the image; where a label differs from the last one, it is sure or 255."""
    command = f"--load_path {runs}/seg/last.pth --input {scenes}/data/VOCdevkit/VOC2012/JPEGImages"
    command += f" --list {scenes}/voc12/train_aug_id.txt --image_labels {scenes}/voc12/cls_labels.npy --flip"
    run_main("predict", f"{command} --output {tmp_path}/all")
    labels, before = labels_in(tmp_path / "all"), labels_in(label_parts / "rough")
    for (name, label), row in zip(
        labels.items(), load_image_labels(scenes / "voc12/cls_labels.npy", labels, CLASS_NAMES)
    ):
        assert set(np.unique(label)) <= {0, *np.flatnonzero(row) + 1}, name
    for least, expected in (
        (0, labels),
        (1.1, {name: np.where(label == before[name], label, 255) for name, label in labels.items()}),
    ):
        monkeypatch.setattr(self_training, "SURE", least)
        run_main("predict", f"{command} --previous_dir {label_parts}/rough --output {tmp_path}/{least}")
        found = labels_in(tmp_path / f"{least}")
        assert [name for name in labels if not np.array_equal(found[name], expected[name])] == []
    (tmp_path / "all" / f"{min(labels)}.png").unlink()
    with pytest.raises(MissingInputError, match="1 of 14 files are missing"):
        run_main("predict", f"{command} --previous_dir {tmp_path}/all --output {tmp_path}/none")
    assert not (tmp_path / "none").exists()


def test_batches_change_nothing(scenes, runs, tmp_path):
    """Images of several sizes, one by one, in batches, and with some existing results."""
    for number, path in enumerate(sorted((scenes / "dataset/DRAWN-TR/Images").iterdir())[:7]):
        image = load_image(path)
        save_image(tmp_path / f"in/{path.stem}.png", image if number % 3 else image[:, :-9])
    command = f"--load_path {runs}/seg/last.pth --input {tmp_path}/in --scales 0.5 1 --flip --output {tmp_path}"
    run_main("predict", f"{command}/one --batch 1")
    run_main("predict", f"{command}/many --batch 4")
    one, many = (labels_in(tmp_path / name) for name in ("one", "many"))
    assert len(one) == 7
    assert all(len(np.unique(label)) > 1 for label in one.values())
    assert all((one[stem] == many[stem]).mean() > 0.999 for stem in one)
    (tmp_path / "many" / f"{min(many)}.png").unlink()
    run_main("predict", f"{command}/many --batch 4")
    assert all(np.array_equal(label, many[stem]) for stem, label in labels_in(tmp_path / "many").items())


@pytest.mark.slow
def test_the_crf_in_processes(scenes, runs, tmp_path, monkeypatch):
    """Two processes write the files that one process writes."""
    monkeypatch.setattr("utils.processes.MIN_CRFS_PER_PROCESS", 5)
    command = f"--load_path {runs}/seg/last.pth --input {scenes}/dataset/DRAWN-TR --crf --output {tmp_path}"
    for workers in (1, 2):
        run_main("predict", f"{command}/{workers} --workers {workers} --overlay")
    assert len(bytes_in(tmp_path / "1")) == 25  # two files an image, and the lock
    assert bytes_in(tmp_path / "1") == bytes_in(tmp_path / "2")


def test_outputs_among_the_input_images_are_refused(scenes, runs, tmp_path):
    shutil.copytree(scenes / "data/VOCdevkit/VOC2012/JPEGImages", tmp_path / "images")
    before = bytes_in(tmp_path / "images")
    with pytest.raises(InputError, match="holds images of --input: choose another folder"):
        run_main("predict", f"--load_path {runs}/seg/last.pth --input {tmp_path}/images --output {tmp_path}/images")
    assert bytes_in(tmp_path / "images") == before
