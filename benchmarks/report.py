"""Markdown pages of the benchmarks in benchmarks/results: command, tables, machine and versions."""

import os
import platform
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import torch

from formats.atomic_files import write_text

RESULTS = Path(__file__).resolve().parent / "results"


def environment_line() -> str:
    """The machine and the versions of packages."""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    cpu = f"{cpu_name()}, {torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()})"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "numpy"))
    return f"{gpu}{cpu} of {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {packages}"


def cpu_name() -> str:
    """Model name of the processor, "CPU" if the system does not report it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or "CPU"


def device_kind() -> str:
    """Device for names of pages: "cuda", or the CPU capability such as "cpu_avx2"."""
    return "cuda" if torch.cuda.is_available() else f"cpu_{torch.backends.cpu.get_cpu_capability().lower()}"


def time_cells(row: dict) -> list[str]:
    """Cells of a table: name, ms of both sides, and their ratio."""
    plain, ours = row["plain_ms"], row["ours_ms"]
    return [row["name"], f"{plain:.0f}", f"{ours:.0f}", f"{plain / ours:.2f} ×"]


def save_page(name: str, benchmark: str, argv: list[str], parts: list[str]) -> None:
    """Print a page of command, parts and environment, and write it to benchmarks/results/<name>.md."""
    command = f"    python -m benchmarks.{benchmark} {shlex.join(argv)}".rstrip()
    text = "\n\n".join([f"# {name}", command, *parts, environment_line()]) + "\n"
    print(text)
    write_text(RESULTS / f"{name}.md", text)
