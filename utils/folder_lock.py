"""One run at a time writes to a folder: it locks the file `.lock` there, and the system unlocks it when the process
ends, however it ends.

Locks are those of POSIX, which belong to one process: those that load images do not inherit them, and so cannot keep
the folder when their training was killed.
"""

import errno
import sys
from pathlib import Path
from typing import IO

from formats.atomic_files import make_folder, remove_leftovers
from formats.errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
CANNOT_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # as some network disks say

_held: dict[Path, IO] = {}


def hold_folder(folder, way_out: str = "choose another folder") -> None:
    """Keeps a folder, made if missing, for this process until `release_folder`, and clears it of what killed runs left
    unfinished. Raises `InputError` where another process has it."""
    folder = Path(folder)
    make_folder(folder)
    path = (folder / LOCK).resolve()
    if path in _held:
        return
    file = open(path, "a")
    try:
        _lock(file)
    except (BlockingIOError, PermissionError):
        file.close()
        raise InputError(f"another run is writing to {folder}: wait for its end, or {way_out}") from None
    except OSError as error:
        if error.errno not in CANNOT_LOCK:
            raise
        print(f"warning: {folder} cannot be locked ({error.strerror}): start no other run there", file=sys.stderr)
    else:
        remove_leftovers(folder)
    _held[path] = file


def release_folder(folder) -> None:
    file = _held.pop((Path(folder) / LOCK).resolve(), None)
    if file:
        file.close()


def _lock(file: IO) -> None:
    if sys.platform == "win32":
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
