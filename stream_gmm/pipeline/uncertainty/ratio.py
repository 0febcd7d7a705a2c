"""The likelihood-ratio test of K against K + 1 components; its distribution under K is simulated.

Under K components the larger mixture is not identified, so the statistic does not follow a chi-squared distribution.
It is compared with its values in data drawn from the fit with K components (McLachlan 1987), as in mclust.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.sample_fit import SampleFit
from stream_gmm.core.search.sample_search import SampleSearch
from stream_gmm.errors import ConfigError, InputDataError, SingularCovarianceError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.decode import MARGINALISE
from stream_gmm.io.source.memory import require_complete_rows
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.progress import Listener, Meter, ignore_progress

ROWS = 5_000
REPLICATES = 99
_TOLERANCE_NATS = 0.01
"""Predicted gain of the total log-likelihood at which the fits stop, nats."""


@dataclass(frozen=True)
class RatioTest:
    """The bootstrap likelihood-ratio test of K against K + 1 components (McLachlan 1987).

    Attributes
    ----------
    n_components, covariance_type
        K and the structure.
    statistic
        ``2 (l_{K+1} - l_K)`` on the rows of the test, nats.
    simulated
        The statistic in data drawn from the fit with K components.
    rows
        Rows of the test.
    """

    n_components: int
    covariance_type: str
    statistic: float
    simulated: tuple[float, ...]
    rows: int

    @property
    def p_value(self) -> float:
        """``(1 + how many are as large) / (1 + replicates)``: small if K components are too few."""
        return (1 + sum(s >= self.statistic for s in self.simulated)) / (1 + len(self.simulated))


@dataclass(frozen=True)
class _Simulation:
    """What every simulated data set needs."""

    params: MixtureParams
    rows: int
    settings: Settings


def ratio_test(
    profile: Profile,
    n_components: int,
    covariance_type: str,
    settings: Settings,
    executor: Executor,
    *,
    replicates: int = REPLICATES,
    rows: int = ROWS,
    listener: Listener = ignore_progress,
) -> RatioTest:
    """Test K against K + 1 components on the first ``rows`` rows of the sample; the data is not read.

    With more rows, smaller departures from K components become significant.

    Raises
    ------
    ConfigError
        If there is no replicate, or with a noise component.
    InputDataError
        If rows are weighted, or a fit fails.
    """
    if replicates < 1:
        raise ConfigError("replicates must be at least 1.")
    if settings.noise:
        raise ConfigError("the likelihood-ratio test is not defined for mixtures with a noise component.")
    if profile.weighted:
        raise InputDataError(
            explain("the likelihood-ratio test is not for weighted rows", why="its law is simulated by single rows")
        )
    if profile.incomplete_rows:
        require_complete_rows(MARGINALISE, "the likelihood-ratio test")
    family, sample = family_named(covariance_type), profile.sample.rows[:rows]
    smaller, statistic = _compute_statistic(sample, n_components, family, settings, (settings.random_state, 0))
    assert smaller.params is not None
    task = _Simulation(smaller.params, len(sample), settings)
    meter = Meter(listener, "ratio test", [1] * replicates, unit="replicates")
    simulated = executor.map(_simulate_statistic, range(1, replicates + 1), shared=task, label="ratio", on_done=meter)
    return RatioTest(n_components, family.name, statistic, tuple(simulated), len(sample))


def _simulate_statistic(replicate: int, task: _Simulation) -> float:
    rng = np.random.default_rng([task.settings.random_state, 3, replicate])
    rows = rng.permutation(draw_rows(task.params, task.rows, rng)[0])
    params = task.params
    seed = (task.settings.random_state, replicate)
    return _compute_statistic(rows, params.n_components, params.family, task.settings, seed)[1]


def _compute_statistic(
    rows: Array, k: int, family: CovarianceFamily, settings: Settings, seed: tuple[int, ...]
) -> tuple[SampleFit, float]:
    """Return the fit with K components, and twice what one more gains on the rows, nats."""
    penalty = settings.penalty_of(collect_moments(rows))
    search = SampleSearch(rows, Scaling.of_rows(rows), penalty, _TOLERANCE_NATS / len(rows))
    smaller = search.fit(k, family, settings.n_init, seed)
    larger = search.improve_from_neighbours(search.fit(k + 1, family, settings.n_init, seed), smaller, None)
    if smaller.params is None or larger.params is None:
        raise SingularCovarianceError(smaller.reason or larger.reason)
    return smaller, 2.0 * len(rows) * max(larger.history[-1] - smaller.history[-1], 0.0)
