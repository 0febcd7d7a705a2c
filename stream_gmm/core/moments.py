"""The two kinds of second moment that a covariance structure can need: all of it, or its diagonal.

A kind knows the shape of its scatter, its quadratic features, and how to go between the two.
Everything that differs between "full" and "diagonal" arithmetic is in these two classes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core import kernels

Array = NDArray[np.float64]


class Moments(Protocol):
    """What a statistic of second order looks like. Implementations are stateless singletons."""

    cross: bool

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of the scatter of ``K`` components."""

    def identity(self, n_features: int) -> Array:
        """Return one identity matrix, in the shape of one component."""

    def scatter(self, centred: Array) -> Array:
        """Return the scatter of one component's centred rows ``(n, D)``."""

    def outer(self, weight: Array, delta: Array) -> Array:
        """Return ``weight_k * delta_k delta_k'`` in the scatter's shape."""

    def pack(self, log_norm: Array, means: Array, whitener: Array) -> Array:
        """Return log-density weights ``W (K, F)``: log-density = ``W @ features``."""

    def unpack(self, totals: Array, n_features: int) -> tuple[Array, Array, Array]:
        """Turn feature totals ``(K, F)`` into weight ``(K,)``, mean ``(K, D)`` and scatter."""

    def rescale(self, scatter: Array, scale: Array) -> Array:
        """Multiply feature ``j`` by ``scale_j``."""

    def scale_rows(self, whitener: Array, scale: Array) -> Array:
        """Return the whitener of rows that were divided by ``scale``."""

    def whitened_sums(
        self, rows_t: Array, means: Array, whitener: Array, log_norm: Array, offsets: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Run the whitened kernel: per-candidate sums ``(C, 3)``, weight, mean and scatter."""

    def log_densities(self, rows_t: Array, means: Array, whitener: Array, log_norm: Array) -> Array:
        """Return the weighted log-densities ``(K, N)``."""

    def kappa(self, means: Array, covariances: Array, whitener: Array) -> float:
        """Bound the cancellation of the quadratic features (:func:`..density.choose_route`)."""

    def smallest_variance(self, scatter: Array) -> Array:
        """Return the smallest eigenvalue of each component's matrix ``(K,)``."""

    def diagonal(self, scatter: Array) -> Array:
        """Return the diagonal ``(K, D)``."""

    def dense(self, scatter: Array) -> Array:
        """Return full matrices ``(K, D, D)``."""


def _safe(weight: Array) -> Array:
    """Weights fit to divide by: an empty component has mean zero and scatter zero."""
    return np.where(weight > 0.0, weight, 1.0)


class FullMoments:
    """Scatter ``(K, D, D)``; features ``[1, z_j, z_i z_j (i <= j)]``."""

    cross = True

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def identity(self, n_features: int) -> Array:
        return np.eye(n_features)

    def scatter(self, centred: Array) -> Array:
        return np.asarray(centred.T @ centred)

    def outer(self, weight: Array, delta: Array) -> Array:
        out: Array = weight[:, None, None] * (delta[:, :, None] * delta[:, None, :])
        return out

    def pack(self, log_norm: Array, means: Array, whitener: Array) -> Array:
        precision = whitener @ whitener.transpose(0, 2, 1)
        linear = np.einsum("kij,kj->ki", precision, means)
        constant = log_norm - 0.5 * np.einsum("ki,ki->k", linear, means)
        i, j = np.triu_indices(means.shape[1])
        quadratic = precision[:, i, j] * np.where(i == j, -0.5, -1.0)
        return np.ascontiguousarray(np.column_stack([constant, linear, quadratic]))

    def unpack(self, totals: Array, n_features: int) -> tuple[Array, Array, Array]:
        weight, first = totals[:, 0], totals[:, 1 : 1 + n_features]
        mean = first / _safe(weight)[:, None]
        i, j = np.triu_indices(n_features)
        second = np.empty(self.shape(len(weight), n_features))
        second[:, i, j] = totals[:, 1 + n_features :]
        second[:, j, i] = totals[:, 1 + n_features :]
        return weight, mean, second - self.outer(weight, mean)

    def rescale(self, scatter: Array, scale: Array) -> Array:
        out: Array = scatter * (scale[:, None] * scale[None, :])
        return out

    def scale_rows(self, whitener: Array, scale: Array) -> Array:
        out: Array = whitener * scale[:, None]
        return out

    def whitened_sums(
        self, rows_t: Array, means: Array, whitener: Array, log_norm: Array, offsets: Array
    ) -> tuple[Array, Array, Array, Array]:
        (m, d), sums = means.shape, np.zeros((len(offsets) - 1, 3))
        weight, first, second = np.zeros(m), np.zeros((m, d)), np.zeros((m, d, d))
        lower = np.ascontiguousarray(whitener.transpose(0, 2, 1))
        kernels.whitened_full_pass(rows_t, means, lower, log_norm, offsets, first, second, weight, sums)
        a = first / _safe(weight)[:, None]
        colour = np.linalg.inv(lower)
        scatter = colour @ (second - self.outer(weight, a)) @ colour.transpose(0, 2, 1)
        return sums, weight, means + np.einsum("kij,kj->ki", colour, a), scatter

    def log_densities(self, rows_t: Array, means: Array, whitener: Array, log_norm: Array) -> Array:
        out = np.empty((len(log_norm), rows_t.shape[1]))
        lower = np.ascontiguousarray(whitener.transpose(0, 2, 1))
        kernels.whitened_full_logp(rows_t, means, lower, log_norm, out)
        return out

    def kappa(self, means: Array, covariances: Array, whitener: Array) -> float:
        norm = np.einsum("kij,kij->k", whitener, whitener)
        size = np.trace(covariances, axis1=1, axis2=2) + np.einsum("kj,kj->k", means, means)
        return float(np.max(norm * size))

    def smallest_variance(self, scatter: Array) -> Array:
        return np.asarray(np.linalg.eigvalsh(scatter)[:, 0])

    def diagonal(self, scatter: Array) -> Array:
        return np.asarray(np.einsum("kjj->kj", scatter))

    def dense(self, scatter: Array) -> Array:
        return scatter


class DiagonalMoments:
    """Scatter ``(K, D)``; features ``[1, z_j, z_j^2]``."""

    cross = False

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def identity(self, n_features: int) -> Array:
        return np.ones(n_features)

    def scatter(self, centred: Array) -> Array:
        return np.asarray(np.einsum("nj,nj->j", centred, centred))

    def outer(self, weight: Array, delta: Array) -> Array:
        out: Array = weight[:, None] * delta**2
        return out

    def pack(self, log_norm: Array, means: Array, whitener: Array) -> Array:
        precision = whitener**2
        linear = precision * means
        constant = log_norm - 0.5 * np.einsum("kj,kj->k", linear, means)
        return np.ascontiguousarray(np.column_stack([constant, linear, -0.5 * precision]))

    def unpack(self, totals: Array, n_features: int) -> tuple[Array, Array, Array]:
        weight, first = totals[:, 0], totals[:, 1 : 1 + n_features]
        mean = first / _safe(weight)[:, None]
        return weight, mean, totals[:, 1 + n_features :] - self.outer(weight, mean)

    def rescale(self, scatter: Array, scale: Array) -> Array:
        out: Array = scatter * scale**2
        return out

    def scale_rows(self, whitener: Array, scale: Array) -> Array:
        out: Array = whitener * scale
        return out

    def whitened_sums(
        self, rows_t: Array, means: Array, whitener: Array, log_norm: Array, offsets: Array
    ) -> tuple[Array, Array, Array, Array]:
        (m, d), sums = means.shape, np.zeros((len(offsets) - 1, 3))
        weight, first, second = np.zeros(m), np.zeros((m, d)), np.zeros((m, d))
        kernels.whitened_diagonal_pass(rows_t, means, whitener, log_norm, offsets, first, second, weight, sums)
        a = first / _safe(weight)[:, None]
        scatter = (second - self.outer(weight, a)) / whitener**2
        return sums, weight, means + a / whitener, scatter

    def log_densities(self, rows_t: Array, means: Array, whitener: Array, log_norm: Array) -> Array:
        out = np.empty((len(log_norm), rows_t.shape[1]))
        kernels.whitened_diagonal_logp(rows_t, means, whitener, log_norm, out)
        return out

    def kappa(self, means: Array, covariances: Array, whitener: Array) -> float:
        return float(np.max(np.sum(whitener**2 * (covariances + means**2), axis=1)))

    def smallest_variance(self, scatter: Array) -> Array:
        return np.asarray(scatter.min(axis=1))

    def diagonal(self, scatter: Array) -> Array:
        return scatter

    def dense(self, scatter: Array) -> Array:
        return np.asarray(scatter[:, :, None] * np.eye(scatter.shape[1]))


FULL = FullMoments()
DIAGONAL = DiagonalMoments()
