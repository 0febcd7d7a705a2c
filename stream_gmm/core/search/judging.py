"""How good fits on a sample are: which restarts are one, which go on, and which is the better of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from stream_gmm.core.criteria import estimate_optimism
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.em import FIT_ERRORS, EMState, Outcome, Scheme, StopRule, end_state, run_to_end
from stream_gmm.core.fit.few_rows import End
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import find_undetermined, mstep
from stream_gmm.core.mstep.penalty import Penalty, PseudoRows
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.search.sample_fit import Rank, SampleFit, Start
from stream_gmm.core.stats import SuffStats

RACE_TOL = 1e-5
"""Predicted gain, nats per row, at which a restart in a race stops."""
SAME_WEIGHT = 1e-3
"""Restarts whose log-likelihoods differ by less than ``RACE_TOL``, and their weights by less than this, are one."""
FINALISTS = 2
"""Restarts that are run to convergence."""
PLENTY = 20
"""Rows per parameter from which on a degenerate fit is not blamed on a small sample."""


def are_same(one: End, other: End) -> bool:
    """Return True if two restarts have come to the same point for a race."""
    if one is other or not abs(one.loglik - other.loglik) <= RACE_TOL:
        return one is other
    return bool(np.abs(np.sort(one.weights) - np.sort(other.weights)).max() <= SAME_WEIGHT)


def end_fit(params: MixtureParams, stats: SuffStats, penalty: Penalty, left: float = np.inf) -> EMState:
    """Return a fit that has ended at a point with these statistics: degenerate if a component has collapsed there."""
    state = EMState(
        params, accepted=params, stats=stats, history=(stats.mean_loglik,), passes=1, left=left,
    )  # fmt: skip
    try:
        report = find_undetermined(stats, params, penalty)
    except FIT_ERRORS as error:
        return replace(state, outcome=Outcome.FAILED, reason=str(error))
    return end_state(replace(state, report=report) if report else state, Outcome.MAX_PASSES)


@dataclass(frozen=True, eq=False)
class Judge:
    """Ranks fits on the rows of an E-step.

    Parameters
    ----------
    moments
        Moments of all rows, where they cannot be computed from the rows because some values are missing.
    """

    estep: InMemoryEStep
    penalty: Penalty
    moments: SuffStats | None = None

    def rank(self, state: EMState) -> Rank:
        """Return how good a fit is; of two, the one with the larger value is kept.

        With rows enough, a degenerate fit comes last, and the log-likelihood counts less its expected excess over
        that of new rows: a component that owes its likelihood to a few rows that happen to lie close together does
        not win. With few rows nearly every fit has a component on two or three of them: the likelihood of a
        degenerate fit is then taken with a pseudo-row in every component.
        """
        if state.outcome is Outcome.FAILED or state.stats is None:
            return (False, False, -np.inf)
        is_degenerate, family = state.outcome is Outcome.DEGENERATE, state.params.family
        if len(self.estep.rows) >= PLENTY * state.params.n_parameters:
            return (True, not is_degenerate, state.history[-1] - estimate_optimism(family, state.stats))
        if not is_degenerate:
            return (True, True, state.history[-1])
        blurred, _ = mstep(state.stats, family, self._pseudo_row, state.params)
        return (True, True, self.estep.evaluate(blurred).mean_loglik)

    def judge_ends(self, ends: Sequence[End], estep: InMemoryEStep) -> list[EMState]:
        """Return ends as fits that go no further; those that are the same are one object."""
        first = [next(j for j in range(i + 1) if are_same(ends[j], end)) for i, end in enumerate(ends)]
        judged = {i: self.judge_end(ends[i], estep) for i in sorted(set(first))}
        return [judged[i] for i in first]

    def judge_end(self, end: End, estep: InMemoryEStep) -> EMState:
        if end.stats is not None:
            return end_fit(end.params, end.stats, self.penalty, end.left)
        judge = Scheme(StopRule(RACE_TOL, 0), self.penalty)
        return run_to_end([EMState(end.params, left=end.left)], estep, judge)[0]

    def keep_ahead(self, names: Sequence[str], ended: Sequence[EMState]) -> tuple[list[Start], SampleFit]:
        """Return the better half of the restarts of a rung, but no more than can win, and how good the best is."""
        ranks = {id(state): self.rank(state) for state in ended}
        first = {id(s): (name, s) for name, s in reversed(list(zip(names, ended, strict=True)))}
        distinct = list(first.values())[::-1]
        ranked = sorted(distinct, key=lambda pair: ranks[id(pair[1])], reverse=True)
        most = ranks[id(ranked[0][1])]
        starts = [
            (name, s.params)
            for name, s in ranked[: max(FINALISTS, len(ranked) // 2)]
            # The others can hardly overtake the best; where that has failed itself, nothing is known of them.
            if not (ranks[id(s)][:2] == most[:2] and ranks[id(s)][2] + s.left < most[2])
        ]
        return starts, SampleFit(None, ranked[0][1].history, rank=most)

    @cached_property
    def _pseudo_row(self) -> PseudoRows:
        return PseudoRows.of(self.moments or collect_moments(self.estep.rows, self.estep.weights), 1.0)
