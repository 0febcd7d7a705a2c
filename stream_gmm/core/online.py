"""Online EM for a stream of rows that are seen once, in bounded memory, with forgetting by a half-life.

Rows are divided into steps whose size depends on the number of steps alone, not on the batches in which rows arrive;
rows that do not fill a step wait in the state. So the state after N rows is a function of those rows alone, and a
saved state resumes to the same bits. A step is one of stepwise EM (:mod:`stream_gmm.core.fit.stepwise`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.scores import score_rows
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.fit.stepwise import PowerDecay, blend_stats
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.model.split_merge import remove_component
from stream_gmm.core.mstep.mstep import NO_REPORT, MStepReport, mstep
from stream_gmm.core.mstep.penalty import Penalty, PseudoRows, Ridge
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.moments import collect_moments, pool_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.sample_search import SampleSearch
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError, NotFittedError, SingularCovarianceError

STEP_ROWS = (1_000, 131_072)
"""Fewest and most rows of a step whose size is chosen automatically."""
QUANTILE_ROWS = 1_000
"""Number of rows, about, from which the outlier threshold of a step is estimated."""
MAX_PENDING = 64
"""Largest number of pending batches that are kept apart; a stream may arrive row by row."""
LOST_SHARE = 0.1
"""A component is lost if its weight is below this part of ``1 / K``."""
RELOCATE_EVERY = 8
"""Number of steps between two attempts to relocate a lost component."""
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
        Number of later rows after which a row counts half. None: nothing is forgotten, and step t has the step size
        ``(t + 2)^-power``.
    power
        See ``half_life``; more than 0.5 and at most 1.
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
        Seed of the first fit.

    Raises
    ------
    ConfigError
        If a value is out of its range; the message names all of them.
    """

    n_components: int
    family: CovarianceFamily
    half_life: float | None = None
    power: float = 0.6
    step_rows: int | None = None
    warmup_rows: int | None = None
    n_init: int = 3
    prior_rows: float = 1.0
    reg_covar: float | None = None
    outlier_quantile: float = 0.01
    random_state: int = 0

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
        )
        wrong = [message for ok, message in checks if not ok]
        if wrong:
            raise ConfigError("; ".join(wrong) + ".")

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

    def step_size(self, step: int, rows: int) -> float:
        """Return the weight, between 0 and 1, of the statistics of a step against those of all rows before."""
        if self.half_life is not None:
            return float(1.0 - 2.0 ** (-rows / self.half_life))
        return PowerDecay(self.power)(step)

    def penalty(self, moments: SuffStats) -> Penalty:
        """Return the penalty that keeps covariances from becoming singular, given the moments of the rows."""
        if self.reg_covar is not None:
            return Ridge(self.reg_covar)
        return PseudoRows.of(moments, self.prior_rows)


@dataclass(frozen=True)
class OnlineState:
    """All that is needed to resume a stream.

    ``pending`` rows wait for the next step. ``stats`` (at ``params``) and ``moments`` (as of one component) are
    averages over the rows with the weights that forgetting gives them, scaled to one row; ``effective_rows`` is the
    effective number of those rows (Kish 1965). ``loglik`` is the sum of the log-densities of ``scored_rows`` rows,
    in nats, each taken before the model was updated by the row. Rows with a log-density below ``threshold`` are
    outliers.
    """

    n_features: int
    pending: tuple[Array, ...] = ()
    params: MixtureParams | None = None
    stats: SuffStats | None = None
    moments: SuffStats | None = None
    step: int = 0
    rows_seen: int = 0
    effective_rows: float = 0.0
    loglik: float = 0.0
    scored_rows: float = 0.0
    threshold: float = -np.inf
    relocations: int = 0
    """Number of lost components that were replaced by a split of another."""
    report: MStepReport = NO_REPORT

    @classmethod
    def start(cls, n_features: int) -> OnlineState:
        """Return the state before the first row."""
        return cls(n_features)

    @property
    def n_pending(self) -> int:
        """Number of rows that wait for the next step."""
        return sum(len(p) for p in self.pending)

    @property
    def pending_rows(self) -> Array:
        """The rows that wait for the next step ``(m, D)``."""
        return _stack_rows(self.pending, self.n_features)


def _stack_rows(parts: Sequence[Array], n_features: int) -> Array:
    """Return all parts in one array ``(m, D)``, column-major for the kernels."""
    columns, at = np.empty((n_features, sum(len(p) for p in parts))), 0
    for part in parts:
        columns[:, at : at + len(part)] = part.T
        at += len(part)
    return columns.T


def feed_rows(state: OnlineState, rows: Array, rule: OnlineRule) -> OnlineState:
    """Return the state after ``rows (n, D)``: as many steps as they suffice for; the rest of them is pending.

    Raises
    ------
    SingularCovarianceError
        If the first fit fails.
    """
    d, start = state.n_features, 0
    state = replace(state, rows_seen=state.rows_seen + len(rows))
    while True:
        first = state.params is None
        missing = (rule.warmup(d) if first else rule.rows_of_step(state.step, d)) - state.n_pending
        if len(rows) - start < missing:
            break
        batch = _stack_rows((*state.pending, rows[start : start + missing]), d)
        state = replace(state, pending=())
        state = _fit_first_rows(state, batch, rule) if first else _take_step(state, batch, rule)
        start += missing
    if start == len(rows):
        return state
    pending = (*state.pending, np.array(rows[start:], dtype=np.float64))
    if len(pending) > MAX_PENDING:
        pending = (_stack_rows(pending, d),)
    return replace(state, pending=pending)


def _fit_first_rows(state: OnlineState, rows: Array, rule: OnlineRule) -> OnlineState:
    """Return the state after a fit of the first rows to convergence, with their statistics at the parameters."""
    moments, scaling = collect_moments(rows), Scaling.of_rows(rows)
    search = SampleSearch(rows, scaling, rule.penalty(moments))
    fitted = search.fit(rule.n_components, rule.family, rule.n_init, (rule.random_state,))
    if fitted.params is None:
        raise SingularCovarianceError(fitted.reason)
    params = fitted.params.sort_by_weight()
    stats = InMemoryEStep(rows, scaling).evaluate(params)
    n = float(len(rows))
    return replace(
        state, params=params, stats=stats.scale(1.0 / n), moments=moments.scale(1.0 / n), step=1, effective_rows=n,
        threshold=_estimate_threshold(params, rows, rule),
    )  # fmt: skip


def _take_step(state: OnlineState, rows: Array, rule: OnlineRule) -> OnlineState:
    """Return the state after one step of stepwise EM, and the relocation of a lost component if one is due."""
    assert state.params is not None
    assert state.stats is not None
    assert state.moments is not None
    n = len(rows)
    eta = rule.step_size(state.step, n)
    scaling = Scaling.from_moments(state.moments.mean[0], state.moments.scatter[0] / state.moments.rows)
    step_stats = InMemoryEStep(rows, scaling).evaluate(state.params)
    stats = blend_stats(state.stats, step_stats, eta)
    moments = blend_stats(state.moments, pool_moments(step_stats, rows), eta)
    effective_rows = 1.0 / ((1.0 - eta) ** 2 / state.effective_rows + eta**2 / n)
    # The M-step counts rows (for starving components and pseudo-rows), so scale the averages to the effective rows.
    penalty = rule.penalty(moments)
    params, report = mstep(stats.scale(effective_rows), rule.family, penalty, state.params)
    state = replace(
        state, params=params, stats=stats, moments=moments, step=state.step + 1, effective_rows=effective_rows,
        loglik=state.loglik + step_stats.loglik, scored_rows=state.scored_rows + n, report=report,
        threshold=(1.0 - eta) * state.threshold + eta * _estimate_threshold(state.params, rows, rule),
    )  # fmt: skip
    has_lost_component = params.weights.min() < LOST_SHARE / rule.n_components
    if rule.half_life is None or not has_lost_component or state.step % RELOCATE_EVERY:
        return state
    return _relocate_lost_component(state, params, SampleSearch(rows, scaling, penalty))


def _relocate_lost_component(state: OnlineState, params: MixtureParams, search: SampleSearch) -> OnlineState:
    """Replace the smallest component by a split of another, if the rows of this step are more likely after that.

    After a shift of the data, one component can take all rows and leave none to the others; EM alone never recovers.
    """
    moved = search.split_best(remove_component(params, int(params.weights.argmin())))
    stats = InMemoryEStep(search.rows, search.scaling).evaluate(moved)
    if stats.mean_loglik <= search.run_briefly(params).history[-1]:
        return state
    n = stats.rows
    return replace(
        state, params=moved, stats=stats.scale(1.0 / n), effective_rows=n, relocations=state.relocations + 1
    )


def _estimate_threshold(params: MixtureParams, rows: Array, rule: OnlineRule) -> float:
    """Return the quantile of the log-density at these parameters, from about ``QUANTILE_ROWS`` of the rows; nats."""
    if rule.outlier_quantile <= 0.0:
        return -np.inf
    thinned = rows[:: max(len(rows) // QUANTILE_ROWS, 1)]
    log_densities = score_rows(compile_density(params), thinned).log_density
    return float(np.quantile(log_densities, rule.outlier_quantile))


def make_online_result(state: OnlineState, rule: OnlineRule, columns: tuple[str, ...] = ()) -> FitResult:
    """Return the current model; its criteria are those of the effective rows.

    Raises
    ------
    NotFittedError
        If there are not yet enough rows for the first fit.
    """
    if state.params is None or state.stats is None:
        need = rule.warmup(state.n_features)
        raise NotFittedError(f"no model yet: the first fit needs {need} rows, and {state.rows_seen} were seen.")
    stats = state.stats.scale(state.effective_rows)
    warnings = (f"{state.report.describe()}.",) if state.report else ()
    return FitResult(
        state.params, Outcome.STREAMED, Criteria.from_stats(stats, state.params.n_parameters), (stats.mean_loglik,),
        state.step, columns=columns, threshold=state.threshold, outlier_quantile=rule.outlier_quantile,
        warnings=warnings, provenance={"rows_seen": state.rows_seen, "half_life": rule.half_life},
    )  # fmt: skip
