"""The kinds of second moment that a covariance structure can need: a matrix, its diagonal, its trace.

A kind knows the shape of its scatter and the arithmetic on it. The leading axis of a scatter is
the component; structures with one shared covariance keep one pooled scatter, with an axis of 1.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Moments(Protocol):
    """What a statistic of second order looks like. Implementations are stateless singletons."""

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of the scatter of ``K`` components."""

    def empty(self, n_features: int) -> Array:
        """Return the scatter of no component: one that is not there yet."""

    def scatter(self, centred: Array) -> Array:
        """Return the scatter of one component's centred rows ``(n, D)``."""

    def from_diagonal(self, values: Array) -> Array:
        """Return the scatter of one component with these sums of squares ``(D,)``."""

    def condense(self, matrices: Array) -> Array:
        """Keep what this kind needs of matrices ``(K, D, D)`` or diagonals ``(K, D)``."""

    def outer(self, weight: Array, delta: Array) -> Array:
        """Return ``weight_k * delta_k delta_k'`` in the scatter's shape."""

    def diagonal(self, scatter: Array) -> Array:
        """Return the diagonal ``(K, D)``, or ``(K, 1)`` if all its values are the same."""

    def dense(self, scatter: Array) -> Array:
        """Return full matrices ``(K, D, D)``."""

    def smallest_variance(self, scatter: Array) -> Array:
        """Return the smallest eigenvalue of each component's matrix ``(K,)``."""


class FullMoments:
    """Scatter ``(K, D, D)``."""

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def empty(self, n_features: int) -> Array:
        return np.empty(self.shape(0, n_features))

    def scatter(self, centred: Array) -> Array:
        return np.asarray(centred.T @ centred)

    def from_diagonal(self, values: Array) -> Array:
        return np.diag(values)

    def condense(self, matrices: Array) -> Array:
        return matrices

    def outer(self, weight: Array, delta: Array) -> Array:
        out: Array = weight[:, None, None] * (delta[:, :, None] * delta[:, None, :])
        return out

    def diagonal(self, scatter: Array) -> Array:
        return np.asarray(np.einsum("kjj->kj", scatter))

    def dense(self, scatter: Array) -> Array:
        return scatter

    def smallest_variance(self, scatter: Array) -> Array:
        return np.asarray(np.linalg.eigvalsh(scatter)[:, 0])


def _diagonals(matrices: Array) -> Array:
    return matrices if matrices.ndim == 2 else np.asarray(np.einsum("kjj->kj", matrices))


class DiagonalMoments:
    """Scatter ``(K, D)``: the sums of squares of each column."""

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def empty(self, n_features: int) -> Array:
        return np.empty(self.shape(0, n_features))

    def scatter(self, centred: Array) -> Array:
        return np.asarray(np.einsum("nj,nj->j", centred, centred))

    def from_diagonal(self, values: Array) -> Array:
        return values

    def condense(self, matrices: Array) -> Array:
        return _diagonals(matrices)

    def outer(self, weight: Array, delta: Array) -> Array:
        out: Array = weight[:, None] * delta**2
        return out

    def diagonal(self, scatter: Array) -> Array:
        return scatter

    def dense(self, scatter: Array) -> Array:
        return np.asarray(scatter[:, :, None] * np.eye(scatter.shape[1]))

    def smallest_variance(self, scatter: Array) -> Array:
        return np.asarray(scatter.min(axis=1))


class IsotropicMoments:
    """Scatter ``(K, 1)``: the mean of the columns' sums of squares, which is ``trace / D``."""

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, 1)

    def empty(self, n_features: int) -> Array:
        return np.empty(self.shape(0, n_features))

    def scatter(self, centred: Array) -> Array:
        return np.array([np.mean(np.einsum("nj,nj->j", centred, centred))])

    def from_diagonal(self, values: Array) -> Array:
        return np.array([np.mean(values)])

    def condense(self, matrices: Array) -> Array:
        return np.asarray(_diagonals(matrices).mean(axis=1, keepdims=True))

    def outer(self, weight: Array, delta: Array) -> Array:
        out: Array = weight[:, None] * np.mean(delta**2, axis=1, keepdims=True)
        return out

    def diagonal(self, scatter: Array) -> Array:
        return scatter

    # Of an expanded covariance (K, D).
    dense = DiagonalMoments.dense
    smallest_variance = DiagonalMoments.smallest_variance


FULL = FullMoments()
DIAGONAL = DiagonalMoments()
ISOTROPIC = IsotropicMoments()
