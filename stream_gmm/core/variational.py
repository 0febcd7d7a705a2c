"""Variational inference for a Gaussian mixture with conjugate priors (Bishop 2006, section 10.2; Blei & Jordan 2006).

The posterior of the parameters is approximated by a product of distributions: of the weights (a Dirichlet, or the
sticks of a truncated Dirichlet process), and of each component's mean and precision (normal-Wishart). Its E-step is
that of an ordinary mixture with other weights, :func:`make_tilted_mixture`, so that the same passes serve it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.special import betaln, digamma, gammaln, logsumexp

from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import half_log_determinants
from stream_gmm.core.stats import SuffStats


class WeightPrior(Protocol):
    """A distribution of the mixing weights. Implementations are stateless; ``concentration`` holds parameters."""

    def update(self, concentration: float, counts: Array) -> Array:
        """Return the parameters of the posterior, with the component on the last axis, from ``counts (K,)``."""

    def expected_log_weights(self, concentration: Array) -> Array:
        """Return the expectation ``(K,)`` of the logarithm of each weight."""

    def mean_weights(self, concentration: Array) -> Array:
        """Return the expected weights ``(K,)``; they sum to 1."""

    def log_norm(self, concentration: Array) -> float:
        """Return the logarithm of the normalising constant of the density."""


class DirichletDistribution:
    """A symmetric Dirichlet distribution; its parameters have shape ``(K,)``."""

    def update(self, concentration: float, counts: Array) -> Array:
        return concentration + counts

    def expected_log_weights(self, concentration: Array) -> Array:
        return np.asarray(digamma(concentration) - digamma(concentration.sum()))

    def mean_weights(self, concentration: Array) -> Array:
        return np.asarray(concentration / concentration.sum())

    def log_norm(self, concentration: Array) -> float:
        return float(gammaln(concentration.sum()) - gammaln(concentration).sum())


class DirichletProcess:
    """A Dirichlet process, truncated at K sticks; each has the two parameters of a beta distribution: ``(2, K)``."""

    def update(self, concentration: float, counts: Array) -> Array:
        later = counts[::-1].cumsum()[::-1] - counts
        later[-1] = 0.0
        return np.array([1.0 + counts, concentration + later])

    def expected_log_weights(self, concentration: Array) -> Array:
        total = digamma(concentration.sum(axis=0))
        taken, left = digamma(concentration) - total
        return np.asarray(taken + np.append(0.0, left.cumsum()[:-1]))

    def mean_weights(self, concentration: Array) -> Array:
        taken, left = concentration / concentration.sum(axis=0)
        weights = taken * np.append(1.0, left.cumprod()[:-1])
        return np.asarray(weights / weights.sum())

    def log_norm(self, concentration: Array) -> float:
        return -float(betaln(*concentration).sum())


WEIGHT_PRIORS: dict[str, WeightPrior] = {
    "dirichlet_process": DirichletProcess(), "dirichlet_distribution": DirichletDistribution(),
}  # fmt: skip


@dataclass(frozen=True)
class VariationalPrior:
    """The prior of a mixture.

    Attributes
    ----------
    weights, concentration
        Kind of distribution of the weights, and its parameter.
    mean, mean_precision
        Centre ``(D,)`` of the means, and the number of rows that it is worth.
    degrees_of_freedom, scatter
        Of the Wishart distribution of the precisions; the scatter of one component ``(1, *S)`` in the shape of the
        family's moments.
    ridge
        Added to the diagonals of the covariances of the rows, as ``reg_covar`` in scikit-learn.
    """

    weights: WeightPrior
    concentration: float
    mean: Array
    mean_precision: float
    degrees_of_freedom: float
    scatter: Array
    ridge: float = 0.0


@dataclass(frozen=True)
class VariationalPosterior:
    """The approximate posterior of K components; names as in scikit-learn.

    ``concentration (K,)`` or ``(2, K)``; ``mean_precision (K,)``, ``means (K, D)``, ``degrees_of_freedom (K,)``;
    ``covariances`` are the inverses of the expected precisions, in the shape of the family.
    """

    concentration: Array
    mean_precision: Array
    means: Array
    degrees_of_freedom: Array
    covariances: Array


@dataclass(frozen=True)
class VariationalState:
    """A fit as it stands: the posterior, the lower bound after every step (in nats, up to a constant), its end."""

    posterior: VariationalPosterior
    bounds: tuple[float, ...] = ()
    converged: bool = False
    earlier_bound: float = -np.inf
    """The lower bound of the fit that this one goes on from."""

    @property
    def bound(self) -> float:
        """The last lower bound."""
        return self.bounds[-1] if self.bounds else self.earlier_bound


def update_posterior(stats: SuffStats, prior: VariationalPrior, family: CovarianceFamily) -> VariationalPosterior:
    """Return the posterior that maximises the lower bound, given the statistics of an E-step (the M-step)."""
    counts, k = stats.weight, len(stats.weight)
    precision = prior.mean_precision + counts
    means = (prior.mean_precision * prior.mean + counts[:, None] * stats.mean) / precision[:, None]
    pulled = family.moments.outer(counts * prior.mean_precision / precision, stats.mean - prior.mean)
    ridge = family.moments.from_diagonal(np.full(len(prior.mean), prior.ridge))
    scatter = prior.scatter + pulled + counts.reshape(-1, *[1] * ridge.ndim) * ridge
    freedom = prior.degrees_of_freedom + counts
    if family.shared:
        scatter = scatter.sum(axis=0, keepdims=True) + stats.scatter.sum(axis=0, keepdims=True)
        freedom = np.full(k, freedom.mean())
    else:
        scatter = scatter + stats.scatter
    concentration = prior.weights.update(prior.concentration, counts)
    return VariationalPosterior(concentration, precision, means, freedom, family.estimate(freedom, scatter))


def make_tilted_mixture(
    posterior: VariationalPosterior, prior: VariationalPrior, family: CovarianceFamily
) -> tuple[MixtureParams, float]:
    """Return the mixture whose responsibilities are those of the variational E-step, and a logarithm in nats.

    The logarithm, added to the log-density of a row under this mixture, gives the expected one of the posterior.

    Raises
    ------
    SingularCovarianceError
        If a covariance is not positive definite.
    """
    d = posterior.means.shape[1]
    halves = 0.5 * (posterior.degrees_of_freedom - np.arange(d)[:, None])
    log_precision = d * np.log(2.0) + digamma(halves).sum(axis=0) - d * np.log(posterior.degrees_of_freedom)
    log_weights = (
        prior.weights.expected_log_weights(posterior.concentration)
        + 0.5 * (log_precision - d / posterior.mean_precision)
    )  # fmt: skip
    total = float(logsumexp(log_weights))
    return MixtureParams(np.exp(log_weights - total), posterior.means, posterior.covariances, family), total


def compute_lower_bound(
    entropy: float, posterior: VariationalPosterior, prior: VariationalPrior, family: CovarianceFamily
) -> float:
    """Return the lower bound of the evidence after an M-step, in nats and up to a constant of the prior.

    ``entropy`` is that of the responsibilities of the E-step before it, summed over the rows.
    """
    k, d = posterior.means.shape
    freedom = posterior.degrees_of_freedom
    # The determinant does not depend on the weights.
    even = MixtureParams(np.full(k, 1.0 / k), posterior.means, posterior.covariances, family)
    log_det = half_log_determinants(compile_density(even).whitener) - 0.5 * d * np.log(freedom)
    gammas = gammaln(0.5 * (freedom - np.arange(d)[:, None])).sum(axis=0)
    log_wishart = -(freedom * log_det + 0.5 * freedom * d * np.log(2.0) + gammas)
    return float(
        entropy
        - log_wishart.sum()
        - prior.weights.log_norm(posterior.concentration)
        - 0.5 * d * np.log(posterior.mean_precision).sum()
    )


def advance_variational(
    state: VariationalState, stats: SuffStats, prior: VariationalPrior, family: CovarianceFamily, tol: float
) -> VariationalState:
    """Return the state after a step; it has converged when the lower bound changes by less than ``tol``, in nats."""
    posterior = update_posterior(stats, prior, family)
    bound = compute_lower_bound(stats.entropy, posterior, prior, family)
    converged = bool(abs(bound - state.bound) < tol)
    return replace(state, posterior=posterior, bounds=(*state.bounds, bound), converged=converged)
