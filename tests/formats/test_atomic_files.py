"""Files that are complete or absent: their modes, failed writes, folders that are files."""

import os
import subprocess
import sys

import pytest
from conftest import PROJECT

from formats.atomic_files import atomic_path, make_folder, write_bytes, write_text
from formats.errors import InputError


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_modes_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_failed_write_keeps_the_old_file(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_killed_write_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "a.csv"
    lines = (
        "import os",
        "from formats.atomic_files import atomic_path",
        f"with atomic_path({str(path)!r}) as temporary:",
    )
    code = "\n".join([*lines, "    open(temporary, 'w').close()", "    os._exit(9)"])
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 9
    assert len(os.listdir(tmp_path)) == 1
    write_text(path, "text")
    assert os.listdir(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("below", ["", "new", "new/newer"])
def test_a_file_where_a_folder_belongs(below, tmp_path):
    (tmp_path / "maps").write_text("")
    with pytest.raises(InputError, match=rf"^{tmp_path}/maps.* is a file"):
        make_folder(tmp_path / "maps" / below)
