"""evaluate.py doubt: the labels that a network contradicts come first, in the CSV and on the page."""

import csv

import numpy as np
import pytest
from conftest import run_main

from formats.errors import InputError, MissingInputError
from formats.images import save_grey, save_image
from formats.labels import save_label
from formats.voc_layout import save_ids
from metrics.label_doubt import measure_doubt

NAMES = ("background", "cat", "dog")
SHIFTS = {"c": 3, "a": 0, "d": 12, "b": 6}  # px between label and prediction; the last part of each id


def draw(shift: int = 0, value: int = 2) -> np.ndarray:
    label = np.zeros((20, 40), np.uint8)
    label[5:15, 5 + shift : 15 + shift] = value
    return label


@pytest.mark.parametrize(
    ("label", "prediction", "expected"),
    [
        (draw(), draw(), {"background": 0, "dog": 0}),
        (draw(), draw(5), {"background": 1 - 650 / 750, "dog": 1 - 50 / 150}),
        (draw(), draw(value=1), {"background": 0, "dog": 1}),  # no part for the cat, which only the prediction holds
        (draw(), draw(value=255), {"background": 0, "dog": 1}),
        (draw(), draw() * 0, {"background": 1 - 700 / 800, "dog": 1}),
        (np.vstack([draw(), draw() * 0 + 255]), np.vstack([draw(), draw(5)]), {"background": 0, "dog": 0}),  # 255 below
        (draw() * 0, draw() * 0, {"background": 0}),
        (draw() * 0 + 255, draw(), {}),
    ],
)
def test_measure_by_hand(label, prediction, expected):
    doubt, classes = measure_doubt(label, prediction, NAMES)
    assert classes == pytest.approx(expected)
    assert doubt == pytest.approx(np.mean(list(expected.values())) if expected else 1)


@pytest.fixture(params=["JPEGImages", "photographs.txt"])
def tree(request, tmp_path):
    """A VOC tree without masks, or photographs in nested folders; labels/, predicted/ and saliency/ of SHIFTS."""
    nested, root = request.param == "photographs.txt", tmp_path / "data"
    ids = [f"cats/{name}" if nested else name for name in SHIFTS]
    for image_id, shift in zip(ids, SHIFTS.values()):
        photograph = tmp_path / f"photographs/{image_id}.png" if nested else root / f"JPEGImages/{image_id}.jpg"
        save_image(photograph, np.full((20, 40, 3), 90, np.uint8))
        save_label(tmp_path / f"labels/{image_id}.png", draw())
        save_label(tmp_path / f"predicted/{image_id}.png", draw(shift))
        save_grey(tmp_path / f"saliency/{image_id}.png", draw(value=200))
    root.mkdir(exist_ok=True)
    (root / "classes.txt").write_text("cat\ndog\n")
    if nested:
        (root / "photographs.txt").write_text(f"{tmp_path}/photographs\n")
    save_ids(tmp_path / "all_id.txt", ids)
    return tmp_path


def rank(tree, flags: str = "") -> None:
    folders = f"--pred {tree}/labels --predictions {tree}/predicted --data_dir {tree}/data --list {tree}/all_id.txt"
    run_main("evaluate", f"doubt {folders} --csv {tree}/doubt.csv {flags}")


def test_csv_and_screen(tree, capsys):
    rank(tree)
    with open(tree / "doubt.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "doubt", "classes"]
    assert [row[0][-1] for row in rows] == ["d", "b", "c", "a"]
    assert rows[1][1:] == [f"{(1 - 640 / 760 + 1 - 40 / 160) / 2:.4f}", "background 0.16, dog 0.75"]
    said = capsys.readouterr().out
    assert said.index(f"| {rows[0][0]} ") < said.index(f"| {rows[3][0]} ")
    assert "export.py labels" in said


def test_page(tree, browser):
    rank(tree, f"--saliency_dir {tree}/saliency --report {tree}/doubt.html --report_images 3")
    browser.get((tree / "doubt.html").as_uri())
    titles = "return [...document.querySelectorAll('article')].map((card) => card.dataset.title.slice(-1)).join('')"
    assert browser.execute_script(titles) == "dbc"
    captions = "return [...document.querySelector('article').querySelectorAll('figcaption')].map((c) => c.textContent)"
    assert browser.execute_script(captions) == ["image", "saliency", "label", "prediction"]
    widths = browser.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert widths == [40] * 12
    for text, expected in (("doubt · prediction", "dbc"), ("best first", "cbd")):  # worst first: high doubt
        browser.find_element("xpath", f"//option[text()='{text}']").click()
        assert browser.execute_script(titles) == expected


@pytest.mark.parametrize(
    ("folder", "label", "error", "message"),
    [
        ("predicted", None, MissingInputError, r"predicted: 1 of 4 files are missing \(\S*b\.png\)"),
        ("labels", None, MissingInputError, r"labels: 1 of 4 files are missing \(\S*b\.png\)"),
        ("predicted", draw()[:10], InputError, r"predicted/\S*b\.png is 40×10 px, but \S*b\.(jpg|png) is 40×20 px"),
        ("labels", draw(value=3), InputError, r"labels/\S*b\.png holds the labels \[3\]"),
    ],
)
def test_files_that_cannot_be_used(tree, folder, label, error, message):
    (path,) = (tree / folder).rglob("b.png")
    path.unlink()
    if label is not None:
        save_label(path, label)
    with pytest.raises(error, match=message):
        rank(tree)
    assert not (tree / "doubt.csv").exists()
