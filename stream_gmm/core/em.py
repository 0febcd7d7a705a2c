"""Exact EM as a state machine: a state, what one pass says of it, the next state.

The driver knows one callable, which turns candidates into statistics; it has never heard of
files or clusters. Many candidates go in lockstep, so that one read of the data serves them all.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_gmm.core.mstep import NOTHING, MStepReport, mstep
from stream_gmm.core.params import MixtureParams
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import SingularCovarianceError

EStep = Callable[[Sequence[MixtureParams]], Sequence[SuffStats]]


class Outcome(enum.Enum):
    """How a fit ended; the value says it in words, with a remedy where one is needed."""

    CONVERGED = "converged: the predicted remaining gain is below the tolerance"
    MAX_PASSES = "stopped at max_passes before convergence: raise max_passes or tol"
    DEGENERATE = (
        "degenerate: a component has collapsed onto the variance floor or has no rows; "
        "use fewer components, raise reg_covar, or drop columns with repeated values"
    )
    FAILED = "failed: see the reason"


@dataclass(frozen=True)
class StopRule:
    """When to stop.

    Parameters
    ----------
    tol
        Predicted remaining gain (Aitken's extrapolation of the last three log-likelihoods) in
        nats per row. None: a tenth of the statistical error, ``0.1 p / (2 N)``, at most 1e-4.
    max_passes
        Largest number of EM steps; the pass that evaluates the last one comes on top.
    """

    tol: float | None = None
    max_passes: int = 100

    def tolerance(self, n_parameters: int, rows: float) -> float:
        """Return the tolerance in force, nats per row."""
        if self.tol is not None:
            return self.tol
        return min(0.1 * n_parameters / (2.0 * rows), 1e-4)


@dataclass(frozen=True)
class EMState:
    """Everything that is needed to go on with one candidate, or to report on it.

    ``history`` holds the mean log-likelihood of every parameter set evaluated so far, the last
    one being that of ``params`` if ``stats`` (taken at ``params``) is set.
    """

    params: MixtureParams
    n_iter: int = 0
    history: tuple[float, ...] = ()
    stats: SuffStats | None = None
    outcome: Outcome | None = None
    reason: str = ""
    report: MStepReport = NOTHING

    @property
    def live(self) -> bool:
        """True while the candidate wants another pass."""
        return self.outcome is None


def predicted_gain(history: Sequence[float]) -> float:
    """Return the log-likelihood still to be gained, by Aitken's rule; inf if unknown.

    A geometric tail with ratio a = d_t / d_{t-1} has ``d_t a / (1 - a)`` left to go
    (McLachlan & Krishnan 2008, section 4.9).
    """
    if len(history) < 3:
        return np.inf
    last, before = history[-1] - history[-2], history[-2] - history[-3]
    if last <= 1e-13 * abs(history[-1]):
        return 0.0
    ratio = last / before if before > 0.0 else np.inf
    return last * ratio / (1.0 - ratio) if ratio < 1.0 else np.inf


def _converged(history: Sequence[float], tol: float) -> bool:
    # The last gain must be small too: a ratio near zero by chance promises too much.
    return predicted_gain(history) <= tol and history[-1] - history[-2] <= 10.0 * tol


def _same_point(a: MixtureParams, b: MixtureParams) -> bool:
    """Tell whether EM does not move any more, beyond rounding."""
    sd = np.sqrt(np.einsum("kjj->kj", b.dense_covariances))
    return bool(
        np.all(np.abs(a.means - b.means) <= 1e-9 * sd)
        and np.all(np.abs(a.weights - b.weights) <= 1e-9)
        and np.allclose(a.covariances, b.covariances, rtol=1e-8, atol=0.0)
    )


def advance(state: EMState, stats: SuffStats, rule: StopRule, reg_covar: float) -> EMState:
    """Take in the statistics at ``state.params``: stop there, or make the M-step."""
    state = replace(state, stats=stats, history=(*state.history, stats.mean_loglik))
    if not np.isfinite(stats.loglik):
        return replace(state, outcome=Outcome.FAILED, reason="the log-likelihood is not finite")
    try:
        params, report = mstep(stats, state.params.family, reg_covar, state.params)
    except SingularCovarianceError as error:
        return replace(state, outcome=Outcome.FAILED, reason=str(error))
    tol = rule.tolerance(params.n_parameters, stats.rows)
    state = replace(state, report=report)
    if _converged(state.history, tol) or _same_point(params, state.params):
        return _finish(state, Outcome.CONVERGED)
    if state.n_iter >= rule.max_passes:
        return _finish(state, Outcome.MAX_PASSES)
    return replace(state, params=params, n_iter=state.n_iter + 1)


def _finish(state: EMState, outcome: Outcome) -> EMState:
    if state.report:
        return replace(state, outcome=Outcome.DEGENERATE, reason=state.report.describe())
    return replace(state, outcome=outcome)


def em_step(
    params: MixtureParams, estep: EStep, reg_covar: float = 1e-6
) -> tuple[MixtureParams, SuffStats, MStepReport]:
    """Make one EM step: return the new parameters, and the statistics at the old ones."""
    (stats,) = estep([params])
    new, report = mstep(stats, params.family, reg_covar, params)
    return new, stats, report


def run_pass(states: Sequence[EMState], estep: EStep, rule: StopRule, reg_covar: float) -> list[EMState]:
    """Advance every live candidate by one shared pass; the others are returned as they are."""
    live = [i for i, s in enumerate(states) if s.live]
    out = list(states)
    for i, stats in zip(live, estep([states[i].params for i in live]), strict=True):
        out[i] = advance(states[i], stats, rule, reg_covar)
    return out


def run_to_end(
    states: Sequence[EMState],
    estep: EStep,
    rule: StopRule,
    reg_covar: float = 1e-6,
    on_pass: Callable[[Sequence[EMState]], None] = lambda _: None,
) -> list[EMState]:
    """Advance all candidates until none is live; ``on_pass`` sees the states after every pass."""
    states = list(states)
    while any(s.live for s in states):
        states = run_pass(states, estep, rule, reg_covar)
        on_pass(states)
    return states
