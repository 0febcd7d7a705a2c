"""The conjugate prior of mclust (Fraley & Raftery 2007): modes of the posterior instead of maxima of the likelihood.

``mean_k | Sigma_k ~ N(mean of all rows, Sigma_k / shrinkage)`` and an inverse Wishart (matrices) or inverse gamma
(variances) law of the covariance, whose scale is that of all rows divided among K components. The modes of
covariances are smaller than maximum-likelihood estimates by some ``(2 D + 4) / n_k``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import FULL, ISOTROPIC, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import Estimate, compute_precisions, half_log_determinants
from stream_gmm.core.stats import SuffStats

SHRINKAGE = 0.01
STRUCTURES = ("full", "tied", "diag", "spherical", "tied_diag", "tied_spherical")
"""The structures whose posterior modes are known in closed form."""


@dataclass(frozen=True)
class ConjugatePrior:
    """mclust's default prior: ``mean (D,)`` and ``covariance (D, D)`` (divisor N - 1) of all rows."""

    mean: Array
    covariance: Array
    shrinkage: float = SHRINKAGE
    has_objective: ClassVar[bool] = True

    @classmethod
    def of(cls, moments: SuffStats) -> ConjugatePrior:
        """Return the prior for rows of these moments; a constant column counts as one of variance 1."""
        covariance = moments.scatter[0] / max(moments.rows - 1.0, 1.0)
        constant = np.diagonal(covariance) <= 0.0
        return cls(np.asarray(moments.mean[0]), covariance + np.diag(constant.astype(np.float64)))

    def prepare(self, stats: SuffStats) -> SuffStats:
        """Return the statistics with means shrunk towards that of all rows, and the scatter that this adds."""
        total = stats.weight + self.shrinkage
        delta = stats.mean - self.mean
        mean = self.mean + (stats.weight / total)[:, None] * delta
        added = stats.moments.outer(self.shrinkage * stats.weight / total, delta)
        if len(stats.scatter) < len(added):
            added = added.sum(axis=0, keepdims=True)
        return replace(stats, mean=mean, scatter=stats.scatter + added)

    def _scale(self, family: CovarianceFamily, n_components: int) -> Array:
        """Return the scale matrix of the prior, in the shape of one component's scatter."""
        d = len(self.mean)
        shared_out = n_components ** (-2.0 / d)
        if family.moments is FULL:
            return np.asarray(self.covariance * shared_out)
        scale = shared_out * float(np.mean(np.diagonal(self.covariance)))
        return np.array([scale / d]) if family.moments is ISOTROPIC else np.full(d, scale)

    def _exponent(self, family: CovarianceFamily) -> float:
        """Return the power of ``|Sigma|^(-1/2)`` in the prior density of a covariance: it counts as so many rows."""
        d = len(self.mean)
        freedom = d + 2.0
        if family.moments is FULL:
            return freedom + d + 1.0
        return (freedom + 2.0) / d if family.moments is ISOTROPIC else freedom + 2.0

    def estimate(self, family: CovarianceFamily, stats: SuffStats) -> Estimate:
        """Return the modes of the posterior; under this prior no component collapses."""
        k = len(stats.weight)
        # The prior of every mean depends on the covariance, and so counts as a row.
        each = self._exponent(family) / (k if family.shared else 1) + 1.0
        covariances = family.estimate(stats.weight + each, stats.scatter + self._scale(family, k)[None])
        return covariances, np.zeros(k, dtype=np.bool_)

    def value(self, params: MixtureParams) -> float:
        """Return the logarithm of the prior's density, up to a constant."""
        family = params.family
        whitener = family.expand(params.precisions_cholesky, *params.means.shape)
        own = whitener[:1] if family.shared else whitener
        scale = self._scale(family, params.n_components)
        scale = np.full(len(self.mean), scale[0]) if family.moments is ISOTROPIC else scale
        of_covariances = self._exponent(family) * half_log_determinants(own).sum()
        of_covariances -= 0.5 * np.sum(compute_precisions(own) * scale)
        delta = params.means - self.mean
        white = delta * whitener if whitener.ndim == 2 else np.einsum("kj,kji->ki", delta, whitener)
        of_means = half_log_determinants(whitener).sum() - 0.5 * self.shrinkage * np.sum(white**2)
        return float(of_covariances + of_means)

    def restrict(self, params: MixtureParams) -> MixtureParams:
        return params
