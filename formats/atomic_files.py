"""Files that are complete or absent: written to a temporary name beside the target, then renamed."""

import csv
import io
import json
import os
import secrets
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from formats.errors import InputError

UNFINISHED = ".unfinished"  # how temporary names end
WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2) if sys.platform == "win32" else ()  # while someone reads what is replaced


@contextmanager
def atomic_path(path):
    """Yields a temporary path in the folder of `path` (made if missing); it becomes `path` when the block succeeds."""
    path = Path(path)
    make_folder(path.parent)
    with _errors_name(path):
        temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}{UNFINISHED}"
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less what the umask takes
        try:
            yield temporary
            _replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _replace(temporary: Path, path: Path) -> None:
    """On Windows a file that someone has open, be it a virus scanner, cannot be replaced at once."""
    for wait_s in WAITS_S:
        try:
            return os.replace(temporary, path)
        except PermissionError:
            time.sleep(wait_s)
    os.replace(temporary, path)


@contextmanager
def _errors_name(path: Path):
    """Errors of a temporary file, or of no named one, such as a full disk, tell which file could not be written."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(UNFINISHED):
            error.filename, error.filename2 = str(path), None
        raise


def make_folder(folder) -> None:
    """A folder, with those above it, unless it is there; raises `InputError` where a file is in its place."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{error.filename} is a file, or below one, not a folder: name another place") from None


def remove_leftovers(folder) -> None:
    """Removes the temporary files of processes that were killed, also those below; none may be writing there."""
    for leftover in Path(folder).rglob(f".*{UNFINISHED}"):
        leftover.unlink(missing_ok=True)


def write_bytes(path, content: bytes) -> None:
    """Writes a file so that it is whole or absent, whatever happens."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path, content: str) -> None:
    """Likewise, in UTF-8."""
    write_bytes(path, content.encode("utf-8", errors="replace"))  # file names need not be Unicode


def write_json(path, content) -> None:
    """Likewise, with sorted keys."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_csv(path, rows) -> None:
    """Likewise, rows of cells."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
