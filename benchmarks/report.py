"""What every benchmark leaves: a Markdown file in benchmarks/results with its command, tables and machine."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from formats.atomic_files import write_text

RESULTS = Path(__file__).resolve().parent / "results"


def environment_line() -> str:
    """Machine and versions a figure was measured with."""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    cpu = f"{cpu_name()}, {torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()})"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "numpy"))
    return f"{gpu}{cpu} of {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {packages}"


def cpu_name() -> str:
    """The processor by the name it has itself, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "CPU"


def device_kind() -> str:
    """For names of results: "cuda", or the kind of CPU, such as "cpu_avx2"."""
    return "cuda" if torch.cuda.is_available() else f"cpu_{torch.backends.cpu.get_cpu_capability().lower()}"


def keep(name: str, command: str, parts: list[str]) -> None:
    """Prints the parts and writes them, with the command, to benchmarks/results/<name>.md."""
    text = "\n\n".join([f"# {name}", f"    {command}", *parts]) + "\n"
    print(text)
    write_text(RESULTS / f"{name}.md", text)
