"""The marginal densities of the columns that rows with missing values (NaN) have.

If values are missing at random (whether one is missing depends on observed values alone, Rubin 1976), the density of
a row is that of its observed columns, and EM needs the conditional mean and covariance of the others (Ghahramani &
Jordan 1994). The statistics that follow are ordinary ones, so that every M-step applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.estep.marginal import kernels, scores, shared_kernel
from stream_gmm.core.estep.marginal.patterns import Patterns, SortedRows
from stream_gmm.core.model.density import Density
from stream_gmm.core.model.moments import Array

SHARED_DISTANCE = 100.0
"""Means with one covariance lie close together if none is so many standard deviations from their mean: sums about
that mean then lose four of sixteen digits."""


def have_close_means(density: Density) -> bool:
    """Return True if the means of components with one covariance lie close together."""
    about = density.means - density.means.mean(axis=0)
    return bool(np.max(np.linalg.norm(about @ density.whitener[0], axis=1)) < SHARED_DISTANCE)


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
    is_shared: bool = False
    """Whether the components of each candidate have one covariance matrix, and means that lie close together."""

    @classmethod
    def of(cls, densities: Sequence[Density], is_shared: bool = False) -> MarginalDensity:
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
            np.array([density.background for density in densities]), np.array(widths), is_shared,
        )  # fmt: skip

    @property
    def matrices(self) -> Array:
        """Covariance matrices ``(M, D, D)``."""
        c = self.covariances
        return c if c.ndim == 3 else np.ascontiguousarray(c[:, :, None] * np.eye(c.shape[1]))

    def sum_rows(
        self, rows: SortedRows, offsets: NDArray[np.int64]
    ) -> tuple[Array, Array, Array, Array, Array, Array]:
        """Return what an E-step sums over rows.

        These are the log-likelihood and the logarithm of the largest responsibility ``(C, 2)``; responsibility times
        log-density of the components ``(M,)`` and of the noise ``(C,)``; and weight, mean and scatter ``(M, ...)``.
        With a shared covariance the first component of a candidate has the scatter of all of them.
        """
        (m, d), c = self.means.shape, len(self.backgrounds)
        weight, first, expected = np.zeros(m), np.zeros((m, d)), np.zeros(m)
        second, of_noise, sums = np.zeros(self.covariances.shape), np.zeros(c), np.zeros((c, 2))
        matrices = second.ndim == 3
        run = kernels.full_marginal_pass if matrices else kernels.diagonal_marginal_pass
        run = shared_kernel.shared_marginal_pass if self.is_shared else run
        shapes = self.covariances if matrices else 1.0 / np.sqrt(self.covariances)
        run(
            rows.rows_t, rows.weights, rows.starts, rows.observed, np.array(self.means), np.array(shapes),
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
        scores.impute_marginal_rows(
            patterns.sort(rows), patterns.starts, patterns.observed, np.array(self.means), self.matrices,
            np.ascontiguousarray(shares[patterns.order]), mean, variance,
        )  # fmt: skip
        out_mean, out_variance = np.empty(rows.shape), np.empty(rows.shape)
        out_mean[patterns.order], out_variance[patterns.order] = mean.T, variance.T
        return out_mean, out_variance
