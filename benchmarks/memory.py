"""Memory of this process, read from /proc (Linux)."""

from pathlib import Path


def resident_mb() -> float:
    """Resident memory now, in MB."""
    return _read_mb("VmRSS")


def peak_mb() -> float:
    """Largest resident memory since `reset_peak`, in MB."""
    return _read_mb("VmHWM")


def reset_peak() -> None:
    """Reset the peak: `ru_maxrss` cannot be reset and includes imports and the memory of the parent process."""
    Path("/proc/self/clear_refs").write_text("5")


def _read_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6
