"""Parameters compiled for the kernels: made once per step, centrally, then shipped.

Two routes lead from rows to log-densities. The *quadratic* one is a single matrix product with
the features ``[1, z, z z']`` of standardised rows; it is fast and cancels when a component is
small beside its distance from the centre. The *whitened* one forms ``U'(x - mean)`` and never
cancels. Which one a candidate takes is decided here, from a bound on the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream_gmm.core.moments import Array, Moments
from stream_gmm.core.params import MixtureParams

QUADRATIC, WHITENED = "quadratic", "whitened"

# Measured worst ratio of error to kappa * unit roundoff is 27; the contract allows 1e-8.
KAPPA_LIMIT = 1e-8 / (27 * 1.2e-16)


@dataclass(frozen=True)
class Scaling:
    """The affine map ``z = (x - shift) / scale`` that centres and scales the data once."""

    shift: Array
    scale: Array

    @classmethod
    def identity(cls, n_features: int) -> Scaling:
        """Return the map that changes nothing."""
        return cls(np.zeros(n_features), np.ones(n_features))

    @classmethod
    def from_moments(cls, mean: Array, variances: Array) -> Scaling:
        """Return the map to mean 0 and variance 1; a constant column is only centred."""
        sd = np.sqrt(np.maximum(variances, 0.0))
        return cls(np.array(mean), np.where(sd > 0.0, sd, 1.0))

    def apply(self, rows: Array) -> Array:
        """Return standardised rows ``(N, D)``."""
        return np.asarray((rows - self.shift) / self.scale)


@dataclass(frozen=True)
class Density:
    """One candidate, ready for scoring.

    The log-density of component k is ``log_norm_k - |y|^2 / 2`` with ``y = U_k' (x - mean_k)``;
    ``whitener`` holds U in the shape of the family's moments.
    """

    log_norm: Array
    means: Array
    whitener: Array
    moments: Moments


@dataclass(frozen=True)
class Group:
    """Candidates that take the same route with the same kind of moments, stacked."""

    index: tuple[int, ...]
    offsets: tuple[int, ...]
    route: str
    moments: Moments
    log_norm: Array
    means: Array
    whitener: Array
    weights: Array
    """Quadratic route: packed log-density weights ``(M, F)`` in standardised units."""


@dataclass(frozen=True)
class Batch:
    """All the candidates of one pass. The only thing about them that travels to the workers."""

    groups: tuple[Group, ...]
    scaling: Scaling
    n_candidates: int

    @property
    def routes(self) -> tuple[str, ...]:
        """Return the route of each candidate, in order."""
        by_index = {i: g.route for g in self.groups for i in g.index}
        return tuple(by_index[i] for i in range(self.n_candidates))


def compile_density(params: MixtureParams) -> Density:
    """Compile one mixture.

    Raises
    ------
    SingularCovarianceError
        If a covariance is not positive definite.
    """
    family, (k, d) = params.family, params.means.shape
    whitener = np.array(family.expand(params.precisions_cholesky, k, d))
    log_det = np.log(family.moments.diagonal(whitener)).sum(axis=1)
    with np.errstate(divide="ignore"):
        log_weights = np.log(params.weights)
    log_norm = log_weights + log_det - 0.5 * d * np.log(2.0 * np.pi)
    # A component of weight zero: -inf would make 0 * inf in the features' product.
    return Density(np.maximum(log_norm, -1e300), np.array(params.means), whitener, family.moments)


def _standardised(density: Density, scaling: Scaling) -> tuple[Array, Array]:
    """Return means and whitener in standardised units."""
    means = scaling.apply(density.means)
    return means, density.moments.scale_rows(density.whitener, scaling.scale)


def choose_route(params: MixtureParams, density: Density, scaling: Scaling) -> str:
    """Return the fast route if its cancellation error stays below 1e-8, else the safe one.

    The error of the quadratic route is about ``kappa * u`` with ``kappa = max_k |U_k|_F^2
    (tr S_k + |mean_k|^2)`` in standardised units, u the unit roundoff.
    """
    family = params.family
    means, whitener = _standardised(density, scaling)
    covariances = family.moments.rescale(
        np.array(family.expand(params.covariances, *params.means.shape)), 1.0 / scaling.scale
    )
    kappa = family.moments.kappa(means, covariances, whitener)
    return QUADRATIC if kappa <= KAPPA_LIMIT else WHITENED


def compile_batch(candidates: Sequence[MixtureParams], scaling: Scaling, route: str | None = None) -> Batch:
    """Compile candidates for one shared pass; ``route`` forces the same one on all."""
    densities = [compile_density(p) for p in candidates]
    routes = [route or choose_route(p, d, scaling) for p, d in zip(candidates, densities, strict=True)]
    keys = [(r, d.moments.cross) for r, d in zip(routes, densities, strict=True)]
    groups = tuple(
        _stack([i for i, k in enumerate(keys) if k == key], densities, key[0], scaling) for key in sorted(set(keys))
    )
    return Batch(groups, scaling, len(candidates))


def _stack(index: list[int], densities: list[Density], route: str, scaling: Scaling) -> Group:
    chosen = [densities[i] for i in index]
    moments = chosen[0].moments
    sizes = [len(d.log_norm) for d in chosen]
    packed = [moments.pack(d.log_norm, *_standardised(d, scaling)) for d in chosen]
    return Group(
        index=tuple(index),
        offsets=tuple(int(v) for v in np.concatenate([[0], np.cumsum(sizes)])),
        route=route,
        moments=moments,
        log_norm=np.concatenate([d.log_norm for d in chosen]),
        means=np.concatenate([d.means for d in chosen]),
        whitener=np.concatenate([d.whitener for d in chosen]),
        weights=np.concatenate(packed),
    )
