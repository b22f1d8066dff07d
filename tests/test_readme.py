"""The README: its commands run as they stand, what it shows and links exists, its promises have tests."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT, SCRIPTS, TINY_RESNEST, TINY_SWIN, parse, run_main
from training_commands import CROPS

from datasets.drawn_objects import CLASS_NAMES
from datasets.drawn_scenes import write_saliency_scenes, write_voc_scenes
from formats.image_labels import load_image_labels, save_image_labels
from formats.images import save_grey
from formats.labels import load_label
from formats.voc_layout import VOC_CLASSES, load_ids, save_ids

PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
NEEDS = "# needs "  # first words of a block that cannot run here
SMALL = "--max_epoch 1 --train_batch 4 --pretrained none"
TINY_OWN = TINY_RESNEST.removesuffix(" --workers 0")  # each stage of a pipeline has workers of its own
SMALLER = {  # appended to the flags of the README
    "SOD_train": f"{TINY_SWIN} {SMALL}",
    "train_classification": f"{TINY_RESNEST} {SMALL} {CROPS}",
    "train_affinity": f"{TINY_RESNEST} {SMALL} {CROPS}",
    "train_segmentation": f"{TINY_RESNEST} {SMALL} {CROPS} --head_width 16",
    "make_pseudo_labels": "--pretrained none",
    "pipeline": f"{TINY_OWN} --pretrained none --flags 'classifier {CROPS} --max_epoch 1' "
    f"--flags 'network {CROPS} --max_epoch 1 --head_width 16'",
}


def blocks(page: Path) -> list[str]:
    """The shell blocks of a page."""
    return re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def command_lines(block: str) -> list[str]:
    """The commands of a block, continued lines joined, comments left out."""
    lines = [line.split(" #")[0].strip() for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def script_command(line: str) -> str | None:
    """`script.py flags` of a line that runs a script of the project, under torchrun or not."""
    match = re.search(r"(?:python|torchrun.*?) (\w+\.py\b.*)", line)
    return match.group(1) if match else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page):
    commands = [script_command(line) for block in blocks(page) for line in command_lines(block)]
    for command in filter(None, commands):
        parse(command)


def test_every_script_has_a_command():
    commands = [script_command(line) for block in blocks(PAGES[0]) for line in command_lines(block)]
    assert {command.split(".py")[0] for command in commands if command} == set(SCRIPTS)


def test_commands_run(tmp_path, monkeypatch):
    """All commands that are not marked "needs", in the order of the README and in its tree; data checks come last."""
    draw_the_readmes_tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    runnable = [block for block in blocks(PAGES[0]) if not block.startswith((NEEDS, "make "))]
    lines = [line for block in runnable for line in command_lines(block)]
    commands = [script_command(line) for line in lines]
    assert None not in commands, f"neither run nor marked: {lines[commands.index(None)]}"
    assert len(commands) > 25
    for command in sorted(commands, key=lambda command: command.startswith("prepare_data.py check")):
        script, flags = command.split(".py", 1)
        run_main(script, f"{flags} {SMALLER.get(script, '')}")
        copy_as_other_methods()
    own = [f"experiments/own/{name}" for name in ("doubt.html", "network.onnx", "corrected/corrected/labels.json")]
    for made in ("saliency.html", "tables", "results.tar.gz", *own, "yolo/dataset.yaml"):
        assert Path(made).exists()


def draw_the_readmes_tree(root: Path) -> None:
    """Small scenes where the README has data: of VOC's classes, and of the user's."""
    size = {"height": 64, "width": 80}
    write_saliency_scenes(root / "dataset/DUTS-TR", 6, seed=1, **size)
    write_saliency_scenes(root / "dataset/benchmark/ECSSD", 3, seed=2, **size)
    voc_root, lists = root / "data/voc12/VOCdevkit/VOC2012", root / "voc12"
    write_voc_scenes(voc_root, lists, num_train=8, num_val=3, seed=3, **size)
    (voc_root / "classes.txt").unlink()
    ids = load_ids(lists / "train_aug_id.txt") + load_ids(lists / "val_id.txt")
    rows = load_image_labels(lists / "cls_labels.npy", ids, CLASS_NAMES)
    more = np.zeros((len(ids), len(VOC_CLASSES) - len(CLASS_NAMES)), rows.dtype)
    save_image_labels(lists / "cls_labels.npy", dict(zip(ids, np.hstack([rows, more]))))
    save_ids(lists / "test_id.txt", load_ids(lists / "val_id.txt"))

    draw_own_photographs(root, **size)
    photographs = sorted((root / "dataset/DUTS-TR/Images").iterdir())
    shutil.copy(photographs[0], root / "photo.jpg")
    shutil.copytree(root / "dataset/benchmark/ECSSD/Images", root / "folder")


def draw_own_photographs(root: Path, **size) -> None:
    """photographs/, maps/ and tags.csv of the user, in folders that are not the classes."""
    write_voc_scenes(root / "own", root / "own", num_train=8, num_val=0, seed=4, **size)
    ids = load_ids(root / "own/train_aug_id.txt")
    lines = ["file_name,classes"]
    for place, (name, row) in enumerate(zip(ids, load_image_labels(root / "own/cls_labels.npy", ids, CLASS_NAMES))):
        image_id = f"{('cats', 'walk/day 2')[place % 2]}/img_{place // 2}"
        for folder in ("photographs", "maps"):
            (root / folder / image_id).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / f"own/JPEGImages/{name}.jpg", root / f"photographs/{image_id}.jpg")
        objects = load_label(root / f"own/SegmentationClassAug/{name}.png") > 0
        save_grey(root / f"maps/{image_id}.png", objects * np.uint8(255))
        lines.append(f"{image_id}.jpg,{';'.join(np.array(CLASS_NAMES)[row > 0])}")
    (root / "tags.csv").write_text("\n".join(lines))


def copy_as_other_methods() -> None:
    """Copy our results to where the README has those of other methods, as soon as they exist."""
    for made, other in (
        ("experiments/saliency/ours/ECSSD", "other_method/ECSSD"),
        ("experiments/pseudo_labels/cam", "other_method/labels"),
        ("experiments/pseudo_labels/cam", "another/labels"),
        ("experiments/segmentations/val", "other_method/val"),
    ):
        if Path(made).is_dir() and not Path(other).exists():
            shutil.copytree(made, other)
    if Path("experiments/own/labels.json").is_file():
        shutil.copy("experiments/own/labels.json", "corrected.json")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_it_shows_and_links_exists(page):
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link.split("#")[0]).is_file()] == []


def test_promises_have_their_tests():
    table = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Promises")[1].split("\n## ")[0]
    named = set(re.findall(r"`(test_\w+)`", table))
    defined = {
        name
        for path in (PROJECT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 10
    assert named <= defined
