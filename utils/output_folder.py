"""A folder of results: options.json says what its files were made with, so that two settings never mix in it."""

import json
from contextlib import contextmanager
from pathlib import Path

from formats.atomic_files import write_json
from formats.errors import InputError
from utils.distributed import World, wait_for_all
from utils.folder_lock import hold_folder, release_folder


def load_json(path) -> dict:
    """The object in a JSON file that was written here."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise InputError(f"a {type(content).__name__}, not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete its folder, or choose another") from None
    return content


def recorded_options(folder) -> dict:
    """The options that the files of a folder were made with, as far as they are known."""
    path = Path(folder) / "options.json"
    return load_json(path) if path.is_file() else {}


@contextmanager
def claimed_folder(world: World, folder, options: dict, suffix: str, writes: bool = True):
    """As `claim_output_folder`; inside, where this run `writes` to it, no other run does.

    No process writes before all, having listed the folder, have come so far; none leaves before all have written.
    """
    holds = writes and world.is_main
    if holds:
        hold_folder(folder)
    try:
        if world.is_main:
            claim_output_folder(folder, options, suffix)
        wait_for_all()
        yield
        wait_for_all()
    finally:
        if holds:
            release_folder(folder)


def claim_output_folder(folder, options: dict, suffix: str) -> None:
    """Records in `folder` the options its files are made with; other options in the same folder are an `InputError`,
    and so are files with `suffix` of which nobody recorded how they were made."""
    path = Path(folder) / "options.json"
    if not path.is_file() and any(Path(folder).glob(f"*{suffix}")):
        raise InputError(f"{folder} holds {suffix} files of unknown origin: choose another folder")
    recorded = recorded_options(folder)
    if recorded:
        for name, value in json.loads(json.dumps(options)).items():
            if name not in recorded or recorded[name] != value:
                raise InputError(
                    f"{folder} holds files made with {name} = {recorded.get(name)}, not {value}: "
                    "choose another folder, or delete that one, which was made here"
                )
    else:
        write_json(path, options)
