"""Tables of cells, as Markdown and for `pages/tables.html.jinja`; the first row is the heading."""

from collections.abc import Sequence

Row = tuple[Sequence[str], Sequence[str]]
"""Cells, and their classes."""


def plain(cells: Sequence[str]) -> Row:
    return cells, [""] * len(cells)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Its columns also line up in a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_markdown_row([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]) for row in rows]
    lines.insert(1, _markdown_row(["-" * width for width in widths]))
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
