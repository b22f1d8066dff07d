"""Damaged files in every script: it succeeds or prints one line naming the file, never a traceback."""

import importlib
import io
import os
import pickle
import re
import shlex
import shutil

import numpy as np
import pytest
from conftest import TINY_RESNEST, TINY_SWIN, bytes_in
from PIL import Image

import options
from formats.image_labels import load_image_labels, save_image_labels
from formats.voc_layout import load_class_names, load_ids, save_ids
from utils.interruption import run_script

HEIGHT, WIDTH = 64, 80  # of the scenes
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def encode(pixels, kind: str, mode: str | None = None, **options) -> bytes:
    image, stream = Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, format=kind, **options)
    return stream.getvalue()


JPEG, PNG = encode(PIXELS, "JPEG"), encode(PIXELS, "PNG")
UNREADABLE = {
    "empty": b"",
    "html": b"<html>404 not found</html>\n",
    "jpeg cut": JPEG[: len(JPEG) // 2],
    "png cut": PNG[: len(PNG) // 2],
    "png header": PNG[:30],
    "huge": PNG[:16] + b"\x7f\xff\xff\xff" * 2 + PNG[24:],
    "folder": "folder",
    "dangling link": "dangling link",
}

VOC = "--data_dir HERE/data --list_dir HERE/voc12"
SHORT = (
    f"{TINY_RESNEST} {VOC} --crop_size 48 --long_side 48 80 --max_epoch 1 --train_batch 4 --train_list ids.txt"
    " --pretrained none --log_path HERE/out --tag run"
)
TRAIN = f"{SHORT} --label_name HERE/labels --head_width 16 --val_list none"
MAKE = f"{VOC} --list ids.txt --label_name HERE/out/labels"
SCORE = "--data_dir HERE/data --list HERE/voc12/ids.txt --bootstrap 0 --workers 1"
SELECT = "--selector sos --saliency_dir HERE/saliency"
EVIDENCE = f"{SELECT} --selector evidence --features NETWORKS/classification.pth"
PHOTOGRAPHS, TRUTH = "data/JPEGImages", "data/SegmentationClassAug"
COMMANDS = {  # name → script, flags, folders of the images that it reads
    "saliency training": (
        "SOD_train",
        f"{TINY_SWIN} --train_root HERE/set --val_root HERE/set --edge_dir HERE/edges --max_epoch 1 --train_batch 3"
        " --log_path HERE/out --tag run",
        ("set/Images", "set/Masks", "edges"),
    ),
    "classification": (
        "train_classification",
        f"{SHORT} --val_list ids.txt --saliency_dir HERE/saliency",
        (PHOTOGRAPHS, "saliency", TRUTH),
    ),
    "affinity": ("train_affinity", f"{SHORT} --label_name HERE/labels", (PHOTOGRAPHS, "labels")),
    "segmentation": (
        "train_segmentation",
        f"{SHORT} --label_name HERE/labels --head_width 16 --val_list ids.txt --class_balance 0.9",
        (PHOTOGRAPHS, "labels", TRUTH),
    ),
    "maps": (
        "make_pseudo_labels",
        f"{MAKE} --load_path NETWORKS/classification.pth --cam_dir HERE/out/cams --scales 1 --crf --crf_iterations 1",
        (PHOTOGRAPHS,),
    ),
    "walk": (
        "make_pseudo_labels",
        f"{MAKE} --cam_dir HERE/cams --affinity_path NETWORKS/affinity.pth --expanded_dir HERE/out/walked --exp_times 2"
        f" {SELECT}",
        (PHOTOGRAPHS, "saliency"),
    ),
    "baseline": (
        "make_pseudo_labels",
        f"{MAKE} --baseline_dir HERE/labels {SELECT}",
        (PHOTOGRAPHS, "saliency", "labels"),
    ),
    "evidence": (
        "make_pseudo_labels",
        f"{MAKE} --baseline_dir HERE/labels {EVIDENCE}",
        (PHOTOGRAPHS, "saliency", "labels"),
    ),
    "saliency maps": (
        "predict",
        f"--load_path NETWORKS/saliency.pth --input HERE/{PHOTOGRAPHS} --output HERE/out --overlay",
        (PHOTOGRAPHS,),
    ),
    "segmentations": (
        "predict",
        f"--load_path NETWORKS/segmentation.pth --input HERE/{PHOTOGRAPHS} --list HERE/voc12/ids.txt --output HERE/out"
        " --scales 0.5 1 --flip --crf --crf_iterations 1",
        (PHOTOGRAPHS,),
    ),
    "overlays": (
        "predict",
        f"--load_path NETWORKS/classification.pth --input HERE/{PHOTOGRAPHS} --output HERE/out --scales 0.5 1",
        (PHOTOGRAPHS,),
    ),
    "scores of maps": (
        "evaluate",
        "saliency --pred HERE/maps --gt_root HERE --bootstrap 0 --workers 1 --json HERE/out/scores.json",
        ("maps/set", "set/Masks"),
    ),
    "scores of labels": (
        "evaluate",
        f"labels {SCORE} --pred HERE/labels --image_labels HERE/voc12/cls_labels.npy {SELECT}"
        " --rules none oaa --cam_dir HERE/cams",
        ("labels", TRUTH, "saliency"),
    ),
    "scores of evidence": (
        "evaluate",
        f"labels {SCORE} --pred HERE/labels --image_labels HERE/voc12/cls_labels.npy {EVIDENCE}",
        ("labels", TRUTH, "saliency", PHOTOGRAPHS),
    ),
    "scores of segmentations": (
        "evaluate",
        f"segmentation {SCORE} --pred HERE/labels --report HERE/out/page.html",
        ("labels", TRUTH, PHOTOGRAPHS),
    ),
}


@pytest.fixture(scope="module")
def tree(scenes, label_parts, networks, tmp_path_factory):
    """Create a tree of four VOC and three saliency images with all their files; tests restore what they change."""
    root, voc = tmp_path_factory.mktemp("tree"), scenes / "data/VOCdevkit/VOC2012"
    ids, classes = load_ids(scenes / "voc12/train_aug_id.txt")[:4], load_class_names(voc)
    copies = {
        PHOTOGRAPHS: (voc / "JPEGImages", ids, ".jpg"),
        TRUTH: (voc / "SegmentationClassAug", ids, ".png"),
        "labels": (label_parts / "rough", ids, ".png"),
        "saliency": (label_parts / "saliency", ids, ".png"),
        "cams": (label_parts / "cams", ids, ".npz"),
    }
    pictures, masks = (scenes / f"dataset/DRAWN-TR/{name}" for name in ("Images", "Masks"))
    stems = sorted(path.stem for path in masks.iterdir())[:3]
    copies |= {"set/Images": (pictures, stems, ".jpg")} | dict.fromkeys(
        ("set/Masks", "maps/set", "edges"), (masks, stems, ".png")
    )
    for name, (folder, files, suffix) in copies.items():
        (root / name).mkdir(parents=True)
        for file in files:
            shutil.copy(folder / f"{file}{suffix}", root / name)
    shutil.copy(voc / "classes.txt", root / "data")
    save_ids(root / "voc12/ids.txt", ids)
    rows = load_image_labels(scenes / "voc12/cls_labels.npy", ids, classes)
    save_image_labels(root / "voc12/cls_labels.npy", dict(zip(ids, rows)))
    return root


@pytest.fixture
def answer(tree, networks, tmp_path_factory, capsys):
    """Return a function that runs a script while a file of the tree is replaced, and returns exit code and stderr."""

    def run(script: str, flags: str, name: str, content) -> tuple[int, str]:
        path, out = tree / name, tmp_path_factory.mktemp("out")
        places = {"HERE/out": out / "new", "HERE": tree, "NETWORKS": networks}
        kept = path.read_bytes()
        path.unlink()
        if content == "folder":
            path.mkdir()
        elif content == "dangling link":
            path.symlink_to(tree / "nowhere")
        else:
            path.write_bytes(content)
        try:
            for word, place in places.items():
                flags = flags.replace(word, str(place))
            script, *subcommand = script.split()
            args = getattr(options, script)().parse_args([*subcommand, *shlex.split(flags)])
            capsys.readouterr()
            code = run_script(importlib.import_module(script).main, args)
            error = capsys.readouterr().err
            assert not list(out.rglob("*.unfinished"))
        finally:
            path.rmdir() if content == "folder" else path.unlink()
            path.write_bytes(kept)
        said = [line.strip() for line in re.split(r"[\r\n]+", error) if line.strip() and "%|" not in line]
        assert "Traceback" not in error
        if code == 2:
            assert len(said) == 1, said
            assert said[0].startswith("error: "), said
            assert len(said[0]) <= 300, said
        return code, "\n".join(said)

    return run


def find_first(tree, folder: str) -> str:
    return str(sorted((tree / folder).iterdir())[0].relative_to(tree))


PLACES = [(command, folder) for command, (_, _, folders) in COMMANDS.items() for folder in folders]


@pytest.mark.parametrize(("command", "folder"), PLACES)
def test_a_truncated_image(command, folder, tree, answer):
    check_unreadable(command, folder, "png header", tree, answer)


@pytest.mark.slow
@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize(("command", "folder"), PLACES)
def test_images_that_cannot_be_read(command, folder, kind, tree, answer):
    check_unreadable(command, folder, kind, tree, answer)


def check_unreadable(command: str, folder: str, kind: str, tree, answer) -> None:
    script, flags, _ = COMMANDS[command]
    name = find_first(tree, folder)
    code, said = answer(script, flags, name, UNREADABLE[kind])
    # folders of images skip what is not a file; of photographs beside finished labels only the size is read
    passed_over = kind in ("folder", "dangling link") and folder in (PHOTOGRAPHS, "set/Images", "set/Masks")
    passed_over |= (command, folder) == ("scores of segmentations", PHOTOGRAPHS)  # the page omits them
    passed_over |= kind in ("jpeg cut", "png cut") and (command, folder) == ("baseline", PHOTOGRAPHS)
    assert code == 2 or script == "predict" or passed_over
    assert os.path.basename(name).split(".")[0] in said or passed_over


# lists of ids and image labels

LISTED = {
    "classification": "train_classification",
    "affinity": "train_affinity",
    "segmentation": "train_segmentation",
    "baseline": "make_pseudo_labels",
    "segmentations": "predict",
    "scores of segmentations": "evaluate",
}


@pytest.mark.parametrize("command", LISTED)
def test_lists_that_cannot_be_used(command, tree, answer):
    script, flags, _ = COMMANDS[command]
    for content, words in (
        (b"\n \r\n", "is empty"),
        (b"../../outside\n", "an id is the name of a file"),
        (b"a\na\n", "more than once"),
        (b"b\xe4r\n", "not text in UTF-8"),
        ("folder", "ids.txt"),
        ("dangling link", "ids.txt does not exist"),
    ):
        code, said = answer(script, flags, "voc12/ids.txt", content)
        assert (code, "ids.txt" in said, words in said) == (2, True, True), said
    code, said = answer(script, flags, "voc12/ids.txt", b"nobody\n")
    assert (code, "nobody" in said) == (2, True), said


def test_lists_of_windows(tree, answer):
    ids = load_ids(tree / "voc12/ids.txt")
    script, flags, _ = COMMANDS["scores of segmentations"]
    content = b"\xef\xbb\xbf" + "\r\n\r\n".join(ids).encode() + b" \r\n\r\n"
    assert answer(script, flags, "voc12/ids.txt", content) == (0, "")


class Fails:
    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle was executed')",)


def encode_npy(value) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize("command", ["classification", "baseline", "scores of labels"])
def test_image_labels_that_cannot_be_used(command, tree, answer):
    ids = load_ids(tree / "voc12/ids.txt")
    whole = (tree / "voc12/cls_labels.npy").read_bytes()
    script, flags, _ = COMMANDS[command]
    for content in (
        *(b"", whole[: len(whole) // 2], pickle.dumps({name: np.zeros(10) for name in ids})),
        encode_npy({"a": Fails()}),
        encode_npy({name: np.zeros(7) for name in ids}),
        encode_npy({name: np.zeros(10) for name in ids[1:]}),
        *("folder", "dangling link"),
    ):
        code, said = answer(script, flags, "voc12/cls_labels.npy", content)
        assert (code, "cls_labels.npy" in said) == (2, True), said


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a\na\n", b"background\n", "folder"])
def test_class_names_that_cannot_be_used(content, answer):
    code, said = answer(*COMMANDS["baseline"][:2], "data/classes.txt", content)
    assert code == 2
    assert "class" in said


# maps and scores


def encode_cams(cams, classes) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, cams=cams, classes=classes)
    return stream.getvalue()


@pytest.mark.parametrize("command", [pytest.param("walk", marks=pytest.mark.slow), "scores of labels"])
def test_cams_that_cannot_be_used(command, tree, answer):
    name = find_first(tree, "cams")
    whole = (tree / name).read_bytes()
    one = np.ones(1, np.uint8)
    for content in (
        *(b"", b"text", whole[:-9]),
        encode_cams(np.full((1, HEIGHT, WIDTH), np.nan, np.float16), one),
        encode_cams(np.zeros((1, 9, 9), np.float16), one),
        encode_cams(np.array([Fails()], object), one),
        *(encode_npy(np.zeros(3)), "folder", "dangling link"),
    ):
        code, said = answer(*COMMANDS[command][:2], name, content)
        assert (code, os.path.basename(name).split(".")[0] in said) == (2, True), said


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_external_scores_that_cannot_be_used(suffix, tree, answer):
    label = tree / find_first(tree, "labels")
    other = label.with_suffix(suffix)
    label.rename(other)
    other.write_bytes(b"")
    try:
        for content in (
            *(b"", b"text", encode_npy({1: Fails()}), encode_npy({0: np.zeros(3)}), "dangling link"),
            encode_cams(np.zeros(3), np.zeros((2, 2))),
            encode_cams(np.zeros(3), np.array([Fails()], object)),
        ):
            code, said = answer(*COMMANDS["baseline"][:2], str(other.relative_to(tree)), content)
            assert (code, other.stem in said) == (2, True), said
    finally:
        other.unlink()
        shutil.copy(tree / TRUTH / label.name, label)


# checkpoints


@pytest.mark.parametrize(
    ("script", "flags", "other"),
    [
        ("predict", f"--load_path HERE/last.pth --input HERE/{PHOTOGRAPHS} --output HERE/out", "affinity"),
        ("export onnx", "--load_path HERE/last.pth --output HERE/out/a.onnx", "affinity"),
        ("export weights", "--load_path HERE/last.pth --output HERE/out/a.safetensors", "affinity"),
        ("make_pseudo_labels", f"{MAKE} --load_path HERE/last.pth --cam_dir HERE/out/cams", "saliency"),
        ("make_pseudo_labels", f"{MAKE} --cam_dir HERE/cams --affinity_path HERE/last.pth", "classification"),
        ("train_segmentation", f"{TRAIN} --load_path HERE/last.pth", "saliency"),
        ("train_segmentation", TRAIN.replace("--pretrained none", "--pretrained HERE/last.pth"), "saliency"),
    ],
)
def test_checkpoints_that_cannot_be_used(script, flags, other, tree, networks, answer):
    whole = (networks / f"{other}.pth").read_bytes()
    (tree / "last.pth").touch()
    contents = {
        "empty": b"",
        "text": b"epoch,loss\n1,2\n",
        "header": whole[:30],
        "cut": whole[: len(whole) // 2],
        "without its end": whole[:-40],
        "pickle": pickle.dumps(Fails()),
        "archive of arrays": encode_cams(np.zeros(3), np.zeros(3)),
        "folder": "folder",
        "dangling link": "dangling link",
        "of another stage": whole,
    }
    for kind, content in contents.items():
        code, said = answer(script, flags, "last.pth", content)
        assert (code, "last.pth" in said) == (2, True), (kind, said)


def test_run_folders_that_cannot_be_resumed(tree, answer, tmp_path):
    script, flags, _ = COMMANDS["affinity"]
    flags = flags.replace("HERE/out", str(tmp_path))
    ids = (tree / "voc12/ids.txt").read_bytes()
    assert answer(script, flags, "voc12/ids.txt", ids)[0] == 0
    whole = bytes_in(tmp_path)
    for name, content in (
        *(("last.pth", b""), ("last.pth", whole["run/last.pth"][:-50])),
        *(("options.json", b""), ("options.json", b"[]"), ("log.jsonl", b"5\n")),
    ):
        path = tmp_path / "run" / name
        kept = path.read_bytes()
        path.write_bytes(content)
        code, said = answer(script, f"{flags} --resume", "voc12/ids.txt", ids)
        assert (code, name in said) == (2, True), (name, content[:9], said)
        path.write_bytes(kept)
    assert answer(script, f"{flags} --resume", "voc12/ids.txt", ids) == (0, "")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"checkpoint": 5}'])
def test_recorded_options_that_cannot_be_used(content, tree, answer, tmp_path):
    (tmp_path / "options.json").write_bytes(content)
    ids = (tree / "voc12/ids.txt").read_bytes()
    flags = COMMANDS["saliency maps"][1].replace("HERE/out", str(tmp_path))
    code, said = answer("predict", flags, "voc12/ids.txt", ids)
    assert (code, str(tmp_path) in said) == (2, True), said


# archives


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x1f\x8b\x08", "dangling link"])
def test_archives_that_cannot_be_used(content, tree, answer):
    (tree / "a.tar.gz").touch()
    flags = "submission --archive HERE/a.tar.gz --data_dir HERE/data --list HERE/voc12/ids.txt"
    code, said = answer("evaluate", flags, "a.tar.gz", content)
    assert (code, "a.tar.gz" in said) == (2, True), said
    flags = "--trainval HERE/a.tar.gz --aug HERE/a.tar.gz --data_dir HERE/out/data --list_dir HERE/out"
    code, said = answer("prepare_data voc12", flags, "a.tar.gz", content)
    assert (code, "a.tar.gz" in said) == (2, True), said
