"""How a script answers a mistake of its user: one line on stderr and exit code 2, never a traceback."""

import re
import sys


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it, both values and the way out."""


class MissingInputError(InputError, FileNotFoundError):
    """A file or folder the user named does not exist."""


def run_script(main, args) -> int:
    """Calls `main(args)`; returns the exit code: 0, or 2 after printing an `InputError` in one line.

    Every other exception passes through with its traceback: it is a fault of the program.
    """
    try:
        main(args)
    except InputError as error:
        # one met by a loader's worker process arrives wrapped in its traceback; the last line is the message
        line = re.sub(r"^input_errors\.\w+: ", "", str(error).strip().splitlines()[-1])
        print(f"error: {line}", file=sys.stderr)
        return 2
    return 0


def shorten(names, limit: int = 5) -> str:
    """The first `limit` names, joined by commas, and how many more there are."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
