"""The shell scripts in recipes/: the commands that they run, with stubs in place of Python and of Slurm."""

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
from conftest import PROJECT, run_main
from training_commands import log_of, voc_command

import options

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
