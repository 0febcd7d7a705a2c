"""Short forms of results for interactive use: a line of text, and a table in HTML for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any


def make_html_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return an HTML table; numbers have six digits, and what is None stays empty."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_format_cell(value))}</td>" for value in row) + "</tr>" for row in rows
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _format_cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def shorten_list(names: Sequence[str], most: int = 8) -> str:
    """Return the first names of a list, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def count_noun(number: int, one: str, more: str = "") -> str:
    """Return a number with its noun in the right form: ``1 step``, ``2 steps``."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"
