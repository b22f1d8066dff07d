"""Faults of the program show their traceback: only the functions listed here may catch every exception."""

import ast
import errno

import pytest
from conftest import PROJECT

from formats.atomic_files import make_folder
from formats.errors import InputError
from utils.interruption import run_script

FOLDERS = ("", "formats", "models", "datasets", "pseudo_labels", "metrics", "utils", "benchmarks")
EVERYTHING = {"Exception", "BaseException"}
REASONS = {  # function → why all its exceptions have one answer
    "formats/pickles.py: load_object_array": "a damaged file fails in many ways in numpy and pickle",
    "models/backbones.py: build_backbone": "timm and its hub fail in many ways on settings of the user",
    "models/backbone_weights.py: read_weights": "a damaged file fails in many ways in timm and safetensors",
    "utils/checkpoint.py: load_torch_file": "a damaged file fails in many ways in torch.load",
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


@pytest.mark.parametrize(
    "statement",
    [
        "try: pass\n    except: pass",
        "try: pass\n    except Exception: pass",
        "try: pass\n    except (ValueError, BaseException) as error: pass",
        "with contextlib.suppress(Exception): pass",
        "with suppress(KeyError, BaseException): pass",
    ],
)
def test_catching_everything_is_found(statement):
    assert find_functions(f"def f():\n    {statement}", "a.py") == {"a.py: f"}
    assert find_functions("try: pass\nexcept Exception: pass", "a.py") == {"a.py: module"}
    assert not find_functions("def f():\n    try: pass\n    except (KeyError, ValueError): pass", "a.py")


def test_only_the_listed_functions_catch_everything():
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


@pytest.mark.parametrize("below", ["", "new", "new/newer"])
def test_a_file_where_a_folder_belongs(below, tmp_path, capsys):
    (tmp_path / "maps").write_text("")

    def main(args):
        make_folder(tmp_path / "maps" / below)

    assert run_script(main, None) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/maps")


def test_the_error_is_printed_on_its_own_line(capsys):
    """A progress bar that the exception passes through is closed before the error is printed."""
    from tqdm import tqdm

    def main(args):
        for _ in tqdm(range(3), leave=False):
            raise InputError("the file is damaged")

    assert run_script(main, None) == 2
    assert capsys.readouterr().err.rpartition("\r")[2] == "error: the file is damaged\n"
