"""What every benchmark leaves: a Markdown file in benchmarks/results with its command, tables and machine."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from atomic_files import write_text

RESULTS = Path(__file__).resolve().parent / "results"


def environment_line() -> str:
    """Machine and versions a figure was measured with."""
    cpu = f"{torch.get_num_threads()} CPU threads ({torch.backends.cpu.get_cpu_capability()})"  # the widest products
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "numpy"))
    return f"{where} of {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {packages}"


def device_kind() -> str:
    """For names of results: "cuda", or the kind of CPU, such as "cpu_avx2"."""
    return "cuda" if torch.cuda.is_available() else f"cpu_{torch.backends.cpu.get_cpu_capability().lower()}"


def keep(name: str, command: str, parts: list[str]) -> None:
    """Prints the parts and writes them, with the command, to benchmarks/results/<name>.md."""
    text = "\n\n".join([f"# {name}", f"    {command}", *parts]) + "\n"
    print(text)
    write_text(RESULTS / f"{name}.md", text)
