"""Short forms of results for interactive use: a line of text, and a table in HTML for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any


def make_html_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return an HTML table as those of the report; numbers have six digits, and what is None stays empty.

    Colours are the notebook's, light or dark, and what is wider than the page is scrolled.
    """
    numeric = [all(isinstance(row[j], int | float | None) for row in rows) for j in range(len(header))]
    sides = ["right" if number else "left" for number in numeric]

    def write_cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f'<{tag} style="text-align:{side}">{escape(value)}</{tag}>'
            for side, value in zip(sides, values, strict=True)
        )

    body = "".join(f"<tr>{write_cells('td', [_format_cell(value) for value in row])}</tr>" for row in rows)
    return (
        '<div class="stream-gmm" style="overflow-x:auto"><table style="font-variant-numeric:tabular-nums">'
        f'<caption style="text-align:left;font-weight:600">{escape(caption)}</caption>'
        f"<thead><tr>{write_cells('th', header)}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _format_cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def shorten_list(names: Sequence[str], most: int = 8) -> str:
    """Return the first names of a list, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def count_noun(number: int, one: str, more: str = "") -> str:
    """Return a number with its noun in the right form: ``1 step``, ``2 steps``."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"
