"""Candidates that cannot win any more need no more passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_gmm.core.criteria import CRITERIA, Criteria, base_criterion
from stream_gmm.core.fit.em import EMState, Outcome

CAUTION = 3.0
"""How many times the predicted gain a candidate is granted."""


@dataclass(frozen=True)
class Bound:
    """How a criterion is bounded while fits are under way."""

    least: Callable[[Criteria], float]
    """The criterion is no less than this, at the log-likelihood of the best case."""
    finished_only: bool = False
    """Whether only a finished fit beats others, because the criterion of an unfinished one may rise."""
    within_k: bool = False
    """Whether only candidates of one K compete."""


BOUNDS: Mapping[str, Bound] = {
    "bic": Bound(CRITERIA["bic"]),
    "aic": Bound(CRITERIA["aic"]),
    # The classification term of ICL only adds to BIC.
    "icl": Bound(CRITERIA["bic"], finished_only=True),
    "elbow": Bound(CRITERIA["bic"], within_k=True),
}


def _evaluate_criteria(state: EMState, gain: float = 0.0) -> Criteria:
    params, stats = state.accepted_point
    found = Criteria.from_stats(stats, params.n_parameters)
    return replace(found, loglik=found.loglik + stats.rows * gain)


def _best_case(state: EMState) -> Criteria:
    """Return the criteria after three times the predicted gain and the statistical error ``p / 2N`` on top."""
    params, stats = state.accepted_point
    return _evaluate_criteria(state, CAUTION * state.predicted_gains[-1] + params.n_parameters / (2.0 * stats.rows))


def prune_states(states: Sequence[EMState], criterion: str) -> list[EMState]:
    """Return the states, with those ended that could not win even in their best case.

    The penalised log-likelihood of a candidate never falls: what the best has now, it keeps.
    """
    out, bound = list(states), BOUNDS.get(criterion)
    if bound is None:
        return out
    value = CRITERIA[base_criterion(criterion)]
    for group in _competing_groups(states, bound):
        beating = [states[i] for i in group if _may_beat_others(states[i], bound)]
        best = min(beating, key=lambda s: value(_evaluate_criteria(s)), default=None)
        for i in group if best else ():
            if best and out[i].live and out[i].accepted is not None:
                out[i] = _end_if_beaten(
                    out[i], best, bound.least(_best_case(out[i])) - value(_evaluate_criteria(best))
                )
    return out


def _competing_groups(states: Sequence[EMState], bound: Bound) -> Iterator[list[int]]:
    if not bound.within_k:
        yield list(range(len(states)))
        return
    for k in sorted({s.params.n_components for s in states}):
        yield [i for i, s in enumerate(states) if s.params.n_components == k]


def _may_beat_others(state: EMState, bound: Bound) -> bool:
    if state.accepted is None or state.outcome in (Outcome.FAILED, Outcome.PRUNED) or state.report:
        return False
    return not (bound.finished_only and state.live)


def _end_if_beaten(state: EMState, best: EMState, behind: float) -> EMState:
    if not (np.isfinite(behind) and behind > 0.0):
        return state
    name = f"{best.params.family.name}-{best.params.n_components}"
    reason = f"cannot win: at least {behind:,.0f} behind {name}"
    return replace(state, params=state.accepted_point[0], memory=None, outcome=Outcome.PRUNED, reason=reason)
