"""Progress of a long job: values for a listener, which decides how to show them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """How far a stage of a job is; ``rows_per_second`` and ``seconds_left`` are those of the current pass."""

    stage: str
    number: int
    """Number of the pass (or 1)."""
    live: int
    """Candidates still being fitted."""
    done: int
    total: int
    unit: str
    rows_per_second: float
    seconds_left: float
    note: str = ""

    @property
    def finished(self) -> bool:
        """True at the end of the stage or pass."""
        return self.done >= self.total


Listener = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """Take no notice: the default listener."""


@dataclass
class Meter:
    """Counts the finished items of one stage or pass, and reports to a listener."""

    listener: Listener
    stage: str
    sizes: list[int]
    """Size of each item, in ``unit``."""
    unit: str = "rows"
    number: int = 1
    live: int = 0
    note: str = ""
    _done: int = 0
    _start: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._report()

    def __call__(self, index: int) -> None:
        """Count item ``index`` as finished."""
        self._done += self.sizes[index]
        self._report()

    def _report(self) -> None:
        if self.listener is ignore_progress:
            return
        total = sum(self.sizes)
        speed = self._done / max(time.perf_counter() - self._start, 1e-9)
        left = (total - self._done) / speed if speed > 0.0 else float("inf")
        self.listener(
            Progress(self.stage, self.number, self.live, self._done, total, self.unit, speed, left, self.note)
        )
