"""Sufficient statistics of one E-step: values that merge, so that parts of the data combine in any grouping.

Moments are kept centred (weight, mean, scatter about that mean) and merged pairwise, so that no digits are lost when
the mean is far from zero (Chan, Golub & LeVeque 1979).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_gmm.core.model.moments import Array, Moments


@dataclass(frozen=True)
class SuffStats:
    """All that an M-step and a criterion need from the rows, for one candidate.

    Attributes
    ----------
    rows
        Number of rows; the sum of their weights if they have weights.
    loglik
        Sum of the log-densities of the rows, nats.
    entropy
        Sum over the rows of the entropy of the responsibilities, nats.
    log_max
        Sum over the rows of the logarithm of the largest responsibility (for ICL as in mclust), nats.
    weight, mean, scatter
        Of each component: the sum of the responsibilities ``(K,)``, the mean ``(K, D)``, and the scatter about that
        mean, in the shape that ``moments`` gives. The scatter of a structure with one shared covariance may be
        pooled, with a leading axis of 1; or of 0 until it is computed from the moments of all rows
        (:func:`stream_gmm.core.estep.accumulate.complete_stats`).
    moments
        The kind of second moment that the scatter is.
    heldout_rows, heldout_loglik
        Number of the rows that no fit uses, and the sum of their log-densities, nats.

    Notes
    -----
    ``zero`` is an exact identity of ``merge``; ``merge`` is commutative, and associative up to rounding; ``scale``
    distributes over ``merge``; merging keeps scatter positive semidefinite.
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
        """Return the statistics of both sets of rows, taken at the same parameters."""
        if self.rows == 0.0:
            return other
        if other.rows == 0.0:
            return self
        weight = self.weight + other.weight
        self_share = np.divide(self.weight, weight, out=np.zeros_like(weight), where=weight > 0.0)
        other_share = np.divide(other.weight, weight, out=np.zeros_like(weight), where=weight > 0.0)
        delta = other.mean - self.mean
        # Start from the heavier side: the result is bitwise the same in both orders, and no digits are lost.
        heavier, equal = self.weight > other.weight, self.weight == other.weight
        mean = np.where(
            heavier[:, None],
            self.mean + other_share[:, None] * delta,
            other.mean - self_share[:, None] * delta,
        )
        mean = np.where(equal[:, None], 0.5 * (self.mean + other.mean), mean)
        scatter = self.scatter
        if len(scatter):
            product = self.weight * other.weight
            coupling = np.divide(product, weight, out=np.zeros_like(product), where=weight > 0.0)
            between = self.moments.outer(coupling, delta)
            if len(scatter) < len(coupling):
                between = between.sum(axis=0, keepdims=True)
            scatter = scatter + other.scatter + between
        return SuffStats(
            self.rows + other.rows,
            self.loglik + other.loglik,
            self.entropy + other.entropy,
            self.log_max + other.log_max,
            weight,
            mean,
            scatter,
            self.moments,
            self.heldout_rows + other.heldout_rows,
            self.heldout_loglik + other.heldout_loglik,
        )

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
        """Mean log-density, in nats per row."""
        return self.loglik / self.rows

    def pooled_variances(self) -> Array:
        """Return the variances ``(D,)`` of all rows together, within and between components."""
        total = self.weight.sum()
        centre = self.weight @ self.mean / total
        between = self.weight @ (self.mean - centre) ** 2
        within = self.moments.diagonal(self.scatter).sum(axis=0)
        return np.asarray((within + between) / total)
