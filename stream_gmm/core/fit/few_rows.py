"""EM on rows in memory in compiled loops: on a few rows a step of numpy calls costs more than its arithmetic.

Plain EM is for races of restarts; limited-memory BFGS (:mod:`.quasi_newton`) brings their winners close to an
optimum. Only for penalties that add to the scatter or to the estimate. A step here is that of the ordinary driver up
to rounding; what the last point is worth, and whether it has converged, is judged by the driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from stream_gmm.core.estep.cost import feature_cost, whitened_cost
from stream_gmm.core.fit.few_rows_loops import climb, run_em
from stream_gmm.core.fit.few_rows_steps import describe_structure
from stream_gmm.core.fit.stopping import SLOW_RATE
from stream_gmm.core.model.features import DIAGONAL_FEATURES, QUADRATIC_FEATURES
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import Penalty, PseudoRows, Ridge
from stream_gmm.errors import ConfigError, SingularCovarianceError

MOST_COLUMNS = 40
"""With more columns the plain loops of a step over matrices are slower than those of a library."""
STEPS_IN_A_CALL = 2e9
"""Nanoseconds, by the model of the kernels, that one call of the loops may take: it cannot be interrupted."""

Point = tuple[Array, Array, Array]


class PlainSteps(NamedTuple):
    """Where EM steps have led."""

    params: MixtureParams
    loglik: float
    """Log-likelihood, nats per row."""
    left: float
    """What is left to gain, nats per row, if gains shrink by no more than a hundredth in each step."""


class Climb(NamedTuple):
    """Where a climb has ended."""

    params: MixtureParams
    is_optimum: bool
    """Whether next to nothing is left to gain."""
    left: float
    """What is left to gain, nats per row; inf if that is not known."""
    objective: float
    """Penalised log-likelihood, nats per row; -inf without a density."""


@dataclass(frozen=True, eq=False)
class FewRows:
    """Rows ``(N, D)``, their ``weights (N,)`` or none, and the penalty."""

    rows: Array
    weights: Array
    penalty: Penalty

    def can_step(self, params: MixtureParams) -> bool:
        """Return True if :meth:`run_plain_steps` applies: not to missing values, noise, or many columns."""
        if params.n_features > MOST_COLUMNS or params.noise is not None:
            return False
        return isinstance(self.penalty, PseudoRows | Ridge) and bool(np.isfinite(self._arrays[0]).all())

    def can_climb(self, params: MixtureParams) -> bool:
        """Return True if :meth:`climb` applies."""
        return self.penalty.has_objective and self.can_step(params)

    def run_plain_steps(self, params: MixtureParams, steps: int, tol: float) -> PlainSteps:
        """Make at most ``steps`` EM steps.

        It ends early when no more than ``tol`` nats per row are left at a rate of 0.99 per step, and at the last
        regular point before a singular covariance.
        """
        ridge = self.penalty.amount if isinstance(self.penalty, Ridge) else 0.0
        least_gain = tol * (1.0 - SLOW_RATE) / SLOW_RATE
        point, loglik, gain = run_em(*self._list_arguments(params), ridge, steps, least_gain)
        return PlainSteps(self._restore(point, params), loglik, gain * SLOW_RATE / (1.0 - SLOW_RATE))

    def climb(self, params: MixtureParams, steps: int, tol: float, stall: float) -> Climb:
        """Run limited-memory BFGS for at most ``steps`` steps, until no more than ``tol`` nats per row are left.

        It ends early, too, after fifty steps that have gained no more than ``stall`` nats per row.
        """
        (k, d), n = params.means.shape, len(self.rows)
        at_once = max(int(STEPS_IN_A_CALL / (n * whitened_cost(k, d, True))), 100)
        arguments = self._list_arguments(params)
        while True:
            point, is_optimum, left, objective, made = climb(*arguments, min(steps, at_once), tol, stall)
            steps -= at_once
            if made < at_once or steps <= 0:
                return Climb(self._restore(point, params), is_optimum, left, objective)
            arguments = (*arguments[:4], point, *arguments[5:])

    @cached_property
    def _arrays(self) -> tuple[Array, Array, Array, Array, float]:
        """Origin of the rows in the loops, the rows from there, their weights, scales, and total weight."""
        rows_t = np.array(self.rows.T, np.float64, order="C")
        origin = rows_t.mean(axis=1)
        rows_t -= origin[:, None]
        scale = np.sqrt(np.einsum("jn,jn->j", rows_t, rows_t) / max(len(self.rows), 1))
        total = float(self.weights.sum()) if len(self.weights) else float(len(self.rows))
        return origin, rows_t, np.array(self.weights), np.where(scale > 0.0, scale, 1.0), total

    def _list_arguments(self, params: MixtureParams) -> tuple[Any, ...]:
        """Return the arguments that the loops share."""
        origin, rows_t, weights, scale, total = self._arrays
        (k, d), family, penalty = params.means.shape, params.family, self.penalty
        features = QUADRATIC_FEATURES if family.matrices else DIAGONAL_FEATURES
        if feature_cost(k, d, features.count(d), False, "float64") > whitened_cost(k, d, True):
            scale = scale[:0]
        prior, prior_rows = np.zeros((d, d)), 0.0
        if isinstance(penalty, PseudoRows):
            prior, prior_rows = penalty.spread * (penalty.rows * k ** (-2.0 / d)), penalty.rows
        point = np.log(np.maximum(params.weights, 1e-300)), params.means - origin, np.array(params.dense_covariances)
        return (
            rows_t, weights, scale, total, point, describe_structure(family.mclust), family.shared, prior, prior_rows,
        )  # fmt: skip

    def _restore(self, point: Point, before: MixtureParams) -> MixtureParams:
        """Return the parameters at a point, or those before if it has no density."""
        (log_weights, means, covariances), family = point, before.family
        shares, (k, d) = np.exp(log_weights), means.shape
        values = covariances if family.matrices else np.einsum("kjj->kj", covariances)
        values = values[0] if family.shared else values
        while values.ndim > len(family.shape(k, d)):
            values = values[..., 0]
        try:
            out = MixtureParams(shares / shares.sum(), means + self._arrays[0], values, family)
            _ = out.precisions_cholesky
        except (SingularCovarianceError, ConfigError):
            return before
        return out
