"""EM on rows in memory in compiled loops: on a few rows a step of numpy calls costs more than its arithmetic.

Plain EM is for races of restarts; limited-memory BFGS (:mod:`.quasi_newton`) brings their winners close to an
optimum. Only for penalties that add to the scatter or to the estimate. A step here is that of the ordinary driver up
to rounding; what the last point is worth, and whether it has converged, is judged by the driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from stream_gmm.core.estep.cost import feature_cost, whitened_cost
from stream_gmm.core.fit.few_rows_loops import climb, run_em
from stream_gmm.core.fit.few_rows_steps import describe_structure
from stream_gmm.core.fit.stopping import SLOW_RATE
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.features import DIAGONAL_FEATURES, QUADRATIC_FEATURES
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import Penalty, PseudoRows, Ridge
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError, SingularCovarianceError

MOST_COLUMNS = 40
"""With more columns the plain loops of a step over matrices are slower than those of a library."""
STEPS_IN_A_CALL = 2e9
"""Nanoseconds, by the model of the kernels, that one call of the loops may take: it cannot be interrupted."""

Point = tuple[Array, Array, Array]


@dataclass(frozen=True, eq=False)
class End:
    """Where steps on rows have ended: the point, and the moments there, as the loops have them."""

    few: FewRows
    family: CovarianceFamily
    point: Point
    moments: Array | None
    """None if they were not taken at the point."""
    loglik: float
    """Log-likelihood, nats per row; not finite without a density."""
    before: MixtureParams | None = None
    """Where the steps began, which the end goes back to if it has no density."""
    left: float = np.inf
    """What is left to gain, nats per row; inf if that is not known."""

    @property
    def weights(self) -> Array:
        """Mixing weights ``(K,)``."""
        shares = np.exp(self.point[0])
        return np.asarray(shares / shares.sum())

    @cached_property
    def params(self) -> MixtureParams:
        """The parameters.

        Raises
        ------
        SingularCovarianceError, ConfigError
            If they have no density, and it is not known where the steps began.
        """
        (_, means, covariances), family = self.point, self.family
        values = covariances if family.matrices else np.einsum("kjj->kj", covariances)
        values = values[0] if family.shared else values
        while values.ndim > len(family.shape(*means.shape)):
            values = values[..., 0]
        try:
            out = MixtureParams(self.weights, means + self.few.origin, values, family)
            _ = out.precisions_cholesky
        except (SingularCovarianceError, ConfigError):
            if self.before is None:
                raise
            return self.before
        return out

    @cached_property
    def stats(self) -> SuffStats | None:
        """Statistics at the point, without entropies; None if they are not known."""
        if self.moments is None or not np.isfinite(self.loglik) or self.params is self.before:
            return None
        d, family, total = self.point[1].shape[1], self.family, self.few.total
        weight, first = self.moments[:, d, d], self.moments[:, :d, d]
        delta = first / np.maximum(weight, 1e-300)[:, None]
        scatter = family.moments.condense(self.moments[:, :d, :d]) - family.moments.outer(weight, delta)
        scatter = scatter.sum(axis=0, keepdims=True) if family.shared else scatter
        mean = self.point[1] + self.few.origin + delta
        return SuffStats(total, total * self.loglik, 0.0, 0.0, np.array(weight), mean, scatter, family.moments)


@dataclass(frozen=True, eq=False)
class Climb(End):
    """Where a climb has ended."""

    is_optimum: bool = False
    """Whether next to nothing is left to gain."""
    objective: float = -np.inf
    """Penalised log-likelihood, nats per row; -inf without a density."""


@dataclass(frozen=True, eq=False)
class FewRows:
    """Rows ``(N, D)``, their ``weights (N,)`` or none, and the penalty."""

    rows: Array
    weights: Array
    penalty: Penalty

    def can_step(self, params: MixtureParams) -> bool:
        """Return True if :meth:`run_plain_steps` applies: not to missing values, noise, or many columns."""
        return params.noise is None and self.can_step_in(params.n_features)

    def can_step_in(self, n_features: int) -> bool:
        """Return True if the steps apply to mixtures without noise in so many columns."""
        if n_features > MOST_COLUMNS:
            return False
        return isinstance(self.penalty, PseudoRows | Ridge) and bool(np.isfinite(self.origin).all())

    def can_climb(self, params: MixtureParams) -> bool:
        """Return True if :meth:`climb` applies."""
        return self.penalty.has_objective and self.can_step(params)

    def run_plain_steps(self, params: MixtureParams, steps: int, tol: float) -> End:
        """Make at most ``steps`` EM steps; ``left`` is what remains if gains shrink by no more than a hundredth each.

        It ends early when no more than ``tol`` nats per row are left at a rate of 0.99 per step, and at the last
        regular point before a singular covariance.
        """
        moments = np.zeros((params.n_components, params.n_features + 1, params.n_features + 1))
        return self._run_em(self._list_point(params), params.family, moments, steps, tol, params)

    def run_steps_from(self, stats: SuffStats, family: CovarianceFamily, steps: int, tol: float) -> End:
        """Make :meth:`run_plain_steps` from the M-step of ``stats`` with matrices; the end may have no density."""
        k, d = stats.mean.shape
        moments = np.zeros((k, d + 1, d + 1))
        moments[:, :d, :d], moments[:, d, d] = stats.scatter, stats.weight
        point = np.zeros(k), stats.mean - self.origin, np.zeros((k, d, d))
        return self._run_em(point, family, moments, steps, tol, None)

    def _run_em(
        self, point: Point, family: CovarianceFamily, moments: Array, steps: int, tol: float,
        before: MixtureParams | None,
    ) -> End:  # fmt: skip
        ridge = self.penalty.amount if isinstance(self.penalty, Ridge) else 0.0
        least_gain = tol * (1.0 - SLOW_RATE) / SLOW_RATE
        arguments = self._list_arguments(point, family)
        loglik, gain = run_em(*arguments, moments, ridge, steps, least_gain, before is None)
        left = gain * SLOW_RATE / (1.0 - SLOW_RATE)
        return End(self, family, point, moments, loglik, before, left)

    def climb(self, params: MixtureParams, steps: int, tol: float, stall: float) -> Climb:
        """Run limited-memory BFGS for at most ``steps`` steps, until no more than ``tol`` nats per row are left.

        It ends early, too, after fifty steps that have gained no more than ``stall`` nats per row.
        """
        (k, d), n, family = params.means.shape, len(self.rows), params.family
        at_once = max(int(STEPS_IN_A_CALL / (n * whitened_cost(k, d, True))), 100)
        point, moments = self._list_point(params), np.zeros((k, d + 1, d + 1))
        arguments = self._list_arguments(point, family)
        while True:
            is_optimum, left, objective, made, is_current, loglik = climb(
                *arguments, moments, min(steps, at_once), tol, stall
            )
            steps -= at_once
            if made < at_once or steps <= 0:
                break
        known = moments if is_current else None
        return Climb(self, family, point, known, loglik, params, left, is_optimum, objective)

    @cached_property
    def _arrays(self) -> tuple[Array, Array, Array, Array, float]:
        """Origin of the rows in the loops, the rows from there, their weights, scales, and total weight."""
        rows_t = np.array(self.rows.T, np.float64, order="C")
        origin = rows_t.mean(axis=1)
        rows_t -= origin[:, None]
        scale = np.sqrt(np.einsum("jn,jn->j", rows_t, rows_t) / max(len(self.rows), 1))
        total = float(self.weights.sum()) if len(self.weights) else float(len(self.rows))
        return origin, rows_t, np.array(self.weights), np.where(scale > 0.0, scale, 1.0), total

    @property
    def origin(self) -> Array:
        """Origin ``(D,)`` of the rows in the loops: their mean."""
        return self._arrays[0]

    @property
    def total(self) -> float:
        """Weight of all rows."""
        return self._arrays[4]

    def _list_point(self, params: MixtureParams) -> Point:
        log_weights = np.log(np.maximum(params.weights, 1e-300))
        return log_weights, params.means - self.origin, np.array(params.dense_covariances)

    def _list_arguments(self, point: Point, family: CovarianceFamily) -> tuple[Any, ...]:
        """Return the arguments that the loops share."""
        _, rows_t, weights, scale, total = self._arrays
        (k, d), penalty = point[1].shape, self.penalty
        features = QUADRATIC_FEATURES if family.matrices else DIAGONAL_FEATURES
        if feature_cost(k, d, features.count(d), False, "float64") > whitened_cost(k, d, True):
            scale = scale[:0]
        prior, prior_rows = np.zeros((d, d)), 0.0
        if isinstance(penalty, PseudoRows):
            prior, prior_rows = penalty.spread * (penalty.rows * k ** (-2.0 / d)), penalty.rows
        return (
            rows_t, weights, scale, total, point, describe_structure(family.mclust), family.shared, prior, prior_rows,
        )  # fmt: skip
