"""Files that are complete or absent: their modes, writes by several threads, retries while a file is open."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from formats import atomic_files
from formats.atomic_files import write_text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_modes_follow_the_umask(tmp_path, monkeypatch):
    before = os.umask(0o027)
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("umask changes all threads of the process"))
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda name: write_text(tmp_path / str(name), "text"), range(100)))
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    assert len(list(tmp_path.iterdir())) == 100


def test_replacing_an_open_file_is_retried(tmp_path, monkeypatch):
    replace, refusals = os.replace, iter([PermissionError(), PermissionError()])

    def replace_at_third_attempt(source, target):
        if error := next(refusals, None):
            raise error
        replace(source, target)

    monkeypatch.setattr(atomic_files, "RETRY_DELAYS_S", (0.0, 0.0))
    monkeypatch.setattr(os, "replace", replace_at_third_attempt)
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_retries_end_with_the_error(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError("in use")

    monkeypatch.setattr(atomic_files, "RETRY_DELAYS_S", (0.0,))
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "a.txt", "new")
    assert not list(tmp_path.iterdir())
