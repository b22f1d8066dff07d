"""The house: which module may import which, and how large it is. Run with -s to see the counts."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest
from conftest import PROJECT, SCRIPTS

# what each may import, besides itself and the standard library; siblings never import each other
ALLOWED = {
    "options": set(),
    "formats": {"numpy", "cv2", "PIL", "yaml"},
    "utils": {"formats", "numpy", "cv2", "filelock", "torch", "safetensors", "tensorboard", "tqdm"},
    "models": {"formats", "utils", "numpy", "torch", "timm", "huggingface_hub", "onnxruntime"},
    "datasets": {"formats", "utils", "numpy", "cv2", "PIL", "torch", "tqdm"},
    "pseudo_labels": {"formats", "utils", "numpy", "cv2", "torch"},
    "metrics": {"formats", "utils", "numpy", "cv2", "matplotlib", "tqdm"},
}
LIMITS = {
    "Python files at the root": 11,
    "top-level modules and packages": 18,
    "layers of imports": 6,
    "imports between them": 80,
    "lines of code without tests": 13_400,
    "lines of options.py": 695,
    "lines of make_pseudo_labels.py": 380,
    "lines of evaluate.py": 321,
    "lines of benchmarks": 1_000,
    "lines of tests": 13_760,
    "KB of README.md": 16,
    "KB of docs": 30,
}


@cache
def imported(path: Path) -> frozenset[str]:
    """Top-level names of everything that a file imports, anywhere in it, the standard library apart."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"{path}: star import"
            names.add(node.module.split(".")[0])
    return frozenset(names - set(sys.stdlib_module_names))


def files_of(module: str) -> list[Path]:
    """The files of a package, or of a module at the root."""
    return sorted((PROJECT / module).rglob("*.py")) or [PROJECT / f"{module}.py"]


def top_level() -> list[str]:
    """Every module and package of the project but its tests."""
    packages = {path.parent.name for path in PROJECT.glob("*/__init__.py")} | {"benchmarks"}
    return sorted(packages - {"tests"} | {path.stem for path in PROJECT.glob("*.py")})


def count_lines(paths) -> int:
    return sum(path.read_bytes().count(b"\n") for path in paths)


def import_graph() -> dict[str, set[str]]:
    """Module or package → the others that it imports."""
    modules = top_level()
    return {module: set().union(*map(imported, files_of(module))) & set(modules) - {module} for module in modules}


def count_layers(graph: dict[str, set[str]], module: str, above: tuple[str, ...] = ()) -> int:
    """Length of the longest chain of imports that begins at a module; a circle is an error."""
    assert module not in above, f"imports in a circle: {' → '.join((*above, module))}"
    return 1 + max((count_layers(graph, below, (*above, module)) for below in graph[module]), default=0)


@pytest.mark.parametrize("module", ALLOWED)
def test_imports_point_down(module):
    for path in files_of(module):
        assert imported(path) <= ALLOWED[module] | {module}, path


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_import_no_script(script):
    assert not imported(PROJECT / f"{script}.py") & set(SCRIPTS)


def test_size():
    """The figures of the house stay within their limits."""
    graph, modules = import_graph(), top_level()
    code = {module: count_lines(files_of(module)) for module in modules}
    figures = {
        "Python files at the root": len(list(PROJECT.glob("*.py"))),
        "top-level modules and packages": len(modules),
        "layers of imports": max(count_layers(graph, module) for module in modules),
        "imports between them": sum(map(len, graph.values())),
        "lines of code without tests": sum(code.values()),
        "lines of options.py": code["options"],
        "lines of make_pseudo_labels.py": code["make_pseudo_labels"],
        "lines of evaluate.py": code["evaluate"],
        "lines of benchmarks": code["benchmarks"],
        "lines of tests": count_lines((PROJECT / "tests").rglob("*.py")),
        "KB of README.md": (PROJECT / "README.md").stat().st_size / 1024,
        "KB of docs": sum(path.stat().st_size for path in (PROJECT / "docs").glob("*.md")) / 1024,
    }
    for name, figure in figures.items():
        print(f"{name}: {figure:.0f} of at most {LIMITS[name]}")
    assert {name: figure for name, figure in figures.items() if figure > LIMITS[name]} == {}
