"""Tables as LaTeX: one `tabular` each, for any article that loads booktabs."""

import re

EMPTY = "\u200b"  # a character that is not seen becomes a group that is not: it parts what LaTeX would join
SPECIAL = {
    EMPTY: "{}",
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
MATHS = {
    "±": r"\pm",
    "×": r"\times",
    "·": r"\cdot",
    "−": "-",
    "↑": r"\uparrow",
    "↓": r"\downarrow",
    "→": r"\rightarrow",
    "≤": r"\leq",
    "≥": r"\geq",
    "²": "^2",
    "³": "^3",
    "°": r"^\circ",
    "∞": r"\infty",
    "α": r"\alpha",
    "β": r"\beta",
    "γ": r"\gamma",
    "Δ": r"\Delta",
    "λ": r"\lambda",
    "μ": r"\mu",
    "σ": r"\sigma",
    "τ": r"\tau",
}
LATEX = str.maketrans(SPECIAL | {character: f"${command}$" for character, command in MATHS.items()})


def latex_tabular(header: list[str], rows: list[list], right: list[bool], best: set[tuple[int, int]]) -> str:
    """`right`: which columns stand to the right; `best`: the (row, column) of the cells in bold."""
    cells = [[escape_latex(str(cell)) for cell in row] for row in rows]
    for row, column in best:
        cells[row][column] = rf"\textbf{{{cells[row][column]}}}"
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{''.join('r' if is_right else 'l' for is_right in right)}}}",
            r"\toprule",
            _line([escape_latex(name) for name in header]),
            r"\midrule",
            *map(_line, cells),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def escape_latex(text: str) -> str:
    """Text as LaTeX shows it, on one line; hyphens side by side stay hyphens."""
    return re.sub("-(?=-)", f"-{EMPTY}", one_line(text)).translate(LATEX)


def one_line(text: str) -> str:
    return " ".join(text.split())


def _line(cells: list[str]) -> str:
    # the line above ends in a command that would take a [ or * for its own
    guard = "{}" if cells[0].startswith(("[", "*")) else ""
    return guard + " & ".join(cells) + r" \\"
