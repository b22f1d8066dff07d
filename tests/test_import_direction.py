"""Packages import nothing of each other; scripts import no scripts; options.py needs the standard library alone."""

import ast
import sys

import pytest
from conftest import PROJECT, SCRIPTS

PACKAGES = ("models", "datasets", "pseudo_labels", "metrics", "utils")
SHARED = {path.stem for path in PROJECT.glob("*.py")} - set(SCRIPTS) - {"options"}
THIRD_PARTY = {
    "models": {"torch", "timm", "huggingface_hub"},  # the last is how timm itself gets its weights
    "pseudo_labels": {"torch", "numpy", "cv2"},
    "metrics": {"numpy", "cv2", "matplotlib"},
    "datasets": {"torch", "numpy", "PIL", "cv2"},
    "utils": {"torch", "numpy", "tensorboard"},
}


def imported(path) -> set[str]:
    """Top-level names of everything a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"{path}: star import"
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_stand_alone(package):
    files = list((PROJECT / package).rglob("*.py"))
    assert files
    for path in files:
        assert imported(path) <= THIRD_PARTY[package] | SHARED | {package}, path


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_import_no_script(script):
    assert not imported(PROJECT / f"{script}.py") & set(SCRIPTS)


def test_options_need_the_standard_library_alone():
    assert imported(PROJECT / "options.py") == set()


@pytest.mark.parametrize("module", sorted(SHARED))
def test_shared_modules_are_light(module):
    assert imported(PROJECT / f"{module}.py") <= {"numpy", "cv2"} | SHARED
