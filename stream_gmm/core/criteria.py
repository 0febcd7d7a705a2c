"""Criteria of model selection, computed from the statistics that every pass gives.

Symbols: L is the log-likelihood of all rows in nats, p the number of free parameters, N the number of rows (the sum
of their weights), ``r_nk`` the responsibility of component k for row n. A new criterion is one entry in ``CRITERIA``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.stats import SuffStats


@dataclass(frozen=True)
class Criteria:
    """The criteria of one candidate.

    Attributes
    ----------
    loglik
        Log-likelihood of all rows, nats.
    n_parameters
        Number of free parameters.
    n_rows
        Number of rows, or the sum of their weights.
    entropy
        Sum over the rows of the entropy of the responsibilities, nats.
    log_max
        Sum over the rows of the logarithm of the largest responsibility, nats.
    heldout_loglik, heldout_rows
        Log-likelihood of the rows that no fit uses, nats, and their number.
    """

    loglik: float
    n_parameters: int
    n_rows: float
    entropy: float
    log_max: float
    heldout_loglik: float = 0.0
    heldout_rows: float = 0.0

    @classmethod
    def from_stats(cls, stats: SuffStats, n_parameters: int) -> Criteria:
        """Return the criteria of the parameters at which ``stats`` were taken."""
        return cls(
            stats.loglik, n_parameters, stats.rows, stats.entropy, stats.log_max,
            stats.heldout_loglik, stats.heldout_rows,
        )  # fmt: skip

    def shift(self, loglik: float, heldout_loglik: float = 0.0) -> Criteria:
        """Return the criteria with so many nats more: those of all log-Jacobians, where columns are transformed."""
        return replace(self, loglik=self.loglik + loglik, heldout_loglik=self.heldout_loglik + heldout_loglik)

    @property
    def bic(self) -> float:
        """``-2 L + p ln N`` (Schwarz 1978), with the sign of scikit-learn: smaller is better."""
        return -2.0 * self.loglik + self.n_parameters * float(np.log(self.n_rows))

    @property
    def aic(self) -> float:
        """``-2 L + 2 p`` (Akaike 1974): smaller is better."""
        return -2.0 * self.loglik + 2.0 * self.n_parameters

    @property
    def icl(self) -> float:
        """``BIC - 2 sum_n ln max_k r_nk``, as mclust has it (Biernacki et al. 2000): smaller is better."""
        return self.bic - 2.0 * self.log_max

    @property
    def heldout(self) -> float:
        """Mean log-density of the held-out rows, nats per row: larger is better; NaN if there are none."""
        return self.heldout_loglik / self.heldout_rows if self.heldout_rows else float("nan")


HELDOUT = "heldout"
CRITERIA: Mapping[str, Callable[[Criteria], float]] = {
    "bic": lambda c: c.bic,
    "aic": lambda c: c.aic,
    "icl": lambda c: c.icl,
    HELDOUT: lambda c: -c.heldout,
}
"""Each criterion as a function whose smallest value is the best; held-out likelihood therefore with a minus."""

RULES: Mapping[str, str] = {"elbow": "bic", "one_se": HELDOUT}
"""Rules that choose from the values of all candidates, and the criterion whose values they use."""
CHOICES = (*CRITERIA, *RULES)
"""Everything by which a candidate can be chosen."""


def base_criterion(criterion: str) -> str:
    """Return the criterion whose values a rule uses; a criterion itself is returned as it is."""
    return RULES.get(criterion, criterion)


def display_name(criterion: str) -> str:
    """Return the name under which reports show a criterion or a rule."""
    names = {HELDOUT: "held-out likelihood", "elbow": "the elbow rule", "one_se": "the one-standard-error rule"}
    return names.get(criterion, criterion.upper())


def value_format(criterion: str) -> str:
    """Return the format string for values of a criterion: nats per row, or a value of all rows together."""
    return "{:.5f}" if base_criterion(criterion) == HELDOUT else "{:,.1f}"


def difference_format(criterion: str) -> str:
    """Return the format string for differences of a criterion, with a sign."""
    return value_format(criterion).replace("{:", "{:+")


def nat_value(criterion: str, rows: float, heldout_rows: float) -> tuple[float, float]:
    """Return the change of a criterion by one nat per row, and the number of rows it is computed from."""
    return (1.0, heldout_rows) if base_criterion(criterion) == HELDOUT else (2.0 * rows, rows)


def penalty_per_parameter(criterion: str, rows: float) -> float:
    """Return the gain in nats per row at which one more parameter leaves a criterion unchanged."""
    penalties = {"bic": np.log(rows), "icl": np.log(rows), "aic": 2.0}
    return float(penalties.get(base_criterion(criterion), 0.0)) / (2.0 * rows)


def estimate_optimism(family: CovarianceFamily, stats: SuffStats) -> float:
    """Return by how much the log-likelihood of a fit exceeds that of new rows, nats per row.

    A component of n rows with p parameters of its own loses ``p n / (n - m)`` nats in all, which is p for many rows
    and without bound for as many as determine no covariance, m. For a full covariance m = D + 2, and the expression
    follows from the mean of an inverse Wishart matrix, as in the corrected AIC (Hurvich & Tsai 1989).
    """
    n, d = stats.weight, stats.mean.shape[1]
    own = family.n_parameters(2, d) - family.n_parameters(1, d)
    undetermined = 1.0 + 2.0 * own / d
    n = np.maximum(n, undetermined + 0.5)
    return float((d + own) * np.sum(n / (n - undetermined)) / stats.rows)
