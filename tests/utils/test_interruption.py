"""A run ended by a signal, a kill, a full disk or lost data leaves whole files, and is resumed from them."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from conftest import PROJECT, TINY_SWIN, bytes_in, run_main
from training_commands import COMMANDS, IMPORTS_S, TWO_PROCESSES, log_of, voc_command, weights

import SOD_train
import train_affinity
import train_classification
import train_segmentation
from formats.atomic_files import UNFINISHED
from formats.errors import InputError
from utils import interruption
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.interruption import explain_disk_errors, run_script
from utils.output_folder import hold_folder, release_folder

TRAININGS = COMMANDS | {"train_affinity": lambda *parts: voc_command(*parts) + " --label_name SegmentationClassAug"}
MODULES = (SOD_train, train_classification, train_segmentation, train_affinity)
HOLD = "import sys, utils.output_folder as f; f.hold_folder(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def code_of(script: str, command: str) -> int:
    """The exit code that the shell sees."""
    return run_script(lambda _: run_main(script, command), None)


def error_lines(capsys) -> list[str]:
    """The lines of stderr that are not progress bars."""
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return [line for line in lines if line.strip() and "%|" not in line]


def signal_at(monkeypatch, module, name: str, call: int, signum: int) -> None:
    """Send a signal when a function of a module is called for the `call`-th time."""
    function, calls = getattr(module, name), []

    def call_with_signal(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signum)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, call_with_signal)


def assert_same_result(one, other) -> None:
    first, second = weights(one / "last.pth"), weights(other / "last.pth")
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert log_of(one) == log_of(other)


# signals


@pytest.mark.parametrize("module", MODULES)
def test_a_signal_lets_a_training_finish_its_step(module, scenes, tmp_path, monkeypatch, capsys):
    """In the first epoch, in the last step of the second, and while that epoch is saved."""
    script, extra = module.__name__, "--max_epoch 4 --save_every 0"
    run_main(script, TRAININGS[script](scenes, tmp_path, f"--tag whole {extra}"))
    command = TRAININGS[script](scenes, tmp_path, f"--tag parts {extra}")
    for call, signum, code in ((2, signal.SIGTERM, 143), (4, signal.SIGINT, 130)):
        capsys.readouterr()
        with monkeypatch.context() as patch:
            signal_at(patch, module, "train_step", call, signum)
            assert code_of(script, command + " --resume" * (code == 130)) == code
        name = signal.Signals(signum).name
        assert error_lines(capsys) == [f"stopped by {name}: run the same command with --tag parts --resume"]
    assert load_checkpoint(tmp_path / "parts/last.pth")["training"]["step"] == 3  # the epoch is not closed yet
    with monkeypatch.context() as patch:
        signal_at(patch, sys.modules["utils.training_state"], "save_checkpoint", 1, signal.SIGTERM)
        assert code_of(script, command + " --resume") == 143
    assert code_of(script, command + " --resume") == 0
    assert_same_result(tmp_path / "whole", tmp_path / "parts")


def test_a_signal_ends_a_validation_at_once(scenes, tmp_path, monkeypatch, capsys):
    command = partial(TRAININGS["train_segmentation"], scenes, tmp_path)
    extra = "--max_epoch 2 --val_every 1 --save_every 0"
    run_main("train_segmentation", command(f"--tag whole {extra}"))
    for call, resume in ((2, ""), (9, "--resume")):  # six images in each validation
        with monkeypatch.context() as patch:
            signal_at(patch, train_segmentation, "predict_segmentation", call, signal.SIGTERM)
            assert code_of("train_segmentation", command(f"--tag parts {extra} {resume}")) == 143
        assert error_lines(capsys)[-1].endswith("--tag parts --resume")
    assert code_of("train_segmentation", command(f"--tag parts {extra} --resume")) == 0
    assert_same_result(tmp_path / "whole", tmp_path / "parts")
    scores = [load_checkpoint(tmp_path / tag / "best.pth")["training"]["best_score"] for tag in ("whole", "parts")]
    assert scores[0] == scores[1]


def test_a_signal_ends_a_file_maker_at_once(scenes, label_parts, tmp_path, monkeypatch, capsys):
    flags = f"--load_path {label_parts}/classifier/last.pth --input {scenes}/dataset/DRAWN-TR --output {tmp_path}"
    run_main("predict", f"{flags}/whole")
    with monkeypatch.context() as patch:
        signal_at(patch, sys.modules["predict"], "predict_batch", 5, signal.SIGTERM)
        assert code_of("predict", f"{flags}/parts") == 143
    assert error_lines(capsys) == ["stopped by SIGTERM: run the same command again"]
    names = {path.name for path in (tmp_path / "parts").iterdir()}
    assert len(names) == 4 + len({"options.json", ".lock"})
    run_main("predict", f"{flags}/parts")
    assert bytes_in(tmp_path / "parts") == bytes_in(tmp_path / "whole")


REQUESTS = """
import signal
from utils import interruption
interruption.listen()
interruption.defer()
signal.raise_signal(signal.SIGTERM)
signal.raise_signal(signal.SIGTERM)  # from a launcher, after Slurm has sent it already
assert interruption.pending() == signal.SIGTERM
try:
    with interruption.at_once():
        assert False
except interruption.Interrupted as request:
    assert request.exit_code == 143
interruption.SAME_REQUEST_S = -1.0
signal.raise_signal(signal.SIGTERM)
print("not reached")
"""


def test_a_second_signal_ends_on_the_spot_and_a_copy_does_not():
    done = subprocess.run([sys.executable, "-c", REQUESTS], cwd=PROJECT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")


def test_one_of_several_processes_is_ended_by_the_system(monkeypatch):
    """Unless signals are deferred: Python handlers do not run while it waits for the other processes."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    interruption.listen()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    interruption.defer()
    with interruption.at_once():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.raise_signal(signal.SIGTERM)
    assert interruption.pending() == signal.SIGTERM
    with pytest.raises(interruption.Interrupted), interruption.at_once():
        pass


def test_a_closed_pipe_is_no_traceback(scenes):
    """As after `| head`."""
    line = [sys.executable, "prepare_data.py", "check", "--train_root", f"{scenes}/dataset", "--workers", "1"]
    process = subprocess.Popen(line, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 128 + 13


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interruption.listen()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


FAULT = """
import sys
import options, SOD_train
from utils.interruption import run_script

SOD_train.train_step = lambda *args: 1 / 0
sys.exit(run_script(SOD_train.main, options.SOD_train().parse_args()))
"""


@pytest.mark.slow
def test_a_fault_ends_a_training_with_its_loaders(scenes, tmp_path):
    """Multiprocessing would wait for the loader workers, which ignore SIGTERM."""
    flags = TRAININGS["SOD_train"](scenes, tmp_path, "--tag run").replace("workers 0", "workers 2")
    done = subprocess.run(
        [sys.executable, "-c", FAULT, *shlex.split(flags)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60 + IMPORTS_S,
    )
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


# two runs into one folder


@contextmanager
def another_run(folder):
    """A process that holds a folder; killed at the end, so that it cannot clean up."""
    line = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(line, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield
    process.kill()
    process.communicate()


def test_a_folder_belongs_to_one_run(tmp_path):
    hold_folder(tmp_path / "ours")
    release_folder(tmp_path / "ours")
    with another_run(tmp_path / "ours"), pytest.raises(InputError, match=r"another run is writing to .*ours: wait"):
        hold_folder(tmp_path / "ours")
    (tmp_path / "ours/.a.png.x1y2.unfinished").write_bytes(b"half")
    hold_folder(tmp_path / "ours")  # a killed process does not keep it
    hold_folder(tmp_path / "ours")  # a process does not lock itself out
    assert [path.name for path in (tmp_path / "ours").iterdir()] == [".lock"]
    release_folder(tmp_path / "ours")


def test_two_runs_into_one_folder_are_refused(scenes, label_parts, tmp_path):
    command = TRAININGS["train_affinity"](scenes, tmp_path, "--tag run --max_epoch 1")
    run_main("train_affinity", command)
    with another_run(tmp_path / "run"), pytest.raises(InputError, match=r"another run .*/run: .* another --tag"):
        run_main("train_affinity", f"{command} --resume")
    predict = (
        f"--load_path {label_parts}/classifier/last.pth --input {scenes}/dataset/DRAWN-TR --output {tmp_path}/maps"
    )
    with another_run(tmp_path / "maps"), pytest.raises(InputError, match=r"another run is writing to .*maps"):
        run_main("predict", predict)
    labels = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --label_name {tmp_path}/labels"
    cams = f"--cam_dir {tmp_path}/cams --load_path {label_parts}/classifier/last.pth --scales 1"
    with another_run(tmp_path / "cams"), pytest.raises(InputError, match=r"another run is writing to .*cams"):
        run_main("make_pseudo_labels", f"{labels} {cams}")
    run_main("make_pseudo_labels", f"{labels} {cams}")
    with another_run(tmp_path / "cams"):  # complete maps may be read
        run_main("make_pseudo_labels", f"{labels}2 {cams}")


# disks and data


@contextmanager
def small_disk(folder):
    """A separate file system; skips the test if it cannot be mounted."""
    folder.mkdir(exist_ok=True)
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder) -> None:
    with open(folder / "filler", "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_leaves_the_last_checkpoint(scenes, tmp_path, capsys):
    with small_disk(tmp_path / "disk") as disk:
        command = partial(TRAININGS["train_affinity"], scenes, disk)
        run_main("train_affinity", command("--tag run --max_epoch 1"))
        before, names = (disk / "run/last.pth").read_bytes(), {path.name for path in (disk / "run").iterdir()}
        capsys.readouterr()
        fill(disk)
        with open(disk / "filler", "r+b") as file:  # the run can start, but not save
            file.truncate(file.seek(0, 2) - len(before) // 2)
        assert code_of("train_affinity", command("--tag run --max_epoch 2 --resume")) == 2
        (line,) = error_lines(capsys)
        assert line.startswith(
            f"error: {disk}/run/last.pth: No space left on device: free disk space, then run the same"
        )
        assert (disk / "run/last.pth").read_bytes() == before
        assert {path.name for path in (disk / "run").iterdir() if "tfevents" not in path.name} <= names
        (disk / "filler").unlink()
        release_folder(disk / "run")
        run_main("train_affinity", command("--tag run --max_epoch 2 --resume"))
        release_folder(disk / "run")


def test_files_that_may_not_grow_are_absent(tmp_path):
    """As on a full disk, without mounting one."""
    save_checkpoint(tmp_path / "a.pth", "saliency", {}, torch.nn.Linear(2, 2), {})
    resource = pytest.importorskip("resource")  # not on Windows
    before, limits = (tmp_path / "a.pth").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"a\.pth: File too large: free disk space"), explain_disk_errors():
            save_checkpoint(tmp_path / "a.pth", "saliency", {}, torch.nn.Linear(200, 200), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    assert (tmp_path / "a.pth").read_bytes() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_vanish(scenes, tmp_path, monkeypatch, capsys, workers):
    shutil.copytree(scenes / "dataset/DRAWN-TR", tmp_path / "set")
    command = COMMANDS["SOD_train"](scenes, tmp_path, "--tag run --max_epoch 20 --save_every 1")
    command = command.replace(f"{scenes}/dataset", f"{tmp_path}/set").replace("workers 0", f"workers {workers}")
    train_step, done = SOD_train.train_step, []

    def vanishing(*args):
        done.append(1)
        if len(done) == 4:
            shutil.rmtree(tmp_path / "set/Images")
        return train_step(*args)

    monkeypatch.setattr(SOD_train, "train_step", vanishing)
    assert code_of("SOD_train", command) == 2
    (line,) = error_lines(capsys)
    assert line.startswith(f"error: {tmp_path}/set/Images/")
    assert line.endswith("does not exist")
    assert load_checkpoint(tmp_path / "run/last.pth")["training"]["total_steps"] >= 3


# the same bits twice


@pytest.mark.parametrize(
    ("script", "extra"), [*((script, "") for script in TRAININGS), ("train_segmentation", "--deterministic")]
)
def test_a_seed_gives_the_same_file_twice(script, extra, scenes, tmp_path):
    for tag in "ab":
        run_main(script, TRAININGS[script](scenes, tmp_path, f"--tag {tag} --max_epoch 1 --seed 3 {extra}"))
        assert torch.are_deterministic_algorithms_enabled() == bool(extra)
    torch.use_deterministic_algorithms(False)
    assert (tmp_path / "a/last.pth").read_bytes() == (tmp_path / "b/last.pth").read_bytes()


def test_files_are_made_the_same_twice(scenes, label_parts, tmp_path):
    predict = f"--load_path {label_parts}/classifier/last.pth --input {scenes}/dataset/DRAWN-TR --output {tmp_path}"
    run_main("predict", f"{predict}/maps0 --deterministic")
    run_main("predict", f"{predict}/maps1")
    assert bytes_in(tmp_path / "maps0") == bytes_in(tmp_path / "maps1")
    labels = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --load_path {label_parts}/classifier/last.pth --crf"
    for name in "ab":
        run_main(
            "make_pseudo_labels", f"{labels} --label_name {tmp_path}/{name}/labels --cam_dir {tmp_path}/{name}/cams"
        )
    assert bytes_in(tmp_path / "a") == bytes_in(tmp_path / "b")


# random moments


def same_threads() -> dict[str, str]:
    """The environment of processes that compute with as many threads as this one, and so sum in the same order."""
    return os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}


def start(line: list[str], start_word: str) -> subprocess.Popen:
    """Start a process and wait until it prints that work begins."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(line, cwd=PROJECT, env=same_threads(), **streams)
    for text in process.stdout:
        if start_word in text:
            break
    return process


def end_at_random(line: list[str], resume: list[str], start_word: str, longest_s: float, check=lambda: None) -> None:
    """Run a command to its end, after it was killed, stopped by SIGTERM, and killed again at random moments.

    After a run that ended before its signal, the next signal is sent sooner, so that fast machines are tested as well.
    """
    seed = random.randrange(2**32)
    print(f"moments of seed {seed}")
    moments, ended, runs = random.Random(seed), 0, 0
    while runs < 3 or (not ended and runs < 10):
        signum = signal.SIGTERM if runs % 3 == 1 else signal.SIGKILL
        process = start(line + resume * (runs > 0), start_word)
        time.sleep(moments.uniform(0, longest_s))
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60 + IMPORTS_S)
        assert process.returncode in (0, {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143}[signum]), errors
        assert "Traceback" not in errors
        check()
        longest_s /= 1 if process.returncode else 3
        ended, runs = ended + (process.returncode != 0), runs + 1
    assert ended
    subprocess.run(line + resume, cwd=PROJECT, env=same_threads(), check=True, capture_output=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("script", TRAININGS)
def test_trainings_end_at_any_moment(script, scenes, tmp_path):
    extra = "--max_epoch 40 --val_every 2 --save_every 2" if script == "train_segmentation" else "--max_epoch 40"
    extra = "--max_epoch 100 --val_list none" if script == "train_classification" else extra
    run_main(script, TRAININGS[script](scenes, tmp_path, f"--tag whole {extra}"))
    line = shlex.split(TRAININGS[script](scenes, tmp_path, f"--tag parts {extra}"))
    end_at_random([sys.executable, f"{script}.py", *line], ["--resume"], "steps per epoch", longest_s=1.5)
    assert_same_result(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["predict", "make_pseudo_labels", "evaluate", "pipeline demo"])
def test_file_makers_end_at_any_moment(script, scenes, label_parts, tmp_path):
    """Every file is whole after each end; in the end all equal those of an uninterrupted run."""
    voc, classifier = f"--data_dir {scenes}/data --list_dir {scenes}/voc12", f"{label_parts}/classifier/last.pth"
    command, start_word = {
        "predict": (
            f"--load_path {classifier} --input {scenes}/data/VOCdevkit/VOC2012/JPEGImages --output OUT/maps --overlay"
            " --flip --scales 0.5 1 2 4",
            "running on",
        ),
        "make_pseudo_labels": (
            f"{voc} --load_path {classifier} --label_name OUT/labels --cam_dir OUT/cams --affinity_path"
            f" {label_parts}/affinity/last.pth --crf --selector sos --saliency_dir {label_parts}/saliency",
            "running on",
        ),
        "evaluate": (
            f"labels --pred {label_parts}/rough --data_dir {scenes}/data --list {scenes}/voc12/train_id.txt"
            " --tables OUT/tables --report OUT/page.html --workers 1",
            "",
        ),
        "pipeline demo": ("--work_dir OUT/demo --draw_only --num_saliency 100 --num_train 100 --num_val 20", "drawing"),
    }[script]
    run_main(script, command.replace("OUT", f"{tmp_path}/whole"))
    whole = bytes_in(tmp_path / "whole")

    def check() -> None:
        for name, content in bytes_in(tmp_path / "parts").items():
            assert name.endswith(UNFINISHED) or content == whole[name] or name.endswith(".html"), name

    name, *subcommand = script.split()
    line = [sys.executable, f"{name}.py", *subcommand, *command.replace("OUT", f"{tmp_path}/parts").split()]
    end_at_random(line, [], start_word, longest_s=0.3 if script == "evaluate" else 1.0, check=check)
    check()
    left = set(bytes_in(tmp_path / "parts"))
    if script == "evaluate":  # it locks no folder, and so does not remove leftovers
        left = {name for name in left if not name.endswith(UNFINISHED)}
    assert left == whole.keys()


LAUNCHED = """
import os, sys
sys.path.insert(0, {project!r})
import options, SOD_train
from utils import distributed
from utils.interruption import run_script

distributed.choose_gpus = lambda *_: range(2 * ("RANK" not in os.environ))  # two workers, each on the CPU
if __name__ == "__main__":
    sys.exit(run_script(SOD_train.main, options.SOD_train().parse_args()))
"""


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step(scenes, tmp_path):
    """SIGTERM to our own launcher, which shows no failure, and to torchrun, which shows its own."""
    (tmp_path / "launched.py").write_text(LAUNCHED.format(project=str(PROJECT)))
    flags = f"{TINY_SWIN} --train_root {scenes}/dataset --log_path {tmp_path} --train_batch 4 --max_epoch 30".split()
    ours, torchrun = [sys.executable, str(tmp_path / "launched.py")], [*TWO_PROCESSES, "SOD_train.py"]
    subprocess.run([*torchrun, *flags, "--tag", "whole"], cwd=PROJECT, env=same_threads(), check=True, timeout=300)
    for launcher, resume in ((ours, []), (torchrun, ["--resume"])):
        process = start([*launcher, *flags, "--tag", "parts", *resume], "steps per epoch")
        time.sleep(random.uniform(0, 1))
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60 + IMPORTS_S)
        assert "stopped after step" in output, errors
        again = "again, a training with --resume" if launcher is ours else "with --tag parts --resume"
        assert f"stopped by SIGTERM: run the same command {again}\n" in errors
        assert process.returncode == (143 if launcher is ours else 1)
        assert "Traceback" not in errors or launcher is torchrun
    subprocess.run(
        [*ours, *flags, "--tag", "parts", "--resume"], cwd=PROJECT, env=same_threads(), check=True, timeout=300
    )
    assert_same_result(tmp_path / "whole", tmp_path / "parts")
    assert json.loads((tmp_path / "parts/log.jsonl").read_text().splitlines()[-1])["step"] == 90
