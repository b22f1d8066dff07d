"""Files that are complete or absent: written to a temporary name beside the target, then renamed."""

import csv
import io
import json
import os
from contextlib import contextmanager
from pathlib import Path

from formats.errors import InputError, shorten

UNFINISHED = ".unfinished"  # suffix of temporary files


@contextmanager
def atomic_path(path):
    """Yield a temporary path in the folder of `path`, which is created if missing; it becomes `path` on success.

    An `OSError`, such as a full disk, names `path` instead of the temporary file. What a killed run left is overwritten
    by the next one that writes `path`.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = path.parent / f".{path.name}{UNFINISHED}"
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(UNFINISHED):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder) -> None:
    """Create a folder and its parents if missing. Raises `InputError` if one of them is a file."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{error.filename} is a file, or lies below one: choose another folder") from None


def check_output_file(flag: str, path) -> None:
    """Raise `InputError` if the output file that a flag names, or None, is a folder."""
    if path and Path(path).is_dir():
        raise InputError(f"{flag} {path} is a folder: name a file")


def remove_leftovers(folder) -> None:
    """Remove temporary files of killed processes in `folder` and below; no process may be writing there."""
    for leftover in Path(folder).rglob(f".*{UNFINISHED}"):
        leftover.unlink(missing_ok=True)


def write_bytes(path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path, content: str) -> None:
    """Write UTF-8 text."""
    write_bytes(path, content.encode("utf-8", errors="replace"))  # file names may hold undecodable bytes


def write_once(folder, contents: dict[str, str], source: str) -> None:
    """Write texts, name → content, to files of a folder that do not exist; empty ones are not written.

    Raises `InputError` before anything is written if a file has other content than `source` gives.
    """
    paths = {Path(folder) / name: content for name, content in contents.items()}
    other = [path.name for path, content in paths.items() if path.exists() and path.read_bytes() != content.encode()]
    if other:
        raise InputError(f"{folder} was made from other input than {source}: delete {shorten(other)}")
    for path, content in paths.items():
        if content and not path.exists():
            write_text(path, content)


def write_json(path, content) -> None:
    """Write JSON with sorted keys."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_csv(path, rows) -> None:
    """Write rows of cells as CSV."""
    write_text(path, format_csv(rows))


def format_csv(rows) -> str:
    """Return rows of cells as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
