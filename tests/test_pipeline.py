"""pipeline.py: which commands a sequence consists of, what one hands to the next, and how it continues."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT, TINY_RESNEST, TINY_SWIN, run_main
from training_commands import CROPS, losses_of

import options
import pipeline
from formats.errors import InputError
from formats.images import load_image

SHORT = "--train_batch 4 --max_epoch 1 --pretrained none"
SMALL = ["--flags", f"saliency {TINY_SWIN} {SHORT}"]  # small networks from random weights, for one epoch
for stage in ("classifier", "affinity", "segmentation --head_width 16"):
    SMALL += ["--flags", f"{stage} {TINY_RESNEST} {CROPS} {SHORT}"]
SALIENCY = ["SOD_train", "predict"]
OUR_LABELS = ["train_classification", "make_pseudo_labels", "train_affinity", "make_pseudo_labels"]
SELECTION = ["make_pseudo_labels", "evaluate"]


class DryRun:
    """Parses each command and keeps it; a command of the script `fails` raises."""

    def __init__(self, fails: str = ""):
        self.fails = fails
        self.commands: list[tuple[str, object]] = []

    def __call__(self, command: str) -> None:
        script, args = pipeline.parse_command(command)
        self.commands.append((script, args))
        if script == self.fails:
            raise InputError("it fails")

    @property
    def scripts(self) -> list[str]:
        return [script for script, _ in self.commands]

    def calls_of(self, script: str) -> list:
        return [args for other, args in self.commands if other == script]


@pytest.fixture
def voc12(scenes, tmp_path, monkeypatch):
    """Runs a row on the drawn scenes; with a `DryRun`, commands are only parsed."""

    def run(dry: DryRun | None, *flags: str, row: str = "resnest101") -> None:
        if dry:
            monkeypatch.setattr(pipeline, "run_command", dry)
        places = f"--output {tmp_path}/out --train_root {scenes}/dataset"
        places += f" --data_dir {scenes}/data --list_dir {scenes}/voc12"
        pipeline.main(options.pipeline().parse_args(["voc12", "--row", row, *places.split(), *flags]))

    return run


@pytest.mark.parametrize(
    ("row", "route", "backbone"), [("resnet101", "ours", "resnet-101"), ("resnest269", "strong", "resnest269")]
)
def test_stages_of_a_row(row, route, backbone, voc12, tmp_path):
    dry, out = DryRun(), f"{tmp_path}/out"
    (tmp_path / "labels of others").mkdir()
    voc12(dry, *(["--baseline_dir", f"{tmp_path}/labels of others"] if route == "strong" else []), row=row)
    before = OUR_LABELS if route == "ours" else ["make_pseudo_labels"]
    assert dry.scripts == [*SALIENCY, *before, *SELECTION, *["train_segmentation", "predict"] * 9, "evaluate"]

    *_, first, selection = dry.calls_of("make_pseudo_labels")
    if route == "ours":
        assert (selection.selector, selection.features) == ("evidence", f"{out}/runs/classifier/last.pth")
    else:
        assert (selection.selector, selection.t0, selection.t1) == ("sos", 0.4, 0.2)
    assert selection.saliency_dir == dry.calls_of("predict")[0].output
    assert selection.baseline_dir == first.label_name
    assert first.baseline_dir == (f"{tmp_path}/labels of others" if route == "strong" else None)

    trained, predicted = dry.calls_of("train_segmentation"), dry.calls_of("predict")[1:]
    labels = [selection.baseline_dir, selection.label_name, "SegmentationClassAug"]
    assert [args.label_name for args in trained] == [label for label in labels for _ in range(3)]
    assert [args.seed for args in trained] == [0, 1, 2] * 3
    assert {(args.backbone, args.pretrained, args.mode, args.resume) for args in trained} == {
        (backbone, "imagenet", "fix", False)
    }
    for training, prediction in zip(trained, predicted):
        assert prediction.load_path == f"{training.log_path}/{training.tag}/last.pth"
        assert (prediction.scales, prediction.flip) == ([0.5, 1, 1.5, 2], True)
    on_labels, on_segmentations = dry.calls_of("evaluate")
    assert on_labels.pred == labels[:2]
    settings = [f"{route}/before", f"{route}/selected", "truth"]
    assert on_segmentations.pred == [f"{out}/segmentations/{name}/seed{seed}" for name in settings for seed in range(3)]


def test_our_labels_come_from_a_walk(voc12):
    dry = DryRun()
    voc12(dry, row="resnest269")
    (saliency,), (classifier,), (affinity,) = map(dry.calls_of, ("SOD_train", "train_classification", "train_affinity"))
    assert (saliency.backbone, saliency.max_epoch) == ("swin-base-224", 150)
    assert (classifier.backbone, classifier.puzzle, affinity.backbone) == ("resnest269", True, "resnet-50")
    certain, walk, _ = dry.calls_of("make_pseudo_labels")
    assert (certain.fusion, affinity.label_name) == ("affinity", certain.label_name)
    assert walk.affinity_path == f"{affinity.log_path}/{affinity.tag}/last.pth"
    assert walk.cam_dir == certain.cam_dir
    assert (walk.crf, walk.crf_iterations, walk.bg_threshold) == (True, 1, 0.35)


def test_choices_of_the_user(voc12, tmp_path):
    dry = DryRun()
    flags = ["--flags", "selector --t0 0.1", "--flags", "segmentation --train_batch 32 --lr 0.01"]
    flags += ["--crf", "--submission"]
    voc12(dry, "--baseline_dir", f"{tmp_path}", "--saliency_dir", "other/maps", "--seeds", "4", "7", *flags)
    assert dry.scripts == [
        *("make_pseudo_labels", *SELECTION, *["train_segmentation", "predict", "predict"] * 6, "evaluate", "predict")
    ]
    selection = dry.calls_of("make_pseudo_labels")[-1]
    assert (selection.t0, selection.t1, selection.saliency_dir) == (0.1, 0.2, "other/maps")
    trained = dry.calls_of("train_segmentation")
    assert {(args.seed, args.train_batch, args.lr) for args in trained} == {(4, 32, 0.01), (7, 32, 0.01)}
    *on_val, on_test = dry.calls_of("predict")
    assert [args.crf for args in on_val] == [False, True] * 6
    assert all(args.voc_submission is None for args in on_val)
    assert dry.calls_of("evaluate")[-1].pred == [args.output for args in on_val]
    assert on_test.load_path == f"{tmp_path}/out/runs/strong/selected/seed4/last.pth"
    assert (on_test.crf, on_test.list.endswith("/test_id.txt")) == (True, True)
    assert on_test.voc_submission.endswith(".tar.gz")


def test_a_sequence_that_was_stopped_continues(voc12, tmp_path):
    dry, out = DryRun(fails="train_affinity"), tmp_path / "out"
    with pytest.raises(InputError, match="it fails"):
        voc12(dry)
    assert dry.scripts == [*SALIENCY, *OUR_LABELS[:3]]
    with open(out / "times.tsv", encoding="utf-8") as file:
        rows = [(row["stage"], row["state"]) for row in csv.DictReader(file, delimiter="\t")]
    stages = ("saliency", "saliency maps", "classifier", "affinity labels")
    assert rows == [*((stage, "finished") for stage in stages), ("affinity", "stopped")]

    for run in ("saliency", "affinity", "ours/selected/seed1"):
        (out / "runs" / run).mkdir(parents=True)
    dry = DryRun()
    voc12(dry)
    assert dry.scripts[:2] == ["train_affinity", "make_pseudo_labels"]  # what was finished is not run again
    resumed = [f"{args.log_path}/{args.tag}" for _, args in dry.commands if getattr(args, "resume", False)]
    assert resumed == [f"{out}/runs/affinity", f"{out}/runs/ours/selected/seed1"]

    dry = DryRun()
    voc12(dry)
    assert not dry.commands
    with pytest.raises(InputError, match="runs/classifier was trained by another command"):
        voc12(dry, "--flags", "classifier --lr 0.05")
    assert not dry.commands
    voc12(dry, "--flags", "labels --bg_threshold 0.3")  # whatever comes after a changed command is run
    assert dry.scripts[:3] == ["make_pseudo_labels", "make_pseudo_labels", "evaluate"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--baseline_dir", "nowhere"], "folder nowhere does not exist"),
        (["--flags", "walking --lr 1"], "begin with a stage"),
        (["--flags", "segmentation --lr much"], "'much' is not a number"),
    ],
)
def test_mistakes_are_found_before_any_work(flags, message, voc12, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dry = DryRun()
    with pytest.raises((InputError, SystemExit)) as mistake:
        voc12(dry, *flags)
    assert message in f"{mistake.value}{capsys.readouterr().err}"
    assert not dry.commands
    assert not (tmp_path / "out").exists()


def test_label_quality_scores_every_method(scenes, tmp_path, monkeypatch):
    dry = DryRun()
    monkeypatch.setattr(pipeline, "run_command", dry)
    network = "--backbone mobilenetv2_035 --pixel_mean 0.5 0.5 0.5 --backbone_args a=1,2 b=x"
    places = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --output {tmp_path}/out"
    run_main("pipeline label_quality", f"{network} {places} --saliency_dir a/maps b/maps")
    trained = dry.calls_of("train_classification")
    assert {(args.backbone, tuple(args.pixel_mean)) for args in trained} == {("mobilenetv2_035", (0.5, 0.5, 0.5))}
    assert trained[0].backbone_args == [("a", (1, 2)), ("b", "x")]
    assert [args.puzzle for args in trained] == [False, True, False]
    made = {args.label_name for args in dry.calls_of("make_pseudo_labels")}
    scored = dry.calls_of("evaluate")
    assert all(made.issuperset(args.pred) for args in scored)
    assert [args.sweep for args in scored] == [[], []]
    assert [args.tables for args in scored] == [f"{tmp_path}/out/tables_{name}" for name in ("a_maps", "b_maps")]


def find_made_files(folder: Path) -> dict[Path, int]:
    """When each checkpoint, label, map and segmentation was written."""
    kinds = (".pth", ".png", ".npz")
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in kinds}


@pytest.mark.slow
def test_both_routes_on_drawn_scenes(voc12, label_parts, tmp_path, monkeypatch):
    """From photographs to the table; again, without making anything twice; then labels of another method."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    voc12(None, *SMALL, "--seeds", "0", "1")
    with open(out / "tables/ours/segmentation/over_seeds.csv", encoding="utf-8") as file:
        _, *table = csv.reader(file)
    names = ["ours/before", "ours/selected", "truth"]
    assert [row[0] for row in table] == [f"{out}/segmentations/{name}" for name in names]
    for _, seeds, *cells in table:
        assert seeds == "2"
        assert np.isfinite([float(number) for cell in cells for number in cell.split(" ± ")]).all()
    assert (out / "tables/ours/labels/quality.csv").is_file()
    assert losses_of(out / "runs/truth/seed0") != losses_of(out / "runs/truth/seed1")

    made = find_made_files(out)
    voc12(None, *SMALL, "--seeds", "0", "1")
    assert find_made_files(out) == made
    (out / "times.tsv").unlink()  # every command runs again, and finds its files
    voc12(None, *SMALL, "--seeds", "0", "1")
    assert find_made_files(out) == made

    strong = ["--baseline_dir", f"{label_parts}/rough", "--saliency_dir", f"{label_parts}/saliency"]
    voc12(None, *SMALL[-2:], *strong, "--seeds", "0")
    assert find_made_files(out).items() >= made.items()  # the networks trained on masks serve both routes
    names = ("strong/before", "strong/selected", "truth")
    scores = json.loads((out / "tables/strong/segmentation.json").read_text())
    assert scores.keys() == {f"{out}/segmentations/{name}/seed0" for name in names}
    assert len({tuple(losses_of(out / f"runs/{name}/seed0")) for name in names}) == 3  # each has its own labels


@pytest.mark.slow
def test_the_demo(tmp_path):
    command = [sys.executable, "pipeline.py", "demo", "--work_dir", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "demo/results.json").read_text())
    assert results["saliency_maxF"] >= 0.90
    assert results["saliency_MAE"] <= 0.05
    assert results["single_class_mIoU_cam"] < 0.60
    assert results["single_class_mIoU_sos"] >= results["single_class_mIoU_cam"] + 0.03
    assert results["segmentation_mIoU"] >= 0.55
    assert done.stdout.count("$ python ") == 11
    assert load_image(tmp_path / "demo/demo.png").shape[1] == 7 * (160 + 4)
    again = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("finished before, skipped") == 11
    assert "segmentations of held-out scenes: mIoU" in again.stdout


def test_a_demo_keeps_to_its_own_folder(tmp_path):
    (tmp_path / "mine/voc12").mkdir(parents=True)
    with pytest.raises(InputError, match="choose another folder"):
        run_main("pipeline demo", f"--work_dir {tmp_path}/mine --draw_only")
    assert not list((tmp_path / "mine/voc12").iterdir())
    flags = "--draw_only --num_saliency 2 --num_train 2 --num_val 1"
    for _ in range(2):
        run_main("pipeline demo", f"--work_dir {tmp_path}/demo {flags}")
    assert len(list((tmp_path / "demo/dataset/DRAWN-TR/Images").iterdir())) == 2
    with pytest.raises(InputError, match="choose another folder"):
        run_main("pipeline demo", f"--work_dir {tmp_path}/demo {flags} --seed 1")
