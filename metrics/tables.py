"""Tables of scores: on the screen, as Markdown, CSV and LaTeX, and as curves."""

import re
from dataclasses import dataclass
from pathlib import Path

from formats.atomic_files import write_csv, write_text
from metrics.latex import latex_tabular, one_line
from metrics.plots import Plot, save_plot

UNDEFINED = "–"
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?(?=[\s%]|$)")


@dataclass(frozen=True)
class Table:
    """`name` is that of its files; columns of `curve` are drawn over the first one; a table that is not `on_screen`
    is for files only.

    In the columns of `higher` the highest value is the best, in those of `lower` the lowest: of all rows, or of those
    that agree in the column `within`. With `best_in_rows` the highest value of each row is the best of its row.
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
        """As Markdown."""
        return markdown_table(self.header, self.rows)

    def latex(self) -> str:
        """As LaTeX (booktabs), the best of each column bold."""
        return latex_tabular(self.header, self.rows, self.number_columns(), self.best())

    def plot(self) -> Plot:
        """The columns of `curve` over the first column."""
        x = [float(row[0]) for row in self.rows]
        columns = {name: self.header.index(name) for name in self.curve}
        values = {name: [first_number(row[column]) for row in self.rows] for name, column in columns.items()}
        lines = {name: (x, [float("nan") if y is None else y for y in line]) for name, line in values.items()}
        return Plot(self.name, self.header[0], "%", lines)

    def number_columns(self) -> list[bool]:
        """Which columns hold numbers, and dashes at most."""
        columns = [[row[column] for row in self.rows] for column in range(len(self.header))]
        return [
            any(cell != UNDEFINED for cell in column)
            and all(cell == UNDEFINED or first_number(cell) is not None for cell in column)
            for column in columns
        ]

    def best(self) -> set[tuple[int, int]]:
        """The (row, column) of every best value, of several if they are equal as printed; one value alone is none."""
        found = set()
        if self.best_in_rows:
            for number, row in enumerate(self.rows):
                found |= best_of({(number, column): cell for column, cell in enumerate(row) if column > 0}, max)
        for name, choose in [(name, max) for name in self.higher] + [(name, min) for name in self.lower]:
            column = self.header.index(name)
            for rows in self._groups():
                found |= best_of({(row, column): self.rows[row][column] for row in rows}, choose)
        return found

    def _groups(self) -> list[list[int]]:
        if self.within is None:
            return [list(range(len(self.rows)))]
        column, groups = self.header.index(self.within), {}
        for number, row in enumerate(self.rows):
            groups.setdefault(row[column], []).append(number)
        return list(groups.values())


def best_of(cells: dict[tuple[int, int], object], choose) -> set[tuple[int, int]]:
    """The places of the cells with the chosen number; of one number alone, none."""
    values = {place: value for place, cell in cells.items() if (value := first_number(cell)) is not None}
    return {place for place, value in values.items() if value == choose(values.values())} if len(values) > 1 else set()


def save_tables(folder, tables: list[Table]) -> None:
    """Writes tables.md and tables.tex with all of them, `<name>.csv` of each, and `<name>.png` of those that are
    curves."""
    folder = Path(folder)
    write_text(folder / "tables.md", "\n".join(f"## {table.name}\n\n{table.markdown()}\n" for table in tables))
    parts = [f"% {one_line(table.name)}\n{table.latex()}\n" for table in tables]
    write_text(folder / "tables.tex", "\n".join([r"% needs \usepackage{booktabs}" + "\n", *parts]))
    for table in tables:
        write_csv(folder / f"{table.name}.csv", [table.header, *table.rows])
        if table.curve:
            save_plot(folder / f"{table.name}.png", table.plot())


def markdown_table(header: list[str], rows: list[list]) -> str:
    """Columns padded to one width; numbers to the right."""
    cells = [[str(cell).replace("|", r"\|") for cell in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    lines = [
        "| " + " | ".join(_pad(cell, width, column) for column, (cell, width) in enumerate(zip(row, widths))) + " |"
        for row in cells
    ]
    rule = (
        "|" + "|".join("-" * (width + 1) + ("-" if column == 0 else ":") for column, width in enumerate(widths)) + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])


def percent(share: float | None) -> str:
    """0.1234 → "12.34"; a dash for None and NaN."""
    return UNDEFINED if share is None or share != share else f"{100 * share:.2f}"


def first_number(cell) -> float | None:
    """The number that a cell begins with, as in "82.31 ± 0.42" and "0.931 [0.921, 0.940]"; None without one."""
    match = NUMBER.match(str(cell))
    return float(match[0]) if match else None


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)
