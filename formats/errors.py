"""Errors caused by the user's input, which scripts report in one line instead of a traceback."""

from pathlib import Path


class InputError(ValueError):
    """Invalid input. The message names the file or flag, both values if two disagree, and what to do."""


class MissingInputError(InputError, FileNotFoundError):
    """Missing file or folder."""


def existing_folder(folder) -> Path:
    """Return the path of a folder. Raises `MissingInputError` if it does not exist or is not a folder."""
    if not Path(folder).is_dir():
        raise MissingInputError(f"folder {folder} does not exist")
    return Path(folder)


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def shorten(names, limit: int = 5) -> str:
    """Join the first `limit` names by commas and append the number of the others."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
