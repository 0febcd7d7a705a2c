"""Which files are new, changed or gone; which are in the window; and how much each counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stream_gmm.core.file_stats import FileId, FileStats
from stream_gmm.errors import ConfigError, explain
from stream_gmm.pipeline.update.rule import FILES, ROWS, Span


@dataclass(frozen=True)
class FileChanges:
    """What became of the files since the statistics were taken: names, in the order of the files."""

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    """Files that are there, and not in the window."""

    @property
    def any(self) -> bool:
        """True if anything is not as it was."""
        return bool(self.new or self.changed or self.gone)


def compare_files(before: Sequence[FileId], now: Sequence[FileId], outside: Sequence[str] = ()) -> FileChanges:
    """Return what became of files: one with another identity under the same name was changed."""
    known, there = {f.name: f.identity for f in before}, {f.name for f in now}
    return FileChanges(
        new=tuple(f.name for f in now if f.name not in known),
        changed=tuple(f.name for f in now if known.get(f.name, f.identity) != f.identity),
        gone=tuple(f.name for f in before if f.name not in there),
        unchanged=tuple(f.name for f in now if known.get(f.name) == f.identity),
        outside=tuple(outside),
    )


def select_window(names: Sequence[str], span: Span | None) -> list[str]:
    """Return the names of files in the window, in their order.

    Raises
    ------
    ConfigError
        If a file has no value of the partition column.
    """
    if span is None:
        return list(names)
    periods = _number_periods(names, span.unit)
    newest = max(periods, default=0)
    return [name for name, period in zip(names, periods, strict=True) if newest - period < span.count]


def weigh_files(entries: Sequence[FileStats], span: Span | None) -> list[float]:
    """Return how much each entry counts: half for each half-life that lies behind its newest file.

    Raises
    ------
    ConfigError
        If a file has no value of the partition column.
    """
    if span is None:
        return [1.0] * len(entries)
    if span.unit == ROWS:
        ages, age = [0.0] * len(entries), 0.0
        for i in reversed(range(len(entries))):
            ages[i] = age
            age += entries[i].rows_complete
    else:
        names = [f.name for e in entries for f in e.files]
        period = dict(zip(names, _number_periods(names, span.unit), strict=True))
        last = [max(period[f.name] for f in e.files) for e in entries]
        ages = [float(max(last) - p) for p in last]
    return [float(2.0 ** (-age / span.count)) for age in ages]


def _number_periods(names: Sequence[str], unit: str) -> list[int]:
    """Return the number of the period of each file: its place, or that of its value of a partition column."""
    if unit == FILES:
        return list(range(len(names)))
    found = [re.search(rf"(?:^|/){re.escape(unit)}=([^/]+)/", name) for name in names]
    for name, value in zip(names, found, strict=True):
        if value is None:
            raise ConfigError(
                explain(
                    f"{name} does not lie below a folder {unit}=...",
                    why=f"update.last or update.half_life counts values of the partition column {unit!r}",
                    remedy="count in 'files', or name the column that the folders are named after",
                )
            )
    values = [value[1] for value in found if value is not None]
    whole = all(re.fullmatch(r"\d+", v) for v in values)
    order = sorted(set(values), key=(lambda v: (int(v), v)) if whole else (lambda v: (0, v)))
    number = {value: i for i, value in enumerate(order)}
    return [number[v] for v in values]
