"""The M-step: from statistics to parameters, with a report of components that rows could not determine."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.display import shorten_list
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import Penalty, Ridge
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import SingularCovarianceError

STARVING_ROWS = 1e-6
"""A component with no more expected rows than this keeps its previous mean and covariance."""
COLLAPSED_STEPS = 50
"""A fit in which the same components have been collapsed for so many steps ends as degenerate: none comes back."""
MENDING_RIDGE = 1e-9
"""Ridge that mends a singular covariance, relative to the variance of each column."""


@dataclass(frozen=True)
class MStepReport:
    """Components that an M-step could not estimate from rows; component numbers are 0-based."""

    starving: tuple[int, ...] = ()
    """Components without rows; they keep their previous mean and covariance."""
    floored: tuple[int, ...] = ()
    """Components that have collapsed: their rows do not determine a covariance."""

    def __bool__(self) -> bool:
        return bool(self.starving or self.floored)

    def describe(self) -> str:
        """Return the report as a phrase; empty if there is nothing to report."""
        parts = []
        if self.starving:
            parts.append(f"components [{shorten_list(list(map(str, self.starving)))}] have no rows left")
        if self.floored:
            names = shorten_list(list(map(str, self.floored)))
            parts.append(f"components [{names}] have collapsed: their rows have no spread")
        return "; ".join(parts)


NO_REPORT = MStepReport()
RIDGE = Ridge()


def find_undetermined(stats: SuffStats, at: MixtureParams, penalty: Penalty = RIDGE) -> MStepReport:
    """Return the report of :func:`mstep` from these parameters, without its result, which takes longer.

    Raises
    ------
    SingularCovarianceError
        As :func:`mstep`.
    """
    if not (stats.weight <= STARVING_ROWS).any():
        covariances, collapsed = penalty.estimate(at.family.continue_from(at.covariances), penalty.prepare(stats))
        with contextlib.suppress(SingularCovarianceError):
            at.family.precisions_cholesky(covariances)
            return MStepReport((), _list_components(collapsed))
    return mstep(stats, at.family, penalty, at)[1]


def mstep(
    stats: SuffStats,
    family: CovarianceFamily,
    penalty: Penalty = RIDGE,
    previous: MixtureParams | None = None,
) -> tuple[MixtureParams, MStepReport]:
    """Maximise the penalised expected complete log-likelihood (Dempster, Laird & Rubin 1977).

    A starving component keeps the mean and covariance of ``previous``. A covariance that is singular
    in spite of the penalty gets a ridge of 1e-9 of each column's variance, and is reported as collapsed.

    Raises
    ------
    SingularCovarianceError
        If no ridge helps: a column is constant and ``reg_covar`` is 0.
    """
    starving = stats.weight <= STARVING_ROWS
    if starving.any() and len(stats.scatter) == len(starving):
        # All that is left of a starving component's scatter is rounding error.
        scatter = np.array(stats.scatter)
        scatter[starving] = 0.0
        stats = replace(stats, scatter=scatter)
    stats = penalty.prepare(stats)
    stats = replace(stats, weight=np.maximum(stats.weight, STARVING_ROWS))
    iterated = family if previous is None else family.continue_from(previous.covariances)
    covariances, collapsed = penalty.estimate(iterated, stats)
    means = stats.mean
    if starving.any() and previous is not None:
        means = np.where(starving[:, None], previous.means, means)
        if not family.shared:
            covariances = np.array(covariances)
            covariances[starving] = previous.covariances[starving]
    noise = None if previous is None else previous.noise
    # The share of the rows that no component accounts for is noise.
    total = stats.weight.sum() if noise is None else max(stats.rows, stats.weight.sum())
    params = MixtureParams(stats.weight / total, means, covariances, family, noise)
    try:
        _ = params.precisions_cholesky
    except SingularCovarianceError:
        ridge = MENDING_RIDGE * stats.pooled_variances()
        params = replace(params, covariances=family.ridge(params.covariances, ridge))
        _ = params.precisions_cholesky
        collapsed = np.ones_like(collapsed) if not collapsed.any() else collapsed
    return params, MStepReport(_list_components(starving), _list_components(collapsed & ~starving))


def _list_components(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(mask)) if mask.any() else ()
