"""What a search on a sample returns: a candidate fitted there, and how it compares with other fits of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_gmm.core.fit.em import EMState
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import SingularCovarianceError

Rank = tuple[bool, bool, float]


@dataclass(frozen=True)
class SampleFit:
    """A candidate fitted on the sample: where its full passes start."""

    params: MixtureParams | None
    history: tuple[float, ...] = ()
    reason: str = ""
    events: tuple[str, ...] = ()
    """What was done to components that were empty or duplicates."""
    rank: Rank = (False, False, -np.inf)
    """How it compares with other fits of the same candidate."""
    origin: str = ""
    """The start it came from."""
    finalists: tuple[tuple[str, MixtureParams], ...] = ()
    """After the race: the starts that are to be run to convergence."""
    left: float = np.inf
    """What is left to gain on the sample, nats per row; inf if that is not known."""

    def make_start(self, sample_is_whole: bool, params: MixtureParams | None = None) -> EMState:
        """Return the state in which full passes begin, at ``params`` in place of its own if they are given."""
        at = params or self.params
        assert at is not None
        return EMState(at, events=self.events, left=self.left if sample_is_whole else np.inf)

    @property
    def is_sound(self) -> bool:
        """False if a component has collapsed, although there are rows enough."""
        return self.rank[1]


Start = tuple[str, MixtureParams]
"""The name of a start, and its parameters."""


def is_same_seed(one: SuffStats, other: SuffStats) -> bool:
    """Return True if two seedings have found the same clusters, in whatever order."""
    if len(one.weight) != len(other.weight):
        return False
    weights = zip(sorted(one.weight.tolist()), sorted(other.weight.tolist()), strict=True)
    if any(abs(v - w) > 1e-8 + 1e-12 * w for v, w in weights):
        return False
    a, b = (np.array([s.weight, s.mean[:, 0]])[:, np.argsort(s.weight)] for s in (one, other))
    return bool(np.all(np.abs(a - b) <= 1e-8 + 1e-12 * np.abs(b)))


def is_regular(params: MixtureParams) -> bool:
    """Return True if all covariances are positive definite."""
    try:
        _ = params.precisions_cholesky
    except SingularCovarianceError:
        return False
    return True
