"""The folder of a training run, `<log_path>/<tag>`; without a tag, the start time takes its place.

options.json   the options, versions and commit
log.txt        the printed lines
log.jsonl      the numbers, one JSON object per line; also as TensorBoard events
last.pth       the latest checkpoint
best.pth       the checkpoint with the best validation score
"""

import json
import platform
import time

import torch
from torch.utils.tensorboard import SummaryWriter

from formats.atomic_files import write_json, write_text
from formats.errors import InputError, folder_below
from utils import interruption, output_folder

PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless")
# options that a resumed run may change, because the weights do not depend on them
CHANGEABLE_OPTIONS = {"max_epoch", "resume", "tag", "log_path", "workers", "gpu_id", "cache_mode"}
CHANGEABLE_OPTIONS |= {"val_root", "val_list", "val_every", "save_every"}
TAG_ADVICE = "choose another --tag"


class RunFolder:
    """Constructed in every process; only the main one writes. Nothing is created before `start`, so that a run that
    fails on its inputs leaves no folder.
    """

    def __init__(self, log_path, tag: str | None, resume: bool, is_main: bool, options: dict):
        if resume and tag is None:
            raise InputError("--resume needs --tag: the name of the run to resume")
        self.path = folder_below(log_path, tag or time.strftime("%Y-%m-%d_%H-%M-%S"), "--tag")
        self.last, self.best = self.path / "last.pth", self.path / "best.pth"
        self.is_main = is_main
        self.resumes = resume and self.last.is_file()
        self.options = json.loads(json.dumps(options))
        if resume and not self.path.is_dir():
            raise InputError(f"--resume: there is no run folder {self.path}")
        if is_main and resume:
            output_folder.hold_folder(self.path, TAG_ADVICE)
        elif is_main and self.path.exists():
            raise InputError(f"run folder {self.path} exists: resume it with --resume, or {TAG_ADVICE}")
        if self.resumes:
            self.refuse_other_options()

    def refuse_other_options(self) -> None:
        """Raise `InputError` if an option that affects the weights differs from the recorded one, if there is one."""
        way_out = "restore it, or start a new run with another --tag"
        recorded = output_folder.load_json(self.path / "options.json", way_out).get("options")
        if not isinstance(recorded, dict):
            raise InputError(f"{self.path / 'options.json'} records no options: {way_out}")
        for name, value in self.options.items():
            if name not in CHANGEABLE_OPTIONS and name in recorded and recorded[name] != value:
                found = output_folder.describe_difference(name, recorded[name], value)
                found = f"--resume: {self.path} was started with {found}"
                raise InputError(f"{found}: use the same value, or start a new run with another --tag")

    def start(self, logged_steps: int) -> None:
        """Open the logs, and drop their rows after `logged_steps`: a killed run did not save those steps.

        From now on a signal ends the run after the current step has been saved.
        """
        interruption.set_resume_hint(f"run the same command with --tag {self.path.name} --resume")
        interruption.defer()
        if not self.is_main:
            return
        output_folder.hold_folder(self.path, TAG_ADVICE)
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        machine = {"platform": platform.platform(), "gpus": gpus}
        versions, commit = output_folder.find_versions(PACKAGES), output_folder.current_commit()
        made_by = {"versions": versions, "machine": machine, "commit": commit}
        write_json(self.path / "options.json", {"options": self.options, **made_by})
        self.drop_rows_after(logged_steps)
        # both stay open as long as the run, and every line is flushed
        self.text = open(self.path / "log.txt", "a", encoding="utf-8", errors="replace")
        self.numbers = open(self.path / "log.jsonl", "a", encoding="utf-8")
        self.events = SummaryWriter(self.path, purge_step=logged_steps + 1 if self.resumes else None)
        self.log(f"run folder {self.path}")

    def drop_rows_after(self, logged_steps: int) -> None:
        path = self.path / "log.jsonl"
        if path.is_file():
            try:
                rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
                kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= logged_steps]
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(f"{path} is damaged ({error}): move it away to resume the run without it") from None
            write_text(path, "".join(kept))

    def log(self, line: str) -> None:
        """Print a line and append it to log.txt."""
        if self.is_main:
            print(line, flush=True)
            print(line, file=self.text, flush=True)

    def log_scalars(self, step: int, values: dict[str, float]) -> None:
        """Log numbers to log.jsonl and TensorBoard; `step` counts optimizer steps."""
        if self.is_main:
            print(json.dumps({"step": step, **values}), file=self.numbers, flush=True)
            for name, value in values.items():
                self.events.add_scalar(name, value, step)

    def log_picture(self, step: int, name: str, image) -> None:
        """Log an RGB picture, uint8 [H, W, 3], to TensorBoard."""
        if self.is_main:
            self.events.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        if self.is_main:
            self.text.close()
            self.numbers.close()
            self.events.close()
            output_folder.release_folder(self.path)
