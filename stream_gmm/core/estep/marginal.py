"""Rows with missing values (NaN): sorted by pattern, and the marginal densities of the columns that they have.

If values are missing at random (whether one is missing depends on observed values alone, Rubin 1976), the density of
a row is that of its observed columns, and EM needs the conditional mean and covariance of the others (Ghahramani &
Jordan 1994). The statistics that follow are ordinary ones, so that every M-step applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.estep import marginal_kernels, marginal_scores
from stream_gmm.core.model.density import Density
from stream_gmm.core.model.moments import Array

Mask = NDArray[np.bool_]


def find_complete(rows: Array) -> Mask | None:
    """Return which of ``rows (N, D)`` have no missing value, ``(N,)`` booleans; None if all have none."""
    if not np.isnan(rows.sum()):  # values are finite and far from overflow
        return None
    missing = np.isnan(rows)
    return np.asarray(~missing.any(axis=1)) if missing.any() else None


@dataclass(frozen=True)
class Patterns:
    """Rows sorted by the set of columns that they have, their *pattern*.

    ``order (N,)`` sorts them; the rows of pattern p are then ``starts[p]`` to ``starts[p + 1] - 1``, and
    ``observed (P, D)`` says which columns they have.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    observed: Mask

    @classmethod
    def of(cls, rows: Array) -> Patterns:
        """Return the patterns of ``rows (N, D)``."""
        observed = ~np.isnan(rows)
        n = len(rows)
        packed = np.packbits(observed, axis=1)
        words = np.zeros((n, -(-packed.shape[1] // 8) * 8), np.uint8)
        words[:, : packed.shape[1]] = packed
        codes = words.view(np.uint64)
        order = np.argsort(codes[:, 0], kind="stable") if codes.shape[1] == 1 else np.lexsort(codes.T)
        codes = codes[order]
        begins = np.ones(n, dtype=bool)
        begins[1:] = (codes[1:] != codes[:-1]).any(axis=1)
        first = np.flatnonzero(begins)
        return cls(order, np.append(first, n).astype(np.int64), np.ascontiguousarray(observed[order[first]]))

    def sort(self, rows: Array) -> Array:
        """Return ``rows (N, D)`` in this order, as ``(D, N)``."""
        return np.ascontiguousarray(rows[self.order].T, dtype=np.float64)


@dataclass(frozen=True)
class MarginalDensity:
    """What the marginal densities of M components are made of, in C candidates.

    ``log_weights (M,)`` are the logarithms of the mixing weights, ``covariances`` matrices ``(M, D, D)`` or variances
    ``(M, D)``. ``backgrounds (C,)`` are the weighted log-densities of the noise in all columns, and ``log_widths
    (C, D)`` the logarithms of the widths of its box.
    """

    log_weights: Array
    means: Array
    covariances: Array
    backgrounds: Array
    log_widths: Array

    @classmethod
    def of(cls, densities: Sequence[Density]) -> MarginalDensity:
        """Return the marginal densities of mixtures that all have matrices, or all have variances."""
        d = densities[0].means.shape[1]
        whitener = np.concatenate([density.whitener for density in densities])
        diagonal = whitener if whitener.ndim == 2 else np.einsum("kjj->kj", whitener)
        log_norm = np.concatenate([density.log_norm for density in densities])
        log_weights = log_norm - np.log(diagonal).sum(axis=1) + 0.5 * d * np.log(2.0 * np.pi)
        if whitener.ndim == 2:
            covariances = 1.0 / whitener**2
        else:
            factor = np.linalg.inv(np.swapaxes(whitener, 1, 2))
            covariances = factor @ np.swapaxes(factor, 1, 2)
        widths = [np.zeros(d) if density.log_widths is None else density.log_widths for density in densities]
        return cls(
            log_weights, np.concatenate([density.means for density in densities]), np.ascontiguousarray(covariances),
            np.array([density.background for density in densities]), np.array(widths),
        )  # fmt: skip

    @property
    def matrices(self) -> Array:
        """Covariance matrices ``(M, D, D)``."""
        c = self.covariances
        return c if c.ndim == 3 else np.ascontiguousarray(c[:, :, None] * np.eye(c.shape[1]))

    def sum_rows(
        self, rows: Array, weights: Array, offsets: NDArray[np.int64]
    ) -> tuple[Array, Array, Array, Array, Array, Array]:
        """Return what an E-step sums over ``rows (N, D)`` with ``weights (N,)`` or none.

        These are the log-likelihood and the logarithm of the largest responsibility ``(C, 2)``; responsibility times
        log-density of the components ``(M,)`` and of the noise ``(C,)``; and weight, mean and scatter ``(M, ...)``.
        """
        (m, d), c = self.means.shape, len(self.backgrounds)
        patterns = Patterns.of(rows)
        rows_t = patterns.sort(rows)
        weights = np.ascontiguousarray(weights[patterns.order]) if len(weights) else weights
        weight, first, expected = np.zeros(m), np.zeros((m, d)), np.zeros(m)
        second, of_noise, sums = np.zeros(self.covariances.shape), np.zeros(c), np.zeros((c, 2))
        matrices = second.ndim == 3
        run = marginal_kernels.full_marginal_pass if matrices else marginal_kernels.diagonal_marginal_pass
        shapes = self.covariances if matrices else 1.0 / np.sqrt(self.covariances)
        run(
            rows_t, weights, patterns.starts, patterns.observed, np.array(self.means), np.array(shapes),
            np.array(self.log_weights), offsets, np.array(self.backgrounds), np.array(self.log_widths),
            weight, first, second, expected, of_noise, sums,
        )  # fmt: skip
        safe = np.where(weight > 0.0, weight, 1.0)[:, None]
        shift = first / safe
        if matrices:
            scatter = 0.5 * (second + np.swapaxes(second, 1, 2)) - weight[:, None, None] * (
                shift[:, :, None] * shift[:, None, :]
            )
            return sums, expected, of_noise, weight, self.means + shift, scatter
        scatter = (second - weight[:, None] * shift**2) / shapes**2
        return sums, expected, of_noise, weight, self.means + shift / shapes, scatter

    def impute(self, rows: Array, shares: Array) -> tuple[Array, Array]:
        """Return the conditional means and variances ``(N, D)`` of ``rows (N, D)``, given their observed values.

        ``shares (N, K)`` are the responsibilities of one mixture, which add up to 1. Observed values stay as they
        are, with variance 0.
        """
        patterns = Patterns.of(rows)
        mean, variance = np.empty((2, rows.shape[1], len(rows)))
        marginal_scores.impute_marginal_rows(
            patterns.sort(rows), patterns.starts, patterns.observed, np.array(self.means), self.matrices,
            np.ascontiguousarray(shares[patterns.order]), mean, variance,
        )  # fmt: skip
        out_mean, out_variance = np.empty(rows.shape), np.empty(rows.shape)
        out_mean[patterns.order], out_variance[patterns.order] = mean.T, variance.T
        return out_mean, out_variance
