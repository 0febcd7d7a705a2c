"""Features of a row in which log-densities are linear, so that one matrix product evaluates all candidates.

``z (D,)`` is a row in the coordinates of the kernel (:class:`~stream_gmm.core.rows.scaling.Scaling`). Its F features
are ``[1, z]`` for structures with one shared covariance, and ``[1, z, |z|^2]``, ``[1, z, z^2]`` or
``[1, z, z_i z_j (i <= j)]`` for the others. A kind of features packs the density of a component into one weight for
each feature, and unpacks sums over rows of responsibility times features into weight, mean and scatter.

Everywhere below, ``log_norm (K,)``, ``means (K, D)`` and ``whitener`` (``(K, D, D)``, or its diagonal ``(K, D)``) are
those of a :class:`~stream_gmm.core.model.density.Density` in the coordinates of z.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from stream_gmm.core.model.moments import DIAGONAL, FULL, ISOTROPIC, Array, Moments, divide_by_weight

LINEAR_ORDER, ISOTROPIC_ORDER, DIAGONAL_ORDER, QUADRATIC_ORDER = 0, 1, 2, 3
"""Codes of the kinds for the compiled loops (:func:`~stream_gmm.core.estep.kernels.complete_features`)."""

Unpacked = tuple[Array, Array, Array]
"""Weight ``(K,)``, mean ``(K, D)`` and scatter ``(K, ...)`` of components."""


class Features(Protocol):
    """A kind of features. Implementations are stateless singletons."""

    @property
    def order(self) -> int:
        """Code of this kind for the compiled loops: one of the constants above."""

    def count(self, n_features: int) -> int:
        """Return F, the number of features of a row with D columns."""

    def pack(self, log_norm: Array, means: Array, whitener: Array) -> Array:
        """Return weights ``W (K, F)``: ``W @ features`` is the log-density in nats, up to terms that all k share."""

    def unpack(self, totals: Array, n_features: int) -> Unpacked:
        """Turn sums of responsibility times features ``(K, F)`` into weight, mean and scatter."""

    def magnitude(self, means: Array, covariances: Array, whitener: Array) -> Array:
        """Return the sum ``(K,)`` of the absolute values of the terms that add up to the log-density, in nats.

        It is taken for a row at one standard deviation from the mean of the component; times the unit roundoff it
        is the size of the rounding error. ``covariances`` are ``(K, D, D)`` or ``(K, D)``.
        """


def _apply_precisions(whitener: Array, vectors: Array) -> Array:
    """Return ``U_k U_k' vector_k`` as ``(K, D)``, without forming the precision matrices."""
    return np.asarray(np.einsum("kij,kj->ki", whitener, np.einsum("klj,kl->kj", whitener, vectors)))


def _typical_sizes(means: Array, covariances: Array, whitener: Array) -> tuple[Array, Array]:
    """Return ``|z|`` of a typical row, and ``|precision| |mean|`` without cancellation; both ``(K, D)``."""
    size = np.abs(whitener)
    if whitener.ndim == 2:
        return np.sqrt(means**2 + covariances), size**2 * np.abs(means)
    diagonal = np.einsum("kjj->kj", covariances)
    return np.sqrt(means**2 + diagonal), _apply_precisions(size, np.abs(means))


def _pack_linear(log_norm: Array, means: Array, whitener: Array) -> tuple[Array, Array]:
    """Return the weights ``(K,)`` of the feature 1, and ``(K, D)`` of the features z."""
    linear = whitener**2 * means if whitener.ndim == 2 else _apply_precisions(whitener, means)
    return log_norm - 0.5 * np.einsum("kj,kj->k", linear, means), linear


class LinearFeatures:
    """``[1, z]``, for one shared covariance: ``-z' precision z / 2`` is the same for all components.

    So the responsibilities do not need it. Its sum over the rows, and the pooled scatter, follow from the second
    moments of all rows (:func:`stream_gmm.core.estep.accumulate.complete_stats`); the scatter unpacked here is empty.
    """

    order = LINEAR_ORDER

    def count(self, n_features: int) -> int:
        return 1 + n_features

    def pack(self, log_norm: Array, means: Array, whitener: Array) -> Array:
        constant, linear = _pack_linear(log_norm, means, whitener)
        return np.column_stack([constant, linear])

    def unpack(self, totals: Array, n_features: int) -> Unpacked:
        weight = totals[:, 0]
        return weight, divide_by_weight(totals[:, 1:], weight), np.empty((0, 1))

    def magnitude(self, means: Array, covariances: Array, whitener: Array) -> Array:
        z, linear = _typical_sizes(means, covariances, whitener)
        return np.asarray(np.einsum("kj,kj->k", linear, z + 0.5 * np.abs(means)))


def _magnitude_with_squares(means: Array, covariances: Array, whitener: Array) -> Array:
    z, linear = _typical_sizes(means, covariances, whitener)
    _, quadratic = _typical_sizes(z, covariances, whitener)
    return np.asarray(np.einsum("kj,kj->k", linear, z + 0.5 * np.abs(means)) + 0.5 * np.sum(quadratic * z, axis=1))


class IsotropicFeatures:
    """``[1, z, |z|^2]``, for components with one variance each."""

    order = ISOTROPIC_ORDER

    def count(self, n_features: int) -> int:
        return 2 + n_features

    def pack(self, log_norm: Array, means: Array, whitener: Array) -> Array:
        constant, linear = _pack_linear(log_norm, means, whitener)
        return np.column_stack([constant, linear, -0.5 * whitener[:, 0] ** 2])

    def unpack(self, totals: Array, n_features: int) -> Unpacked:
        weight = totals[:, 0]
        mean = divide_by_weight(totals[:, 1:-1], weight)
        return weight, mean, totals[:, -1:] / n_features - ISOTROPIC.outer(weight, mean)

    def magnitude(self, means: Array, covariances: Array, whitener: Array) -> Array:
        return _magnitude_with_squares(means, covariances, whitener)


class DiagonalFeatures:
    """``[1, z, z^2]``, for components with D variances each."""

    order = DIAGONAL_ORDER

    def count(self, n_features: int) -> int:
        return 1 + 2 * n_features

    def pack(self, log_norm: Array, means: Array, whitener: Array) -> Array:
        constant, linear = _pack_linear(log_norm, means, whitener)
        return np.column_stack([constant, linear, -0.5 * whitener**2])

    def unpack(self, totals: Array, n_features: int) -> Unpacked:
        weight = totals[:, 0]
        mean = divide_by_weight(totals[:, 1 : 1 + n_features], weight)
        return weight, mean, totals[:, 1 + n_features :] - DIAGONAL.outer(weight, mean)

    def magnitude(self, means: Array, covariances: Array, whitener: Array) -> Array:
        return _magnitude_with_squares(means, covariances, whitener)


@lru_cache(maxsize=64)
def _upper_indices(n_features: int) -> tuple[Any, Any]:
    return np.triu_indices(n_features)


class QuadraticFeatures:
    """``[1, z, z_i z_j (i <= j)]``, for components with one matrix each."""

    order = QUADRATIC_ORDER

    def count(self, n_features: int) -> int:
        return 1 + n_features + n_features * (n_features + 1) // 2

    def pack(self, log_norm: Array, means: Array, whitener: Array) -> Array:
        constant, linear = _pack_linear(log_norm, means, whitener)
        i, j = _upper_indices(means.shape[1])
        precisions = np.asarray(whitener @ np.swapaxes(whitener, -1, -2))
        quadratic = precisions[:, i, j] * np.where(i == j, -0.5, -1.0)
        return np.column_stack([constant, linear, quadratic])

    def unpack(self, totals: Array, n_features: int) -> Unpacked:
        weight = totals[:, 0]
        mean = divide_by_weight(totals[:, 1 : 1 + n_features], weight)
        i, j = _upper_indices(n_features)
        second = np.empty(FULL.shape(len(weight), n_features))
        second[:, i, j] = totals[:, 1 + n_features :]
        second[:, j, i] = totals[:, 1 + n_features :]
        return weight, mean, second - FULL.outer(weight, mean)

    def magnitude(self, means: Array, covariances: Array, whitener: Array) -> Array:
        return _magnitude_with_squares(means, covariances, whitener)


LINEAR_FEATURES = LinearFeatures()
ISOTROPIC_FEATURES = IsotropicFeatures()
DIAGONAL_FEATURES = DiagonalFeatures()
QUADRATIC_FEATURES = QuadraticFeatures()
FEATURES_BY_MOMENTS: dict[Moments, Features] = {
    FULL: QUADRATIC_FEATURES,
    DIAGONAL: DIAGONAL_FEATURES,
    ISOTROPIC: ISOTROPIC_FEATURES,
}
"""For each kind of second moment, the features whose sums give the complete scatter."""
