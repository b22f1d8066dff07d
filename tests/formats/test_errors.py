"""Parts of messages, and paths that are refused."""

import pytest

from formats.errors import InputError, first_line, folder_below, require_folder, shorten


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a", "b"], "a, b"),
        (range(7), "0, 1, 2, 3, 4 and 2 more"),
        (["x" * 60, "y" * 60], "x" * 60 + " and 1 more"),
        (["x" * 200], "x" * 200),
    ],
)
def test_lists_of_names_stay_short(names, text):
    assert shorten(names) == text


def test_messages_of_others_stay_short():
    assert first_line(RuntimeError("CUDA out of memory. " * 30 + "\nsecond line")) == "CUDA out of memory. " * 5


def test_a_file_instead_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file is a file: name a folder"):
        require_folder(tmp_path / "file")


@pytest.mark.parametrize("name", ["..", ".", "../other", "a/../../b", "/abs"])
def test_names_stay_inside_their_parent(name):
    with pytest.raises(InputError, match=f"^--tag {name} leads out of runs"):
        folder_below("runs", name, "--tag")
