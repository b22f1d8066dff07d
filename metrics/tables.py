"""Tables of scores: on the screen, as Markdown, as CSV, and as curves."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib.figure

from atomic_files import atomic_path, write_csv, write_text

UNDEFINED = "–"


@dataclass(frozen=True)
class Table:
    """`name` is that of its files; columns of `curve` are drawn over the first one; a table that is not `on_screen`
    is for files only."""

    name: str
    header: list[str]
    rows: list[list]
    on_screen: bool = True
    curve: tuple[str, ...] = ()

    def markdown(self) -> str:
        return markdown_table(self.header, self.rows)


def save_tables(folder, tables: list[Table]) -> None:
    """Writes tables.md with all of them, `<name>.csv` of each, and `<name>.png` of those that are curves."""
    folder = Path(folder)
    write_text(folder / "tables.md", "\n".join(f"## {table.name}\n\n{table.markdown()}\n" for table in tables))
    for table in tables:
        write_csv(folder / f"{table.name}.csv", [table.header, *table.rows])
        if table.curve:
            save_curve(folder / f"{table.name}.png", table)


def save_curve(path, table: Table) -> None:
    """Draws the columns of `table.curve` over the first column."""
    figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    x = [float(row[0]) for row in table.rows]
    for name in table.curve:
        column = table.header.index(name)
        y = [float("nan") if row[column] == UNDEFINED else float(row[column]) for row in table.rows]
        axes.plot(x, y, marker="o", label=name)
    axes.set(xlabel=table.header[0], ylabel="%")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def markdown_table(header: list[str], rows: list[list]) -> str:
    """Columns padded to one width; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
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


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)
