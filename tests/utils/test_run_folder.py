"""Run folders and output folders: what they record, and which options and files they refuse."""

import json

import pytest

from formats.errors import InputError
from utils.output_folder import record_options
from utils.run_folder import RunFolder


def test_run_folders(tmp_path):
    with pytest.raises(InputError, match="--resume needs --tag"):
        RunFolder(tmp_path, None, resume=True, is_main=True, options={})
    run = RunFolder(tmp_path, "a", resume=False, is_main=True, options={"lr": 0.1})
    assert not run.path.exists()
    run.start(0)
    run.log("a line")
    run.log_scalars(7, {"loss": 0.5})
    run.close()
    assert "a line" in (tmp_path / "a/log.txt").read_text()
    assert json.loads((tmp_path / "a/log.jsonl").read_text()) == {"step": 7, "loss": 0.5}
    with pytest.raises(InputError, match="choose another --tag"):
        RunFolder(tmp_path, "a", resume=False, is_main=True, options={"lr": 0.1})
    again = RunFolder(tmp_path, "a", resume=True, is_main=True, options={"lr": 0.2})
    assert not again.resumes  # there is no last.pth: from the start
    other = RunFolder(tmp_path, None, resume=False, is_main=False, options={})
    other.start(0)
    other.log("x")
    other.close()
    assert not other.path.exists()


def test_tags_stay_below_the_log_path(tmp_path):
    with pytest.raises(InputError, match=r"--tag \.\./x leads out of"):
        RunFolder(tmp_path, "../x", resume=False, is_main=True, options={})


def test_long_options_are_shortened(tmp_path):
    maps = {"folder": "a" * 500, "made_by": {"checkpoint": "b" * 64, "flip": True}}
    record_options(tmp_path / "a", {"maps": maps}, ".png")
    with pytest.raises(InputError, match=r"made with maps made_by checkpoint = …b{50}, not …c{50}: choose") as raised:
        record_options(tmp_path / "a", {"maps": maps | {"made_by": {"checkpoint": "c" * 64}}}, ".png")
    assert len(str(raised.value)) < 300 + len(str(tmp_path))


def test_output_folders_never_mix_options(tmp_path):
    for _ in range(2):
        record_options(tmp_path / "a", {"scales": (0.5, 1.0), "t0": 0.4}, ".png")
    with pytest.raises(InputError, match=r"made with t0 = 0\.4, not 0\.3"):
        record_options(tmp_path / "a", {"scales": (0.5, 1.0), "t0": 0.3}, ".png")


def test_files_of_unknown_origin_are_not_adopted(tmp_path):
    (tmp_path / "theirs.png").touch()
    with pytest.raises(InputError, match=r"\.png files that this script did not write"):
        record_options(tmp_path, {}, ".png")
    record_options(tmp_path, {"a": 1}, ".npz")


def test_a_resumed_run_keeps_its_options(tmp_path):
    RunFolder(tmp_path, "a", resume=False, is_main=True, options={"lr": 0.1, "max_epoch": 3}).start(0)
    (tmp_path / "a/last.pth").touch()
    RunFolder(tmp_path, "a", resume=True, is_main=True, options={"lr": 0.1, "max_epoch": 5})
    with pytest.raises(InputError, match=r"started with lr = 0\.1, not 0\.2"):
        RunFolder(tmp_path, "a", resume=True, is_main=True, options={"lr": 0.2, "max_epoch": 3})


def test_a_resumed_run_drops_what_it_logged_after_the_last_save(tmp_path):
    run = RunFolder(tmp_path, "a", resume=False, is_main=True, options={})
    run.start(0)
    for step in (3, 6):
        run.log_scalars(step, {"loss": float(step)})
    run.close()
    (tmp_path / "a/last.pth").touch()
    with open(tmp_path / "a/log.jsonl", "a") as log:
        log.write('{"step": 9, "lo')  # a line that was being written
    again = RunFolder(tmp_path, "a", resume=True, is_main=True, options={})
    again.start(3)
    again.log_scalars(6, {"loss": 0.5})
    again.close()
    rows = [json.loads(line) for line in (tmp_path / "a/log.jsonl").read_text().splitlines()]
    assert rows == [{"step": 3, "loss": 3.0}, {"step": 6, "loss": 0.5}]
