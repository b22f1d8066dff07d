"""Tables of scores as Markdown, CSV and LaTeX."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from formats.atomic_files import write_csv, write_text

UNDEFINED = "–"
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?(?=[\s%]|$)")
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "±": r"$\pm$",
    "−": "$-$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
} | {character: f"\\{character}" for character in "_%&#$"}
ESCAPES = str.maketrans(LATEX)


@dataclass(frozen=True)
class Table:
    """A table of scores.

    name: of its files. on_screen: False for tables that are only written to files. higher, lower: columns whose highest
    or lowest value is the best, of all rows or of the rows with the same value in the column `within`. best_in_rows:
    the highest value of each row is the best.
    """

    name: str
    header: list[str]
    rows: list[list]
    on_screen: bool = True
    higher: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    within: str | None = None
    best_in_rows: bool = False

    def markdown(self) -> str:
        return markdown_table(self.header, self.rows)

    def latex(self) -> str:
        """The table as LaTeX (booktabs), columns of numbers aligned to the right, best values bold."""
        cells = [[escape_latex(cell) for cell in row] for row in self.rows]
        for row, column in self.best():
            cells[row][column] = rf"\textbf{{{cells[row][column]}}}"
        columns = "".join("r" if is_number else "l" for is_number in self.number_columns())
        lines = [" & ".join(row) + r" \\" for row in [map(escape_latex, self.header), *cells]]
        head, *body = [re.sub(r"^(?=[\[*])", "{}", line) for line in lines]  # [ or * would be an argument of \\
        top = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
        return "\n".join([*top, *body, r"\bottomrule", r"\end{tabular}"])

    def number_columns(self) -> list[bool]:
        """Return whether each column contains only numbers and dashes, and at least one number."""
        columns = [[row[column] for row in self.rows if row[column] != UNDEFINED] for column in range(len(self.header))]
        return [bool(column) and all(first_number(cell) is not None for cell in column) for column in columns]

    def best(self) -> set[tuple[int, int]]:
        """(row, column) of all best values, also of several that print equal; a single value is not the best."""
        found, rows = set(), range(len(self.rows))
        if self.best_in_rows:
            for row in rows:
                found |= self._find_best([(row, column) for column in range(1, len(self.header))], max)
        within = self.header.index(self.within) if self.within else None
        groups = ["" if within is None else row[within] for row in self.rows]
        for name, choose in [(name, max) for name in self.higher] + [(name, min) for name in self.lower]:
            column = self.header.index(name)
            for group in set(groups):
                found |= self._find_best([(row, column) for row in rows if groups[row] == group], choose)
        return found

    def _find_best(self, places: list[tuple[int, int]], choose) -> set[tuple[int, int]]:
        numbers = {(row, column): first_number(self.rows[row][column]) for row, column in places}
        numbers = {place: number for place, number in numbers.items() if number is not None}
        best = choose(numbers.values()) if len(numbers) > 1 else None
        return {place for place, number in numbers.items() if number == best}


def save_tables(folder, tables: list[Table]) -> None:
    """Write all tables to tables.md and tables.tex, and each to `<name>.csv`."""
    folder = Path(folder)
    write_text(folder / "tables.md", "\n".join(f"## {table.name}\n\n{table.markdown()}\n" for table in tables))
    parts = [f"% {' '.join(table.name.split())}\n{table.latex()}\n" for table in tables]
    write_text(folder / "tables.tex", "\n".join([r"% needs \usepackage{booktabs}" + "\n", *parts]))
    for table in tables:
        write_csv(folder / f"{table.name}.csv", [table.header, *table.rows])


def markdown_table(header: list[str], rows: list[list]) -> str:
    """A Markdown table with padded columns, all but the first aligned to the right."""
    cells = [[str(cell).replace("|", r"\|") for cell in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells]
    head, *body = [f"| {' | '.join(row)} |" for row in aligned]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([head, rule, *body])


def escape_latex(text) -> str:
    """Escape text for LaTeX, on one line."""
    return " ".join(str(text).split()).translate(ESCAPES)


def percent(share: float | None) -> str:
    """Format a share as percent, 0.1234 → "12.34", None and NaN as a dash."""
    return UNDEFINED if share is None or share != share else f"{100 * share:.2f}"


def four_digits(score: float | None) -> str:
    """Format a score with four decimals, None and NaN as a dash."""
    return UNDEFINED if score is None or score != score else f"{score:.4f}"


def replace_nan(value):
    """Replace NaN by None in scores, or in nested dicts and lists of them, for JSON, which has no NaN."""
    if isinstance(value, dict):
        return {key: replace_nan(each) for key, each in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [replace_nan(each) for each in value]
    return None if value != value else value


def first_number(cell) -> float | None:
    """The number at the start of a cell, as in "82.31 ± 0.42" and "0.931 [0.921, 0.940]"; None if there is none."""
    match = NUMBER.match(str(cell))
    return float(match[0]) if match else None


def short_names(paths) -> list[str]:
    """The last folders of each path joined by _, as few as make all names different."""
    parts = [[part for part in PurePath(path).parts if part.strip("/\\:.")] for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["_".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return ["_".join([str(number), *path[-1:]]) for number, path in enumerate(parts, 1)]
