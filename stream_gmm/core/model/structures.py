"""The structures of mclust that scikit-learn has no name for: volume, shape and orientation, each equal or varying.

The covariance of component k is ``Sigma_k = lambda_k D_k A_k D_k'`` with the volume ``lambda_k``, the shape ``A_k``
(diagonal, ``|A_k| = 1``) and the orientation ``D_k`` (orthogonal; Banfield & Raftery 1993). The letters of a code say
for volume, shape and orientation whether they are equal (E) in all components or vary (V); I is the orientation along
the axes of the data. M-steps after Celeux & Govaert (1995), from the weights ``n_k`` and the scatter matrices ``W_k``
alone: in closed form where there is one, else by iteration. The common axes of EVE and VVE are rotated pair by pair,
each pair to its optimum (Flury & Gautschi 1986).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

from stream_gmm.core.model.families import MatrixFactors, VarianceFactors
from stream_gmm.core.model.features import DIAGONAL_FEATURES, QUADRATIC_FEATURES
from stream_gmm.core.model.moments import DIAGONAL, FULL, Array

_MAX_STEPS = 500
_MAX_SWEEPS = 100
_FIRST_SWEEPS = 3
"""Sweeps over all pairs of axes from each start, before the best start is continued."""
_TOLERANCE = 1e-12
_FLOOR = 1e-13
"""Relative to the pooled variances: keeps the logarithm of a determinant finite for a component without rows."""


def _geometric_means(values: Array) -> Array:
    """Return the geometric means ``(..., 1)`` along the last axis: ``|A|^(1/D)`` of diagonals A."""
    return np.asarray(np.exp(np.log(values).mean(axis=-1, keepdims=True)))


def _determinant_roots(matrices: Array) -> Array:
    """Return ``|C|^(1/D)`` as ``(..., 1, 1)`` of matrices C."""
    return np.asarray(np.exp(np.linalg.slogdet(matrices)[1] / matrices.shape[-1]))[..., None, None]


def _lift_diagonals(weight: Array, scatter: Array) -> Array:
    """Return the scatter with a tiny multiple (``_FLOOR``) of the pooled variances added to its diagonals."""
    pooled = scatter.sum(axis=0) / weight.sum()
    variances = pooled if pooled.ndim == 1 else np.diagonal(pooled)
    # A constant column has the variance 0.
    variances = np.maximum(variances, max(1e-6 * variances.max(), 1e-200))
    lift = _FLOOR * weight[:, None] * variances
    return np.asarray(scatter + (lift if pooled.ndim == 1 else lift[:, :, None] * np.eye(len(variances))))


def _fit_volumes_and_shape(weight: Array, diagonals: Array) -> tuple[Array, Array]:
    """Return the volumes ``(K, 1)`` and the common shape ``(D,)`` of greatest likelihood for diagonals ``(K, D)``."""
    d = diagonals.shape[1]
    shape = diagonals.sum(axis=0)
    shape = shape / _geometric_means(shape)
    for _ in range(_MAX_STEPS):
        volumes = (diagonals / shape).sum(axis=1, keepdims=True) / (d * weight[:, None])
        new = (diagonals / volumes).sum(axis=0)
        new = new / _geometric_means(new)
        converged = np.all(np.abs(new - shape) <= _TOLERANCE * shape)
        shape = new
        if converged:
            break
    return (diagonals / shape).sum(axis=1, keepdims=True) / (d * weight[:, None]), shape


class VEI(VarianceFactors):
    """Variances ``lambda_k A (K, D)``: equal shape along the axes of the data, varying volume."""

    name, mclust, moments, features = "VEI", "VEI", DIAGONAL, DIAGONAL_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components + n_features - 1

    def estimate(self, weight: Array, scatter: Array) -> Array:
        volumes, shape = _fit_volumes_and_shape(weight, _lift_diagonals(weight, scatter))
        return np.asarray(volumes * shape)


class EVI(VarianceFactors):
    """Variances ``lambda A_k (K, D)``: equal volume, varying shape along the axes of the data."""

    name, mclust, moments, features = "EVI", "EVI", DIAGONAL, DIAGONAL_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1 + n_components * (n_features - 1)

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return _equalise_volumes(weight, _lift_diagonals(weight, scatter))


class VEE(MatrixFactors):
    """Matrices ``lambda_k C (K, D, D)`` with ``|C| = 1``: equal shape and orientation, varying volume."""

    name, mclust, moments, features = "VEE", "VEE", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components - 1 + n_features * (n_features + 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        scatter, d = _lift_diagonals(weight, scatter), scatter.shape[-1]
        common = scatter.sum(axis=0)
        common = common / _determinant_roots(common)

        def volumes() -> Array:
            traces = np.trace(np.linalg.solve(common, scatter), axis1=1, axis2=2)
            return np.asarray(traces / (d * weight))[:, None, None]

        for _ in range(_MAX_STEPS):
            new = (scatter / volumes()).sum(axis=0)
            new = new / _determinant_roots(new)
            converged = np.abs(new - common).max() <= _TOLERANCE * np.abs(common).max()
            common = new
            if converged:
                break
        return np.asarray(volumes() * common)


class EVV(MatrixFactors):
    """Matrices ``lambda C_k (K, D, D)`` with ``|C_k| = 1``: equal volume, varying shape and orientation."""

    name, mclust, moments, features = "EVV", "EVV", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1 - n_components + n_components * n_features * (n_features + 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        scatter = _lift_diagonals(weight, scatter)
        roots = _determinant_roots(scatter)
        return np.asarray(scatter / roots * roots.sum() / weight.sum())


def _rebuild_matrices(vectors: Array, values: Array) -> Array:
    """Return ``V diag(values) V'`` as ``(K, D, D)``, of vectors ``V (K or 1, D, D)`` and values ``(K, D)``."""
    return np.asarray((vectors * values[..., None, :]) @ np.swapaxes(vectors, -1, -2))


class EEV(MatrixFactors):
    """Matrices ``lambda D_k A D_k' (K, D, D)``: equal volume and shape, varying orientation."""

    name, mclust, moments, features = "EEV", "EEV", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features + n_components * n_features * (n_features - 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        values, vectors = np.linalg.eigh(_lift_diagonals(weight, scatter))
        return _rebuild_matrices(vectors, np.broadcast_to(values.sum(axis=0) / weight.sum(), values.shape))


class VEV(MatrixFactors):
    """Matrices ``lambda_k D_k A D_k' (K, D, D)``: equal shape, varying volume and orientation."""

    name, mclust, moments, features = "VEV", "VEV", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components + n_features - 1 + n_components * n_features * (n_features - 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        values, vectors = np.linalg.eigh(_lift_diagonals(weight, scatter))
        volumes, shape = _fit_volumes_and_shape(weight, np.maximum(values, _FLOOR * values.max()))
        return _rebuild_matrices(vectors, volumes * shape)


@njit(nogil=True, cache=True)
def _rotate_pairs(axes, scatter, precisions):  # type: ignore[no-untyped-def]
    """Rotate each pair of the common axes to the minimum of ``sum_k tr(D' W_k D A_k^-1)``.

    ``axes (D, D)`` has the axes as columns and is changed in place; ``precisions (K, D)`` are the diagonals of
    ``A_k^-1``.
    """
    k, d = precisions.shape
    for p in range(d):
        for q in range(p + 1, d):
            pp, pq, qq = 0.0, 0.0, 0.0  # of the contrast of the two axes, in their plane
            for i in range(d):
                for j in range(d):
                    contrast = 0.0
                    for c in range(k):
                        contrast += (precisions[c, p] - precisions[c, q]) * scatter[c, i, j]
                    pp += axes[i, p] * contrast * axes[j, p]
                    pq += axes[i, p] * contrast * axes[j, q]
                    qq += axes[i, q] * contrast * axes[j, q]
            angle = 0.5 * np.arctan2(2.0 * pq, pp - qq) + 0.5 * np.pi
            # Of the two stationary angles, that of the minimum; and no more than a quarter turn.
            cosine, sine = np.cos(angle), np.sin(angle)
            if cosine < 0.0:
                cosine, sine = -cosine, -sine
            for i in range(d):
                first, second = axes[i, p], axes[i, q]
                axes[i, p], axes[i, q] = cosine * first + sine * second, cosine * second - sine * first
    return axes


VarianceEstimator = Callable[[Array, Array], Array]
"""Returns variances ``(K, D)`` along common axes, of weights ``(K,)`` and sums of squares ``(K, D)`` along them."""


def _fit_common_axes(weight: Array, scatter: Array, estimator: VarianceEstimator) -> Array:
    """Return the matrices ``(K, D, D)`` of greatest likelihood with one orientation for all components."""
    scatter = _lift_diagonals(weight, scatter)
    # There are local optima, so start from the eigenvectors of the pooled matrices and of some components.
    guesses = [scatter.sum(axis=0), (scatter / _determinant_roots(scatter)).sum(axis=0), *scatter[:3]]
    starts = [_rotate_axes(np.linalg.eigh(g)[1], weight, scatter, estimator, _FIRST_SWEEPS) for g in guesses]
    _, axes = _rotate_axes(min(starts, key=lambda start: start[0])[1], weight, scatter, estimator, _MAX_SWEEPS)
    return _rebuild_matrices(axes[None], _estimate_variances(axes, weight, scatter, estimator))


def _rotate_axes(
    axes: Array, weight: Array, scatter: Array, estimator: VarianceEstimator, sweeps: int
) -> tuple[float, Array]:
    """Return ``-2 Q`` up to a constant, Q the expected log-likelihood, and the axes after so many sweeps."""
    axes, last = np.array(axes), np.inf
    for _ in range(sweeps):
        values = _estimate_variances(axes, weight, scatter, estimator)
        loss = float((weight[:, None] * np.log(values)).sum())
        if last - loss <= _TOLERANCE * max(abs(loss), 1.0):
            break
        last = loss
        axes = _rotate_pairs(axes, scatter, 1.0 / values)
    return last, axes


def _estimate_variances(axes: Array, weight: Array, scatter: Array, estimator: VarianceEstimator) -> Array:
    """Return the variances ``(K, D)`` along common axes."""
    squares = np.einsum("ip,kij,jp->kp", axes, scatter, axes)
    return estimator(weight, np.maximum(squares, _FLOOR * squares.max()))


def _equalise_volumes(weight: Array, squares: Array) -> Array:
    """Return variances ``lambda A_k (K, D)`` with equal volume, of sums of squares ``(K, D)``."""
    roots = _geometric_means(squares)
    return np.asarray(squares / roots * roots.sum() / weight.sum())


class EVE(MatrixFactors):
    """Matrices ``lambda D A_k D' (K, D, D)``: equal volume and orientation, varying shape."""

    name, mclust, moments, features = "EVE", "EVE", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1 + n_components * (n_features - 1) + n_features * (n_features - 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return _fit_common_axes(weight, scatter, _equalise_volumes)


class VVE(MatrixFactors):
    """Matrices ``lambda_k D A_k D' (K, D, D)``: equal orientation, varying volume and shape."""

    name, mclust, moments, features = "VVE", "VVE", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features + n_features * (n_features - 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return _fit_common_axes(weight, scatter, lambda n, squares: np.asarray(squares / n[:, None]))


STRUCTURES = (VEI(), EVI(), VEE(), EVE(), VVE(), EEV(), VEV(), EVV())
