"""Any arguments at all: a script takes them, in the ranges that its help promises, or ends with one line that names
the flag; drawn ones, the same in every run."""

import argparse
import contextlib
import io
import json
import math

import pytest
from conftest import SCRIPTS
from hypothesis import given, settings
from hypothesis import strategies as st

import options

EXAMPLES = pytest.mark.parametrize("examples", [200, pytest.param(2000, marks=pytest.mark.slow)])
KINDS = ("saliency", "labels", "segmentation", "submission")
COMMANDS = [[script] for script in SCRIPTS if script != "evaluate"] + [["evaluate", kind] for kind in KINDS]
PARSERS = {script: getattr(options, script)() for script in SCRIPTS}

AWKWARD = (
    *("nan", "-nan", "inf", "-inf", "1e999", "-0", "0", "-0.0", "1e-999", "5e-324", "1e308", "1e9", "1000000001"),
    *("1e10", "0.5", "1", "1.0000001", "-1", "2", "8", "16", "17", "64", "65", "0x10", "1_000", "+5", " 5 ", "５", "²"),
    *("16384", "16385", "2147483648", str(2**63), str(2**64 - 1), str(2**64), str(10**9), "9" * 5000, "1,2", "[]"),
    *("", " ", "-", "--", "=", "a=b", "a=", "=1", "a=nan", "a=1e999", "a={1}", "a=1j", "a={[]: 1}", "a=b'c'", "a=(1,)"),
    *("a=" + "(" * 300, "a=" + "-" * 10_000 + "1", "a={(1, 2): 3}", "True", "FALSE", "yes", "auto", "gpu", "paper"),
    *("none", "sos", "sgd", "é/ü", "\udcff", "%s %(prog)s {}", "@file", "--unknown", "-x", "--lr", "--lr=1", "a b"),
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(AWKWARD),
    st.integers().map(str),
    st.floats().map(repr),
    st.floats(0, 1).map(repr),
    st.integers(0, 20).map(str),
    st.text(max_size=8).map(lambda text: text.replace("\0", "")),  # no argument of a process holds a 0
)


def whole(least: int, most: int):
    return lambda value: type(value) is int and least <= value <= most


def number(fits):
    return lambda value: type(value) is float and math.isfinite(value) and fits(value)


def named(fits):
    """Of pairs whose first is a name."""
    return lambda pair: len(pair[0]) > 0 and fits(pair[1])


def boolean(value) -> bool:
    return isinstance(value, bool)


COUNT, POSITIVE, SIDE = whole(0, 2**31 - 1), whole(1, 2**31 - 1), whole(1, 2**14)
SHARE, BELOW_ONE = number(lambda value: 0 <= value <= 1), number(lambda value: 0 <= value < 1)
POSITIVE_SHARE, SCALE = number(lambda value: 0 < value <= 1), number(lambda value: 0 < value <= 16)
AT_LEAST_0, ABOVE_0 = number(lambda value: 0 <= value <= 1e9), number(lambda value: 0 < value <= 1e9)
PLAIN = named(lambda value: json.dumps(value, allow_nan=False))
PROMISED = {  # what each value of a flag is, for all flags whose values are not just texts
    **dict.fromkeys(("max_epoch", "train_batch", "val_every", "decay_epoch", "accumulate"), POSITIVE),
    **dict.fromkeys(("crf_iterations", "window_stride", "num_saliency", "num_train", "num_val"), POSITIVE),
    **dict.fromkeys(("warmup_steps", "save_every", "window", "report_images", "gpu_id", "batch"), COUNT),
    **dict.fromkeys(("image_size", "crop_size", "long_side", "head_width", "height", "width"), SIDE),
    **dict.fromkeys(("dropout", "edge_drop_path", "colour_jitter", "pixel_mean", "label_smoothing", "momentum"), SHARE),
    **dict.fromkeys(("saliency_threshold", "bg_threshold", "salient_norm", "sweep"), SHARE),
    **dict.fromkeys(("ohem", "gamma"), POSITIVE_SHARE),
    **dict.fromkeys(("ema", "class_balance"), BELOW_ONE),
    **dict.fromkeys(("clip", "edge_loss", "weight_decay", "power", "t1", "tau"), AT_LEAST_0),
    **dict.fromkeys(("lr", "head_lr", "beta"), ABOVE_0),
    **dict.fromkeys(("scales", "train_scales"), SCALE),
    **dict.fromkeys(("deterministic", "compile", "grad_checkpointing", "puzzle", "crf"), boolean),
    **dict.fromkeys(("use_gn", "flip", "weighted_f", "strict_reference", "allow_missing"), boolean),
    **dict.fromkeys(("backbone_args", "fusion_args"), PLAIN),
    "amp": lambda value: boolean(value) or value == "cpu",
    "channels_last": lambda value: boolean(value) or value == "gpu",
    "class_saliency": named(SHARE),
    "decoder_width": lambda value: SIDE(value) and value % 8 == 0,
    "exp_times": whole(0, 12),
    "bootstrap": whole(0, 100_000),
    "output_stride": lambda value: value in (8, 16),
    "pixel_std": number(lambda value: 0.001 <= value <= 1),
    "radius": whole(2, 64),
    "seed": whole(0, 2**64 - 1),
    "t0": lambda value: value == "auto" or AT_LEAST_0(value),
    "workers": whole(0, 1024),
}


def actions_of(command: list[str]) -> list[argparse.Action]:
    """The flags of a command, --help aside."""
    parser = PARSERS[command[0]]
    if len(command) > 1:
        parser = next(action.choices for action in parser._actions if isinstance(action.choices, dict))[command[1]]
    return [action for action in parser._actions if action.dest != "help"]


def required(command: list[str]) -> list[str]:
    return [part for action in actions_of(command) if action.required for part in (action.option_strings[0], "x")]


def parsed(command: list[str], arguments: list[str]) -> tuple[argparse.Namespace | None, str]:
    """What the arguments mean, or None and the last line on stderr; anything but exit code 2 is a fault."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            return PARSERS[command[0]].parse_args([*command[1:], *arguments]), ""
        except SystemExit as end:
            asked_for_help = any(argument.startswith(("-h", "--help")) for argument in arguments)
            assert end.code == 2 or (end.code == 0 and asked_for_help)
            return None, errors.getvalue().split(": error: ")[-1] if end.code else "help"


def values_of(value) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def written(command: list[str], args: argparse.Namespace) -> list[str]:
    """The flags that say what `args` holds."""
    line = []
    for action in actions_of(command):
        flag, value = action.option_strings[-1], getattr(args, action.dest)
        texts = [f"{one[0]}={one[1]!r}" if isinstance(one, tuple) else str(one) for one in values_of(value)]
        if action.nargs == 0:
            line += [flag] * value
        elif len(texts) == 1:
            line.append(f"{flag}={texts[0]}")
        elif value != action.default:
            line += [flag, *texts]
    return line


def check_promises(command: list[str], args: argparse.Namespace) -> None:
    for action in actions_of(command):
        for value in values_of(getattr(args, action.dest)):
            if action.dest in PROMISED:
                assert PROMISED[action.dest](value), f"{action.dest} = {value!r}"
            else:
                assert action.nargs == 0 or (isinstance(value, str) and value), f"{action.dest} = {value!r}"


def test_every_range_is_told():
    """A new flag that takes no text has its line in `PROMISED`; and what stands there exists."""
    actions = [action for command in COMMANDS for action in actions_of(command)]
    assert {action.dest for action in actions if action.type and action.nargs != 0} == PROMISED.keys()
    for command in COMMANDS:
        check_promises(command, parsed(command, required(command))[0])


@EXAMPLES
def test_one_flag(examples):
    """Values of one flag: taken as promised, or refused in its name."""

    @settings(derandomize=True, deadline=None, database=None, max_examples=examples)
    @given(data=st.data(), command=st.sampled_from(COMMANDS), values=st.lists(VALUES, max_size=4), joined=st.booleans())
    def holds(data, command, values, joined):
        action = data.draw(st.sampled_from(actions_of(command)))
        flag = action.option_strings[0]
        given_values = [f"{flag}={values[0]}", *values[1:]] if joined and values else [flag, *values]
        args, error = parsed(command, required(command) + given_values)
        if args is not None:
            check_promises(command, args)
        elif error != "help":
            others = any(value.startswith("-") for value in values)  # may be flags
            assert flag in error or error.startswith("unrecognized arguments: ") or others

    holds()


@EXAMPLES
def test_any_arguments(examples):
    @settings(derandomize=True, deadline=None, database=None, max_examples=examples)
    @given(data=st.data(), command=st.sampled_from(COMMANDS))
    def holds(data, command):
        flags = st.sampled_from([flag for action in actions_of(command) for flag in action.option_strings])
        arguments = data.draw(st.lists(st.one_of(flags, flags, VALUES), max_size=12))
        args, error = parsed(command, data.draw(st.sampled_from([[], required(command)])) + arguments)
        if args is not None:
            check_promises(command, args)
        elif error != "help":
            assert "argument" in error  # of which one, its name follows
            assert "--" in error or error.startswith("unrecognized arguments: ")

    holds()


@EXAMPLES
def test_what_is_parsed_can_be_written_and_parsed_again(examples):
    """Defaults too; flags are repeated and come in any order."""

    @settings(derandomize=True, deadline=None, database=None, max_examples=examples)
    @given(data=st.data(), command=st.sampled_from(COMMANDS))
    def holds(data, command):
        arguments = required(command)
        for action in data.draw(st.lists(st.sampled_from(actions_of(command)), max_size=5)):
            values = data.draw(st.lists(VALUES.filter(lambda text: not text.startswith("-")), min_size=1, max_size=3))
            values = [] if action.nargs == 0 else values if action.nargs in ("+", "*") else values[:1]
            tried = [*arguments, action.option_strings[0], *values]
            arguments = tried if parsed(command, tried)[0] else arguments
        args, _ = parsed(command, arguments)
        again, error = parsed(command, written(command, args))
        assert again, error
        assert json.dumps(vars(again)) == json.dumps(vars(args))  # in which lists are as good as tuples

    holds()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_forms_of_booleans_agree(command):
    for action in actions_of(command):
        if action.const is True and action.nargs == "?":
            flag = action.option_strings[0]
            for value, forms in (
                (True, ([flag], [flag, "True"], [f"{flag}=yes"], [flag, "1"], [flag, "False", flag])),
                (False, ([flag, "False"], [f"{flag}=no"], [flag, "0"], [flag, flag, "FALSE"])),
            ):
                for form in forms:
                    assert getattr(parsed(command, required(command) + form)[0], action.dest) is value


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("SOD_train", "--lr nan"),
        ("SOD_train", "--lr inf"),
        ("SOD_train", "--lr 1e308"),  # more than the optimizer's numbers hold
        ("SOD_train", "--gamma 1.5"),
        ("SOD_train", "--clip 1e39"),
        ("SOD_train", "--max_epoch 0"),
        ("SOD_train", "--max_epoch ²"),
        ("SOD_train", "--image_size 0"),
        ("SOD_train", "--image_size 16385"),  # of which no checkpoint could be read
        ("SOD_train", "--decoder_width 16392"),
        ("SOD_train", "--train_scales 1e300"),
        ("SOD_train", "--seed -1"),
        ("SOD_train", f"--seed {2**70}"),
        ("SOD_train", "--workers -1"),
        ("SOD_train", "--workers 1000000000"),
        ("SOD_train", "--pixel_std 1e-30 1 1"),
        ("SOD_train", "--backbone_args a=1e999"),
        ("SOD_train", "--backbone_args a={1}"),
        ("SOD_train", "--tag="),
        ("SOD_train", "--log_path="),
        ("SOD_train", "--gpu_id -1"),
        ("train_segmentation", "--crop_size 1000000000"),
        ("train_segmentation", "--ema 1"),
        ("train_affinity", "--radius 1000000000"),
        ("make_pseudo_labels", "--exp_times 64"),
        ("predict", "--scales 0"),
        ("predict", "--scales inf"),
        ("predict", "--scales 1e9"),
        ("predict", "--output="),
        ("demo", f"--seed {2**64}"),
    ],
)
def test_what_no_script_can_work_with(script, flags):
    args, error = parsed([script], required([script]) + flags.split())
    assert args is None
    assert flags.replace("=", " ").split()[0] in error
