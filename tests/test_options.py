"""The documented commands parse, --help is fast, and flags are validated."""

import json
import subprocess
import sys

import pytest
from conftest import PROJECT, SCRIPTS, parse

import options
from pseudo_labels.fusion_rules import RULES


def test_flags_of_the_papers_command():
    args = parse(
        "SOD_train.py --backbone swin-base-224 --max_epoch 150 --lr 1e-4 --train_batch 16 --decay_epoch 15 --gamma 0.5 "
        "--gpu_id 1 --train_root 'sod data dir' --log_path ./log/ --edge_loss 1 --cache-mode part --workers 4"
    )
    assert (args.backbone, args.max_epoch, args.lr, args.train_batch) == ("swin-base-224", 150, 1e-4, 16)
    assert (args.decay_epoch, args.gamma, args.gpu_id, args.train_root) == ([15], 0.5, [1], ["sod data dir"])
    assert (args.log_path, args.edge_loss, args.cache_mode, args.workers) == ("./log/", 1.0, "part", 4)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_does_not_import_torch(script):
    command = [sys.executable, "-X", "importtime", f"{script}.py", "--help"]  # prints each imported module to stderr
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=60)
    assert done.stdout.startswith("usage: ")
    assert "argparse" in done.stderr
    assert "torch" not in done.stderr


@pytest.mark.parametrize(("text", "value"), [("", True), ("True", True), ("false", False), ("0", False)])
def test_booleans(text, value):
    assert parse(f"train_segmentation.py --label_name x --use_gn {text}").use_gn is value


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train_segmentation.py --label_name x --use_gnn", "arguments: --use_gnn (did you mean --use_gn? "),
        ("SOD_train.py --decay_epochs=3", "did you mean --decay_epoch? SOD_train.py --help lists all flags)"),
        ("evaluate.py saliency --pred a --gt_root b --boot 1", "mean --bootstrap? evaluate.py saliency --help lists"),
        ("pipeline.py voc12 --rwo resnest269", "required: --row (did you mean --row? pipeline.py voc12 --help"),
        ("predict.py --load_pth x --input y --output z", "required: --load_path (did you mean --load_path? "),
        ("SOD_train.py --lr much", "--lr: 'much' is not a number in [1e-12, 1000000000.0] (SOD_train.py --help"),
        ("SOD_train.py --zzzz", "unrecognized arguments: --zzzz (SOD_train.py --help"),
    ],
)
def test_mistakes_take_one_line(command, words, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [command.split()[0]])
    with pytest.raises(SystemExit):
        parse(command)
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    "command",
    [
        "SOD_train.py --use_gnn",  # unknown
        "SOD_train.py --train_roo x",  # abbreviated
        "train_segmentation.py --label_name x --use_gn maybe",
        "SOD_train.py --max_epoch 0",
        "SOD_train.py --backbone_args embed_dim",
        "make_pseudo_labels.py --label_name x --bg_threshold 2",
        "make_pseudo_labels.py --label_name x --t0 7",
        "predict.py --load_path a --input b --output c --scales 1e-9",
        "predict.py --load_path a --input b --output c --scales nan",
        "predict.py --load_path a --input b --output ''",
        "SOD_train.py --lr -1",
        "SOD_train.py --seed 0.5",
        "SOD_train.py --pixel_std 0 0 0",
        "evaluate.py",
        "predict.py --load_path a --input b --output c --part 0/3",
        "predict.py --load_path a --input b --output c --part 4/3",
        "predict.py --load_path a --input b --output c --part learn",
        "predict.py --load_path a --input b --output c --part slurm",  # in no array
    ],
)
def test_mistakes_end_with_code_2(command, capsys):
    with pytest.raises(SystemExit) as end:
        parse(command)
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_every_fusion_rule_is_a_choice():
    assert list(options.FUSION_RULES) == list(RULES)


def test_settings_of_the_backbone():
    args = parse("SOD_train.py --backbone_args embed_dim=32 depths=2,2,2,2 act_layer=gelu")
    assert args.backbone_args == [("embed_dim", 32), ("depths", (2, 2, 2, 2)), ("act_layer", "gelu")]


@pytest.mark.parametrize(("first", "last", "count"), [(0, 2, 3), (17, 17, 1), (1, 7, 3), (1, 3, 3)])
def test_slurm_arrays_from_1_without_gaps(first, last, count, monkeypatch):
    for name, value in (("MIN", first), ("MAX", last), ("ID", 3), ("COUNT", count)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    if (first, last) == (1, 3):
        assert parse("make_pseudo_labels.py --label_name x --part slurm").part == (3, 3)
    else:
        with pytest.raises(SystemExit):
            parse("make_pseudo_labels.py --label_name x --part slurm")


@pytest.mark.parametrize(
    "command",
    [
        "SOD_train.py --backbone_args depths=2,2 act_layer=gelu --train_root a b --amp cpu --decay_epoch 3 5",
        "train_segmentation.py --label_name x --use_gn False --long_side 9 9",
        "make_pseudo_labels.py --label_name x --fusion icd --fusion_args a=1.5 --scales 1 2 --flip False",
        "predict.py --load_path a --input b 'c d' --output e --crf",
    ],
)
def test_config_restores_and_flags_override(command, tmp_path):
    args, script = parse(command), command.split()[0]
    names = {name: value for name, value in (("tag", "a"), ("resume", True), ("part", (1, 2))) if name in args}
    (tmp_path / "options.json").write_text(json.dumps({"options": vars(args) | names, "commit": "c"}))
    again = f"{script} --config {tmp_path}/options.json"
    assert parse(again) == args
    flag, name, value = ("--scales 3", "scales", [3.0]) if "scales" in args else ("--max_epoch 7", "max_epoch", 7)
    for line in (f"{again} {flag}", f"{script} {flag} --config={tmp_path}/options.json"):
        assert vars(parse(line)) == vars(args) | {name: value}
    if "train_root" in args:
        assert parse(f"{again} --train_root c").train_root == ["c"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "holds no options of a run: name the options.json that it wrote"),
        ("{}", "holds no options of a run"),
        ('{"options": [1]}', "holds no options of a run"),
        ('{"options": {"lr": 0.1, "use_gn": true, "mode": "fix"}}', "other script or version, with mode, use_gn"),
        ('{"options": {"lr": "much"}}', "'much' is not a number"),
    ],
)
def test_files_that_are_no_config(content, words, tmp_path, capsys):
    if content:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(SystemExit):
        parse(f"SOD_train.py --config {tmp_path}/a.json")
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
