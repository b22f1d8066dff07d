"""Recipes run as they are, but for `python`: a stub hands each command to the test, which only parses it, or runs it
here and so without loading torch a hundred times. Slurm's own commands are stubs too."""

import csv
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT, TINY_RESNEST, TINY_SWIN, run_main

import options

ROWS = {"resnet101": "resnet-101", "resnest101": "resnest101", "resnest269": "resnest269"}
STUB = """#!/usr/bin/env bash
{ printf '%q ' "$@"; echo; } >&"$CALLS"
read -r code <&"$ANSWERS"
exit "$code"
"""
CROPS = "--crop_size 48 --long_side 48 80 --train_batch 4 --max_epoch 1"
SMALL = {  # networks from scratch for one epoch
    "SALIENCY_FLAGS": f"{TINY_SWIN} --train_batch 4 --max_epoch 1 --pretrained none",
    "CLASSIFIER_FLAGS": f"{TINY_RESNEST} {CROPS}",
    "AFFINITY_FLAGS": f"{TINY_RESNEST} {CROPS}",
    "SEGMENTATION_FLAGS": f"{TINY_RESNEST} {CROPS} --head_width 16",
} | {f"PRETRAINED_{network}": "none" for network in ("CLASSIFIER", "AFFINITY", "SEGMENTATION")}


def run_recipe(name: str, arguments: list, execute, folder: Path, **environment: str) -> tuple[int, str]:
    """Runs a recipe in `folder`. Every script it calls goes to `execute(script, flags)`, which gives its exit code.

    → exit code and what was printed
    """
    stub = folder / "stub_of_python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    (calls, stub_calls), (stub_answers, answers) = os.pipe(), os.pipe()
    places = {"PYTHON": str(stub), "CALLS": str(stub_calls), "ANSWERS": str(stub_answers)}
    with open(folder / "printed.txt", "w") as printed:
        process = subprocess.Popen(
            [PROJECT / "recipes" / name, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, **places, **environment},
            pass_fds=(stub_calls, stub_answers),
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
    os.close(stub_calls)  # so that the calls end when the recipe does
    os.close(stub_answers)
    with open(calls) as lines, open(answers, "w", buffering=1) as codes:
        for line in lines:
            path, *flags = shlex.split(line)
            assert Path(path).parent == PROJECT
            print(execute(Path(path).stem, flags), file=codes)
    return process.wait(), (folder / "printed.txt").read_text()


class DryRun:
    """Parses each command and keeps it; the stage `fails` ends with code 1."""

    def __init__(self, fails: str = ""):
        self.fails = fails
        self.commands: list[tuple[str, object]] = []

    def __call__(self, script: str, flags: list[str]) -> int:
        self.commands.append((script, getattr(options, script)().parse_args(flags)))
        return int(script == self.fails)

    @property
    def scripts(self) -> list[str]:
        return [script for script, _ in self.commands]

    def of(self, script: str) -> list:
        return [args for other, args in self.commands if other == script]


@pytest.fixture
def places(scenes, tmp_path) -> dict[str, str]:
    """The environment of a recipe on the drawn scenes."""
    return {
        "DATA_DIR": f"{scenes}/data",
        "LIST_DIR": f"{scenes}/voc12",
        "TRAIN_ROOT": f"{scenes}/dataset",
        "OUT": f"{tmp_path}/out",
    }


SALIENCY = ["SOD_train", "predict"]
OWN_LABELS = ["train_classification", "make_pseudo_labels", "train_affinity", "make_pseudo_labels"]
OWN_SETTINGS = ["ours/before", "ours/selected", "truth"]
SELECTION = ["make_pseudo_labels", "evaluate"]
STAGES = {
    "ours": [*SALIENCY, *OWN_LABELS, *SELECTION],
    "strong": [*SALIENCY, "make_pseudo_labels", *SELECTION],
}


@pytest.mark.parametrize("recipe", sorted(path.name for path in (PROJECT / "recipes").glob("*.sh")))
def test_recipes_are_bash(recipe):
    assert subprocess.run(["bash", "-n", PROJECT / "recipes" / recipe]).returncode == 0
    assert os.access(PROJECT / "recipes" / recipe, os.X_OK)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("route", STAGES)
def test_stages_of_a_row(row, route, places, tmp_path):
    """Their order, and what one hands to the next."""
    dry, out = DryRun(), places["OUT"]
    brought = [tmp_path] if route == "strong" else []
    code, printed = run_recipe(f"voc12_{row}.sh", [route, *brought], dry, tmp_path, **places)
    assert code == 0, printed
    assert dry.scripts == [*STAGES[route], *["train_segmentation", "predict"] * 9, "evaluate"]

    selection = dry.of("make_pseudo_labels")[-1]
    assert (selection.selector, selection.t0, selection.t1) == (
        "sos",
        *(("auto", 0) if route == "ours" else (0.4, 0.2)),
    )
    assert selection.saliency_dir == dry.of("predict")[0].output
    assert selection.baseline_dir == dry.of("make_pseudo_labels")[-2].label_name
    assert dry.of("make_pseudo_labels")[-2].baseline_dir == (str(brought[0]) if brought else None)

    trained, predicted = dry.of("train_segmentation"), dry.of("predict")[1:]
    labels = [selection.baseline_dir, selection.label_name, "SegmentationClassAug"]
    assert [args.label_name for args in trained] == [label for label in labels for _ in range(3)]
    assert [args.seed for args in trained] == [0, 1, 2] * 3
    assert {(args.backbone, args.pretrained, args.mode, args.resume) for args in trained} == {
        (ROWS[row], "imagenet", "fix", False)
    }
    for training, prediction in zip(trained, predicted):
        assert prediction.load_path == f"{training.log_path}/{training.tag}/last.pth"
        assert (prediction.scales, prediction.flip) == ([0.5, 1, 1.5, 2], True)
        assert prediction.list.endswith("/val_id.txt")
    on_labels, on_segmentations = dry.of("evaluate")
    assert on_labels.pred == labels[:2]
    assert on_segmentations.pred == [args.output for args in predicted]
    settings = [name.replace("ours", route) for name in OWN_SETTINGS]
    assert on_segmentations.pred == [f"{out}/segmentations/{name}/seed{seed}" for name in settings for seed in range(3)]
    assert "claimed by the paper: mIoU 7" in printed


def test_networks_of_the_route_ours(places, tmp_path):
    dry = DryRun()
    weights = {"PRETRAINED_SWIN": "swin.pth", "PRETRAINED_CLASSIFIER": "a.pth", "PRETRAINED_SEGMENTATION": "b.pth"}
    run_recipe("voc12_resnest269.sh", ["ours"], dry, tmp_path, **places, **weights)
    (saliency,), (classifier,), (affinity,) = map(dry.of, ("SOD_train", "train_classification", "train_affinity"))
    assert (saliency.backbone, saliency.pretrained, saliency.max_epoch) == ("swin-base-224", "swin.pth", 150)
    assert (classifier.backbone, classifier.pretrained, classifier.puzzle) == ("resnest269", "a.pth", True)
    assert (affinity.backbone, affinity.pretrained) == ("resnet-50", "imagenet")
    assert dry.of("train_segmentation")[0].pretrained == "b.pth"
    seeds, walk, _ = dry.of("make_pseudo_labels")
    assert (seeds.fusion, affinity.label_name) == ("affinity", seeds.label_name)
    assert walk.affinity_path == f"{affinity.log_path}/{affinity.tag}/last.pth"
    assert walk.cam_dir == seeds.cam_dir
    assert (walk.crf, walk.crf_iterations, walk.bg_threshold) == (True, 1, 0.35)


def test_choices_of_the_environment(places, tmp_path):
    dry, out = DryRun(), places["OUT"]
    code, printed = run_recipe(
        "voc12_resnest101.sh",
        ["strong", tmp_path],
        dry,
        tmp_path,
        **places,
        **{"TRAINVAL": "voc.tar", "AUG": "aug.zip", "TESTSET": "test.tar", "SALIENCY_DIR": "other/maps"},
        **{"SEEDS": "4 7", "WITH_CRF": "1", "TEST": "1"},
        **{
            "SELECTOR_FLAGS": "--t0 0.1",
            "SEGMENTATION_FLAGS": "--train_batch 32\n--lr 0.01",
            "PREDICT_FLAGS": "--scales 1",
        },
    )
    assert code == 0, printed
    assert dry.scripts == [
        "prepare_data",
        "make_pseudo_labels",
        *SELECTION,
        *["train_segmentation", "predict", "predict"] * 6,
        "evaluate",
        "predict",
        "predict",
    ]
    (prepare,) = dry.of("prepare_data")
    assert (prepare.trainval, prepare.aug, prepare.test) == ("voc.tar", "aug.zip", "test.tar")
    selection = dry.of("make_pseudo_labels")[-1]
    assert (selection.t0, selection.t1, selection.saliency_dir) == (0.1, 0.2, "other/maps")
    assert {(args.seed, args.train_batch, args.lr) for args in dry.of("train_segmentation")} == {
        (4, 32, 0.01),
        (7, 32, 0.01),
    }
    *on_val, test, refined_test = dry.of("predict")
    assert [args.crf for args in on_val] == [False, True] * 6
    assert all(args.scales == [1] and args.voc_submission is None for args in on_val)
    pred = dry.of("evaluate")[-1].pred
    assert sorted(pred) == sorted(args.output for args in on_val)
    assert pred[6:8] == [f"{out}/segmentations/strong/before+crf/seed{seed}" for seed in (4, 7)]
    assert test.load_path == refined_test.load_path == f"{out}/runs/strong/selected/seed4/last.pth"
    assert (test.crf, refined_test.crf) == (False, True)
    assert test.list.endswith("/test_id.txt")
    assert test.voc_submission != refined_test.voc_submission
    assert all(args.voc_submission.endswith(".tar.gz") for args in (test, refined_test))


def test_a_stage_that_fails_ends_the_row_and_a_run_that_was_stopped_goes_on(places, tmp_path):
    dry, out = DryRun(fails="train_affinity"), Path(places["OUT"])
    code, _ = run_recipe("voc12_resnet101.sh", ["ours"], dry, tmp_path, **places)
    assert code == 1
    assert dry.scripts == [*SALIENCY, *OWN_LABELS[:3]]
    with open(out / "times.tsv") as file:
        stages = [row["stage"] for row in csv.DictReader(file, delimiter="\t")]
    assert stages == ["train saliency", "saliency maps", "train classifier", "labels for affinity", "train affinity"]

    for run in ("saliency", "ours/selected/seed1"):
        (out / "runs" / run).mkdir(parents=True)
    dry = DryRun()
    code, printed = run_recipe("voc12_resnet101.sh", ["ours"], dry, tmp_path, **places)
    assert code == 0
    resumed = [f"{args.log_path}/{args.tag}" for _, args in dry.commands if getattr(args, "resume", False)]
    assert resumed == [f"{out}/runs/saliency", f"{out}/runs/ours/selected/seed1"]
    table = [line.split("  ")[0] for line in printed[printed.index("GPU hours") :].splitlines()[1:]]
    assert table[:5] == stages
    assert table.count("train saliency") == 1  # the sum of both runs
    assert table[-1] == "all"


@pytest.mark.parametrize(("visible", "gpus"), [({}, "3"), ({"CUDA_VISIBLE_DEVICES": "0,2"}, "2")])
def test_times_tell_the_gpus(visible, gpus, places, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidia-smi").write_text("#!/usr/bin/env bash\nprintf 'GPU %d: H200\\n' 0 1 2\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def slow(script: str, flags: list[str]) -> int:
        time.sleep(2 * (script == "SOD_train"))
        return int(script == "predict")

    run_recipe("voc12_resnest101.sh", ["ours"], slow, tmp_path, **places, **path, **visible)
    with open(Path(places["OUT"]) / "times.tsv") as file:
        training, *_ = csv.DictReader(file, delimiter="\t")
    assert training["GPUs"] == gpus
    assert 1 <= int(training["seconds"]) <= 60
    assert float(training["GPU hours"]) == pytest.approx(int(gpus) * int(training["seconds"]) / 3600, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "usage: "),
        (["theirs"], "theirs is no route"),
        (["strong"], "needs the folder of the labels"),
        (["strong", "nowhere"], "there is none called 'nowhere'"),
        (["ours", "labels"], "takes no folder: labels"),
    ],
)
def test_mistakes_are_met_before_any_work(arguments, words, places, tmp_path):
    dry = DryRun()
    code, printed = run_recipe("voc12_resnest101.sh", arguments, dry, tmp_path, **places)
    assert code != 0
    assert words in printed
    assert not dry.commands
    assert not Path(places["OUT"]).exists()


def test_a_tree_that_is_not_there(places, tmp_path):
    dry = DryRun()
    code, printed = run_recipe("voc12_resnest101.sh", ["ours"], dry, tmp_path, **places | {"DATA_DIR": str(tmp_path)})
    assert code == 2
    assert "no VOCdevkit/VOC2012/JPEGImages in" in printed
    assert not dry.commands


def test_commands_of_the_other_recipes(scenes, places, tmp_path):
    dry = DryRun()
    network = "--backbone mobilenetv2_035 --pixel_mean 0.5 0.5 0.5"
    assert run_recipe("label_quality.sh", [network, "a/maps", "b/maps"], dry, tmp_path, **places)[0] == 0
    assert [args.backbone for args in dry.of("train_classification")] == ["mobilenetv2_035"] * 3
    assert len(dry.of("evaluate")) == 2
    dry, benchmark = DryRun(), scenes / "dataset/benchmark"
    assert run_recipe("saliency_benchmarks.sh", ["last.pth", "mine", benchmark, "--flip"], dry, tmp_path)[0] == 0
    assert dry.scripts == ["predict", "evaluate"]
    assert dry.of("predict")[0].flip


def execute(script: str, flags: list[str]) -> int:
    run_main(script, shlex.join(flags))
    return 0


def made_files(folder: Path) -> dict[Path, int]:
    """When each checkpoint, label, map and segmentation was written."""
    kinds = (".pth", ".png", ".npz")
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in kinds}


def losses_of(run: Path) -> tuple[float, ...]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return tuple(row["loss"] for row in rows if "loss" in row)


@pytest.mark.slow
def test_both_routes_on_drawn_scenes(scenes, places, label_parts, tmp_path, monkeypatch):
    """From photographs to the table; again, without making anything twice; then labels that were brought."""
    monkeypatch.chdir(tmp_path)
    small, out = {**places, **SMALL}, Path(places["OUT"])
    code, printed = run_recipe("voc12_resnest101.sh", ["ours"], execute, tmp_path, **small, SEEDS="0 1")
    assert code == 0, printed
    with open(out / "tables/ours/segmentation/over_seeds.csv", encoding="utf-8") as file:
        _, *table = csv.reader(file)
    assert [row[0] for row in table] == [f"{out}/segmentations/{name}" for name in OWN_SETTINGS]
    for _, seeds, *cells in table:
        assert seeds == "2"
        assert np.isfinite([float(number) for cell in cells for number in cell.split(" ± ")]).all()
    assert (out / "tables/ours/labels/quality.csv").is_file()
    assert losses_of(out / "runs/truth/seed0") != losses_of(out / "runs/truth/seed1")

    made = made_files(out)
    code, printed = run_recipe("voc12_resnest101.sh", ["ours"], execute, tmp_path, **small, SEEDS="0 1")
    assert code == 0, printed
    assert made_files(out) == made

    route, choices = ["strong", label_parts / "rough"], {"SALIENCY_DIR": f"{label_parts}/saliency", "WITH_CRF": "1"}
    code, printed = run_recipe("voc12_resnest101.sh", route, execute, tmp_path, **small, **choices, SEEDS="0")
    assert code == 0, printed
    assert made_files(out).items() >= made.items()  # the networks on the masks serve both routes
    names = ("strong/before", "strong/selected", "truth")
    scores = json.loads((out / "tables/strong/segmentation.json").read_text())
    assert scores.keys() == {f"{out}/segmentations/{name}{crf}/seed0" for name in names for crf in ("", "+crf")}
    losses = [losses_of(out / f"runs/{name}/seed0") for name in names]
    assert len(set(losses)) == 3  # each has its own labels


SRUN = """#!/usr/bin/env bash
while [ "${1#-}" != "$1" ]; do shift; done # its own flags
for _ in $(seq "$SLURM_NNODES"); do "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || exit; done
"""
SRUN_THAT_TELLS = """#!/usr/bin/env bash
printf '%q ' "$@" >told.txt
"""
SRUN_THAT_LASTS = """#!/usr/bin/env bash
echo $$ >pid.txt
exec sleep 300
"""
SCONTROL = """#!/usr/bin/env bash
[ "$1" = requeue ] || { echo localhost; exit; }
echo "$@" >requeued.txt
kill "$(cat pid.txt)" # as Slurm ends the steps of a job that it queues again
"""


def slurm_job(folder: Path, srun: str, flags: str) -> subprocess.Popen:
    """Starts the recipe as Slurm would, in `folder`, on two machines that are this one."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in (("srun", srun), ("scontrol", SCONTROL)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    shutil.copy(PROJECT / "recipes/slurm_segmentation.sh", folder / "slurm_script")  # as Slurm does
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1"}
    job |= {"SLURM_SUBMIT_DIR": str(PROJECT), "RDZV_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    job |= {"PATH": f"{folder}/bin:{os.environ['PATH']}", "PYTHON": sys.executable, "SLURM_CPUS_PER_TASK": "4"}
    return subprocess.Popen(
        ["bash", "slurm_script", *shlex.split(flags)],
        cwd=folder,
        env={**os.environ, **job},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_launch_of_a_slurm_job(tmp_path):
    launch = {"--nnodes": "2", "--nproc_per_node": "1", "--rdzv_backend": "c10d", "--rdzv_id": "7"}
    for resumes in (False, True):
        job = slurm_job(tmp_path, SRUN_THAT_TELLS, "big --label_name x --train_batch 32")
        assert job.wait(timeout=120) == 0
        told = shlex.split((tmp_path / "told.txt").read_text())
        place = told.index(str(PROJECT / "train_segmentation.py"))
        assert {"--kill-on-bad-exit=1", "--cpus-per-task=4"} <= set(told[:place])
        assert told[told.index("-m") + 1] == "torch.distributed.run"
        assert {flag: told[told.index(flag) + 1] for flag in launch} == launch
        assert told[told.index("--rdzv_endpoint") + 1].startswith("localhost:")
        args = options.train_segmentation().parse_args(told[place + 1 :])
        assert (args.log_path, args.tag, args.train_batch, args.resume) == ("experiments", "big", 32, resumes)
        (tmp_path / "experiments/big").mkdir(parents=True, exist_ok=True)


def test_a_slurm_job_that_runs_out_of_time_is_queued_again(tmp_path):
    job = slurm_job(tmp_path, SRUN_THAT_LASTS, "big --label_name x")
    deadline = time.monotonic() + 120
    while not (tmp_path / "pid.txt").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=120) > 128  # as of a training that was ended, not one that is finished
    assert (tmp_path / "requeued.txt").read_text() == "requeue 7\n"


@pytest.mark.slow
def test_a_slurm_job_on_two_machines_goes_on_where_it_was_stopped(scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = f"{TINY_RESNEST} {CROPS} --pretrained none --head_width 16 --label_name SegmentationClassAug"
    flags += f" --data_dir {scenes}/data --list_dir {scenes}/voc12"
    run_main("train_segmentation", f"--tag run {flags} --max_epoch 1")
    printed, _ = (job := slurm_job(tmp_path, SRUN, f"run {flags} --max_epoch 2")).communicate(timeout=900)
    assert job.returncode == 0, printed
    assert printed.count("running on the CPU") == printed.count("epoch 2/2  loss") == 1
    assert [path.name for path in (tmp_path / "experiments").iterdir()] == ["run"]
    rows = [json.loads(line) for line in (tmp_path / "experiments/run/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [3, 6]  # 14 images in global batches of 4
    assert np.isfinite(losses_of(tmp_path / "experiments/run")).all()
