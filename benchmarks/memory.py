"""Memory that processes hold, as Linux tells it."""

import os
from pathlib import Path


def resident_mb() -> float:
    """What this process holds now."""
    return _status_mb("VmRSS")


def peak_mb() -> float:
    """The most that this process has held since `forget_peak`."""
    return _status_mb("VmHWM")


def forget_peak() -> None:
    """`ru_maxrss` cannot be forgotten: it holds the peak of the imports, and what the parent held."""
    Path("/proc/self/clear_refs").write_text("5")


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return _number_mb(lines, name)


def tree_mb(root: int) -> float:
    """What a process and all below it hold now, files apart: libraries count more or less as other programs use them,
    too. Pages that several of them share count once."""
    children: dict[int, list[int]] = {}
    for process in filter(str.isdigit, os.listdir("/proc")):
        children.setdefault(_parent(process), []).append(int(process))
    total, waiting = 0.0, [root]
    while waiting:
        process = waiting.pop()
        total += _anonymous_mb(process)
        waiting += children.get(process, [])
    return total


def _parent(process: str) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has just ended
        return 0


def _anonymous_mb(process: int) -> float:
    """Pages of no file: its own, and of shared ones its part."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0
    return _number_mb(lines, "Pss_Anon")


def _number_mb(lines: list[str], name: str) -> float:
    """The number after `name:`, which counts KiB; 0 where there is none, as of a process that is ending."""
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0) * 1024 / 1e6
