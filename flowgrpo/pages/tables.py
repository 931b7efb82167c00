"""Tables of cells, as Markdown and as HTML; the first row is the heading."""

import html
from collections.abc import Sequence

TABLE_STYLE = """
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 8px; border-top: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: pre; }
th { border-top: 0; font-weight: 400; color: var(--soft); vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; font-weight: 600; white-space: normal;
  overflow-wrap: anywhere; min-width: 140px; }
"""


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Its columns also line up in a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_markdown_row([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]) for row in rows]
    lines.insert(1, _markdown_row(["-" * width for width in widths]))
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def html_row(cells: Sequence[str], kinds: Sequence[str]) -> str:
    """`kinds` are the opening tags of the cells."""
    return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}" for cell, kind in zip(cells, kinds, strict=True))


def html_table(header: Sequence[str], rows: Sequence[str]) -> str:
    """The rows are those of `html_row`."""
    return f"<div class=scroll><table>{html_row(header, ['th'] * len(header))}{''.join(rows)}</table></div>"
