"""Sufficient statistics of one E-step: a value with a merge.

Moments are kept centred (weight, mean, scatter about that mean) and merged pairwise, so that no
digits are lost when the mean is far from zero (Chan, Golub & LeVeque 1979).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_gmm.core.model.moments import Array, Moments


@dataclass(frozen=True)
class SuffStats:
    """All that an M-step and a criterion need from the rows, for one candidate.

    ``rows`` is their number, ``loglik`` the sum of their log-densities, ``entropy`` that of the
    responsibilities' entropies, ``log_max`` that of the logarithm of the largest responsibility
    (mclust's ICL); ``weight (K,)``, ``mean (K, D)`` and ``scatter`` (about ``mean``) are per component.
    The scatter of a structure with one shared covariance may be pooled: a leading axis of 1, or of
    0 while it is still to be completed from the moments of all rows (:func:`..estep.complete`).

    Laws: ``zero`` is an exact identity of ``merge``; ``merge`` is commutative, and associative to
    rounding; ``scale`` distributes over ``merge``; a merge of valid statistics is valid (PSD).
    """

    rows: float
    loglik: float
    entropy: float
    log_max: float
    weight: Array
    mean: Array
    scatter: Array
    moments: Moments
    heldout_rows: float = 0.0
    heldout_loglik: float = 0.0
    """Rows that no fit uses, and the sum of their log-densities."""

    @classmethod
    def zero(cls, n_components: int, n_features: int, moments: Moments) -> SuffStats:
        """Return the statistics of no rows."""
        return cls(
            0.0, 0.0, 0.0, 0.0,
            np.zeros(n_components),
            np.zeros((n_components, n_features)),
            np.zeros(moments.shape(n_components, n_features)),
            moments,
        )  # fmt: skip

    def merge(self, other: SuffStats) -> SuffStats:
        """Return the statistics of both sets of rows."""
        if self.rows == 0.0:
            return other
        if other.rows == 0.0:
            return self
        weight = self.weight + other.weight
        share = np.divide(other.weight, weight, out=np.zeros_like(weight), where=weight > 0.0)
        delta = other.mean - self.mean
        both = self.weight * other.weight
        coupling = np.divide(both, weight, out=np.zeros_like(both), where=weight > 0.0)
        return SuffStats(
            self.rows + other.rows,
            self.loglik + other.loglik,
            self.entropy + other.entropy,
            self.log_max + other.log_max,
            weight,
            self._merged_mean(other, weight, share, delta),
            self._merged_scatter(other, coupling, delta),
            self.moments,
            self.heldout_rows + other.heldout_rows,
            self.heldout_loglik + other.heldout_loglik,
        )

    def _merged_scatter(self, other: SuffStats, coupling: Array, delta: Array) -> Array:
        if not len(self.scatter):
            return self.scatter
        between = self.moments.outer(coupling, delta)
        if len(self.scatter) < len(coupling):
            between = between.sum(axis=0, keepdims=True)
        return self.scatter + other.scatter + between

    def _merged_mean(self, other: SuffStats, weight: Array, share: Array, delta: Array) -> Array:
        # Start from the heavier side: bitwise symmetric in its arguments, and no digits are lost.
        heavier = self.weight > other.weight
        tie = self.weight == other.weight
        own = np.divide(self.weight, weight, out=np.zeros_like(weight), where=weight > 0.0)
        out = np.where(
            heavier[:, None],
            self.mean + share[:, None] * delta,
            other.mean - own[:, None] * delta,
        )
        return np.where(tie[:, None], 0.5 * (self.mean + other.mean), out)

    def scale(self, factor: float) -> SuffStats:
        """Return the statistics with every row counted ``factor`` times (``factor >= 0``)."""
        return SuffStats(
            self.rows * factor,
            self.loglik * factor,
            self.entropy * factor,
            self.log_max * factor,
            self.weight * factor,
            self.mean,
            self.scatter * factor,
            self.moments,
            self.heldout_rows * factor,
            self.heldout_loglik * factor,
        )

    @property
    def mean_loglik(self) -> float:
        """Log-likelihood in nats per row."""
        return self.loglik / self.rows

    def pooled_variances(self) -> Array:
        """Return the variances ``(D,)`` of all the rows together."""
        total = self.weight.sum()
        centre = self.weight @ self.mean / total
        between = self.weight @ (self.mean - centre) ** 2
        within = self.moments.diagonal(self.scatter).sum(axis=0)
        return np.asarray((within + between) / total)
