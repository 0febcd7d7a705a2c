"""Stepwise (mini-batch) EM: the statistics are a running average over batches.

``s <- (1 - eta_t) s + eta_t s_batch`` per row, ``eta_t = (t + 2)^-0.6`` (Cappe & Moulines 2009;
Liang & Klein 2009). A convex combination of valid statistics is valid, so no step can leave the
positive-definite cone. Exact EM is the case ``eta = 1`` with one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import NO_REPORT, RIDGE, MStepReport, mstep
from stream_gmm.core.mstep.penalty import Penalty
from stream_gmm.core.stats import SuffStats

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class PowerDecay:
    """``eta_t = (t + offset)^-power`` for t = 0, 1, ...; 0.5 < power <= 1 for convergence."""

    power: float = 0.6
    offset: float = 2.0

    def __call__(self, t: int) -> float:
        return float((t + self.offset) ** -self.power)


@dataclass(frozen=True)
class StepwiseState:
    """Parameters, averaged statistics (scaled to one row), the number of steps made, and the rows seen."""

    params: MixtureParams
    stats: SuffStats | None = None
    step: int = 0
    rows_seen: float = 0.0
    report: MStepReport = NO_REPORT


def blend_stats(old: SuffStats, batch: SuffStats, eta: float) -> SuffStats:
    """Return ``(1 - eta) old + eta batch / rows``: the statistics per row with a batch blended in."""
    return old.scale(1.0 - eta).merge(batch.scale(eta / batch.rows))


def take_stepwise_step(
    state: StepwiseState, batch: SuffStats, schedule: Schedule, penalty: Penalty = RIDGE
) -> StepwiseState:
    """Blend in the statistics of one batch, taken at ``state.params``, and make an M-step.

    The first batch is taken whole, since no statistics stand behind the starting parameters.
    """
    old = state.stats
    stats = batch.scale(1.0 / batch.rows) if old is None else blend_stats(old, batch, schedule(state.step))
    rows_seen = state.rows_seen + batch.rows
    # The limits of an M-step (starving components, pseudo-rows) are in rows, so it gets statistics of all rows seen.
    params, report = mstep(stats.scale(rows_seen), state.params.family, penalty, state.params)
    return StepwiseState(params, stats, state.step + 1, rows_seen, report)
