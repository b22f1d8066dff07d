"""Folders of results: one run at a time writes to a folder, or several parts of one, each with its own lock; its
options.json records how its files were made.
"""

import errno
import json
import platform
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

from filelock import FileLock, Timeout

from formats.atomic_files import make_folder, remove_leftovers, write_json
from formats.errors import InputError

PROJECT = Path(__file__).resolve().parent.parent
WAIT_S = 2.0  # forked loader workers inherit the lock of a training, and may outlive a killed one for a moment
VALUE_LENGTH = 50  # characters of the value of an option in a message
PARTS_WAIT_S = 300.0  # parts that start together pass one after the other
PART_LOCKS = ".parts"  # the folder of their locks
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # errors of network file systems without locks

_held: dict[Path, FileLock] = {}


def hold_folder(folder, way_out: str = "choose another folder", part: tuple[int, int] | None = None) -> None:
    """Lock a folder for this process until it ends or calls `release_folder`, and remove unfinished files of killed
    runs, but not for a `part` (I, N), because other parts may be writing.

    The folder is created if missing. Raises `InputError` while another process holds it, or parts that are not of N;
    `way_out` ends the message.
    """
    make_folder(folder)
    path = _lock_path(folder)
    if path in _held:
        return
    _held[path] = _lock(path, PARTS_WAIT_S if part else WAIT_S, folder, way_out)
    for other in (path.parent / PART_LOCKS).glob("*"):
        if not part or not other.name.endswith(f"_of_{part[1]}"):
            _lock(other, WAIT_S, folder, way_out).release()
    if not part:
        remove_leftovers(folder)


def hold_part(folder, part: tuple[int, int]) -> None:
    """Exchange the lock of a folder for that of a part (I, N), so that the other parts may write to it as well."""
    make_folder(Path(folder) / PART_LOCKS)
    index, count = part
    lock = _lock(Path(folder) / PART_LOCKS / f"{index}_of_{count}", WAIT_S, folder, "start another part")
    release_folder(folder)
    _held[_lock_path(folder)] = lock


def release_folder(folder) -> None:
    """Unlock a folder, if this process holds it."""
    if lock := _held.pop(_lock_path(folder), None):
        lock.release()


def _lock(path: Path, wait_s: float, folder, way_out: str) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        raise InputError(f"another run is writing to {folder}: wait until it ends, or {way_out}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(f"warning: {folder} cannot be locked ({error.strerror}): start no other run there", file=sys.stderr)
    return lock


def _lock_path(folder) -> Path:
    return (Path(folder) / ".lock").resolve()


@contextmanager
def lock_output_folder(world, folder, options: dict, suffix: str, writes: bool = True):
    """Record the options as `record_options`, and keep other runs from writing to the folder if this run `writes`.

    world: `World` of the processes, which wait for each other before and after the block. Callers list existing files
    before entering the block and write inside it. If the run is a part of N, the other parts may write as well.
    """
    holds = writes and world.is_main
    try:
        if holds:
            hold_folder(folder, part=world.part)
        if world.is_main:
            record_options(folder, options, suffix)
        if holds and world.part:
            hold_part(folder, world.part)
        world.wait_for_all()
        yield
        world.wait_for_all()
    finally:
        if holds:
            release_folder(folder)


def record_options(folder, options: dict, suffix: str) -> None:
    """Write the options that the files depend on to `<folder>/options.json`, with the flags of the run under "options".

    Raises `InputError` if other options are recorded there, or if there are files with `suffix` but no record.
    """
    path = Path(folder) / "options.json"
    if not path.is_file() and any(Path(folder).glob(f"*{suffix}")):
        raise InputError(f"{folder} holds {suffix} files that this script did not write: choose another folder")
    recorded = load_options(folder)
    if not recorded:
        write_json(path, options)
        return
    for name, value in json.loads(json.dumps(options)).items():
        if name != "options" and recorded.get(name) != value:
            found = f"{folder} holds files made with {describe_difference(name, recorded.get(name), value)}"
            raise InputError(f"{found}: choose another folder, or delete this one, which an earlier run wrote")


def describe_difference(name: str, old, new) -> str:
    """Describe the first difference of an option as "name = old, not new"; of nested dicts, where it lies."""
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in [*new, *old] if old.get(key) != new.get(key))
        return describe_difference(f"{name} {key}", old.get(key), new.get(key))
    old, new = (text if len(text := str(value)) < VALUE_LENGTH else f"…{text[-VALUE_LENGTH:]}" for value in (old, new))
    return f"{name} = {old}, not {new}"


def load_options(folder) -> dict:
    """What the files of a folder depend on; empty if unknown."""
    path = Path(folder) / "options.json"
    recorded = load_json(path, "choose another folder, or delete this one") if path.is_file() else {}
    return {name: value for name, value in recorded.items() if name != "options"}


def folder_origin(folder, made_by: dict | None = None) -> dict:
    """A folder and the options that its files were made with; by default those recorded in it."""
    return {"folder": str(Path(folder)), "made_by": load_options(folder) if made_by is None else made_by}


def load_json(path, way_out: str) -> dict:
    """The object in a JSON file of a script of this project. Raises `InputError`, with a way out, for anything else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} cannot be read as options: {way_out}")
    return content


def find_versions(packages) -> dict[str, str | None]:
    """Package → installed version, None if it is not installed; and the version of Python."""
    installed = {package.name: package.version for package in distributions()}
    return {name: installed.get(name) for name in packages} | {"python": platform.python_version()}


def current_commit() -> str | None:
    """The commit of this project; None outside of a repository, or without git."""
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return git.stdout.strip() or None
