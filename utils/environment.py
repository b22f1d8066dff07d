"""Versions and commit that a result was made with."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def versions_of(packages) -> dict[str, str | None]:
    """Package → installed version, None if it is not installed; and the version of Python."""
    versions: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions | {"python": platform.python_version()}


def current_commit() -> str | None:
    """The commit of this project; None outside of a repository, or without git."""
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return git.stdout.strip() or None
