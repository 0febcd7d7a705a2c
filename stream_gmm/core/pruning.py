"""Candidates that cannot win any more need no more passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stream_gmm.core.criteria import CRITERIA, Criteria
from stream_gmm.core.em import EMState, Outcome

PRUNABLE = ("bic", "aic")
"""Criteria that follow from the log-likelihood alone, so that a bound on one is a bound on the other."""
CAUTION = 3.0
"""How many times the predicted gain a candidate is granted."""


def _criteria(state: EMState, gain: float = 0.0) -> Criteria:
    params, stats = state.point
    found = Criteria.from_stats(stats, params.n_parameters)
    return replace(found, loglik=found.loglik + stats.rows * gain)


def _best_case(state: EMState) -> Criteria:
    """Return the criteria after three times the predicted gain and the statistical error ``p / 2N`` on top."""
    params, stats = state.point
    return _criteria(state, CAUTION * state.remaining[-1] + params.n_parameters / (2.0 * stats.rows))


def prune(states: Sequence[EMState], criterion: str) -> list[EMState]:
    """Return the states, with those ended that could not win even in their best case.

    The penalised log-likelihood of a candidate never falls: what the best has now, it keeps.
    """
    value = CRITERIA[criterion]
    seen = [s for s in states if s.at is not None and s.outcome is not Outcome.FAILED and not s.report]
    if criterion not in PRUNABLE or not seen:
        return list(states)
    best = min(seen, key=lambda s: value(_criteria(s)))
    least = value(_criteria(best))
    return [_ended(s, best, value(_best_case(s)) - least) if s.live and s.at is not None else s for s in states]


def _ended(state: EMState, best: EMState, behind: float) -> EMState:
    if not (np.isfinite(behind) and behind > 0.0):
        return state
    name = f"{best.params.family.name}-{best.params.n_components}"
    reason = f"cannot win: at least {behind:,.0f} behind {name}"
    return replace(state, params=state.point[0], memory=None, outcome=Outcome.PRUNED, reason=reason)
