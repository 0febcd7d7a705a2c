"""What keeps covariances from becoming singular: a ridge, or pseudo-rows in the data's own scale.

Every penalty also reports which components have *collapsed*: components whose rows do not determine a covariance.
That is judged by the rows alone, in units of the pooled within-component covariance, and never by the size of the
ridge: a tight cluster has not collapsed, however large the ridge is beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.stats import SuffStats

PSEUDO_ROWS = 1e-8
"""So few that a component of 100 rows with a standard deviation of 1e-4 of the data's is biased by about 1 %."""
TIGHT = 1e-2
"""Standard deviation, relative to the data's, below which a component of few rows may be a coincidence."""

SINGULAR = 1e-10
"""A component has collapsed if a variance is below this share of the pooled within-component variance."""
_ULPS = 4.0
"""A standard deviation of so many units in the last place of the mean is rounding error, not spread."""

Estimate = tuple[Array, NDArray[np.bool_]]
"""Covariances in the family's shape, and which components ``(K,)`` have collapsed."""


class Penalty(Protocol):
    """How an M-step estimates covariances."""

    @property
    def has_objective(self) -> bool:
        """True if the estimate maximises the log-likelihood plus :meth:`value`, so that EM never lowers the sum."""

    def prepare(self, stats: SuffStats) -> SuffStats:
        """Return the statistics with the means as they are estimated, and the scatter about those."""

    def estimate(self, family: CovarianceFamily, stats: SuffStats) -> Estimate:
        """Return the penalised estimate from prepared statistics with positive weights."""

    def value(self, params: MixtureParams) -> float:
        """Return the penalty term of the objective, in nats, for all rows together."""

    def restrict(self, params: MixtureParams) -> MixtureParams:
        """Return a mixture, that an extrapolation has led to, within the bounds of the estimates if there are any."""


@dataclass(frozen=True)
class Ridge:
    """scikit-learn's ``reg_covar``: ``amount`` is added to the diagonals after every M-step, in units of the data.

    It is not the gradient of any penalty: a step with it can lower the log-likelihood, and its fixed points are
    not maxima of the log-likelihood. Whether EM has converged is therefore judged by how far it still moves.
    """

    amount: float = 1e-6

    @property
    def has_objective(self) -> bool:
        return self.amount == 0.0

    def prepare(self, stats: SuffStats) -> SuffStats:
        return stats

    def estimate(self, family: CovarianceFamily, stats: SuffStats) -> Estimate:
        raw = family.estimate(stats.weight, stats.scatter)
        covariances = family.ridge(raw, np.full(stats.mean.shape[1], self.amount))
        return covariances, find_collapsed(family, raw, stats)

    def value(self, params: MixtureParams) -> float:
        return 0.0

    def restrict(self, params: MixtureParams) -> MixtureParams:
        return params


@dataclass(frozen=True, eq=False)
class Unit:
    """A scatter ``(1, ...)``, and the map to coordinates in which it is the identity: a scale, and a root or none."""

    scatter: Array
    scale: Array
    inverse_root: Array | None = None

    @classmethod
    def of(cls, scatter: Array) -> Unit:
        """Return a scatter ``(1, ...)`` as a unit; collinear columns have no root."""
        unit = scatter[0]
        if unit.ndim < 2:
            return cls(scatter, np.where(unit > 0.0, unit, 1.0))
        sd = np.sqrt(np.where(np.diagonal(unit) > 0.0, np.diagonal(unit), 1.0))
        scale = np.outer(sd, sd)
        try:
            return cls(scatter, scale, np.linalg.inv(np.linalg.cholesky(unit / scale)))
        except np.linalg.LinAlgError:
            return cls(scatter, scale)

    def express(self, scatter: Array) -> Array:
        """Return scatter ``(K, ...)`` in these units."""
        scaled = np.asarray(scatter / self.scale)
        return scaled if self.inverse_root is None else self.inverse_root @ scaled @ self.inverse_root.T


@dataclass(frozen=True)
class PseudoRows:
    """``rows`` pseudo-rows for each component, at its mean, that vary as all the data together do.

    The penalty ``-(w / 2) (log |Sigma_k| + tr(S0 Sigma_k^-1))`` of Chen & Tan (2009), with
    ``S0 = spread K^(-2/D)``: the likelihood is bounded, no unit matters, and every M-step is an exact maximum, so
    that the penalised log-likelihood never falls.
    """

    spread: Array
    """Covariance ``(D, D)`` of all rows."""
    rows: float = PSEUDO_ROWS
    has_objective: ClassVar[bool] = True

    @classmethod
    def of(cls, moments: SuffStats, rows: float = PSEUDO_ROWS) -> PseudoRows:
        """Return the penalty for rows of these moments; a constant column counts as one of variance 1."""
        covariance = moments.scatter[0] / moments.rows
        constant = np.diagonal(covariance) <= 0.0
        return cls(covariance + np.diag(constant.astype(np.float64)), rows)

    def prepare(self, stats: SuffStats) -> SuffStats:
        return stats

    @cached_property
    def _units(self) -> dict[tuple[str, int], Unit]:
        return {}

    def _unit(self, family: CovarianceFamily, n_components: int) -> Unit:
        """Return the scatter of one pseudo-row as a unit; it is wanted in every step."""
        key = family.name, n_components
        if key not in self._units:
            d = len(self.spread)
            matrices = self.spread if family.matrices else np.diag(np.diagonal(self.spread))
            self._units[key] = Unit.of(family.moments.condense(matrices[None] * n_components ** (-2.0 / d)))
        return self._units[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"spread": self.spread, "rows": self.rows}

    def _prior_scatter(self, family: CovarianceFamily, n_components: int) -> Array:
        """Return the scatter of one pseudo-row, with a leading axis of 1."""
        return self._unit(family, n_components).scatter

    def estimate(self, family: CovarianceFamily, stats: SuffStats) -> Estimate:
        """Return the penalised estimate.

        A component has collapsed if the penalty outweighs its rows, or if so few rows lie so close together in
        some direction that among all the rows this is to be expected by chance.
        """
        k, scatter = len(stats.weight), stats.scatter
        own, each = self._prior_scatter(family, k), self.rows / (k if family.shared else 1)
        covariances = family.estimate(stats.weight + each, scatter + self.rows * own)
        pooled = scatter if len(scatter) == k or family.shared else scatter.sum(axis=0, keepdims=True)
        smallest = family.moments.smallest_variance(self._unit(family, k).express(pooled))
        collapsed = np.broadcast_to(smallest < self.rows, (k,))
        if len(scatter) == k and not family.shared:
            dimension = len(self.spread) if family.matrices else 1
            collapsed = collapsed | _is_coincidence(stats.weight, smallest, dimension)
        return covariances, collapsed

    def value(self, params: MixtureParams) -> float:
        family = params.family
        own = self._prior_scatter(family, params.n_components)
        whitener = family.expand(params.precisions_cholesky, *params.means.shape)
        whitener = whitener[:1] if family.shared else whitener
        return self.rows * float(
            np.sum(half_log_determinants(whitener)) - 0.5 * np.sum(compute_precisions(whitener) * own)
        )

    def restrict(self, params: MixtureParams) -> MixtureParams:
        return params


def find_collapsed(family: CovarianceFamily, covariances: Array, stats: SuffStats) -> NDArray[np.bool_]:
    """Return which components ``(K,)`` have a variance that is zero but for rounding.

    ``covariances`` are those that the rows alone give. A variance is taken for zero below 1e-10 of the pooled
    within-component variance in the same direction, or if it is no more than the rounding of the mean.
    """
    k, d = stats.mean.shape
    values = np.array(family.expand(covariances, k, d))
    within = stats.scatter.sum(axis=0) / stats.weight.sum()
    smallest = family.moments.smallest_variance(Unit.of(within[None]).express(values))
    rounding = (_ULPS * np.finfo(np.float64).eps * np.abs(stats.mean)) ** 2
    return np.asarray((smallest <= SINGULAR) | np.any(family.moments.diagonal(values) <= rounding, axis=1))


def _is_coincidence(weight: Array, scatter: Array, dimension: int) -> NDArray[np.bool_]:
    """Return where some ``weight (K,)`` of all the rows are expected to lie in so thin a slab by chance.

    ``dimension`` rows always lie in a common hyperplane. Each further one is within a relative distance r of it
    with a probability of about r, and there are ``C(N, n)`` ways to choose n rows of N.
    """
    relative = np.sqrt(np.maximum(scatter, 1e-300) / np.maximum(weight, 1.0))
    if not (relative < TIGHT).any():
        return np.zeros(len(weight), dtype=bool)
    total = max(float(weight.sum()), 1.0)
    choices = gammaln(total + 1.0) - gammaln(weight + 1.0) - gammaln(np.maximum(total - weight, 0.0) + 1.0)
    expected = choices + np.maximum(weight - dimension, 0.0) * np.log(relative)
    return np.asarray((relative < TIGHT) & (expected > 0.0))


def half_log_determinants(whitener: Array) -> Array:
    """Return half the log-determinant ``(K,)`` of the precisions of whiteners ``(K, D, D)`` or ``(K, D)``."""
    diagonal = whitener if whitener.ndim == 2 else np.einsum("kjj->kj", whitener)
    return np.asarray(np.log(diagonal).sum(axis=1))


def compute_precisions(whitener: Array) -> Array:
    """Return precisions ``(K, D, D)`` or ``(K, D)``; their product with a scatter sums to the trace."""
    return np.asarray(whitener**2 if whitener.ndim == 2 else whitener @ np.swapaxes(whitener, 1, 2))
