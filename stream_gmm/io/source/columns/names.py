"""Settings that name columns which there are not: all of them in one message, before the first row is read."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence

from stream_gmm.core.display import shorten_list
from stream_gmm.errors import ConfigError, InputDataError, did_you_mean
from stream_gmm.io.source.filters import parse_filter

MAGIC = re.compile(r"[*?\[]")
TYPE = "dtype:"
"""How a type begins that stands for columns."""
NAMED_COLUMNS = 100
"""So many columns are listed in a message."""

_EXPLAINED_LATER = ("filter:", "sentinel:")
"""Alone, these are explained where they are used."""

Request = tuple[str, Iterable[str]]
"""A setting, and the names, patterns and types of columns in it."""


class UnknownColumnError(InputDataError):
    """Settings name columns that are in no file.

    ``problems`` are theirs, one a line; ``names`` are the columns that there are.
    """

    def __init__(self, problems: Sequence[str], names: Sequence[str]) -> None:
        super().__init__(describe_unknown(problems, names))
        self.problems, self.names = tuple(problems), tuple(names)

    def __reduce__(self) -> tuple[type[UnknownColumnError], tuple[Sequence[str], Sequence[str]]]:
        """Return how to make it again: exceptions are pickled by their message alone."""
        return type(self), (self.problems, self.names)


def find_unknown(requests: Iterable[Request], names: Sequence[str]) -> list[str]:
    """Return what is wrong with settings that name columns, one line for each name that stands for none."""
    known = dict.fromkeys(names)
    problems = []
    for setting, texts in requests:
        for text in texts:
            if text in known or text.startswith(TYPE):
                continue
            if not MAGIC.search(text):
                problems.append(f"{setting}: there is no column '{text}'{did_you_mean(text, names)}")
            elif not fnmatch.filter(names, text):
                problems.append(f"{setting}: no column matches '{text}'.")
    return problems


def describe_unknown(problems: Sequence[str], names: Sequence[str]) -> str:
    """Return the message of one or several problems."""
    there = f"There are: {shorten_list(names, NAMED_COLUMNS)}."
    if len(problems) == 1:
        return f"{problems[0]} {there}"
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return f"{len(problems)} names of columns stand for none:\n{lines}\n{there}"


def refuse_unknown(
    names: Sequence[str],
    columns: Sequence[str] | None,
    exclude_columns: Sequence[str],
    weight: str | None,
    row_filter: str | None,
    sentinel: Mapping[str, object],
) -> None:
    """Refuse the options of a data set that name columns which no file has.

    Raises
    ------
    UnknownColumnError
        Names all of them, each with the nearest column.
    """
    requests: list[Request] = [
        ("columns", columns or ()),
        ("exclude_columns", exclude_columns),
        ("weight", [weight] if weight else ()),
        ("filter", _columns_of(row_filter) if row_filter else ()),
        ("sentinel", sentinel),
    ]
    problems = find_unknown(requests, names)
    if any(not problem.startswith(_EXPLAINED_LATER) for problem in problems) or len(problems) > 1:
        raise UnknownColumnError(problems, names)


def _columns_of(row_filter: str) -> tuple[str, ...]:
    try:
        return parse_filter(row_filter).columns
    except ConfigError:
        return ()  # it is explained where it is used
