"""Features of a row in which log-densities are linear: one matrix product scores all candidates.

``[1, z]`` for structures with one shared covariance, ``[1, z, |z|^2]``, ``[1, z, z^2]`` and
``[1, z, z_i z_j (i <= j)]`` for the others. A kind packs a density into the weights of its features,
and unpacks the features' sums into weight, mean and scatter.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from stream_gmm.core.model.moments import DIAGONAL, FULL, ISOTROPIC, Array, Moments

LINEAR_ORDER, ISOTROPIC_ORDER, DIAGONAL_ORDER, QUADRATIC_ORDER = 0, 1, 2, 3
"""Which features the compiled loops build (:func:`~stream_gmm.core.estep.kernels.complete_features`)."""

Unpacked = tuple[Array, Array, Array]
"""Weight ``(K,)``, mean ``(K, D)`` and scatter of components."""


class Features(Protocol):
    """A kind of features. Implementations are stateless singletons."""

    @property
    def order(self) -> int:
        """Which of the orders above it is."""

    def count(self, n_features: int) -> int:
        """Return F, the number of features of a row of D columns."""

    def pack(self, log_norm: Array, means: Array, whitener: Array) -> Array:
        """Return weights ``W (K, F)``: log-density = ``W @ features``, up to what is common to all k."""

    def unpack(self, totals: Array, n_features: int) -> Unpacked:
        """Turn sums of features ``(K, F)`` into weight ``(K,)``, mean ``(K, D)`` and scatter."""

    def magnitude(self, means: Array, covariances: Array, whitener: Array) -> Array:
        """Return how large the terms get whose sum is the log-density ``(K,)``.

        The sum of the absolute values of all terms, for a row at one standard deviation from the
        component's mean: times the unit roundoff it is the size of the rounding error.
        """


def _precisions(whitener: Array) -> Array:
    return np.asarray(whitener @ np.swapaxes(whitener, -1, -2))


def _apply_precisions(whitener: Array, vectors: Array) -> Array:
    return np.asarray(np.einsum("kij,kj->ki", whitener, np.einsum("klj,kl->kj", whitener, vectors)))


def _typical_sizes(means: Array, covariances: Array, whitener: Array) -> tuple[Array, Array]:
    """Return ``|z|`` of a typical row ``(K, D)`` and ``|precision| |mean| (K, D)``, with no cancellation."""
    size = np.abs(whitener)
    if whitener.ndim == 2:
        return np.sqrt(means**2 + covariances), size**2 * np.abs(means)
    diagonal = np.einsum("kjj->kj", covariances)
    return np.sqrt(means**2 + diagonal), _apply_precisions(size, np.abs(means))


def _nonzero(weight: Array) -> Array:
    """Weights fit to divide by: an empty component has mean zero and scatter zero."""
    return np.where(weight > 0.0, weight, 1.0)


def _linear_weights(log_norm: Array, means: Array, whitener: Array) -> tuple[Array, Array]:
    if whitener.ndim == 2:
        linear = whitener**2 * means
    else:
        linear = _apply_precisions(whitener, means)
    return log_norm - 0.5 * np.einsum("kj,kj->k", linear, means), linear


class LinearFeatures:
    """``[1, z]``, for one shared covariance: ``-z' precision z / 2`` is common to all components.

    Neither the responsibilities nor the sums need it. What it adds to the log-likelihood, and the
    pooled scatter, follow from the second moment of all rows (:func:`..estep.complete`).
    """

    order = LINEAR_ORDER

    def count(self, n_features: int) -> int:
        return 1 + n_features

    def pack(self, log_norm: Array, means: Array, whitener: Array) -> Array:
        constant, linear = _linear_weights(log_norm, means, whitener)
        return np.column_stack([constant, linear])

    def unpack(self, totals: Array, n_features: int) -> Unpacked:
        weight = totals[:, 0]
        return weight, totals[:, 1:] / _nonzero(weight)[:, None], np.empty((0, 1))

    def magnitude(self, means: Array, covariances: Array, whitener: Array) -> Array:
        z, linear = _typical_sizes(means, covariances, whitener)
        return np.asarray(np.einsum("kj,kj->k", linear, z + 0.5 * np.abs(means)))


def _full_magnitude(means: Array, covariances: Array, whitener: Array) -> Array:
    z, linear = _typical_sizes(means, covariances, whitener)
    _, quadratic = _typical_sizes(z, covariances, whitener)
    return np.asarray(np.einsum("kj,kj->k", linear, z + 0.5 * np.abs(means)) + 0.5 * np.sum(quadratic * z, axis=1))


class IsotropicFeatures:
    """``[1, z, |z|^2]``, for a variance of each component's own."""

    order = ISOTROPIC_ORDER

    def count(self, n_features: int) -> int:
        return 2 + n_features

    def pack(self, log_norm: Array, means: Array, whitener: Array) -> Array:
        constant, linear = _linear_weights(log_norm, means, whitener)
        return np.column_stack([constant, linear, -0.5 * whitener[:, 0] ** 2])

    def unpack(self, totals: Array, n_features: int) -> Unpacked:
        weight = totals[:, 0]
        mean = totals[:, 1:-1] / _nonzero(weight)[:, None]
        return weight, mean, totals[:, -1:] / n_features - ISOTROPIC.outer(weight, mean)

    def magnitude(self, means: Array, covariances: Array, whitener: Array) -> Array:
        return _full_magnitude(means, covariances, whitener)


class DiagonalFeatures:
    """``[1, z, z^2]``, for variances of each component's own."""

    order = DIAGONAL_ORDER

    def count(self, n_features: int) -> int:
        return 1 + 2 * n_features

    def pack(self, log_norm: Array, means: Array, whitener: Array) -> Array:
        constant, linear = _linear_weights(log_norm, means, whitener)
        return np.column_stack([constant, linear, -0.5 * whitener**2])

    def unpack(self, totals: Array, n_features: int) -> Unpacked:
        weight = totals[:, 0]
        mean = totals[:, 1 : 1 + n_features] / _nonzero(weight)[:, None]
        return weight, mean, totals[:, 1 + n_features :] - DIAGONAL.outer(weight, mean)

    def magnitude(self, means: Array, covariances: Array, whitener: Array) -> Array:
        return _full_magnitude(means, covariances, whitener)


class QuadraticFeatures:
    """``[1, z, z_i z_j (i <= j)]``, for a matrix of each component's own."""

    order = QUADRATIC_ORDER

    def count(self, n_features: int) -> int:
        return 1 + n_features + n_features * (n_features + 1) // 2

    def pack(self, log_norm: Array, means: Array, whitener: Array) -> Array:
        constant, linear = _linear_weights(log_norm, means, whitener)
        i, j = np.triu_indices(means.shape[1])
        quadratic = _precisions(whitener)[:, i, j] * np.where(i == j, -0.5, -1.0)
        return np.column_stack([constant, linear, quadratic])

    def unpack(self, totals: Array, n_features: int) -> Unpacked:
        weight = totals[:, 0]
        mean = totals[:, 1 : 1 + n_features] / _nonzero(weight)[:, None]
        i, j = np.triu_indices(n_features)
        second = np.empty(FULL.shape(len(weight), n_features))
        second[:, i, j] = totals[:, 1 + n_features :]
        second[:, j, i] = totals[:, 1 + n_features :]
        return weight, mean, second - FULL.outer(weight, mean)

    def magnitude(self, means: Array, covariances: Array, whitener: Array) -> Array:
        return _full_magnitude(means, covariances, whitener)


LINEAR_FEATURES = LinearFeatures()
ISOTROPIC_FEATURES = IsotropicFeatures()
DIAGONAL_FEATURES = DiagonalFeatures()
QUADRATIC_FEATURES = QuadraticFeatures()
WHOLE_FEATURES: dict[Moments, Features] = {
    FULL: QUADRATIC_FEATURES,
    DIAGONAL: DIAGONAL_FEATURES,
    ISOTROPIC: ISOTROPIC_FEATURES,
}
"""The features that give a kind of scatter, nothing left out."""
