"""Exclusive use of a folder by one run: a lock on the file `.lock` in it. The system drops it when the process ends."""

import errno
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from formats.atomic_files import make_folder, remove_leftovers
from formats.errors import InputError

LOCK = ".lock"
WAIT_S = 2.0  # forked loader workers inherit the lock of a training, and may outlive a killed one for a moment
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # errors of network file systems without locks

_held: dict[Path, FileLock] = {}


def hold_folder(folder, way_out: str = "choose another folder") -> None:
    """Lock a folder for this process until `release_folder`, and remove files that killed runs left unfinished.

    The folder is created if missing. Raises `InputError` while another process holds it; `way_out` ends the message.
    """
    folder = Path(folder)
    make_folder(folder)
    path = (folder / LOCK).resolve()
    if path in _held:
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=WAIT_S)
    except Timeout:
        raise InputError(f"another run is writing to {folder}: wait until it ends, or {way_out}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(f"warning: {folder} cannot be locked ({error.strerror}): start no other run there", file=sys.stderr)
    else:
        remove_leftovers(folder)
    _held[path] = lock


def release_folder(folder) -> None:
    """Unlock a folder, if this process holds it."""
    lock = _held.pop((Path(folder) / LOCK).resolve(), None)
    if lock:
        lock.release()
