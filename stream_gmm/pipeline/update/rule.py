"""How to update: the options, each written and explained once; without imports, so that configurations load fast."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from stream_gmm.errors import ConfigError, check_number, check_whole_number, explain, one_of

INCREMENTAL, EXACT, STEPWISE = "incremental", "exact", "stepwise"
MODES = (INCREMENTAL, EXACT, STEPWISE)
NEW, MOVED, ALL, NONE = "new", "moved", "all", "none"
RESCORES = (NEW, MOVED, ALL, NONE)
EVIDENCE, NEVER = "evidence", "never"
FILES, ROWS = "files", "rows"


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"doc": text})


@dataclass(frozen=True)
class Span:
    """A length of time, counted in files, in rows, or in values of a partition column such as ``day``."""

    count: float
    unit: str

    @classmethod
    def parse(cls, text: str | float, what: str, *, rows: bool) -> Span:
        """Read a number of files, or a number with a unit: ``"30 files"``, ``"7 day"``, ``"2e6 rows"``.

        Raises
        ------
        ConfigError
            If it cannot be read.
        """
        found = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([A-Za-z_]\w*)?\s*", str(text))
        unit = (found[2] or FILES) if found else ""
        unit = {"file": FILES, "row": ROWS}.get(unit, unit)
        try:
            count = float(found[1]) if found else 0.0
        except ValueError:
            count = 0.0
        if not count > 0.0 or (unit == ROWS and not rows):
            units = "files, rows or a partition column" if rows else "files or a partition column"
            raise ConfigError(
                explain(
                    f"{what} must be a positive number of {units}, not {text!r}",
                    remedy="write it as '30 files', or as '7 day' for files below folders such as day=2026-11-26",
                )
            )
        return cls(count, unit)


@dataclass(frozen=True)
class UpdateRule:
    """How a model follows its files; every field carries its explanation (:func:`describe_update_option`).

    Raises
    ------
    ConfigError
        If a value is unknown or out of range.
    """

    mode: str = _option(
        INCREMENTAL,
        "How parameters move. 'incremental': from the kept statistics of unchanged files and a read of the others, "
        "and by passes over all files where the estimated error exceeds max_error. 'exact': by passes over all "
        "files. 'stepwise': one EM step; the statistics of each file stay those of the parameters when it was new",
    )
    min_gain: float = _option(
        1e-4, "Predicted gain of the log-likelihood, beyond chance, below which the parameters stay, nats per row"
    )
    max_error: float = _option(
        1e-3, "Largest estimated loss against a full refit, nats per row, without passes over all files"
    )
    passes: int = _option(2, "Most passes over all files in an exact update")
    last: str | None = _option(
        None, "Window: only the newest files count, such as '30 files', or '30 day' for a partition column day"
    )
    half_life: str | None = _option(
        None, "Age at which a file counts half: '10 files', '7 day' for a partition column, or '2e6 rows'"
    )
    rescore: str = _option(
        NEW,
        "Which files are scored. 'new': new and changed ones, the others keep their scores; 'moved': also those "
        "whose scores would visibly change; 'all': all files, if the model moved; 'none': none",
    )
    rescore_shift: float = _option(
        0.01, "With rescore 'moved': mean change of a row's log-density from which a file is scored again, nats"
    )
    new_sweep: str = _option(
        EVIDENCE,
        "'evidence': a sweep follows if new rows speak for another K or structure; 'never': it is only reported",
    )
    sweep_gain: float = _option(
        0.01, "Evidence for another K or structure: the gain on new rows, beyond that on old ones, nats per row"
    )
    apart: float = _option(
        0.1, "With publish_as 'evidence': share of the rows of new files that no fit uses in that update"
    )
    z: float = _option(2.0, "Evidence: standard errors by which a difference must exceed its bound")
    keep_statistics: bool = _option(
        True, "While a run scores, keep the statistics of every file, so that the first update reads only new files"
    )

    def __post_init__(self) -> None:
        one_of(self.mode, MODES, "update.mode")
        one_of(self.rescore, RESCORES, "update.rescore")
        one_of(self.new_sweep, (EVIDENCE, NEVER), "update.new_sweep")
        for name in ("min_gain", "max_error", "rescore_shift", "sweep_gain", "z", "apart"):
            check_number(name, getattr(self, name))
        check_whole_number("passes", self.passes, 1)
        if not 0.0 < self.apart < 1.0:
            raise ConfigError(f"apart must be between 0 and 1, not {self.apart!r}.")
        _ = self.window, self.decay

    @property
    def window(self) -> Span | None:
        """How far back files count."""
        return None if self.last is None else Span.parse(self.last, "update.last", rows=False)

    @property
    def decay(self) -> Span | None:
        """The age at which a file counts half."""
        return None if self.half_life is None else Span.parse(self.half_life, "update.half_life", rows=True)


UPDATE_OPTIONS: dict[str, str] = {f.name: f.metadata["doc"] for f in fields(UpdateRule)}


def describe_update_option(name: str) -> str:
    """Return the explanation of an option."""
    return UPDATE_OPTIONS[name]
