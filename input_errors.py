"""How a script answers a mistake of its user, or a disk that fails: one line on stderr and exit code 2, never a
traceback. The same for signals, with the exit code of a shell: 128 + the signal."""

import errno
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import interruption
from interruption import Interrupted

OTHER_PLACE = "name another file or folder"
MAKE_ROOM = "make room, then run the same command again, a training with --resume; what was written before is complete"
LOOK_AT_DISK = "look at the disk or the network, then run the same command again, a training with --resume"
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), MAKE_ROOM),
    **dict.fromkeys((errno.EIO, errno.ESTALE), LOOK_AT_DISK),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), f"{OTHER_PLACE}, or allow writing there"),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR), OTHER_PLACE),
}  # a file that is not there, or is there already, would as well be a fault of the program


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it, both values and the way out."""


class MissingInputError(InputError, FileNotFoundError):
    """A file or folder the user named does not exist."""


def existing_folder(folder) -> Path:
    """The path of a folder; raises `MissingInputError` unless it is one."""
    if not Path(folder).is_dir():
        raise MissingInputError(f"folder {folder} does not exist")
    return Path(folder)


def run_script(main, args) -> int:
    """Calls `main(args)`; returns the exit code: what it returned, 0 for nothing, 2 after printing an `InputError` in
    one line, or 128 + the signal that stopped it. Every other exception passes through with its traceback: it is a
    fault of the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that lacks a letter must not stop a run
    interruption.listen()
    try:
        code = call(main, args)
        sys.stdout.flush()
        interruption.ignore()  # the process ends by itself now
        return code
    except InputError as error:
        # one met by a loader's worker process arrives wrapped in its traceback; the last line is the message
        line = re.sub(r"^input_errors\.\w+: ", "", str(error).strip().splitlines()[-1])
        message, code = f"error: {line}", 2
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return 128 + 13  # as a shell tells of SIGPIPE
    except Interrupted as signal:
        message, code = f"stopped by {signal}: {interruption.advice()}", signal.exit_code
        if os.environ.get("RANK", "0") != "0":
            return code
    # here, where the frames of the exception are gone, and with them progress bars, on whose line this would stand
    print(message, file=sys.stderr)
    return code


def _nobody_reads() -> bool:
    """Whether who read the output has gone, as `head` does when it has seen enough; what is left goes nowhere then."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def call(main, args) -> int:
    """Calls `main(args)`, where disks may fail and other processes end; what it returns, 0 for nothing."""
    with interruption.peers_may_leave(), disk_errors_explained():
        return main(args) or 0


@contextmanager
def disk_errors_explained():
    """A full, read-only or failing disk, a lost permission, a file for a folder: an `InputError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        name = f"{error.filename}: " if error.filename else ""
        raise InputError(f"{name}{error.strerror}: {ADVICE[error.errno]}") from error


def first_line(error: Exception) -> str:
    """The first line of an exception's text, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def shorten(names, limit: int = 5) -> str:
    """The first `limit` names, joined by commas, and how many more there are."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
