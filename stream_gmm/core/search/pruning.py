"""Prunes candidates in the course of the full passes, when their criterion cannot become the best any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_gmm.core.criteria import CRITERIA, Criteria, base_criterion
from stream_gmm.core.fit.em import EMState, Outcome
from stream_gmm.core.search.evidence import group_competitors

GAIN_FACTOR = 3.0
"""Multiple of the gain that the method predicts, which a candidate may make in the best case."""
PASSES_LEFT, STEPS_LEFT = 10.0, 30.0
"""A candidate gains no more than so many passes at the present rate, if a pass holds steps on the sample; or so many
passes of a single step."""


@dataclass(frozen=True)
class Bound:
    """How the final value of a criterion is bounded from below while fits are running."""

    least: Callable[[Criteria], float]
    """Lower bound of the criterion, as a function of the criteria at the log-likelihood of the best case."""
    finished_only: bool = False
    """True if others are pruned because of finished fits only, as the criterion of a running fit may rise."""
    within_k: bool = False
    """True if only candidates with the same number of components compete."""


BOUNDS: Mapping[str, Bound] = {
    "bic": Bound(CRITERIA["bic"]),
    "aic": Bound(CRITERIA["aic"]),
    # ICL is BIC plus a term that is not negative.
    "icl": Bound(CRITERIA["bic"], finished_only=True),
    "elbow": Bound(CRITERIA["bic"], within_k=True),
}


def _evaluate_criteria(state: EMState, gain: float = 0.0) -> Criteria:
    """Return the criteria at the accepted point, with the log-likelihood larger by ``gain`` nats per row."""
    params, stats = state.accepted_point
    criteria = Criteria.from_stats(stats, params.n_parameters)
    return replace(criteria, loglik=criteria.loglik + stats.rows * gain)


def bound_final_gain(state: EMState, passes_left: float) -> float:
    """Return the largest gain that is left, nats per row: by the method's prediction, or by the last passes if less.

    The method predicts from the sample. A component with few rows there may promise far more than the full data give.
    Points that were not accepted since the last one count as passes that gained nothing.
    """
    predicted = GAIN_FACTOR * state.predicted_gains[-1]
    if len(state.objectives) < 2:
        return predicted
    in_vain = 0
    while state.passes - in_vain in state.rejected:
        in_vain += 1
    # With a ridge the log-likelihood can fall, and rise later.
    rate = abs(state.objectives[-1] - state.objectives[-2]) / (1.0 + in_vain)
    return min(predicted, passes_left * rate)


def find_leaders(states: Sequence[EMState], criterion: str) -> list[tuple[int, list[int]]]:
    """Return the position of the best of every group that competes, and the positions of the group.

    Groups without a sound fit are left out, and so are all for a criterion without a bound.
    """
    bound, out = BOUNDS.get(criterion), []
    if bound is None:
        return []
    value = CRITERIA[base_criterion(criterion)]
    for group in group_competitors([s.params.n_components for s in states], bound.within_k):
        rivals = [
            i
            for i in group
            if states[i].accepted is not None
            and states[i].outcome not in (Outcome.FAILED, Outcome.PRUNED)
            and not states[i].report
            and not (bound.finished_only and states[i].live)
        ]
        if rivals:
            out.append((min(rivals, key=lambda i: value(_evaluate_criteria(states[i]))), group))
    return out


def prune_states(states: Sequence[EMState], criterion: str, passes_left: float = STEPS_LEFT) -> list[EMState]:
    """Return the states, with the outcome PRUNED for those that cannot win even in the best case.

    The penalised log-likelihood of a candidate never falls, so the best candidate keeps what it has now. The best
    case of another one is :func:`bound_final_gain` plus the statistical error ``p / 2N`` (p free parameters, N rows).
    For a criterion without a bound the states are returned as they are.
    """
    pruned, bound = list(states), BOUNDS.get(criterion)
    if bound is None:
        return pruned
    value = CRITERIA[base_criterion(criterion)]
    for leader, group in find_leaders(states, criterion):
        best = states[leader]
        for i in group:
            state = states[i]
            if not state.live or state.accepted is None:
                continue
            params, stats = state.accepted_point
            gain = bound_final_gain(state, passes_left) + params.n_parameters / (2.0 * stats.rows)
            behind = bound.least(_evaluate_criteria(state, gain)) - value(_evaluate_criteria(best))
            if np.isfinite(behind) and behind > 0.0:
                name = f"{best.params.family.name}-{best.params.n_components}"
                reason = f"cannot win: at least {behind:,.0f} behind {name}"
                pruned[i] = replace(state, params=params, memory=None, outcome=Outcome.PRUNED, reason=reason)
    return pruned
