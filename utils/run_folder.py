"""The folder of a training run, `<log_path>/<tag, or the time>`, and of any output that options determine.

options.json   the options, versions and commit
log.txt        what was printed;  log.jsonl  the numbers, a JSON object a line;  TensorBoard events
last.pth       the newest checkpoint, best.pth the one with the best validation score
"""

import json
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from atomic_files import write_json
from input_errors import InputError

PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless")
PROJECT = Path(__file__).resolve().parent.parent


class RunFolder:
    """Made by every process; only the main one writes. Nothing is created before `start`, so that a run that fails
    on its inputs leaves no folder behind."""

    def __init__(self, log_path, tag: str | None, resume: bool, is_main: bool):
        if resume and tag is None:
            raise InputError("--resume needs --tag: the name of the run to go on with")
        self.path = Path(log_path) / (tag or time.strftime("%Y-%m-%d_%H-%M-%S"))
        self.last, self.best = self.path / "last.pth", self.path / "best.pth"
        self.is_main = is_main
        self.resumes = resume and self.last.is_file()
        if is_main and self.path.exists() and not resume:
            raise InputError(f"run folder {self.path} exists: go on with it by --resume, or choose another --tag")
        if resume and not self.path.is_dir():
            raise InputError(f"--resume: there is no run folder {self.path}")

    def start(self, options: dict) -> None:
        if not self.is_main:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "options.json", {"options": options, **environment()})
        # both stay open as long as the run: every line is flushed
        self.text = open(self.path / "log.txt", "a", encoding="utf-8")
        self.numbers = open(self.path / "log.jsonl", "a", encoding="utf-8")
        self.events = SummaryWriter(self.path)
        self.log(f"run folder {self.path}")

    def log(self, line: str) -> None:
        """Prints a line and keeps it in log.txt."""
        if self.is_main:
            print(line, flush=True)
            print(line, file=self.text, flush=True)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers of one moment, to log.jsonl and TensorBoard; `step` counts optimizer steps."""
        if self.is_main:
            print(json.dumps({"step": step, **values}), file=self.numbers, flush=True)
            for name, value in values.items():
                self.events.add_scalar(name, value, step)

    def close(self) -> None:
        if self.is_main:
            self.text.close()
            self.numbers.close()
            self.events.close()


def environment() -> dict:
    """Versions, machine and commit a result was made with."""
    versions = {package: version(package) for package in PACKAGES}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=False)
    return {
        "versions": versions | {"python": platform.python_version()},
        "machine": {"platform": platform.platform(), "gpus": gpus},
        "commit": commit.stdout.strip() or None,
    }


def claim_output_folder(folder, options: dict) -> None:
    """Records in `folder` the options its files are made with; other options in the same folder are an `InputError`."""
    path = Path(folder) / "options.json"
    if path.is_file():
        recorded = json.loads(path.read_text(encoding="utf-8"))
        for name, value in json.loads(json.dumps(options)).items():
            if name not in recorded or recorded[name] != value:
                raise InputError(
                    f"{folder} holds files made with {name} = {recorded.get(name)}, not {value}: "
                    "choose another folder, or delete that one"
                )
    write_json(path, options)
