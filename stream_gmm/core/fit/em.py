"""EM as a state machine: a state, what one pass says of it, the next state.

The driver knows one callable, which turns candidates into statistics; it has never heard of
files or clusters. Many candidates go in lockstep, so that one read of the data serves them all.

A pass at any point gives its log-likelihood and its statistics together. So a point that is no plain EM step
needs no separate test: it is accepted if the log-likelihood has not fallen, and else the plain EM step
from the last accepted point, which cannot fall, is next.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import NO_REPORT, RIDGE, MStepReport, mstep
from stream_gmm.core.mstep.penalty import Penalty
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
    PRUNED = "pruned: it could not have won; with prune set to false it would have run to the end"
    STREAMED = "streamed: the parameters follow a stream, which has no end to converge to"
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
        Largest number of steps; the pass that evaluates the last one comes on top.
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

    ``params`` is the point that the next pass evaluates, and ``accepted`` the last one accepted; ``stats`` and the
    last value of ``history``, its mean log-likelihood, were taken there. At the end the two are the same.
    """

    params: MixtureParams
    n_iter: int = 0
    history: tuple[float, ...] = ()
    accepted: MixtureParams | None = None
    stats: SuffStats | None = None
    outcome: Outcome | None = None
    reason: str = ""
    report: MStepReport = NO_REPORT
    passes: int = 0
    rejected: tuple[int, ...] = ()
    """Passes whose point was not accepted, counted from 1."""
    is_plain_step: bool = True
    """Whether ``params`` is a start or a plain EM step."""
    predicted_gains: tuple[float, ...] = ()
    """The gain predicted after each accepted point."""
    memory: Any = None
    """What the method of acceleration remembers."""
    events: tuple[str, ...] = ()
    """What happened beside the formulas, and in which pass."""

    @property
    def live(self) -> bool:
        """True while the candidate wants another pass."""
        return self.outcome is None

    @property
    def accepted_point(self) -> tuple[MixtureParams, SuffStats]:
        """The last point accepted, and its statistics."""
        assert self.accepted is not None
        assert self.stats is not None
        return self.accepted, self.stats


@dataclass(frozen=True)
class Proposal:
    """What a method wants evaluated next."""

    params: MixtureParams
    predicted_gain: float = np.inf
    """The gain of the log-likelihood it predicts from the accepted point on, nats per row."""
    is_plain_step: bool = False
    memory: Any = None


class Method(Protocol):
    """How the next point follows from those evaluated: EM itself, or an acceleration of it."""

    @property
    def costly(self) -> bool:
        """True if a move costs enough to be worth a task of its own."""

    def propose_after_acceptance(self, state: EMState, em: MixtureParams, scheme: Scheme) -> Proposal:
        """Return the move from the accepted ``state.accepted``, whose plain EM step is ``em``."""

    def propose_after_rejection(self, state: EMState, stats: SuffStats, scheme: Scheme) -> Proposal:
        """Return the move after ``state.params``, with its ``stats``, was not accepted."""


@dataclass(frozen=True)
class PlainEM:
    """EM, with Aitken's prediction of what remains."""

    costly: ClassVar[bool] = False

    def propose_after_acceptance(self, state: EMState, em: MixtureParams, scheme: Scheme) -> Proposal:
        return Proposal(em, cautious_aitken_gain(state.history), is_plain_step=True)

    def propose_after_rejection(self, state: EMState, stats: SuffStats, scheme: Scheme) -> Proposal:
        raise AssertionError("a plain EM step is always accepted")  # pragma: no cover


PLAIN_EM = PlainEM()


@dataclass(frozen=True)
class Scheme:
    """How candidates are brought to their end."""

    rule: StopRule = StopRule()
    penalty: Penalty = RIDGE
    method: Method = PLAIN_EM

    def objective(self, params: MixtureParams, stats: SuffStats) -> float:
        """Return what must not fall: the penalised log-likelihood, nats per row."""
        return (stats.loglik + self.penalty.value(params)) / stats.rows

    def tolerance(self, state: EMState) -> float:
        """Return the tolerance in force for a candidate."""
        rows = state.stats.rows if state.stats else 1.0
        return self.rule.tolerance(state.params.n_parameters, rows)


def aitken_gain(history: Sequence[float]) -> float:
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


def cautious_aitken_gain(history: Sequence[float]) -> float:
    """Return :func:`aitken_gain`, but at least a tenth of the last gain: a ratio can be near zero by chance."""
    return max(aitken_gain(history), 0.1 * (history[-1] - history[-2]) if len(history) > 1 else np.inf)


def _is_fixed_point(a: MixtureParams, b: MixtureParams) -> bool:
    """Tell whether EM does not move any more, beyond rounding."""
    sd = np.sqrt(np.einsum("kjj->kj", b.dense_covariances))
    return bool(
        np.all(np.abs(a.means - b.means) <= 1e-9 * sd)
        and np.all(np.abs(a.weights - b.weights) <= 1e-9)
        and np.allclose(a.covariances, b.covariances, rtol=1e-8, atol=0.0)
    )


def advance(state: EMState, stats: SuffStats, scheme: Scheme) -> EMState:
    """Take in the statistics at ``state.params``: accept the point or not, and stop or move on."""
    state = replace(state, passes=state.passes + 1)
    if not _is_accepted(state, stats, scheme):
        return _reject_point(state, stats, scheme)
    state = replace(
        state, accepted=state.params, stats=stats, history=(*state.history, stats.mean_loglik),
        n_iter=state.n_iter + (state.accepted is not None),
    )  # fmt: skip
    if not np.isfinite(stats.loglik):
        return replace(state, outcome=Outcome.FAILED, reason="the log-likelihood is not finite")
    try:
        em, report = mstep(stats, state.params.family, scheme.penalty, state.params)
    except SingularCovarianceError as error:
        return replace(state, outcome=Outcome.FAILED, reason=str(error))
    proposal = scheme.method.propose_after_acceptance(state, em, scheme)
    if report and report != state.report:
        state = replace(state, events=(*state.events, f"pass {state.passes}: {report.describe()}"))
    state = replace(state, report=report, predicted_gains=(*state.predicted_gains, proposal.predicted_gain))
    if proposal.predicted_gain <= scheme.tolerance(state) or _is_fixed_point(em, state.params):
        return _end_state(state, Outcome.CONVERGED)
    return _continue_from(state, proposal, scheme)


def _is_accepted(state: EMState, stats: SuffStats, scheme: Scheme) -> bool:
    if state.is_plain_step or state.accepted is None or state.stats is None:
        return True
    if not np.isfinite(stats.loglik):
        return False
    return scheme.objective(state.params, stats) >= scheme.objective(state.accepted, state.stats)


def _reject_point(state: EMState, stats: SuffStats, scheme: Scheme) -> EMState:
    proposal = scheme.method.propose_after_rejection(state, stats, scheme)
    event = f"pass {state.passes}: the point proposed was not accepted"
    state = replace(state, rejected=(*state.rejected, state.passes), events=(*state.events, event))
    return _continue_from(state, proposal, scheme)


def _continue_from(state: EMState, proposal: Proposal, scheme: Scheme) -> EMState:
    if state.passes > scheme.rule.max_passes:
        return _end_state(state, Outcome.MAX_PASSES)
    return replace(state, params=proposal.params, is_plain_step=proposal.is_plain_step, memory=proposal.memory)


def _end_state(state: EMState, outcome: Outcome) -> EMState:
    state = replace(state, params=state.accepted_point[0], memory=None)
    if state.report:
        return replace(state, outcome=Outcome.DEGENERATE, reason=state.report.describe())
    return replace(state, outcome=outcome)


def em_step(
    params: MixtureParams, estep: EStep, penalty: Penalty = RIDGE
) -> tuple[MixtureParams, SuffStats, MStepReport]:
    """Make one EM step: return the new parameters, and the statistics at the old ones."""
    (stats,) = estep([params])
    new, report = mstep(stats, params.family, penalty, params)
    return new, stats, report


Review = Callable[[Sequence["EMState"]], list["EMState"]]
AdvanceAll = Callable[[Sequence[tuple[EMState, SuffStats]], Scheme], Sequence[EMState]]


def advance_all(pairs: Sequence[tuple[EMState, SuffStats]], scheme: Scheme) -> list[EMState]:
    """Advance candidates one after the other."""
    return [advance(state, stats, scheme) for state, stats in pairs]


def run_pass(
    states: Sequence[EMState], estep: EStep, scheme: Scheme, advance_states: AdvanceAll = advance_all
) -> list[EMState]:
    """Advance every live candidate by one shared pass; the others are returned as they are."""
    live = [i for i, s in enumerate(states) if s.live]
    out = list(states)
    gathered = estep([states[i].params for i in live])
    moved = advance_states([(states[i], s) for i, s in zip(live, gathered, strict=True)], scheme)
    for i, state in zip(live, moved, strict=True):
        out[i] = state
    return out


def run_to_end(
    states: Sequence[EMState],
    estep: EStep,
    scheme: Scheme = Scheme(),
    on_pass: Callable[[Sequence[EMState]], None] = lambda _: None,
    advance_states: AdvanceAll = advance_all,
    review: Review = list,
) -> list[EMState]:
    """Advance all candidates until none is live.

    After every pass ``review`` may end some of them, and ``on_pass`` sees the states.
    """
    states = list(states)
    while any(s.live for s in states):
        states = review(run_pass(states, estep, scheme, advance_states))
        on_pass(states)
    return states
