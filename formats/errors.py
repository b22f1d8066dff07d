"""Mistakes of users: what a script answers in one line instead of a traceback."""

from pathlib import Path


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it, both values and the way out."""


class MissingInputError(InputError, FileNotFoundError):
    """A file or folder the user named does not exist."""


def existing_folder(folder) -> Path:
    """The path of a folder; raises `MissingInputError` unless it is one."""
    if not Path(folder).is_dir():
        raise MissingInputError(f"folder {folder} does not exist")
    return Path(folder)


def first_line(error: Exception) -> str:
    """The first line of an exception's text, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def shorten(names, limit: int = 5) -> str:
    """The first `limit` names, joined by commas, and how many more there are."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
