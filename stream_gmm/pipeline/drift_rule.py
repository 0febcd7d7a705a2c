"""When new rows count as changed, and when as drifted: a rule without imports, so that configurations load fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stream_gmm.errors import check_number

if TYPE_CHECKING:
    from stream_gmm.core.drift import RefitGain

SAME, CHANGED, DRIFTED, TOO_FEW = "same", "changed", "drifted", "too few rows"
LEAST_ROWS_PER_PARAMETER = 20.0
"""With fewer, the gain that chance explains is no chi-squared variable yet."""


@dataclass(frozen=True)
class DriftRule:
    """When rows count as changed, and when as drifted.

    Rows have *changed* if the gain of a refit is larger than chance explains, at the level ``false_alarm_rate``. They
    have *drifted* if they have changed and the gain that chance does not explain exceeds ``max_gain`` nats per row,
    or the stability index of the log-density exceeds ``max_psi`` beyond what chance explains. Fewer than 20 rows a
    parameter are *too few* to tell.
    """

    max_gain: float = 0.01
    max_psi: float = 0.25
    false_alarm_rate: float = 0.001

    def __post_init__(self) -> None:
        for name in ("max_gain", "max_psi", "false_alarm_rate"):
            check_number(name, getattr(self, name))

    def judge(self, gain: RefitGain, psi_excess: float, rows_per_parameter: float) -> str:
        """Return ``"same"``, ``"changed"``, ``"drifted"`` or ``"too few rows"``."""
        if rows_per_parameter < LEAST_ROWS_PER_PARAMETER:
            return TOO_FEW
        if gain.p_value >= self.false_alarm_rate:
            return SAME
        return DRIFTED if gain.excess > self.max_gain or psi_excess > self.max_psi else CHANGED
