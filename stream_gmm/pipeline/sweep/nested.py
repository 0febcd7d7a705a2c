"""Candidates that start again in the full passes, from splits of a better one with one component less.

The optimum of K + 1 components is at least as good as that of K. Where the fit on the sample has led to a poor
optimum of all rows, the candidate would be pruned for that; a split of the parameters that the full passes have found
for K may lead to a better one. Such starts take part in passes that are made anyway, and seldom need further ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from stream_gmm.core.criteria import base_criterion, penalty_per_parameter
from stream_gmm.core.fit.em import EMState, Outcome
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.search.nested import measure_on_sample, split_by_sample
from stream_gmm.core.search.pruning import BOUNDS, find_leaders, prune_states
from stream_gmm.core.search.sample_search import SampleSearch
from stream_gmm.execute.protocol import Executor
from stream_gmm.pipeline.fit.grid import CandidateSpec
from stream_gmm.pipeline.fit.sample import make_sample_search
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.profile import Profile

PASSES_BEFORE = 2
"""After so many passes it shows whether a fit on the sample has led to a good optimum of all rows."""
TRIED_SPLITS = 3
"""So many splits, the best on the sample, are tried on all rows."""
ROUNDS = 2
"""So often a candidate is started again; the second time only while the better one takes part in passes anyway."""


def spec_of(state: EMState) -> CandidateSpec:
    """Return what was asked of the candidate whose state this is."""
    return CandidateSpec(state.params.n_components, state.params.family.name)


def tracks_by_spec(states: Sequence[EMState]) -> dict[CandidateSpec, tuple[EMState, ...]]:
    """Return the states of each candidate, from its several starts in their order."""
    out: dict[CandidateSpec, tuple[EMState, ...]] = {}
    for state in states:
        out[spec_of(state)] = (*out.get(spec_of(state), ()), state)
    return out


def _try_split(component: int, shared: tuple[SampleSearch, MixtureParams]) -> tuple[float, MixtureParams] | None:
    """Return a split, with its log-likelihood on the sample."""
    search, params = shared
    split = split_by_sample(search, params, component)
    return None if split is None else (measure_on_sample(search, split), split)


@dataclass
class NestedReview:
    """After every pass: prunes candidates, and starts those again that may be better than they turned out to be.

    The states of ``n_candidates`` candidates come first, then those of further starts of them, which are pruned even
    if candidates are not: they are there to win. ``rounds`` counts how often each candidate was to start again.
    """

    n_candidates: int
    profile: Profile
    settings: Settings
    executor: Executor
    criterion: str
    passes_left: float
    prune: bool = True
    rounds: dict[CandidateSpec, int] = field(default_factory=dict)

    def __call__(self, states: Sequence[EMState]) -> list[EMState]:
        """Return the states, with the further starts of the candidates that come first at their end."""
        n, judged = self.n_candidates, prune_states(states, self.criterion, self.passes_left)
        restarts = [*judged[n:], *self._start_again(judged)]
        order = {spec_of(state): i for i, state in enumerate(states[:n])}
        return [*(judged if self.prune else states)[:n], *sorted(restarts, key=lambda s: order[spec_of(s)])]

    def _start_again(self, judged: Sequence[EMState]) -> list[EMState]:
        """Return new starts for each candidate that is no better than the leader, which has one component less."""
        places = {spec_of(state): i for i, state in enumerate(judged[: self.n_candidates])}
        restarts = tracks_by_spec(judged[self.n_candidates :])
        out = []
        for leader, _ in find_leaders(judged, self.criterion):
            best = judged[leader]
            k, name = spec_of(best)
            spec = CandidateSpec(k + 1, name)
            if spec not in places or not self._is_due(spec, judged[places[spec]], restarts.get(spec, ()), best):
                continue
            self.rounds[spec] = self.rounds.get(spec, 0) + 1
            out += self._list_starts(best, max(best.passes, judged[places[spec]].passes))
        return out

    def _is_due(self, spec: CandidateSpec, own: EMState, restarts: Sequence[EMState], best: EMState) -> bool:
        if own.outcome is Outcome.FAILED or min(best.passes, own.passes if own.live else np.inf) < PASSES_BEFORE:
            return False
        if BOUNDS[self.criterion].within_k and own.objectives[-1:] >= best.objectives[-1:]:
            return False  # each K has a leader, and only a K that is below K - 1 has missed an optimum
        made = self.rounds.get(spec, 0)
        return made == 0 or (made < ROUNDS and best.live and not any(s.live for s in restarts))

    def _list_starts(self, best: EMState, passes: int) -> list[EMState]:
        """Return the best splits, of those that gain on the sample what the criterion asks for one component more."""
        (params, stats), (k, name) = best.accepted_point, spec_of(best)
        asked = penalty_per_parameter(base_criterion(self.criterion), stats.rows) * params.n_parameters / k
        least = measure_on_sample(self._search, params) + asked
        tried = self.executor.map(_try_split, range(k), shared=(self._search, params), label="split")
        splits = sorted((t for t in tried if t is not None and t[0] >= least), key=lambda t: -t[0])[:TRIED_SPLITS]
        event = f"pass {passes}: started again from a split of {name}-{k}, which was better by then"
        return [EMState(params, passes=passes, events=(event,)) for _, params in splits]

    @cached_property
    def _search(self) -> SampleSearch:
        return make_sample_search(self.profile, self.settings)


def choose_start(tracks: Sequence[EMState]) -> EMState:
    """Return the best of the fits of a candidate from different starts, the first of them if they are equal."""

    def rank(state: EMState) -> tuple[bool, bool, float]:
        is_fitted = state.accepted is not None and state.outcome is not Outcome.FAILED
        is_sound = is_fitted and state.outcome not in (Outcome.DEGENERATE, Outcome.PRUNED)
        return is_sound, is_fitted, state.objectives[-1] if state.objectives else -float("inf")

    return max(tracks, key=rank)
