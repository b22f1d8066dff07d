"""Tables of scores as Markdown, CSV, LaTeX and plots."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from formats.atomic_files import write_csv, write_text
from metrics.plots import Plot, save_plot

UNDEFINED = "–"
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?(?=[\s%]|$)")

SEPARATOR = "\u200b"  # zero-width space, written as {}: it keeps LaTeX from joining hyphens to a dash
SPECIAL = {
    SEPARATOR: "{}",
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
} | {character: f"\\{character}" for character in "_%&#$"}
MATH_COMMANDS = {"±": r"\pm", "×": r"\times", "−": "-", "↑": r"\uparrow", "↓": r"\downarrow", "≤": r"\leq"}
MATH_COMMANDS |= {"≥": r"\geq", "²": "^2", "α": r"\alpha", "β": r"\beta", "τ": r"\tau"}
ESCAPES = str.maketrans(SPECIAL | {character: f"${command}$" for character, command in MATH_COMMANDS.items()})


@dataclass(frozen=True)
class Table:
    """A table of scores.

    name: of its files. on_screen: False for tables that are only written to files. curve: columns to plot over the
    first column. higher, lower: columns whose highest or lowest value is the best, of all rows or of the rows with the
    same value in the column `within`. best_in_rows: the highest value of each row is the best.
    """

    name: str
    header: list[str]
    rows: list[list]
    on_screen: bool = True
    curve: tuple[str, ...] = ()
    higher: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    within: str | None = None
    best_in_rows: bool = False

    def markdown(self) -> str:
        return markdown_table(self.header, self.rows)

    def latex(self) -> str:
        """The table as LaTeX (booktabs), best values bold."""
        return latex_tabular(self.header, self.rows, self.number_columns(), self.best())

    def plot(self) -> Plot:
        """Plot of the columns of `curve` over the first column."""
        x, lines = [float(row[0]) for row in self.rows], {}
        for name in self.curve:
            numbers = [first_number(cell) for cell in self._column(name)]
            lines[name] = (x, [float("nan") if number is None else number for number in numbers])
        return Plot(self.name, self.header[0], "%", lines)

    def number_columns(self) -> list[bool]:
        """Return whether each column contains only numbers and dashes, and at least one number."""
        columns = [[row[column] for row in self.rows if row[column] != UNDEFINED] for column in range(len(self.header))]
        return [bool(column) and all(first_number(cell) is not None for cell in column) for column in columns]

    def best(self) -> set[tuple[int, int]]:
        """(row, column) of all best values, also of several that print equal; a single value is not the best."""
        found = set()
        if self.best_in_rows:
            for row, cells in enumerate(self.rows):
                found |= find_best({(row, column): cell for column, cell in enumerate(cells) if column > 0}, max)
        groups = self._column(self.within) if self.within else [""] * len(self.rows)
        for name, choose in [(name, max) for name in self.higher] + [(name, min) for name in self.lower]:
            cells = {(row, self.header.index(name)): cell for row, cell in enumerate(self._column(name))}
            for group in set(groups):
                found |= find_best({place: cell for place, cell in cells.items() if groups[place[0]] == group}, choose)
        return found

    def _column(self, name: str) -> list:
        return [row[self.header.index(name)] for row in self.rows]


def find_best(cells: dict[tuple[int, int], object], choose) -> set[tuple[int, int]]:
    """Return the keys of the cells whose number equals choose(numbers); empty if fewer than two cells contain a number.
    choose: `max` or `min`.
    """
    values = {place: value for place, cell in cells.items() if (value := first_number(cell)) is not None}
    return {place for place, value in values.items() if value == choose(values.values())} if len(values) > 1 else set()


def save_tables(folder, tables: list[Table]) -> None:
    """Write all tables to tables.md and tables.tex, each to `<name>.csv`, and plots of curves to `<name>.png`."""
    folder = Path(folder)
    write_text(folder / "tables.md", "\n".join(f"## {table.name}\n\n{table.markdown()}\n" for table in tables))
    parts = [f"% {join_lines(table.name)}\n{table.latex()}\n" for table in tables]
    write_text(folder / "tables.tex", "\n".join([r"% needs \usepackage{booktabs}" + "\n", *parts]))
    for table in tables:
        write_csv(folder / f"{table.name}.csv", [table.header, *table.rows])
        if table.curve:
            save_plot(folder / f"{table.name}.png", table.plot())


def markdown_table(header: list[str], rows: list[list]) -> str:
    """A Markdown table with padded columns, all but the first aligned to the right."""
    cells = [[str(cell).replace("|", r"\|") for cell in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells]
    head, *body = [f"| {' | '.join(row)} |" for row in aligned]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([head, rule, *body])


def latex_tabular(header: list[str], rows: list[list], right: list[bool], best: set[tuple[int, int]]) -> str:
    """Format a table. right: whether a column is aligned to the right; best: (row, column) of the cells in bold."""
    cells = [[escape_latex(str(cell)) for cell in row] for row in rows]
    for row, column in best:
        cells[row][column] = rf"\textbf{{{cells[row][column]}}}"
    columns = "".join("r" if is_right else "l" for is_right in right)
    top = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", format_row(map(escape_latex, header)), r"\midrule"]
    return "\n".join([*top, *map(format_row, cells), r"\bottomrule", r"\end{tabular}"])


def escape_latex(text: str) -> str:
    """Escape text for LaTeX, on one line; adjacent hyphens stay hyphens."""
    return re.sub("-(?=-)", f"-{SEPARATOR}", join_lines(text)).translate(ESCAPES)


def join_lines(text: str) -> str:
    return " ".join(text.split())


def format_row(cells: Iterable[str]) -> str:
    line = " & ".join(cells)
    # The line above ends in a command that would read [ or * as its argument.
    return ("{}" if line.startswith(("[", "*")) else "") + line + r" \\"


def percent(share: float | None) -> str:
    """Format a share as percent, 0.1234 → "12.34", None and NaN as a dash."""
    return UNDEFINED if share is None or share != share else f"{100 * share:.2f}"


def first_number(cell) -> float | None:
    """The number at the start of a cell, as in "82.31 ± 0.42" and "0.931 [0.921, 0.940]"; None if there is none."""
    match = NUMBER.match(str(cell))
    return float(match[0]) if match else None
