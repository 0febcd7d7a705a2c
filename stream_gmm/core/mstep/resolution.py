"""No component is narrower than the step in which the values were recorded.

A value that was recorded in steps of d stands for all values within half a step, with variance ``d^2 / 12``. The
covariances are therefore maximised under the constraint that ``Sigma_k - diag(d^2 / 12)`` is positive semidefinite.
A component on a repeated value is then an *atom*, as wide as the step, and no singularity of the likelihood.

The constrained maximum is exact. Let C be the maximum without the constraint, S the bound, and B such that
``B B' = C + S`` and ``B R B' = S`` with a diagonal R. Then ``C = B (1 - R) B'``, and in the coordinates of B both
matrices are diagonal: the maximum is ``B max(1 - R, R) B'``. That is Browne, Subedi and McNicholas' (2013)
eigenvalue constraint in coordinates scaled by the bound, and stays exact where the bound of a column is zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import ISOTROPIC, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import Estimate, PseudoRows
from stream_gmm.core.stats import SuffStats

_SLACK = 1e-9
"""Relative rounding error by which a covariance may be below the bound."""
_LIFT = 1e-13
"""Relative variance that keeps collinear columns without a bound positive definite; they have collapsed as ever."""
_BARRIER = 1e12
"""What a covariance below the bound costs, nats for each unit of the relative lack."""
_LEAST_SHARE = 1e-12
ATOM_ROWS = 5.0
"""A component at the bound that has fewer rows than this is no atom. Where the step is far below the spread, single
rows would be: each gains the logarithm of that ratio, more than the penalty of a criterion in small data."""
AT_BOUND = 1.01
"""A variance of less than so many times the bound is at the bound."""


@dataclass(frozen=True)
class Resolution:
    """The penalty ``base`` with a lower ``bound (D,)`` of the covariances, in squared units of the columns."""

    base: PseudoRows
    bound: Array
    has_objective: ClassVar[bool] = True

    @classmethod
    def of(cls, base: PseudoRows, steps: Array) -> Resolution:
        """Return the penalty for columns with recording steps ``(D,)``; 0: none."""
        return cls(base, np.asarray(steps) ** 2 / 12.0)

    def prepare(self, stats: SuffStats) -> SuffStats:
        return self.base.prepare(stats)

    def estimate(self, family: CovarianceFamily, stats: SuffStats) -> Estimate:
        """Return the constrained maximum.

        What is at the bound has not collapsed, as the bound determines it, unless it has hardly any rows.
        """
        covariances, collapsed = self.base.estimate(family, stats)
        k, d = stats.mean.shape
        expanded = np.array(family.expand(covariances, k, d))
        raised, spread, lacks = raise_to_bound(expanded, self._bound_of(family), np.diagonal(self.base.spread))
        if not lacks.any():
            return covariances, collapsed
        _, collapsed = self.base.estimate(family, replace(stats, scatter=_scatter_of(family, stats.weight, spread)))
        alone = lacks.any(axis=1) & (stats.weight < ATOM_ROWS) & (not family.shared)
        return family.estimate(stats.weight, _scatter_of(family, stats.weight, raised)), collapsed | alone

    def value(self, params: MixtureParams) -> float:
        """Return the penalty; a mixture below the bound, which an extrapolation may lead to, is far too expensive."""
        family, (k, d) = params.family, params.means.shape
        lack = find_lack(np.array(family.expand(params.covariances, k, d)), self._bound_of(family))
        return self.base.value(params) - _BARRIER * max(lack - _SLACK, 0.0)

    def restrict(self, params: MixtureParams) -> MixtureParams:
        """Return the mixture with covariances raised to the bound.

        Most extrapolations from an atom lead below it: without this, they would all be refused, and plain EM steps
        be left.
        """
        family, (k, d) = params.family, params.means.shape
        expanded = np.array(family.expand(params.covariances, k, d))
        raised, _, lacks = raise_to_bound(expanded, self._bound_of(family), np.diagonal(self.base.spread))
        if not lacks.any():
            return params
        counts = np.maximum(params.weights, _LEAST_SHARE)
        covariances = family.estimate(counts, _scatter_of(family, counts, raised))
        return MixtureParams(params.weights, params.means, covariances, family, params.noise)

    def _bound_of(self, family: CovarianceFamily) -> Array:
        # A sphere is as wide as the widest bound in every direction.
        return np.full_like(self.bound, self.bound.max()) if family.moments is ISOTROPIC else self.bound

    def find_atoms(self, params: MixtureParams) -> dict[int, tuple[int, ...]]:
        """Return the components that are as narrow as the bound in some columns, and these columns."""
        variances = np.einsum("kjj->kj", params.dense_covariances)
        narrow = (variances <= AT_BOUND * self.bound) & (self.bound > 0.0)
        return {int(i): tuple(int(j) for j in np.flatnonzero(narrow[i])) for i in np.flatnonzero(narrow.any(axis=1))}


def _scatter_of(family: CovarianceFamily, weight: Array, expanded: Array) -> Array:
    """Return the scatter of which covariances are the estimate, in the shape of the structure."""
    scatter = family.moments.condense(weight.reshape(-1, *[1] * (expanded.ndim - 1)) * expanded)
    return np.asarray(scatter.sum(axis=0, keepdims=True) if family.shared else scatter)


def raise_to_bound(covariances: Array, bound: Array, spread: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return covariances at or above a bound, the same with a wide spread in every direction that was raised.

    Also which directions of each component were raised ``(K, D)``. ``covariances`` are matrices ``(K, D, D)`` or
    variances ``(K, D)``, ``bound (D,)`` and ``spread (D,)`` are variances.
    """
    if covariances.ndim == 2:
        lacks = covariances < bound
        return np.maximum(covariances, bound), np.where(lacks, spread, covariances), lacks
    basis, shares, scale = _diagonalise(covariances, bound)
    lacks = shares > 0.5
    wide = np.max(spread / scale**2, axis=1, keepdims=True)

    scaled = scale[:, :, None] * basis

    def assemble(values: Array) -> Array:
        return np.asarray((scaled * values[:, None, :]) @ np.swapaxes(scaled, 1, 2))

    some = np.asarray(lacks.any(axis=1))[:, None, None]
    raised = np.where(some, assemble(np.maximum(1.0 - shares, shares)), covariances)
    return raised, np.where(some, assemble(np.where(lacks, wide, 1.0 - shares)), covariances), lacks


def find_lack(covariances: Array, bound: Array) -> float:
    """Return by which part of the bound covariances are below it, at most; 0 if they are not."""
    if covariances.ndim == 2:
        bounded = bound > 0.0
        lack = 1.0 - covariances[:, bounded] / bound[bounded]
    else:
        shares = _diagonalise(covariances, bound)[1]
        lack = 2.0 * shares - 1.0
    return float(np.max(lack, initial=0.0))


def _diagonalise(covariances: Array, bound: Array) -> tuple[Array, Array, Array]:
    """Return ``B (K, D, D)``, the diagonals of R ``(K, D)``, and the units ``(K, D)`` in which both are expressed."""
    scale = np.sqrt(np.einsum("kjj->kj", covariances) + bound)
    both = covariances / (scale[:, :, None] * scale[:, None, :])
    diagonal = bound / scale**2
    lower = np.linalg.cholesky(both + (diagonal + _LIFT)[:, :, None] * np.eye(len(bound)))
    inverse = np.linalg.inv(lower)
    shares, vectors = np.linalg.eigh((inverse * diagonal[:, None, :]) @ np.swapaxes(inverse, 1, 2))
    return lower @ vectors, shares, scale
