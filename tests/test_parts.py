"""--part of predict.py and make_pseudo_labels.py: parts write the files of one run, in any order and after any end."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import PROJECT, bytes_in, parse, run_main
from training_commands import IMPORTS_S

from formats.errors import InputError
from formats.images import load_image, save_image
from pseudo_labels import evidence
from utils.output_folder import PART_LOCKS, hold_folder, hold_part, release_folder

HOLD_PART = """
import sys, utils.output_folder as f
f.hold_folder(sys.argv[1], part=(1, 3))
f.hold_part(sys.argv[1], (1, 3))
print('held', flush=True)
sys.stdin.read()
"""


@pytest.fixture
def commands(scenes, label_parts, networks, tmp_path):
    """Name → script and command with OUT for the output: batches of three sizes, and all steps with both selectors."""
    for number, path in enumerate(sorted((scenes / "dataset/DRAWN-TR/Images").iterdir())):
        save_image(tmp_path / f"in/{path.stem}.png", load_image(path)[:, number % 3 * 9 :])
    predict = f"--input {tmp_path}/in --output OUT --overlay --scales 0.5 1 --load_path {networks}"
    labels = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --label_name OUT/labels --cam_dir OUT/cams"
    labels += f" --load_path {label_parts}/classifier/last.pth --affinity_path {label_parts}/affinity/last.pth --crf"
    labels += f" --scales 1 --exp_times 4 --crf_iterations 1 --saliency_dir {label_parts}/saliency --selector"
    return {
        "saliency": ("predict", f"{predict}/saliency.pth --batch 2"),
        "segmentation": ("predict", f"{predict}/segmentation.pth"),
        "sos": ("make_pseudo_labels", f"{labels} sos"),
        "evidence": ("make_pseudo_labels", f"{labels} evidence"),
    }


def files_in(folder) -> dict[str, bytes]:
    return {name: content for name, content in bytes_in(folder).items() if ".lock" not in name and ".parts" not in name}


@pytest.mark.parametrize("name", ["saliency", "segmentation", "sos", "evidence"])
def test_parts_give_the_files_of_one_run(name, commands, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evidence, "NUM_IMAGES", 5)
    script, command = commands[name]
    run_main(script, command.replace("OUT", f"{tmp_path}/whole"))
    parts = command.replace("OUT", f"{tmp_path}/parts")
    if name == "evidence":
        with pytest.raises(InputError, match=r"--part needs .*evidence\.npz: first run the same command with --part l"):
            run_main(script, f"{parts} --part 1/3")
        run_main(script, f"{parts} --part learn")
        assert 5 <= len(list((tmp_path / "parts/labels").glob("*.png"))) < 14
    elif name == "segmentation":
        with pytest.raises(InputError, match="--voc_submission packs all masks: give it to a run without --part"):
            run_main(script, f"{parts} --part 1/2 --voc_submission {tmp_path}/a.tar.gz")
    elif name == "sos":
        with pytest.raises(InputError, match="measures all labels of --baseline_dir together: omit --part"):
            run_main(script, f"{parts} --baseline_dir {tmp_path}/whole/labels --crf False --part 1/3")
        with pytest.raises(InputError, match="--part learn needs --selector evidence"):
            run_main(script, f"{parts} --part learn")
    capsys.readouterr()
    for part in ("2/3", "3/3", "1/3"):
        run_main(script, f"{parts} --part {part}")
    printed = capsys.readouterr()
    if name == "sos":
        assert "after all parts, run the same command without --part" in printed.out
        run_main(script, parts)
    elif script == "predict":
        assert [f"{count} files written, 0 already" in printed.out for count in (4, 4, 4)] == [True] * 3
    assert files_in(tmp_path / "parts") == files_in(tmp_path / "whole")
    recorded = max(tmp_path.glob("whole/**/options.json"), key=lambda path: "labels" in path.parts)
    assert vars(parse(f"{script}.py --config {recorded}")) == json.loads(recorded.read_text())["options"] | {
        "part": None
    }
    with pytest.raises(InputError, match=r"--part 20/20 has no images: choose at most \d+ parts"):
        run_main(script, f"{parts} --part 20/20")


def test_which_runs_share_a_folder(commands, tmp_path, monkeypatch):
    """Parts of the same number do; the same part, parts of another number, and whole runs do not."""
    monkeypatch.setattr("utils.output_folder.PARTS_WAIT_S", 0.1)
    monkeypatch.setattr("utils.output_folder.WAIT_S", 0.1)
    (tmp_path / ".b.png.unfinished").touch()
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD_PART, str(tmp_path)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout.readline() == b"held\n"
    hold_folder(tmp_path, part=(2, 3))
    hold_part(tmp_path, (2, 3))
    release_folder(tmp_path)
    for part in ((1, 3), (1, 2), None):
        with pytest.raises(InputError, match=f"another run is writing to {tmp_path}: "):
            hold_folder(tmp_path, part=part)
            hold_part(tmp_path, part)
        release_folder(tmp_path)
    assert (tmp_path / ".b.png.unfinished").exists()  # it may belong to the other part
    other.communicate(timeout=60)
    hold_folder(tmp_path)
    release_folder(tmp_path)
    assert not (tmp_path / ".b.png.unfinished").exists()
    assert {path.name for path in (tmp_path / PART_LOCKS).iterdir()} == {"1_of_3", "2_of_3"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["segmentation", "sos", "evidence"])
def test_parts_killed_and_repeated_give_the_files_of_one_run(name, commands, tmp_path):
    """Three parts at the same time, each killed once or twice at a random moment."""
    script, command = commands[name]
    run_main(script, command.replace("OUT", f"{tmp_path}/whole"))
    whole, parts = files_in(tmp_path / "whole"), command.replace("OUT", f"{tmp_path}/parts")
    if name == "evidence":
        run_main(script, f"{parts} --part learn")
        for path in sorted((tmp_path / "parts").rglob("*.[pn][np][gz]"))[::2]:
            if path.name != "evidence.npz":  # the list is short, and so was learnt from as a whole
                path.unlink()
    seed = random.randrange(2**32)
    print(f"moments of seed {seed}")
    moments, killed, left = random.Random(seed), 0, {1: 2, 2: 1, 3: 2}  # part → runs to kill
    while left:
        line = [sys.executable, f"{script}.py", *parts.split(), "--part"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": PROJECT}
        runs = {part: subprocess.Popen([*line, f"{part}/3"], **streams) for part in left}
        for part, run in runs.items():
            if left[part]:
                next(text for text in run.stdout if "running on" in text)
                time.sleep(moments.uniform(0, 0.4))
                run.send_signal(signal.SIGKILL)
        for part, run in runs.items():
            errors = run.communicate(timeout=100 + IMPORTS_S)[1]
            assert run.returncode in ((0, -signal.SIGKILL) if left[part] else (0,)), errors
            killed += run.returncode != 0
        left = {part: runs - 1 for part, runs in left.items() if runs}
        assert all(whole[file] == content for file, content in files_in(tmp_path / "parts").items() if file in whole)
    assert killed
    if name == "sos":
        run_main(script, parts)
    assert files_in(tmp_path / "parts") == whole
