"""The kinds of second moment that a covariance structure can need: a matrix, its diagonal, its trace.

The scatter of a component is the sum over its rows of ``(x - mean) (x - mean)'``, each row counted with its
responsibility and its weight, in squared units of the columns. A kind knows the shape of a scatter and the
arithmetic on it. The leading axis is the component; structures with one shared covariance keep one scatter, pooled
over the components, with a leading axis of 1.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Moments(Protocol):
    """A kind of second moment. Implementations are stateless singletons; ``S`` is the shape of one component's.

    They are compared by identity, so that one that comes back from another process must be the one that is here.
    """

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Return the shape ``(K, *S)`` of the scatter of K components."""

    def empty(self, n_features: int) -> Array:
        """Return an array ``(0, *S)``, which stands for a scatter that is not computed yet."""

    def scatter(self, centred: Array) -> Array:
        """Return the scatter ``S`` of one component's centred rows ``(n, D)``."""

    def from_diagonal(self, values: Array) -> Array:
        """Return the scatter ``S`` of one component with these sums of squares ``(D,)``."""

    def condense(self, matrices: Array) -> Array:
        """Reduce matrices ``(K, D, D)`` or, unless this is the full kind, diagonals ``(K, D)`` to ``(K, *S)``."""

    def outer(self, weight: Array, delta: Array) -> Array:
        """Return ``weight_k * delta_k delta_k'`` as ``(K, *S)``, of ``weight (K,)`` and ``delta (K, D)``."""

    def diagonal(self, scatter: Array) -> Array:
        """Return the diagonals ``(K, D)`` of a scatter; ``(K, 1)`` of the isotropic kind."""

    def dense(self, scatter: Array) -> Array:
        """Return matrices ``(K, D, D)``, of matrices or of variances ``(K, D)``."""

    def smallest_variance(self, scatter: Array) -> Array:
        """Return the smallest eigenvalue ``(K,)`` of each component's matrix, or its smallest variance."""


def divide_by_weight(sums: Array, weight: Array) -> Array:
    """Return ``sums_k / weight_k (K, D)``: the means, of sums ``(K, D)`` over the rows of each component.

    A component without rows has ``weight_k = 0`` and sums of zero; its mean is zero.
    """
    return np.asarray(sums / np.where(weight > 0.0, weight, 1.0)[:, None])


class FullMoments:
    """Scatter ``(K, D, D)``."""

    def __reduce__(self) -> str:
        return "FULL"

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

    def __reduce__(self) -> str:
        return "DIAGONAL"

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

    def __reduce__(self) -> str:
        return "ISOTROPIC"

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

    # Both take an expanded covariance (K, D), not a scatter (K, 1).
    dense = DiagonalMoments.dense
    smallest_variance = DiagonalMoments.smallest_variance


FULL = FullMoments()
DIAGONAL = DiagonalMoments()
ISOTROPIC = IsotropicMoments()
