"""Tables: best values, LaTeX and its escapes, files, plots."""

import csv
import re

import numpy as np
import pytest

from formats.images import load_image
from metrics.plots import Plot, plot_svg, save_plot
from metrics.tables import Table, escape_latex, first_number, markdown_table, percent, save_tables, short_names

HEADER = ["method", "data set", "MAE ↓", "S ↑"]
ROWS = [
    ["ours", "A", "0.031", "0.93"],
    ["theirs", "A", "0.040", "0.93"],
    ["ours", "B", "0.120", "–"],
    ["theirs", "B", "0.099", "0.81"],
    ["ours", "C", "0.2", "0.5"],
]


def test_best_of_each_group_and_direction():
    table = Table("t", HEADER, ROWS, higher=("S ↑",), lower=("MAE ↓",), within="data set")
    # two equal S in A; no best S in B with one value; nothing in C with one row
    assert table.best() == {(0, 2), (0, 3), (1, 3), (3, 2)}
    assert Table("t", HEADER, ROWS, lower=("MAE ↓",)).best() == {(0, 2)}
    assert Table("t", HEADER, ROWS).best() == set()


@pytest.mark.parametrize(
    ("cells", "rows"),
    [
        (["9.5", "10.2", "–"], [1]),
        (["82.31 ± 0.42", "82.4 ± 9", "82.40 ± 0.10"], [1, 2]),
        (["0.931 [0.921, 0.940]", "0.92 [0.99, 1.00]"], [0]),
        (["–", "1"], []),
        ([], []),
    ],
)
def test_best_is_found_by_the_first_number(cells, rows):
    table = Table("t", ["x", "y"], [["", cell] for cell in cells], higher=("y",))
    assert sorted(row for row, _ in table.best()) == rows


def test_first_number():
    cells = ["82.31 ± 0.42", "50%", 7, "–", "2007_000033", "2-stage", "x 1", "nan", ""]
    assert [first_number(cell) for cell in cells] == [82.31, 50, 7, None, None, None, None, None, None]


def test_latex_by_hand():
    table = Table("t", HEADER[:3], [["a_1", "A & B", "0.9 ± 0.1"], ["b", "–", "0.5"]], lower=("MAE ↓",))
    assert table.latex().splitlines() == [
        r"\begin{tabular}{llr}",
        r"\toprule",
        r"method & data set & MAE $\downarrow$ \\",
        r"\midrule",
        r"a\_1 & A \& B & 0.9 $\pm$ 0.1 \\",
        r"b & -- & \textbf{0.5} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        (r"_%&#$", r"\_\%\&\#\$"),
        ("{~^}", r"\{\textasciitilde{}\textasciicircum{}\}"),
        (r"a\b", r"a\textbackslash{}b"),
        ("<|>", r"\textless{}\textbar{}\textgreater{}"),
        ("F ↑ ↓ ± −1 – é", r"F $\uparrow$ $\downarrow$ $\pm$ $-$1 -- é"),
        ("two\n\nlines\t", "two lines"),
    ],
)
def test_escapes(text, latex):
    assert escape_latex(text) == latex


def check_latex(text: str, columns: int) -> None:
    """Check that braces are balanced and that each row has one cell per column."""
    bare = re.sub(r"\\[\\_%&#${}]", lambda match: match[0] if match[0] == "\\\\" else "", text)
    depth = np.cumsum([{"{": 1, "}": -1}.get(character, 0) for character in bare])
    assert depth.min() == 0 == depth[-1]
    assert bare.count("$") % 2 == 0
    rows = [line for line in bare.splitlines() if line.endswith("\\\\")]
    assert rows and all(row.count("&") == columns - 1 for row in rows)


def test_hostile_cells_give_valid_latex(tmp_path):
    names = ["}{", r"\end{tabular}", "a & b \\\\", "$x^2$", "100%", "[1ex]", "*", "~", "a\nb", "", r"\input{x}"]
    table = Table(
        "q\n\\bad", ["[x]", "m & n"], [[name, number] for number, name in enumerate(names)], higher=("m & n",)
    )
    save_tables(tmp_path, [table])
    text = (tmp_path / "tables.tex").read_text(encoding="utf-8")
    check_latex(re.sub("(?m)^%.*$", "", text), columns=2)
    lines = text.splitlines()
    assert r"% q \bad" in lines
    assert {r"{}[x] & m \& n \\", r"{}[1ex] & 5 \\", r"{}* & 6 \\"} <= set(lines)  # not read as arguments of \\
    assert text.count(r"\textbf") == 1 and r"\input" not in text


def test_files(tmp_path):
    score = Table("score", HEADER, ROWS, higher=("S ↑",), lower=("MAE ↓",), within="data set")
    other = Table("other", ["t", "a"], [["0.1", "5.00"]])
    save_tables(tmp_path, [score, other])
    assert {path.name for path in tmp_path.iterdir()} == {"tables.md", "tables.tex", "score.csv", "other.csv"}
    markdown = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert markdown == f"## score\n\n{score.markdown()}\n\n## other\n\n{other.markdown()}\n"
    with open(tmp_path / "score.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [HEADER, *ROWS]
    latex = (tmp_path / "tables.tex").read_text(encoding="utf-8")
    assert latex == f"% needs \\usepackage{{booktabs}}\n\n% score\n{score.latex()}\n\n% other\n{other.latex()}\n"
    assert r"\begin{tabular}{llrr}" in latex and r"\begin{tabular}{rr}" in latex


def test_plots_of_odd_names(tmp_path):
    """Many lines, gaps, and names that matplotlib would parse as formulas or hide; equal plots give equal SVG."""
    x = np.linspace(0, 1, 40)
    y = np.where(np.abs(x - 0.5) < 0.1, np.nan, x)
    names = [r"$\frac$", "_hidden", "<b>&", "", *(f"a/long/folder/of/method/{number}" for number in range(8))]
    plot = Plot("p", "x", "y $", {name: (x, y + number) for number, name in enumerate(names)})
    save_plot(tmp_path / "p.png", plot)
    svg = plot_svg(plot)
    assert svg == plot_svg(plot) and "<svg" in svg and "_hidden" in svg
    assert load_image(tmp_path / "p.png").shape[0] > 600  # 500 and the legend


def test_best_of_each_row():
    table = Table("IoU", ["class", "a", "b"], [["cat", "50.00", "60.00"], ["dog", "–", "1.00"]], best_in_rows=True)
    assert table.best() == {(0, 2)}


def test_markdown_and_numbers():
    assert markdown_table(["a", "b"], [["x", 1], ["lo|ng", 22]]).splitlines() == [
        "| a      |   b |",
        "|--------|----:|",
        "| x      |   1 |",
        r"| lo\|ng |  22 |",
    ]
    assert [percent(value) for value in (0.12345, float("nan"), None)] == ["12.35", "–", "–"]


def test_short_names():
    assert short_names(["a/b/labels/", "icd"]) == ["labels", "icd"]
    assert short_names(["one/labels", "two/labels", "/labels"]) == ["one_labels", "two_labels", "labels"]
    assert short_names(["../x/labels", "x/labels"]) == ["1_labels", "2_labels"]
    assert short_names(["."]) == ["1"]
