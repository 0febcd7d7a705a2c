"""M-steps of the fourteen covariance structures, compiled: covariances of greatest likelihood, from scatter alone.

The covariance of component k is ``Sigma_k = lambda_k D_k A_k D_k'`` with the volume ``lambda_k``, the shape ``A_k``
(diagonal, ``|A_k| = 1``) and the orientation ``D_k`` (orthogonal; Banfield & Raftery 1993). Each of them is equal in
all components or varies; the shape may also be that of a sphere, and the orientation that of the axes of the data.
M-steps after Celeux & Govaert (1995), from the weights ``n_k`` and the scatter matrices ``W_k``: in closed form where
there is one, else by iteration. The common axes of EVE and VVE are rotated pair by pair, each pair to its optimum
(Flury & Gautschi 1986).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stream_gmm.core.compiled.decorator import compiled
from stream_gmm.core.model.small_matrices import (
    blend_matrices,
    choose_unit,
    factor_matrix,
    find_axes,
    mean_log,
    multiply_matrices,
    rebuild_matrix,
    trace_of_quotient,
)

EQUAL, VARYING, IDENTITY = 0, 1, 2
"""What the letters E, V and I of mclust's codes say of volume, shape or orientation."""

_MAX_STEPS = 500
_MAX_SWEEPS = 100
_FIRST_SWEEPS = 3
"""Sweeps over all pairs of axes from each start, before the best start is continued."""
_MOST_STARTS = 5
_TOLERANCE = 1e-12
_FLOOR = 1e-13
"""Relative to the pooled variances: keeps the logarithm of a determinant finite for a component without rows."""


class Letters(NamedTuple):
    """Volume, shape and orientation of a structure, as codes for the compiled functions."""

    volume: int
    shape: int
    orientation: int

    @classmethod
    def of(cls, code: str) -> Letters:
        """Return the letters of a code of mclust, such as ``"VEI"``."""
        return cls(*("EVI".index(letter) for letter in code))


@compiled(internal=True, error_model="numpy")
def _lift_diagonals(weight, scatter):  # type: ignore[no-untyped-def]
    """Add a tiny multiple of the pooled variances to the diagonals of the scatter ``(K, D, D)``, in place."""
    k, d = scatter.shape[0], scatter.shape[1]
    total, largest = 0.0, 0.0
    variances = np.zeros(d)
    for c in range(k):
        total += weight[c]
        for i in range(d):
            variances[i] += scatter[c, i, i]
    for i in range(d):
        largest = max(largest, variances[i])
    for c in range(k):
        for i in range(d):  # a constant column has the variance 0
            scatter[c, i, i] += _FLOOR * weight[c] * max(variances[i], 1e-6 * largest, 1e-200 * total) / total


@compiled(internal=True, error_model="numpy")
def _raise_to_floor(squares):  # type: ignore[no-untyped-def]
    """Raise sums of squares ``(K, D)`` to a tiny share of the largest, in place."""
    largest = 0.0
    for row in squares:
        for value in row:
            largest = max(largest, value)
    for c in range(squares.shape[0]):
        for j in range(squares.shape[1]):
            squares[c, j] = max(squares[c, j], _FLOOR * largest)


@compiled(internal=True, error_model="numpy")
def _fit_volumes_and_shape(weight, squares, variances):  # type: ignore[no-untyped-def]
    """Write the variances ``lambda_k A (K, D)`` with one shape A, of sums of squares ``(K, D)``."""
    k, d = squares.shape
    shape, new, volumes = np.zeros(d), np.zeros(d), np.zeros(k)
    for c in range(k):
        for j in range(d):
            new[j] += squares[c, j]
    for step in range(_MAX_STEPS + 2):
        root, converged = np.exp(mean_log(new)), step > 0
        for j in range(d):
            value = new[j] / root
            converged = converged and abs(value - shape[j]) <= _TOLERANCE * shape[j]
            shape[j] = value
            new[j] = 0.0
        for c in range(k):
            volumes[c] = 0.0
            for j in range(d):
                volumes[c] += squares[c, j] / shape[j] / (d * weight[c])
            for j in range(d):
                new[j] += squares[c, j] / volumes[c]
        if converged:
            break
    for c in range(k):
        for j in range(d):
            variances[c, j] = volumes[c] * shape[j]


@compiled(error_model="numpy")
def estimate_variances(volume, shape, weight, squares, variances):  # type: ignore[no-untyped-def]
    """Write the variances ``(K, D)`` along given axes, of sums of squares ``(K, D)`` along them."""
    k, d = squares.shape
    if shape == EQUAL and volume == VARYING:
        _fit_volumes_and_shape(weight, squares, variances)
        return
    total, all_roots = 0.0, 0.0
    pooled, roots = np.zeros(d), np.zeros(k)
    for c in range(k):
        total += weight[c]
        if shape == VARYING and volume == EQUAL:
            roots[c] = np.exp(mean_log(squares[c]))
            all_roots += roots[c]
        for j in range(d):
            pooled[j] += squares[c, j]
    for c in range(k):
        mean = 0.0
        for j in range(d):
            if volume == VARYING:
                variances[c, j] = squares[c, j] / weight[c]
            elif shape == VARYING:
                variances[c, j] = squares[c, j] / roots[c] * all_roots / total
            else:
                variances[c, j] = pooled[j] / total
            mean += variances[c, j] / d
        if shape == IDENTITY:
            for j in range(d):
                variances[c, j] = mean


@compiled(internal=True, error_model="numpy")
def _fit_volumes(weight, scatter, out):  # type: ignore[no-untyped-def]
    """Write the matrices ``lambda_k C (K, D, D)`` with one matrix C, ``|C| = 1``."""
    k, d = scatter.shape[0], scatter.shape[1]
    common, new, lower, inner = np.zeros((d, d)), np.zeros((d, d)), np.zeros((d, d)), np.zeros((d, d))
    volumes = np.zeros(k)
    for c in range(k):
        for i in range(d):
            for j in range(d):
                new[i, j] += scatter[c, i, j]
    for step in range(_MAX_STEPS + 2):
        root, largest, moved = np.exp(factor_matrix(new, lower)), 0.0, 0.0
        for i in range(d):
            for j in range(d):
                value = new[i, j] / root
                largest, moved = max(largest, abs(value)), max(moved, abs(value - common[i, j]))
                common[i, j] = value
                new[i, j] = 0.0
        for c in range(k):
            # Of the factor before the division by the root.
            volumes[c] = trace_of_quotient(lower, scatter[c], inner) * root / (d * weight[c])
            for i in range(d):
                for j in range(d):
                    new[i, j] += scatter[c, i, j] / volumes[c]
        if step > 0 and moved <= _TOLERANCE * largest:
            break
    for c in range(k):
        for i in range(d):
            for j in range(d):
                out[c, i, j] = volumes[c] * common[i, j]


@compiled(internal=True, error_model="numpy")
def _rotate_pairs(axes, scatter, variances):  # type: ignore[no-untyped-def]
    """Rotate each pair of the common axes to the minimum of ``sum_k tr(D' W_k D A_k^-1)``.

    ``axes (D, D)`` has the axes as columns and is changed in place; ``variances (K, D)`` are the diagonals of
    ``A_k``.
    """
    k, d = variances.shape
    for p in range(d):
        for q in range(p + 1, d):
            pp, pq, qq = 0.0, 0.0, 0.0  # of the contrast of the two axes, in their plane
            for i in range(d):
                for j in range(d):
                    contrast = 0.0
                    for c in range(k):
                        contrast += (1.0 / variances[c, p] - 1.0 / variances[c, q]) * scatter[c, i, j]
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


@compiled(internal=True, error_model="numpy")
def _estimate_along(axes, volume, shape, weight, scatter, variances):  # type: ignore[no-untyped-def]
    """Write the variances ``(K, D)`` along common axes ``(D, D)``."""
    k, d = scatter.shape[0], scatter.shape[1]
    squares = np.zeros((k, d))
    for c in range(k):
        for p in range(d):
            for i in range(d):
                s = 0.0
                for j in range(d):
                    s += scatter[c, i, j] * axes[j, p]
                squares[c, p] += axes[i, p] * s
    _raise_to_floor(squares)
    estimate_variances(volume, shape, weight, squares, variances)


@compiled(internal=True, error_model="numpy")
def _rotate_axes(axes, volume, shape, weight, scatter, sweeps, variances):  # type: ignore[no-untyped-def]
    """Rotate ``axes (D, D)`` in place; return ``-2 Q`` up to a constant, Q the expected log-likelihood."""
    k, d = scatter.shape[0], scatter.shape[1]
    last = np.inf
    for _ in range(sweeps):
        _estimate_along(axes, volume, shape, weight, scatter, variances)
        loss = 0.0
        for c in range(k):
            loss += weight[c] * d * mean_log(variances[c])
        if last - loss <= _TOLERANCE * max(abs(loss), 1.0):
            break
        last = loss
        _rotate_pairs(axes, scatter, variances)
    return last


@compiled(internal=True, error_model="numpy")
def _fit_common_axes(volume, shape, weight, scatter, out):  # type: ignore[no-untyped-def]
    """Write the matrices ``(K, D, D)`` of varying shape with one orientation for all components."""
    k, d = scatter.shape[0], scatter.shape[1]
    # There are local optima, so start from the eigenvectors of the pooled matrices and of some components; and from
    # the axes of the step before, than which the new ones must not be worse.
    n_starts, variances, lower = min(k + 2, _MOST_STARTS), np.zeros((k, d)), np.zeros((d, d))
    guesses, axes = np.zeros((n_starts + 1, d, d)), np.zeros((n_starts + 1, d, d))
    for c in range(k):
        root = np.exp(factor_matrix(scatter[c], lower))
        for i in range(d):
            for j in range(d):
                guesses[0, i, j] += scatter[c, i, j]
                guesses[1, i, j] += scatter[c, i, j] / root
                if c + 2 < n_starts:
                    guesses[c + 2, i, j] = scatter[c, i, j]
    if out[0, 0, 0] > 0.0:
        blend_matrices(out, guesses[n_starts])
        n_starts += 1
    best, least = 0, np.inf
    for start in range(n_starts):
        find_axes(guesses[start], axes[start])
        loss = _rotate_axes(axes[start], volume, shape, weight, scatter, np.int64(_FIRST_SWEEPS), variances)
        if loss < least:
            best, least = start, loss
    _rotate_axes(axes[best], volume, shape, weight, scatter, np.int64(_MAX_SWEEPS), variances)
    _estimate_along(axes[best], volume, shape, weight, scatter, variances)
    for c in range(k):
        rebuild_matrix(axes[best], variances[c], out[c])


@compiled(internal=True, error_model="numpy")
def _fit_common_shape(volume, shape, weight, scatter, out):  # type: ignore[no-untyped-def]
    """Write the matrices ``lambda_k D_k A D_k' (K, D, D)`` with one shape A."""
    k, d = scatter.shape[0], scatter.shape[1]
    squares, variances, axes = np.zeros((k, d)), np.zeros((k, d)), np.zeros((k, d, d))
    for c in range(k):
        find_axes(scatter[c], axes[c])
        for j in range(d):
            squares[c, j] = scatter[c, j, j]
    _raise_to_floor(squares)
    estimate_variances(volume, shape, weight, squares, variances)
    for c in range(k):
        rebuild_matrix(axes[c], variances[c], out[c])


@compiled(internal=True, error_model="numpy")
def _scale_matrices(volume, shape, weight, scatter, out):  # type: ignore[no-untyped-def]
    """Write the matrices whose shape and orientation are both equal (EEE) or both varying (VVV, EVV)."""
    k, d = scatter.shape[0], scatter.shape[1]
    lower, pooled, roots, total, all_roots = np.zeros((d, d)), np.zeros((d, d)), np.zeros(k), 0.0, 0.0
    for c in range(k):
        total += weight[c]
        if shape == VARYING and volume == EQUAL:
            roots[c] = np.exp(factor_matrix(scatter[c], lower))
            all_roots += roots[c]
        for i in range(d):
            for j in range(d):
                pooled[i, j] += scatter[c, i, j]
    for c in range(k):
        for i in range(d):
            for j in range(d):
                if volume == VARYING:
                    out[c, i, j] = scatter[c, i, j] / weight[c]
                elif shape == VARYING:
                    out[c, i, j] = scatter[c, i, j] / roots[c] * all_roots / total
                else:
                    out[c, i, j] = pooled[i, j] / total


@compiled(error_model="numpy")
def estimate_covariances(volume, shape, orientation, weight, scatter, out):  # type: ignore[no-untyped-def]
    """Write the covariances ``(K, D, D)`` of a structure, of ``weight (K,)`` and ``scatter (K, D, D)``.

    Of those structures that have no orientation or :func:`_scale_matrices`: the rest is compiled apart, in
    :func:`estimate_oriented_covariances`, because few fits need it. The scatter is overwritten.
    """
    # Squares and determinants would over- or underflow in some units; a power of two changes no bit of the result.
    unit = choose_unit(scatter)
    multiply_matrices(scatter, 1.0 / unit)
    k, d = scatter.shape[0], scatter.shape[1]
    if orientation == IDENTITY:
        if shape != volume and shape != IDENTITY:
            _lift_diagonals(weight, scatter)
        squares, variances = np.zeros((k, d)), np.zeros((k, d))
        for c in range(k):
            for i in range(d):
                squares[c, i] = scatter[c, i, i]
        estimate_variances(volume, shape, weight, squares, variances)
        for c in range(k):
            for i in range(d):
                for j in range(d):
                    out[c, i, j] = variances[c, i] if i == j else 0.0
    else:
        if shape != volume:
            _lift_diagonals(weight, scatter)
        _scale_matrices(volume, shape, weight, scatter, out)
    multiply_matrices(out, unit)


@compiled(error_model="numpy")
def estimate_oriented_covariances(volume, shape, orientation, weight, scatter, out):  # type: ignore[no-untyped-def]
    """Write the same of the others: EVE, VVE, EEV, VEV, VEE. ``out`` holds those of the step before, or zeros."""
    unit = choose_unit(scatter)
    multiply_matrices(scatter, 1.0 / unit)
    if shape != volume or shape != orientation:
        _lift_diagonals(weight, scatter)
    if orientation == VARYING:
        _fit_common_shape(volume, shape, weight, scatter, out)
    elif shape == EQUAL:
        _fit_volumes(weight, scatter, out)
    else:
        _fit_common_axes(volume, shape, weight, scatter, out)
    multiply_matrices(out, unit)
