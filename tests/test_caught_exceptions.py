"""Faults of the program show their traceback: only the functions listed here may catch every exception."""

import ast
import errno

import pytest
from conftest import PROJECT
from tqdm import tqdm

from formats.errors import InputError
from utils.interruption import run_script

FOLDERS = ("", "formats", "models", "datasets", "pseudo_labels", "metrics", "utils", "benchmarks")
EVERYTHING = {"Exception", "BaseException"}
REASONS = {  # function → why all its exceptions have one answer
    "formats/cams.py: load_named_arrays": "a damaged file fails in many ways in numpy and zipfile",
    "formats/pickles.py: load_object_array": "a damaged file fails in many ways in numpy and pickle",
    "models/backbones.py: build_backbone": "timm fails in many ways on settings of the user",
    "models/backbones.py: check_sides": "timm networks of fixed sizes fail in many ways on other images",
    "models/backbone_weights.py: check_hub_weights": "the network, the hub and its client fail in many ways",
    "utils/checkpoint.py: load_torch_file": "a damaged file fails in many ways in torch and safetensors",
}


def catches_everything(node: ast.AST) -> bool:
    """Whether a node is an `except` or a `suppress` that takes every exception."""
    if isinstance(node, ast.ExceptHandler):
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        return any(kind is None or getattr(kind, "id", "") in EVERYTHING for kind in kinds)
    if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "suppress":
        return any(getattr(kind, "id", "") in EVERYTHING for kind in node.args)
    return False


def find_functions(source: str, name: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    found = [node for node in nodes if catches_everything(node)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    around = {node.lineno: [f.name for f in functions if f.lineno <= node.lineno <= f.end_lineno] for node in found}
    return {f"{name}: {names[-1] if names else 'module'}" for names in around.values()}


def test_only_the_listed_functions_catch_everything():
    for statement in ("try: pass\n    except (KeyError, Exception): pass", "with suppress(BaseException): pass"):
        assert find_functions(f"def f():\n    {statement}", "a.py") == {"a.py: f"}
    found = set()
    for folder in FOLDERS:
        for path in (PROJECT / folder).glob("*.py"):
            found |= find_functions(path.read_text(encoding="utf-8"), path.relative_to(PROJECT).as_posix())
    assert found == REASONS.keys()


ABSENT = FileNotFoundError(errno.ENOENT, "No such file or directory")
FAULTS = [ABSENT, *(fault("of the program") for fault in (KeyError, TypeError, ValueError, OSError, MemoryError))]


@pytest.mark.parametrize("fault", [*FAULTS, AssertionError()])
def test_faults_keep_their_traceback(fault, capsys):
    def main(args):
        raise fault

    with pytest.raises(type(fault)):
        run_script(main, None)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "message", ["is damaged", "Caught InputError in DataLoader\nTraceback\nformats.errors.InputError: is damaged"]
)
def test_mistakes_are_printed_on_a_line_of_their_own(message, capsys):
    """A progress bar that the exception passes through is closed before the error is printed."""

    def main(args):
        for _ in tqdm(range(3), leave=False):
            raise InputError(message)

    assert run_script(main, None) == 2
    assert capsys.readouterr().err.rpartition("\r")[2] == "error: is damaged\n"
