"""How a script answers a mistake of its user: one line on stderr and exit code 2, never a traceback."""

import re
import sys


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it, both values and the way out."""


class MissingInputError(InputError, FileNotFoundError):
    """A file or folder the user named does not exist."""


def run_script(main, args) -> int:
    """Calls `main(args)`; returns the exit code: what it returned, 0 for nothing, or 2 after printing an `InputError`
    in one line.

    A path that is a file where a folder belongs, or may not be written, is such a mistake too. Every other exception
    passes through with its traceback: it is a fault of the program.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that lacks a letter must not stop a run
    try:
        return main(args) or 0
    except InputError as error:
        # one met by a loader's worker process arrives wrapped in its traceback; the last line is the message
        line = re.sub(r"^input_errors\.\w+: ", "", str(error).strip().splitlines()[-1])
    except (IsADirectoryError, NotADirectoryError, FileExistsError, PermissionError) as error:
        line = f"{error.filename}: {error.strerror}: name another file or folder"
    # here, where the frames of the exception are gone, and with them progress bars, on whose line this would stand
    print(f"error: {line}", file=sys.stderr)
    return 2


def first_line(error: Exception) -> str:
    """The first line of an exception's text, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def shorten(names, limit: int = 5) -> str:
    """The first `limit` names, joined by commas, and how many more there are."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
