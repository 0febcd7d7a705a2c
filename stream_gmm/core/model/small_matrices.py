"""Arithmetic of small matrices ``(D, D)`` for compiled loops: factors, eigenvectors, traces.

Plain loops over numbers: numba compiles them many times faster than calls of LAPACK and expressions of arrays, and
for small D they run faster, too.
"""

from __future__ import annotations

import numpy as np

from stream_gmm.core.compiled.decorator import compiled

_JACOBI_SWEEPS = 50


@compiled(internal=True, error_model="numpy")
def mean_log(values):  # type: ignore[no-untyped-def]
    """Return the mean of the logarithms: ``log |A|^(1/D)`` of a diagonal A."""
    total = 0.0
    for value in values:
        total += np.log(value)
    return total / len(values)


@compiled(internal=True, error_model="numpy")
def factor_matrix(matrix, lower):  # type: ignore[no-untyped-def]
    """Write the Cholesky factor of a matrix to ``lower (D, D)``; return ``log |C| / D``."""
    d, log_root = len(matrix), 0.0
    for i in range(d):
        for j in range(i + 1):
            s = matrix[i, j]
            for m in range(j):
                s -= lower[i, m] * lower[j, m]
            if i > j:
                lower[i, j] = s / lower[j, j]
            else:  # of a singular matrix no more than rounding is left
                lower[i, i] = np.sqrt(max(s, 1e-16 * matrix[i, i], 1e-300))
        log_root += np.log(lower[i, i])
    return 2.0 * log_root / d


@compiled(internal=True, error_model="numpy")
def trace_of_quotient(lower, matrix, inner):  # type: ignore[no-untyped-def]
    """Return ``tr(C^-1 W)`` of the Cholesky factor of C and a matrix W; ``inner (D, D)`` is scratch space."""
    d, trace = len(matrix), 0.0
    for j in range(d):  # inner = L^-1 W, then the diagonal of L^-1 (L^-1 W)'
        for i in range(d):
            s = matrix[i, j]
            for m in range(i):
                s -= lower[i, m] * inner[m, j]
            inner[i, j] = s / lower[i, i]
    solved = np.empty(d)
    for i in range(d):
        for j in range(i + 1):
            s = inner[i, j]
            for m in range(j):
                s -= lower[j, m] * solved[m]
            solved[j] = s / lower[j, j]
        trace += solved[i]
    return trace


@compiled(internal=True, error_model="numpy")
def find_axes(matrix, axes):  # type: ignore[no-untyped-def]
    """Write the eigenvectors of a symmetric matrix to the columns of ``axes (D, D)``, by Jacobi's rotations.

    ``matrix`` is overwritten; its diagonal holds the eigenvalues, in rising order.
    """
    d = len(matrix)
    for i in range(d):
        for j in range(d):
            axes[i, j] = 1.0 if i == j else 0.0
    for _ in range(_JACOBI_SWEEPS):
        off = 0.0
        for p in range(d):
            for q in range(p + 1, d):
                size = matrix[p, q] * matrix[p, q]
                off = max(off, size - 1e-32 * abs(matrix[p, p] * matrix[q, q]))
                if size == 0.0:
                    continue
                ratio = (matrix[q, q] - matrix[p, p]) / (2.0 * matrix[p, q])
                tangent = (1.0 if ratio >= 0.0 else -1.0) / (abs(ratio) + np.sqrt(ratio * ratio + 1.0))
                cosine = 1.0 / np.sqrt(tangent * tangent + 1.0)
                sine = tangent * cosine
                for i in range(d):
                    first, second = matrix[i, p], matrix[i, q]
                    matrix[i, p], matrix[i, q] = cosine * first - sine * second, sine * first + cosine * second
                for i in range(d):
                    first, second = matrix[p, i], matrix[q, i]
                    matrix[p, i], matrix[q, i] = cosine * first - sine * second, sine * first + cosine * second
                for i in range(d):
                    first, second = axes[i, p], axes[i, q]
                    axes[i, p], axes[i, q] = cosine * first - sine * second, sine * first + cosine * second
        if not off > 0.0:
            break
    for p in range(d):
        best = p
        for q in range(p + 1, d):
            if matrix[q, q] < matrix[best, best]:
                best = q
        matrix[p, p], matrix[best, best] = matrix[best, best], matrix[p, p]
        for i in range(d):
            axes[i, p], axes[i, best] = axes[i, best], axes[i, p]


@compiled(internal=True, error_model="numpy")
def blend_matrices(matrices, out):  # type: ignore[no-untyped-def]
    """Write a weighted sum of matrices ``(K, D, D)`` that have their axes in common, and so has the sum.

    The weights, fractions of multiples of the golden ratio, keep its eigenvalues apart where those of a plain sum
    would be equal, as of variances 1, 2 and 2, 1.
    """
    for c in range(matrices.shape[0]):
        trace, weight = 0.0, 1.0 + ((c + 1) * 0.6180339887498949) % 1.0
        for i in range(matrices.shape[1]):
            trace += matrices[c, i, i]
        for i in range(matrices.shape[1]):
            for j in range(matrices.shape[1]):
                out[i, j] += matrices[c, i, j] / trace * weight


@compiled(internal=True, error_model="numpy")
def rebuild_matrix(axes, values, out):  # type: ignore[no-untyped-def]
    """Write ``V diag(values) V'`` of axes V ``(D, D)``."""
    d = len(values)
    for i in range(d):
        for j in range(i + 1):
            s = 0.0
            for m in range(d):
                s += axes[i, m] * values[m] * axes[j, m]
            out[i, j] = out[j, i] = s


@compiled(internal=True, error_model="numpy")
def choose_unit(matrices):  # type: ignore[no-untyped-def]
    """Return a power of two near the largest value on the diagonals of ``matrices (K, D, D)``; 1 if all are 0."""
    largest = 0.0
    for c in range(matrices.shape[0]):
        for i in range(matrices.shape[1]):
            largest = max(largest, matrices[c, i, i])
    return 2.0 ** np.floor(np.log2(largest)) if 0.0 < largest < np.inf else 1.0


@compiled(internal=True, error_model="numpy")
def multiply_matrices(matrices, factor):  # type: ignore[no-untyped-def]
    """Multiply ``matrices (K, D, D)`` by a number, in place."""
    for c in range(matrices.shape[0]):
        for i in range(matrices.shape[1]):
            for j in range(matrices.shape[2]):
                matrices[c, i, j] *= factor
