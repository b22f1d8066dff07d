"""Tables of scores as Markdown."""


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
    return "–" if share is None or share != share else f"{100 * share:.2f}"


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)
