"""A folder of results. Its options.json records the options of its files, so that it never mixes two settings."""

import json
from contextlib import contextmanager
from pathlib import Path

from formats.atomic_files import write_json
from formats.errors import InputError
from utils.distributed import World, wait_for_all
from utils.folder_lock import hold_folder, release_folder


def load_json(path) -> dict:
    """The object in a JSON file written by a script of this project. Raises `InputError` if it holds anything else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise InputError(f"a {type(content).__name__}, not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete its folder, or choose another") from None
    return content


def recorded_options(folder) -> dict:
    """The options that the files of a folder were made with; empty if unknown."""
    path = Path(folder) / "options.json"
    return load_json(path) if path.is_file() else {}


def folder_origin(folder, made_by: dict | None = None) -> dict:
    """A folder and the options that its files were made with; by default those recorded in it."""
    return {"folder": str(Path(folder)), "made_by": recorded_options(folder) if made_by is None else made_by}


@contextmanager
def lock_output_folder(world: World, folder, options: dict, suffix: str, writes: bool = True):
    """Record the options as `record_options`, and keep other runs from writing to the folder if this run `writes`.

    All processes are synchronised before and after the block, so each must list the existing files before it and write
    inside it.
    """
    holds = writes and world.is_main
    if holds:
        hold_folder(folder)
    try:
        if world.is_main:
            record_options(folder, options, suffix)
        wait_for_all()
        yield
        wait_for_all()
    finally:
        if holds:
            release_folder(folder)


def record_options(folder, options: dict, suffix: str) -> None:
    """Write the options to `<folder>/options.json`.

    Raises `InputError` if other options are recorded there, or if there are files with `suffix` but no record.
    """
    path = Path(folder) / "options.json"
    if not path.is_file() and any(Path(folder).glob(f"*{suffix}")):
        raise InputError(
            f"{folder} contains {suffix} files but no options.json, so their options are unknown: choose another folder"
        )
    recorded = recorded_options(folder)
    if not recorded:
        write_json(path, options)
        return
    for name, value in json.loads(json.dumps(options)).items():
        if recorded.get(name) != value:
            raise InputError(
                f"{folder} holds files made with {name} = {recorded.get(name)}, not {value}: choose another "
                "folder, or delete this one, which an earlier run of this script wrote"
            )
