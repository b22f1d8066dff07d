"""Versions and commit that a result was made with."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def versions_of(packages) -> dict[str, str | None]:
    """Package → its installed version, None for what is not installed; and that of Python."""
    return {package: _installed_version(package) for package in packages} | {"python": platform.python_version()}


def current_commit() -> str | None:
    """The commit of this project; None outside a repository, or without git."""
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return git.stdout.strip() or None


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
