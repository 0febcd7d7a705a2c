"""EM as a state machine: a state, the statistics of one pass, the next state.

The driver knows one callable, which turns candidates into statistics; it knows nothing of files or clusters.
Many candidates advance in lockstep, so that one read of the data serves them all.

A pass at any point gives its log-likelihood and its statistics together, so a proposed point that is no plain EM
step needs no separate evaluation. It is accepted if the objective (the penalised log-likelihood) has not fallen; else
the plain EM step from the last accepted point follows. The objective also decides when to stop. With a ridge there is
none that EM raises: then a point is accepted if the EM step from it is shorter than that from the last one, and the
fit stops when it would hardly move any more.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from stream_gmm.core.fit.coordinates import Chart
from stream_gmm.core.fit.stopping import (
    bound_remaining_gain,
    has_growing_share,
    is_fixed_point,
    predict_gain_by_lengths,
)
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import COLLAPSED_STEPS, NO_REPORT, RIDGE, MStepReport, mstep
from stream_gmm.core.mstep.penalty import Penalty
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError, SingularCovarianceError

SUFFICIENT_DECREASE = 0.9
"""With a ridge, an accelerated point is accepted if the EM step from it is shorter than before by this factor."""
CONFIRMING_STEPS = 4
"""Plain EM steps that must agree before an accelerated fit has converged."""
FIT_ERRORS = (SingularCovarianceError, np.linalg.LinAlgError, ConfigError)
"""What a candidate's arithmetic raises if its rows determine no mixture; it ends this candidate, and no other."""
EStep = Callable[[Sequence[MixtureParams]], Sequence[SuffStats]]


class Outcome(enum.Enum):
    """How a fit ended; the value says it in words, with a remedy where one is needed."""

    CONVERGED = "converged: the predicted remaining gain is below the tolerance"
    MAX_PASSES = "stopped at max_passes before convergence: raise max_passes or tol"
    DEGENERATE = (
        "degenerate: the rows of a component have no spread, or it has no rows; use fewer components, drop the "
        "column or the rows with the repeated values, or add noise as wide as the step in which they were recorded"
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
        Predicted remaining gain of the objective in nats per row, or with a ridge the predicted change of the
        log-likelihood. None: a tenth of the statistical error, ``0.1 p / (2 N)``, at most 1e-4.
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
    """Everything that is needed to continue with one candidate, or to report on it.

    ``params`` is the point that the next pass evaluates, and ``accepted`` the last one accepted; ``stats`` and the
    last values of ``history`` (mean log-likelihoods) and ``objectives`` (the same with the penalty, which is what
    may not fall) were taken there. At the end the two points are the same.
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
    objectives: tuple[float, ...] = ()
    """Penalised log-likelihoods of the accepted points, nats per row."""
    step_lengths: tuple[float, ...] = ()
    """With a ridge: lengths of the EM steps from the accepted points, in the coordinates of :class:`.Chart`."""
    confirming: int = 0
    """Plain EM steps made to confirm that an accelerated fit has converged; 0 while it has not come to that."""
    slope: float = 0.0
    """With a ridge: change of the mean log-likelihood per unit of length, on the way to the accepted point."""
    collapsed: int = 0
    """Steps for which the same components have been collapsed."""
    left: float = np.inf
    """What a search on the same rows says is left to gain at the start, nats per row."""

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
    """The gain of the objective that is predicted from the accepted point on, nats per row."""
    is_plain_step: bool = False
    memory: Any = None


class Method(Protocol):
    """How the next point follows from those evaluated: EM itself, or an acceleration of it."""

    @property
    def costly(self) -> bool:
        """True if a move costs enough to be worth a task of its own."""

    @property
    def needs_confirmation(self) -> bool:
        """True if the gain that it predicts is no bound, since it is taken from extrapolated points alone."""

    def propose_after_acceptance(self, state: EMState, em: MixtureParams, scheme: Scheme) -> Proposal:
        """Return the move from the accepted ``state.accepted``, whose plain EM step is ``em``."""

    def propose_after_rejection(self, state: EMState, stats: SuffStats, scheme: Scheme) -> Proposal:
        """Return the move after ``state.params``, with its ``stats``, was not accepted."""


@dataclass(frozen=True)
class PlainEM:
    """EM, with a prediction of the remaining gain by Aitken's rule, or with a ridge by the lengths of its steps."""

    costly: ClassVar[bool] = False
    needs_confirmation: ClassVar[bool] = False

    def propose_after_acceptance(self, state: EMState, em: MixtureParams, scheme: Scheme) -> Proposal:
        gain = (
            bound_remaining_gain(state.objectives)
            if scheme.penalty.has_objective
            else predict_gain_by_lengths(state.step_lengths, state.slope)
        )
        return Proposal(em, gain, is_plain_step=True)

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
        """Return the penalised log-likelihood, nats per row: it decides on acceptance and on stopping."""
        return (stats.loglik + self.penalty.value(params)) / stats.rows

    def tolerance(self, state: EMState) -> float:
        """Return the tolerance in force for a candidate."""
        return self.rule.tolerance(state.params.n_parameters, state.stats.rows if state.stats else 1.0)


def advance(state: EMState, stats: SuffStats, scheme: Scheme) -> EMState:
    """Take in the statistics at ``state.params``: accept the point or not, and stop or continue.

    An M-step that fails, of whatever step, ends this candidate as FAILED.
    """
    state = replace(state, passes=state.passes + 1)
    try:
        return _accept_or_reject(state, stats, scheme)
    except FIT_ERRORS as error:
        return replace(state, memory=None, outcome=Outcome.FAILED, reason=str(error))


def _accept_or_reject(state: EMState, stats: SuffStats, scheme: Scheme) -> EMState:
    penalty, before = scheme.penalty, state.accepted
    may_reject = not state.is_plain_step and before is not None
    if not np.isfinite(stats.loglik):
        if may_reject:
            return _reject_point(state, stats, scheme)
        state = replace(state, accepted=state.params, stats=stats, history=(*state.history, stats.mean_loglik))
        return replace(state, outcome=Outcome.FAILED, reason="the log-likelihood is not finite")
    objective = scheme.objective(state.params, stats)
    if may_reject and penalty.has_objective and objective < scheme.objective(*state.accepted_point):
        return _reject_point(state, stats, scheme)
    em, report = mstep(stats, state.params.family, penalty, state.params)
    if not penalty.has_objective:
        chart = Chart(state.params)
        length = float(np.linalg.norm(chart.vector(em)))
        if may_reject and state.step_lengths and length > SUFFICIENT_DECREASE * state.step_lengths[-1]:
            return _reject_point(state, stats, scheme)
        if before is not None:
            way = max(float(np.linalg.norm(chart.vector(before))), 1e-300)
            state = replace(state, slope=abs(stats.mean_loglik - state.history[-1]) / way)
        state = replace(state, step_lengths=(*state.step_lengths, length))
    state = replace(
        state, accepted=state.params, stats=stats, history=(*state.history, stats.mean_loglik),
        objectives=(*state.objectives, objective), n_iter=state.n_iter + (before is not None),
    )  # fmt: skip
    state, proposal = _propose_next(state, em, scheme)
    if report and report != state.report:
        state = replace(state, events=(*state.events, f"pass {state.passes}: {report.describe()}"))
    collapsed = state.collapsed + 1 if report.floored and report.floored == state.report.floored else 0
    gains = (*state.predicted_gains, proposal.predicted_gain)
    state = replace(state, report=report, collapsed=collapsed, predicted_gains=gains)
    converged = (
        proposal.predicted_gain <= scheme.tolerance(state)
        and (not scheme.method.needs_confirmation or state.confirming > CONFIRMING_STEPS)
        and not has_growing_share(state.params, em)
    )
    if converged or collapsed >= COLLAPSED_STEPS or is_fixed_point(em, state.params):
        return end_state(state, Outcome.CONVERGED)
    return _continue_from(state, proposal, scheme)


def _propose_next(state: EMState, em: MixtureParams, scheme: Scheme) -> tuple[EMState, Proposal]:
    """Return the next move of the method, or of the plain EM that confirms that the method has converged.

    What a few extrapolated points predict says nothing of directions that they have not moved in. Some plain EM
    steps leave the slowest direction over, and their gains tell how much there is.
    """
    if not state.confirming:
        proposal = scheme.method.propose_after_acceptance(state, em, scheme)
        if not scheme.method.needs_confirmation or proposal.predicted_gain > scheme.tolerance(state):
            return state, proposal
        return replace(state, confirming=1), replace(proposal, params=em, is_plain_step=True, memory=None)
    steps = state.confirming
    recent = replace(state, objectives=state.objectives[-steps - 1 :], step_lengths=state.step_lengths[-steps - 1 :])
    proposal = PLAIN_EM.propose_after_acceptance(recent, em, scheme)
    if steps < CONFIRMING_STEPS or proposal.predicted_gain <= scheme.tolerance(state):
        return replace(state, confirming=steps + 1), proposal
    state = replace(state, confirming=0, memory=None)
    return state, scheme.method.propose_after_acceptance(state, em, scheme)


def _reject_point(state: EMState, stats: SuffStats, scheme: Scheme) -> EMState:
    proposal = scheme.method.propose_after_rejection(state, stats, scheme)
    event = f"pass {state.passes}: the point proposed was not accepted"
    state = replace(state, rejected=(*state.rejected, state.passes), events=(*state.events, event))
    return _continue_from(state, proposal, scheme)


def _continue_from(state: EMState, proposal: Proposal, scheme: Scheme) -> EMState:
    if state.passes > scheme.rule.max_passes:
        return end_state(state, Outcome.MAX_PASSES)
    params = proposal.params if proposal.is_plain_step else scheme.penalty.restrict(proposal.params)
    return replace(state, params=params, is_plain_step=proposal.is_plain_step, memory=proposal.memory)


def end_state(state: EMState, outcome: Outcome) -> EMState:
    """Return the state at its last accepted point, ended; as DEGENERATE if a component has collapsed there."""
    report = state.report
    outcome, reason = (Outcome.DEGENERATE, report.describe()) if report else (outcome, state.reason)
    return replace(state, params=state.accepted_point[0], memory=None, outcome=outcome, reason=reason)


def _end_if_singular(state: EMState) -> EMState:
    try:
        if not np.isfinite(state.params.precisions_cholesky).all():
            raise SingularCovarianceError("the precisions of a component are not finite.")
    except FIT_ERRORS as error:
        return replace(state, memory=None, outcome=Outcome.FAILED, reason=str(error))
    return state


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
    """Advance every live candidate by one shared pass; one whose point has no density ends as FAILED before it."""
    out = [_end_if_singular(s) if s.live else s for s in states]
    live = [i for i, s in enumerate(out) if s.live]
    gathered = estep([out[i].params for i in live]) if live else []
    moved = advance_states([(out[i], s) for i, s in zip(live, gathered, strict=True)], scheme)
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
    """Advance candidates until none is live; after every pass ``review`` may end some, and ``on_pass`` sees all."""
    states = list(states)
    while any(s.live for s in states):
        states = review(run_pass(states, estep, scheme, advance_states))
        on_pass(states)
    return states
