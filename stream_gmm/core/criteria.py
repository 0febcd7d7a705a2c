"""Model-selection criteria from what a pass already gives. ``CRITERIA`` says how: smaller is better for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from stream_gmm.core.stats import SuffStats


@dataclass(frozen=True)
class Criteria:
    """Criteria of one candidate over ``n_rows`` rows."""

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

    @property
    def bic(self) -> float:
        """``-2 L + p ln N`` (Schwarz 1978), the sign of scikit-learn."""
        return -2.0 * self.loglik + self.n_parameters * float(np.log(self.n_rows))

    @property
    def aic(self) -> float:
        """``-2 L + 2 p`` (Akaike 1974)."""
        return -2.0 * self.loglik + 2.0 * self.n_parameters

    @property
    def icl(self) -> float:
        """``BIC - 2 sum_n ln max_k r_nk``, mclust's form of Biernacki et al. (2000)."""
        return self.bic - 2.0 * self.log_max

    @property
    def heldout(self) -> float:
        """Mean log-likelihood of the rows held out, nats per row: larger is better; NaN without such rows."""
        return self.heldout_loglik / self.heldout_rows if self.heldout_rows else float("nan")


HELDOUT = "heldout"
CRITERIA: Mapping[str, Callable[[Criteria], float]] = {
    "bic": lambda c: c.bic,
    "aic": lambda c: c.aic,
    "icl": lambda c: c.icl,
    HELDOUT: lambda c: -c.heldout,
}


RULES: Mapping[str, str] = {"elbow": "bic", "one_se": HELDOUT}
"""Rules that look at all candidates, and the criterion whose values they are about."""
CHOICES = (*CRITERIA, *RULES)


def base_criterion(criterion: str) -> str:
    """Return the criterion whose values a criterion or a rule compares."""
    return RULES.get(criterion, criterion)


def display_name(criterion: str) -> str:
    """Return the name of a criterion for people."""
    names = {HELDOUT: "held-out likelihood", "elbow": "the elbow rule", "one_se": "the one-standard-error rule"}
    return names.get(criterion, criterion.upper())


def value_format(criterion: str) -> str:
    """Return the format of a criterion's values: nats per row, or of all rows together."""
    return "{:.5f}" if base_criterion(criterion) == HELDOUT else "{:,.1f}"


def difference_format(criterion: str) -> str:
    """Return the format of differences of a criterion."""
    return value_format(criterion).replace("{:", "{:+")


def nat_value(criterion: str, rows: float, heldout_rows: float) -> tuple[float, float]:
    """Return what a nat per row is worth in a criterion, and how many rows stand behind it."""
    return (1.0, heldout_rows) if base_criterion(criterion) == HELDOUT else (2.0 * rows, rows)


def penalty_per_parameter(criterion: str, rows: float) -> float:
    """Return what a parameter has to gain, in nats per row, to be worth having."""
    each = {"bic": np.log(rows), "icl": np.log(rows), "aic": 2.0}
    return float(each.get(base_criterion(criterion), 0.0)) / (2.0 * rows)
