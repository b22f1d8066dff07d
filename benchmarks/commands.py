"""Commands of the project in processes of their own: what they cost."""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.memory import tree_mb

PROJECT = Path(__file__).resolve().parent.parent
LOOK_S = 0.2  # between two looks at the memory
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


@contextmanager
def on_cores(count: int | None):
    """Inside, this process and those it starts use so many cores; these do so for good."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(usable)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


@dataclass(frozen=True)
class Cost:
    """Of a command: wall time in s, and the memory of all its processes, files apart, at the fullest moment seen, in
    MB."""

    seconds: float
    peak_mb: float


def run_measured(
    script: str, flags: list[str], processes: int = 1, threads: int | None = None, cores: int | None = None
) -> Cost:
    """Runs a script, under torchrun if there are several `processes`, each of so many `threads`, all on so many `cores`
    (None: all that there are). Raises `RuntimeError` with what it said if it fails."""
    launcher = [*LAUNCHER, str(processes)] if processes > 1 else []
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with tempfile.TemporaryFile("w+") as output:
        started, highest_mb = time.perf_counter(), 0.0
        command = [sys.executable, *launcher, str(PROJECT / script), *flags]
        with on_cores(cores):
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            highest_mb = max(highest_mb, tree_mb(process.pid))
            try:
                process.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                continue
        seconds = time.perf_counter() - started
        output.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with code {process.returncode}:\n{output.read()}")
    return Cost(seconds, highest_mb)
