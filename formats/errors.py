"""Errors caused by the user's input, which scripts report in one line instead of a traceback."""

from pathlib import Path

MAX_LENGTH = 100  # characters of names, or of another program's message, within a message


class InputError(ValueError):
    """Invalid input. The message names the file or flag, both values if two disagree, and what to do."""


class MissingInputError(InputError, FileNotFoundError):
    """Missing file or folder."""


def require_folder(folder, flag: str = "folder") -> Path:
    """Return the path of a folder. Raises `InputError` if it is a file, `MissingInputError` if it does not exist."""
    if Path(folder).is_dir():
        return Path(folder)
    if Path(folder).exists():
        raise InputError(f"{flag} {folder} is a file: name a folder")
    raise MissingInputError(f"{flag} {folder} does not exist")


def folder_below(parent, name: str, flag: str) -> Path:
    """Return `parent / name`. Raises `InputError`, naming the flag, if that is not below `parent`."""
    parts = Path(name).parts
    if not parts or ".." in parts or Path(name).is_absolute():
        raise InputError(f"{flag} {name} leads out of {parent}: choose a plain name")
    return Path(parent) / name


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, at most `MAX_LENGTH`, or its type if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0][:MAX_LENGTH] if lines else type(error).__name__


def shorten(names, limit: int = 5) -> str:
    """Join the first names by commas, at most `limit`, and fewer if they are long; append the number of the others."""
    names = [str(name) for name in names]
    shown = names[:limit]
    while len(shown) > 1 and sum(map(len, shown)) > MAX_LENGTH:
        shown.pop()
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more
