"""How a stream is fitted: the options of online EM, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_gmm.core.fit.stepwise import PowerDecay
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.mstep.penalty import Penalty, PseudoRows, Ridge
from stream_gmm.core.reservoir import choose_capacity
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError

STEP_ROWS = (1_000, 131_072)
"""Fewest and most rows of a step whose size is chosen automatically."""
DOUBLE_AFTER = 64
"""Number of steps after which the rows of a step double: many steps are needed first, and precise ones later."""


@dataclass(frozen=True)
class OnlineRule:
    """How a stream is fitted.

    Parameters
    ----------
    n_components, family
        K and the covariance structure.
    half_life
        Number of later rows after which a row counts half. None: nothing is forgotten, and every row counts once.
    power
        Below 1, without a half-life, step t has the step size ``(t + 2)^-power``, and statistics from old parameters
        fade; more than 0.5.
    step_rows
        Rows of a step. None: 50 K (D + 1), at least 1,000, doubling every 64 steps up to 131,072; with a half-life
        at most a tenth of it.
    warmup_rows
        Rows that are collected for the first fit. None: 20 rows for each free parameter, at least 1,000.
    n_init
        Number of restarts of the first fit.
    prior_rows
        Number of pseudo-rows in every component, with the covariance of all rows; their influence fades as rows
        arrive.
    reg_covar
        Added to the diagonals of the covariances instead, in squared units of the columns.
    outlier_quantile
        The outlier threshold follows this quantile of the log-density of rows, before the model is updated by them.
    random_state
        Seed of the first fit, of the reservoir and of reviews.
    reservoir_rows
        Rows that are kept for reviews of the model, where every row counts once. None: 50,000, fewer beyond 80
        columns; 0: no reviews.

    Raises
    ------
    ConfigError
        If a value is out of its range; the message names all of them.
    """

    n_components: int
    family: CovarianceFamily
    half_life: float | None = None
    power: float = 1.0
    step_rows: int | None = None
    warmup_rows: int | None = None
    n_init: int = 3
    prior_rows: float = 1.0
    reg_covar: float | None = None
    outlier_quantile: float = 0.01
    random_state: int = 0
    reservoir_rows: int | None = None

    def __post_init__(self) -> None:
        checks = (
            (self.n_components >= 1, "n_components must be at least 1"),
            (self.half_life is None or self.half_life > 0.0, "half_life must be positive"),
            (0.5 < self.power <= 1.0, "power must be more than 0.5 and at most 1"),
            (self.step_rows is None or self.step_rows >= 1, "step_rows must be at least 1"),
            (self.warmup_rows is None or self.warmup_rows >= 1, "warmup_rows must be at least 1"),
            (self.n_init >= 1, "n_init must be at least 1"),
            (self.prior_rows > 0.0, "prior_rows must be positive"),
            (self.reg_covar is None or self.reg_covar >= 0.0, "reg_covar must not be negative"),
            (0.0 <= self.outlier_quantile < 1.0, "outlier_quantile must lie in [0, 1)"),
            (self.reservoir_rows is None or self.reservoir_rows >= 0, "reservoir_rows must not be negative"),
        )
        wrong = [message for ok, message in checks if not ok]
        if wrong:
            raise ConfigError("; ".join(wrong) + ".")

    @property
    def forgets(self) -> bool:
        """False if every row counts once."""
        return self.half_life is not None or self.power != 1.0

    def warmup(self, n_features: int) -> int:
        """Return the number of rows to collect for the first fit."""
        if self.warmup_rows is not None:
            return max(self.warmup_rows, self.n_components)
        k, d = self.n_components, n_features
        return max(1_000, 20 * (k - 1 + k * d + self.family.n_parameters(k, d)))

    def rows_of_step(self, step: int, n_features: int) -> int:
        """Return the number of rows of a step."""
        if self.step_rows is not None:
            return self.step_rows
        first = int(np.clip(50 * self.n_components * (n_features + 1), *STEP_ROWS))
        rows = min(first << min(step // DOUBLE_AFTER, 16), STEP_ROWS[1])
        return rows if self.half_life is None else max(min(rows, int(0.1 * self.half_life)), 1)

    def step_size(self, step: int, rows: int, effective_rows: float) -> float:
        """Return the weight, between 0 and 1, of the statistics of a step against those of all rows before."""
        if self.half_life is not None:
            return float(1.0 - 2.0 ** (-rows / self.half_life))
        return PowerDecay(self.power)(step) if self.forgets else rows / (effective_rows + rows)

    def reservoir_capacity(self, n_features: int) -> int:
        """Return the number of rows of the reservoir; 0 without one."""
        if self.forgets:
            return 0
        return choose_capacity(n_features) if self.reservoir_rows is None else self.reservoir_rows

    def penalty(self, moments: SuffStats, share: float = 1.0) -> Penalty:
        """Return the penalty that keeps covariances from becoming singular, given the moments of the rows.

        For statistics of a ``share`` of the rows, it has that share of its influence.
        """
        if self.reg_covar is not None:
            return Ridge(self.reg_covar)
        return PseudoRows.of(moments, share * self.prior_rows)
