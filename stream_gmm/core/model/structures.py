"""The structures of mclust that scikit-learn has no name for: volume, shape and orientation, each equal or varying.

``Sigma_k = lambda_k D_k A_k D_k'`` with ``|A_k| = 1`` (Banfield & Raftery 1993); the letters of a code tell which of
lambda (volume), A (shape) and D (orientation) are equal (E) or vary (V) between components. M-steps after Celeux &
Govaert (1995), from ``n_k`` and the scatter matrices ``W_k`` alone: in closed form where there is one, else iterated
here, centrally. The common axes of EVE and VVE are turned pair by pair, each to its optimum (Flury & Gautschi 1986).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stream_gmm.core.model.families import MatrixFactors, VarianceFactors
from stream_gmm.core.model.features import DIAGONAL_FEATURES, QUADRATIC_FEATURES
from stream_gmm.core.model.moments import DIAGONAL, FULL, Array

_STEPS = 500
_SWEEPS = 100
_FIRST_SWEEPS = 3
_PRECISION = 1e-12
# Relative to the pooled variances: keeps the logarithm of a determinant finite for a component without rows.
_FLOOR = 1e-13


def _geometric_means(values: Array) -> Array:
    """Return the geometric means along the last axis: ``|A|^(1/D)`` of diagonals."""
    return np.asarray(np.exp(np.log(values).mean(axis=-1, keepdims=True)))


def _determinant_roots(matrices: Array) -> Array:
    return np.asarray(np.exp(np.linalg.slogdet(matrices)[1] / matrices.shape[-1]))[..., None, None]


def _lift_diagonals(weight: Array, scatter: Array) -> Array:
    """Return the scatter with a trace of the pooled variances on its diagonals."""
    pooled = scatter.sum(axis=0) / weight.sum()
    variances = pooled if pooled.ndim == 1 else np.diagonal(pooled)
    variances = np.maximum(variances, max(1e-6 * variances.max(), 1e-200))  # of a constant column
    lift = _FLOOR * weight[:, None] * variances
    return np.asarray(scatter + (lift if pooled.ndim == 1 else lift[:, :, None] * np.eye(len(variances))))


def _fit_volumes_and_shape(weight: Array, diagonals: Array) -> tuple[Array, Array]:
    """Return ``lambda_k (K, 1)`` and the common shape ``A (D,)`` that maximise the likelihood of diagonals."""
    d = diagonals.shape[1]
    shape = diagonals.sum(axis=0)
    shape = shape / _geometric_means(shape)
    for _ in range(_STEPS):
        volumes = (diagonals / shape).sum(axis=1, keepdims=True) / (d * weight[:, None])
        new = (diagonals / volumes).sum(axis=0)
        new = new / _geometric_means(new)
        settled = np.all(np.abs(new - shape) <= _PRECISION * shape)
        shape = new
        if settled:
            break
    return (diagonals / shape).sum(axis=1, keepdims=True) / (d * weight[:, None]), shape


class VEI(VarianceFactors):
    """Variances ``lambda_k A``: one shape along the axes, sizes of their own; ``(K, D)``."""

    name, mclust, moments, features = "VEI", "VEI", DIAGONAL, DIAGONAL_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components + n_features - 1

    def estimate(self, weight: Array, scatter: Array) -> Array:
        volumes, shape = _fit_volumes_and_shape(weight, _lift_diagonals(weight, scatter))
        return np.asarray(volumes * shape)


class EVI(VarianceFactors):
    """Variances ``lambda A_k``: one size, shapes along the axes of their own; ``(K, D)``."""

    name, mclust, moments, features = "EVI", "EVI", DIAGONAL, DIAGONAL_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1 + n_components * (n_features - 1)

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return _equalise_volumes(weight, _lift_diagonals(weight, scatter))


class VEE(MatrixFactors):
    """Matrices ``lambda_k C``: one form, sizes of their own; ``(K, D, D)``."""

    name, mclust, moments, features = "VEE", "VEE", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components - 1 + n_features * (n_features + 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        scatter, d = _lift_diagonals(weight, scatter), scatter.shape[-1]
        form = scatter.sum(axis=0)
        form = form / _determinant_roots(form)
        for _ in range(_STEPS):
            volumes = self._volumes(weight, scatter, form, d)
            new = (scatter / volumes).sum(axis=0)
            new = new / _determinant_roots(new)
            settled = np.abs(new - form).max() <= _PRECISION * np.abs(form).max()
            form = new
            if settled:
                break
        return np.asarray(self._volumes(weight, scatter, form, d) * form)

    @staticmethod
    def _volumes(weight: Array, scatter: Array, form: Array, d: int) -> Array:
        traces = np.trace(np.linalg.solve(form, scatter), axis1=1, axis2=2)
        return np.asarray(traces / (d * weight))[:, None, None]


class EVV(MatrixFactors):
    """Matrices ``lambda C_k``: one size, forms of their own; ``(K, D, D)``."""

    name, mclust, moments, features = "EVV", "EVV", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1 - n_components + n_components * n_features * (n_features + 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        scatter = _lift_diagonals(weight, scatter)
        roots = _determinant_roots(scatter)
        return np.asarray(scatter / roots * roots.sum() / weight.sum())


def _rebuild_matrices(vectors: Array, values: Array) -> Array:
    """Return ``D diag(values) D'``."""
    return np.asarray((vectors * values[..., None, :]) @ np.swapaxes(vectors, -1, -2))


class EEV(MatrixFactors):
    """Matrices ``lambda D_k A D_k'``: one size and shape, axes of their own; ``(K, D, D)``."""

    name, mclust, moments, features = "EEV", "EEV", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features + n_components * n_features * (n_features - 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        values, vectors = np.linalg.eigh(_lift_diagonals(weight, scatter))
        return _rebuild_matrices(vectors, np.broadcast_to(values.sum(axis=0) / weight.sum(), values.shape))


class VEV(MatrixFactors):
    """Matrices ``lambda_k D_k A D_k'``: one shape, sizes and axes of their own; ``(K, D, D)``."""

    name, mclust, moments, features = "VEV", "VEV", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components + n_features - 1 + n_components * n_features * (n_features - 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        values, vectors = np.linalg.eigh(_lift_diagonals(weight, scatter))
        volumes, shape = _fit_volumes_and_shape(weight, np.maximum(values, _FLOOR * values.max()))
        return _rebuild_matrices(vectors, volumes * shape)


def _rotate_pairs(axes: Array, scatter: Array, precisions: Array) -> Array:
    """Turn each pair of common axes to the optimum of ``sum_k tr(D' W_k D A_k^-1)``; ``precisions (K, D)``."""
    d = len(axes)
    for p in range(d):
        for q in range(p + 1, d):
            pair = axes[:, [p, q]]
            contrast = np.tensordot(precisions[:, p] - precisions[:, q], scatter, axes=1)
            inner = pair.T @ contrast @ pair
            angle = 0.5 * np.arctan2(2.0 * inner[0, 1], inner[0, 0] - inner[1, 1]) + 0.5 * np.pi
            # Of the two stationary angles, the one of the smaller form; and no more than a quarter turn.
            c, s = np.cos(angle), np.sin(angle)
            if c < 0.0:
                c, s = -c, -s
            axes[:, [p, q]] = np.column_stack([c * pair[:, 0] + s * pair[:, 1], -s * pair[:, 0] + c * pair[:, 1]])
    return axes


Shapes = Callable[[Array, Array], Array]
"""From weights and the sums of squares along common axes ``(K, D)``: the variances along them."""


def _fit_common_axes(weight: Array, scatter: Array, shapes: Shapes) -> Array:
    """Return the best matrices ``(K, D, D)`` with one orientation for all components."""
    scatter = _lift_diagonals(weight, scatter)
    # More than one start: which axes are common is not known, and every component has a guess.
    guesses = [scatter.sum(axis=0), (scatter / _determinant_roots(scatter)).sum(axis=0), *scatter[:3]]
    tried = [_rotate_axes(np.linalg.eigh(g)[1], weight, scatter, shapes, _FIRST_SWEEPS) for g in guesses]
    _, axes = _rotate_axes(min(tried, key=lambda t: t[0])[1], weight, scatter, shapes, _SWEEPS)
    return _rebuild_matrices(axes[None], _variances_along(axes, weight, scatter, shapes))


def _rotate_axes(axes: Array, weight: Array, scatter: Array, shapes: Shapes, sweeps: int) -> tuple[float, Array]:
    """Return ``-2 Q`` (up to a constant) and the axes after so many sweeps over all pairs of them."""
    axes, last = np.array(axes), np.inf
    for _ in range(sweeps):
        values = _variances_along(axes, weight, scatter, shapes)
        loss = float((weight[:, None] * np.log(values)).sum())
        if last - loss <= _PRECISION * max(abs(loss), 1.0):
            break
        last = loss
        axes = _rotate_pairs(axes, scatter, 1.0 / values)
    return last, axes


def _variances_along(axes: Array, weight: Array, scatter: Array, shapes: Shapes) -> Array:
    along = np.einsum("ip,kij,jp->kp", axes, scatter, axes)
    return shapes(weight, np.maximum(along, _FLOOR * along.max()))


def _equalise_volumes(weight: Array, along: Array) -> Array:
    roots = _geometric_means(along)
    return np.asarray(along / roots * roots.sum() / weight.sum())


class EVE(MatrixFactors):
    """Matrices ``lambda D A_k D'``: one size and the same axes, shapes of their own; ``(K, D, D)``."""

    name, mclust, moments, features = "EVE", "EVE", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1 + n_components * (n_features - 1) + n_features * (n_features - 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return _fit_common_axes(weight, scatter, _equalise_volumes)


class VVE(MatrixFactors):
    """Matrices ``lambda_k D A_k D'``: the same axes, sizes and shapes of their own; ``(K, D, D)``."""

    name, mclust, moments, features = "VVE", "VVE", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features + n_features * (n_features - 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return _fit_common_axes(weight, scatter, lambda n, along: np.asarray(along / n[:, None]))


STRUCTURES = (VEI(), EVI(), VEE(), EVE(), VVE(), EEV(), VEV(), EVV())
