"""M-step: statistics -> parameters, with a report of what it floored or found starving."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import Penalty, Ridge
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import SingularCovarianceError

# Below this many (expected) rows a component has no mean worth the name.
STARVING_ROWS = 1e-6
# Ridge, relative to the pooled variance of a column, that mends a singular covariance.
FLOOR = 1e-9


@dataclass(frozen=True)
class MStepReport:
    """What an M-step had to do beyond its formulas; component numbers are 0-based."""

    starving: tuple[int, ...] = ()
    """Components left without rows; they keep their previous mean and covariance."""
    floored: tuple[int, ...] = ()
    """Components whose smallest variance comes mostly from the penalty or the floor."""

    def __bool__(self) -> bool:
        return bool(self.starving or self.floored)

    def describe(self) -> str:
        """Return the report in words, empty if there is nothing to say."""
        parts = []
        if self.starving:
            parts.append(f"components {list(self.starving)} have no rows left")
        if self.floored:
            parts.append(f"components {list(self.floored)} have collapsed onto the variance floor")
        return "; ".join(parts)


NO_REPORT = MStepReport()
RIDGE = Ridge()


def mstep(
    stats: SuffStats,
    family: CovarianceFamily,
    penalty: Penalty = RIDGE,
    previous: MixtureParams | None = None,
) -> tuple[MixtureParams, MStepReport]:
    """Maximise the expected complete log-likelihood (Dempster, Laird & Rubin 1977).

    A starving component keeps the mean and covariance of ``previous``. A covariance that is singular
    in spite of the penalty gets a ridge of 1e-9 of each column's variance.

    Raises
    ------
    SingularCovarianceError
        If no ridge helps: a column is constant and ``reg_covar`` is 0.
    """
    starving = stats.weight <= STARVING_ROWS
    stats = penalty.prepare(_clear_scatter(stats, starving))
    weight = np.maximum(stats.weight, STARVING_ROWS)
    covariances, floored = penalty.estimate(family, weight, stats.scatter)
    if starving.any() and previous is not None and not family.shared:
        covariances = np.array(covariances)
        covariances[starving] = previous.covariances[starving]
    means = stats.mean
    if starving.any() and previous is not None:
        means = np.where(starving[:, None], previous.means, means)
    noise = None if previous is None else previous.noise
    # What the components' weights leave of the rows is noise.
    total = weight.sum() if noise is None else max(stats.rows, weight.sum())
    params = MixtureParams(weight / total, means, covariances, family, noise)
    params, mended = _mend_singular(params, stats)
    return params, MStepReport(_component_numbers(starving), _component_numbers((floored | mended) & ~starving))


def _component_numbers(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(mask))


def _clear_scatter(stats: SuffStats, starving: NDArray[np.bool_]) -> SuffStats:
    """Drop what rounding left of a starving component's scatter."""
    if not starving.any() or len(stats.scatter) != len(starving):
        return stats
    scatter = np.array(stats.scatter)
    scatter[starving] = 0.0
    return replace(stats, scatter=scatter)


def _mend_singular(params: MixtureParams, stats: SuffStats) -> tuple[MixtureParams, bool]:
    try:
        _ = params.precisions_cholesky
    except SingularCovarianceError:
        ridge = FLOOR * stats.pooled_variances()
        mended = replace(params, covariances=params.family.ridge(params.covariances, ridge))
        _ = mended.precisions_cholesky
        return mended, True
    return params, False
