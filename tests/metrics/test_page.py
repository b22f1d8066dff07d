"""The HTML page of an evaluation, as a file and in a browser (if Chromium and its driver are installed)."""

import json
import re
import weakref
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from metrics.page import Picture, encode_thumbnail, write_page
from metrics.plots import Plot
from metrics.tables import Table

EVIL = "<script>document.title='run'</script>\"'><img src=x onerror=\"document.title='run'\">"
VOID = {"meta", "link", "img", "input"}


def make_picture(title: str, group="A", classes=(), mae: float | None = 0.5, s: float | None = 0.5, method="ours"):
    rng = np.random.default_rng(len(title))
    photograph = rng.integers(0, 256, (60, 240, 3), dtype=np.uint8)
    truth = np.zeros((60, 240), np.uint8)
    truth[20:40, 50:150] = 255
    scores = {method: {"MAE": mae, "S": s}, "other": {"MAE": 0.5}}
    return Picture(title, group, classes, {"image": photograph, "truth": truth, method: truth // 2}, scores)


PICTURES = [
    make_picture("first", "A", ("cat",), mae=0.9, s=0.2),
    make_picture("second", "B", ("cat", "potted plant"), mae=0.25, s=None),
    make_picture(EVIL, "B", (EVIL,), mae=0.3, s=0.1, method=EVIL),
    make_picture("third", "A", ("dog",), mae=float("nan"), s=0.95),
    make_picture("Fourth", "A", ("dog",), mae=0.1, s=0.5),
]
TABLE = Table(
    "scores of <all>",
    ["method", "max & F", "ids"],
    [
        ["b", "9.5 ± 0.1", "2007_10"],
        [EVIL, "–", "2007_9"],
        ["a", "10.2", "2007_33"],
        ["c", "-3", "2007_1"],
    ],
    higher=("max & F",),
)
PLOT = Plot(EVIL, "recall", "precision", {EVIL: ([0, 0.5, 1], [1, float("nan"), 0])})


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(path, f"Scores {EVIL}", [TABLE], [PLOT], PICTURES, [f"note & {EVIL}"])
    return path


class Document(HTMLParser):
    """Start tags with their attributes and the text; asserts that tags are closed in order."""

    def __init__(self, source: str):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_file(page):
    source = page.read_text(encoding="utf-8")
    document = Document(source)
    assert document.open == []
    assert len(document.of("article")) == 5 and len(document.of("script")) == 1
    assert len(document.of("img")) == 5 * 3 + 1 and all(image["alt"] for image in document.of("img"))
    assert "http://" not in source and "https://" not in source
    assert all(tag["src"].startswith("data:image/") for _, tag in document.tags if "src" in tag)
    assert not any(name.startswith("on") for _, attributes in document.tags for name in attributes)
    assert document.text.count(EVIL) == 8  # title, heading, note, cell, curve; title, class and method of the picture
    scores = json.loads(document.of("article")[3]["data-scores"])
    assert scores == {"ours": {"MAE": None, "S": 0.95}, "other": {"MAE": 0.5}}
    best = re.findall(r'class="number best">([^<]*)<', source)
    assert best == ["10.2"]


def test_pictures_are_released(tmp_path):
    """While a picture is created, at most the previous one is in memory."""
    made = []

    def pictures():
        for number in range(6):
            assert sum(reference() is not None for reference in made) <= 1
            picture = make_picture(f"picture {number}")
            made.append(weakref.ref(picture))
            yield picture
            del picture

    write_page(tmp_path / "page.html", "t", [], [], pictures(), [])
    assert len(made) == 6


def decode(image: np.ndarray, **settings) -> tuple[str, np.ndarray]:
    kind, content, size_hw = encode_thumbnail(image, **{"is_photograph": False, "longest_px": 160} | settings)
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded.shape[:2] == size_hw
    return kind, decoded[:, :, ::-1] if decoded.ndim == 3 else decoded


def test_thumbnails():
    rng = np.random.default_rng(0)
    colours = np.array([[0, 0, 0], [128, 0, 0], [224, 224, 192]], np.uint8)
    painted = colours[rng.integers(0, 3, (90, 333))]
    kind, small = decode(painted)
    assert (kind, small.shape) == ("png", (43, 160, 3))
    assert len(np.unique(small.reshape(-1, 3), axis=0)) == 3  # no mixed colours
    grey = np.kron(rng.integers(0, 2, (60, 20)) * 255, np.ones((10, 10))).astype(np.uint8)
    kind, small = decode(grey, longest_px=300)
    np.testing.assert_array_equal(small, cv2.resize(grey, (100, 300), interpolation=cv2.INTER_AREA))
    kind, photograph = decode(np.full((400, 200, 3), (200, 100, 0), np.uint8), is_photograph=True)
    assert (kind, photograph.shape) == ("jpeg", (160, 80, 3))
    assert np.abs(photograph.astype(int) - (200, 100, 0)).max() < 8
    assert decode(grey[:1, :3])[1].shape == (1, 3)  # images are never enlarged


@pytest.fixture
def shown(browser, page):
    """The browser with the page open; after the test its console must contain no error."""
    browser.get(page.as_uri())
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.execute_script("return document.title") == f"Scores {EVIL}"  # no script of a title has run
    requests = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert not [name for name in requests if name.startswith("http")]


def column(browser, number: int) -> list[str]:
    script = "return [...document.querySelectorAll('tbody tr')].map((row) => row.cells[arguments[0]].textContent)"
    return browser.execute_script(script, number)


def titles(browser) -> list[str]:
    script = "return [...document.querySelectorAll('article:not([hidden])')].map((card) => card.dataset.title)"
    return browser.execute_script(script)


def choose(browser, name: str, text: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("name", name)).select_by_visible_text(text)


def choices(browser, name: str) -> list[str]:
    return browser.execute_script("return [...document.getElementsByName(arguments[0])[0]].map((o) => o.text)", name)


def count(browser) -> str:
    return browser.find_element("name", "count").text


def test_all_is_shown(shown):
    widths = shown.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert len(widths) == 16 and min(widths) > 0
    assert count(shown) == "5 of 5 shown"
    assert [heading.text for heading in shown.find_elements("css selector", "article h3")][2] == f"{EVIL} B · {EVIL}"
    assert choices(shown, "class") == ["all", EVIL, "cat", "dog", "potted plant"]
    assert choices(shown, "group") == ["all", "A", "B"]
    assert EVIL in column(shown, 0)


def test_tables_are_sorted(shown):
    headers = shown.find_elements("css selector", "th")
    up = ["-3", "9.5 ± 0.1", "10.2", "–"]
    for expected, state in ((up, "ascending"), (["10.2", "9.5 ± 0.1", "-3", "–"], "descending"), (up, "ascending")):
        headers[1].click()
        assert column(shown, 1) == expected
        assert [header.get_attribute("aria-sort") for header in headers] == ["none", state, "none"]
    headers[2].find_element("tag name", "button").send_keys("\n")
    assert column(shown, 2) == ["2007_1", "2007_9", "2007_10", "2007_33"]
    headers[0].click()
    assert column(shown, 0)[1:] == ["a", "b", "c"]


def test_gallery_is_filtered(shown):
    choose(shown, "class", "cat")
    assert (titles(shown), count(shown)) == (["first", "second"], "2 of 5 shown")
    choose(shown, "group", "B")
    assert titles(shown) == ["second"]
    choose(shown, "class", "all")
    assert titles(shown) == ["second", EVIL]
    choose(shown, "group", "all")
    shown.find_element("name", "text").send_keys("fOUR")
    assert (titles(shown), count(shown)) == (["Fourth"], "1 of 5 shown")
    shown.find_element("name", "text").send_keys("<\n")
    assert (titles(shown), count(shown)) == ([], "0 of 5 shown")


def test_gallery_is_sorted(shown):
    choose(shown, "order", "best first")
    assert titles(shown) == ["Fourth", "third", EVIL, "second", "first"]
    choose(shown, "measure", "MAE · ours")  # lower is better; undefined values last
    assert titles(shown) == ["Fourth", "second", "first", EVIL, "third"]
    choose(shown, "order", "worst first")
    assert titles(shown) == ["first", "second", "Fourth", EVIL, "third"]
    choose(shown, "measure", f"S · {EVIL}")
    assert titles(shown)[0] == EVIL
    choose(shown, "measure", "mean over methods")
    assert titles(shown) == ["first", "second", EVIL, "third", "Fourth"]


def test_readable_without_scripts(browser, page, tmp_path):
    without = re.sub(r"(?s)<script>.*?</script>", "", page.read_text(encoding="utf-8"))
    (tmp_path / "page.html").write_text(without, encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    assert not browser.find_element("id", "controls").is_displayed()
    assert all(card.is_displayed() for card in browser.find_elements("tag name", "article"))
    assert browser.find_element("tag name", "table").is_displayed()


def test_policy_lets_no_other_script_run(browser, page, tmp_path):
    source = page.read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(source.replace("</body>", "<script>document.title = 'run'</script></body>"))
    browser.get((tmp_path / "page.html").as_uri())
    assert browser.title.startswith("Scores")
    assert ["Content Security Policy" in entry["message"] for entry in browser.get_log("browser")] == [True]
