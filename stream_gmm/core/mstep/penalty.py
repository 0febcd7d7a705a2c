"""What keeps covariances away from singular ones: a ridge, or pseudo-rows in the data's own scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.stats import SuffStats

PSEUDO_ROWS = 1e-3

Estimate = tuple[Array, NDArray[np.bool_]]
"""Covariances in the family's shape, and which components ``(K,)`` owe their smallest variance to the penalty."""


class Penalty(Protocol):
    """How an M-step estimates covariances from ``n_k (K,)`` and scatter about the means."""

    def prepare(self, stats: SuffStats) -> SuffStats:
        """Return the statistics with the means as they are estimated, and the scatter about those."""

    def estimate(self, family: CovarianceFamily, weight: Array, scatter: Array) -> Estimate:
        """Return the penalised estimate."""

    def value(self, params: MixtureParams) -> float:
        """Return what is added to the log-likelihood (nats, of all rows together) to give what EM raises."""


@dataclass(frozen=True)
class Ridge:
    """scikit-learn's ``reg_covar``: added to the diagonals after every M-step, in units of the data.

    It is no penalty in the strict sense: a step with it can lower the log-likelihood a little.
    """

    amount: float = 1e-6

    def prepare(self, stats: SuffStats) -> SuffStats:
        return stats

    def estimate(self, family: CovarianceFamily, weight: Array, scatter: Array) -> Estimate:
        raw = family.estimate(weight, scatter)
        k, d = len(weight), scatter.shape[1]
        covariances = family.ridge(raw, np.full(d, self.amount))
        smallest = family.moments.smallest_variance(np.array(family.expand(raw, k, d)))
        return covariances, np.asarray(smallest < self.amount)

    def value(self, params: MixtureParams) -> float:
        return 0.0


@dataclass(frozen=True)
class PseudoRows:
    """``rows`` pseudo-rows for each component, at its mean, that vary as all the data together do.

    The penalty ``-(w / 2) (log |Sigma_k| + tr(S0 Sigma_k^-1))`` of Chen & Tan (2009), with
    ``S0 = spread K^(-2/D)``: bounded likelihood, scale-free, and an exact maximum in every M-step, so that
    the penalised log-likelihood never falls. A well-fed component changes by ``w / n_k``.
    """

    spread: Array
    """Covariance ``(D, D)`` of all rows."""
    rows: float = PSEUDO_ROWS

    @classmethod
    def of(cls, moments: SuffStats, rows: float = PSEUDO_ROWS) -> PseudoRows:
        """Return the penalty for rows of these moments; a constant column counts as one of variance 1."""
        covariance = moments.scatter[0] / moments.rows
        constant = np.diagonal(covariance) <= 0.0
        return cls(covariance + np.diag(constant.astype(np.float64)), rows)

    def prepare(self, stats: SuffStats) -> SuffStats:
        return stats

    def _prior_scatter(self, family: CovarianceFamily, n_components: int) -> Array:
        d = len(self.spread)
        matrices = self.spread if family.matrices else np.diag(np.diagonal(self.spread))
        return family.moments.condense(matrices[None] * n_components ** (-2.0 / d))

    def estimate(self, family: CovarianceFamily, weight: Array, scatter: Array) -> Estimate:
        k = len(weight)
        own, each = self._prior_scatter(family, k), self.rows / (k if family.shared else 1)
        covariances = family.estimate(weight + each, scatter + self.rows * own)
        pooled = scatter if len(scatter) == k or family.shared else scatter.sum(axis=0, keepdims=True)
        relative = family.moments.smallest_variance(_in_units_of(pooled, own[0]))
        return covariances, np.broadcast_to(relative < self.rows, (k,))

    def value(self, params: MixtureParams) -> float:
        family = params.family
        own = self._prior_scatter(family, params.n_components)
        whitener = compile_density(params).whitener
        whitener = whitener[:1] if family.shared else whitener
        return self.rows * float(
            np.sum(half_log_determinants(whitener)) - 0.5 * np.sum(compute_precisions(whitener) * own)
        )


def _in_units_of(scatter: Array, own: Array) -> Array:
    """Return scatter in units in which ``own`` is the identity."""
    if own.ndim == 1:
        return np.asarray(scatter / own)
    try:
        inverse = np.linalg.inv(np.linalg.cholesky(own))
    except np.linalg.LinAlgError:  # collinear columns
        inverse = np.diag(1.0 / np.sqrt(np.diagonal(own)))
    return np.asarray(inverse @ scatter @ inverse.T)


def half_log_determinants(whitener: Array) -> Array:
    """Return half the log-determinant ``(K,)`` of the precisions of whiteners ``(K, D, D)`` or ``(K, D)``."""
    diagonal = whitener if whitener.ndim == 2 else np.einsum("kjj->kj", whitener)
    return np.asarray(np.log(diagonal).sum(axis=1))


def compute_precisions(whitener: Array) -> Array:
    """Return precisions ``(K, D, D)`` or ``(K, D)``; their product with a scatter sums to the trace."""
    return np.asarray(whitener**2 if whitener.ndim == 2 else whitener @ np.swapaxes(whitener, 1, 2))
