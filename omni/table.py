"""Plain tables for terminals."""

import unicodedata
from collections.abc import Sequence


def render_table(head: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Return *head* and *rows* in aligned columns; empty columns are left out."""
    lines = [list(head), *[list(row) for row in rows]]
    columns = [column for column in range(len(head)) if any(row[column] for row in rows)]
    widths = {column: max(_width(line[column]) for line in lines) for column in columns}
    return "\n".join(
        indent + "  ".join(_padded(line[column], widths[column]) for column in columns).rstrip()
        for line in lines
    )


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Return the number of terminal cells; East Asian letters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
