"""Online EM for a stream of rows that are seen once, in bounded memory.

Rows are divided into steps whose size depends on the number of steps alone, not on the batches in which rows arrive;
rows that do not fill a step wait in the state. So the state after N rows is a function of those rows alone, and a
saved state resumes to the same bits. A step is one of stepwise EM (:mod:`stream_gmm.core.fit.stepwise`).

With a half-life the stream forgets. Without one every row counts once, in whatever order rows come: statistics are
plain sums, and the model is reviewed on a reservoir of all rows so far (:mod:`stream_gmm.core.reservoir`) when their
number has grown by half, and when many rows have come that it fits badly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.scores import Scores, score_rows
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.fit.stepwise import blend_stats
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.model.split_merge import remove_component
from stream_gmm.core.mstep.mstep import NO_REPORT, MStepReport, mstep
from stream_gmm.core.online_rule import OnlineRule
from stream_gmm.core.reservoir import Reservoir, calibrate_weights, rate_rows, review_model
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.histogram import LogDensityHistogram
from stream_gmm.core.rows.moments import UNWEIGHTED, collect_moments, pool_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.sample_search import SampleSearch
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import NotFittedError, SingularCovarianceError

QUANTILE_ROWS = 1_000
"""Number of rows, about, from which the outlier threshold of a step is estimated."""
MAX_PENDING = 64
"""Largest number of pending batches that are kept apart; a stream may arrive row by row."""
LOST_SHARE = 0.1
"""A component is lost if its weight is below this part of ``1 / K``."""
RELOCATE_EVERY = 8
"""Number of steps between two attempts to relocate a lost component."""
REVIEW_GROWTH = 1.5
"""The model is reviewed when the stream has so many times the rows of the last review,"""
BADLY_FITTED_SHARE = 0.25
"""or when this share of its rows has come since then in steps that the model fitted badly."""
BAD_FIT = (0.05, 5.0)
"""A step is fitted badly if its mean log-density is below the model's own by so many nats and standard errors."""
FEW_BADLY_FITTED, FEW_NEW = 0.002, 0.01
"""Shares of rows, badly fitted and in all since the last review, up to which a model asked for needs no new one."""


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
    reservoir: Reservoir | None = None
    """Sample of the rows of all steps; None without reviews."""
    seen: SuffStats | None = None
    """With a reservoir: statistics of all rows of all steps, each at the parameters of its time."""
    reviewed_rows: int = 0
    """Rows of the stream at the last review."""
    badly_fitted_rows: int = 0
    """Rows, since the last review, of steps that the model fitted badly."""
    reviews: int = 0

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
    d, start, number = state.n_features, 0, state.rows_seen - state.n_pending
    capacity = rule.reservoir_capacity(d)
    state = replace(state, rows_seen=state.rows_seen + len(rows))
    if capacity and state.params is None and state.reservoir is None:
        state = replace(state, reservoir=Reservoir.empty(d, capacity))
    while True:
        first = state.params is None
        missing = (rule.warmup(d) if first else rule.rows_of_step(state.step, d)) - state.n_pending
        if len(rows) - start < missing:
            break
        batch = _stack_rows((*state.pending, rows[start : start + missing]), d)
        state = replace(state, pending=())
        state = _fit_first_rows(state, batch, rule) if first else _take_step(state, batch, number, rule)
        start, number = start + missing, number + len(batch)
        if state.reservoir is not None and not first and _is_review_due(state, number):
            state = review_state(state, rule, number, thorough=True)
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
    scores = score_rows(compile_density(params), _thin_rows(rows, state))
    stats = InMemoryEStep(rows, scaling).evaluate(params)
    n = float(len(rows))
    return replace(
        state, params=params, stats=stats.scale(1.0 / n), moments=moments.scale(1.0 / n), step=1, effective_rows=n,
        threshold=_find_threshold(scores.log_density, rule), reviewed_rows=len(rows),
        reservoir=_keep_rows(state, params, rows, 0, scores, rule), seen=None if state.reservoir is None else stats,
    )  # fmt: skip


def _take_step(state: OnlineState, rows: Array, number: int, rule: OnlineRule) -> OnlineState:
    """Return the state after one step of stepwise EM, and the relocation of a lost component if one is due.

    ``number`` is that of the first row.
    """
    assert state.params is not None
    assert state.stats is not None
    assert state.moments is not None
    n = len(rows)
    eta = rule.step_size(state.step, n, state.effective_rows)
    scaling = Scaling.from_moments(state.moments.mean[0], state.moments.scatter[0] / state.moments.rows)
    step_stats = InMemoryEStep(rows, scaling).evaluate(state.params)
    stats = blend_stats(state.stats, step_stats, eta)
    moments = blend_stats(state.moments, pool_moments(step_stats, rows), eta)
    effective_rows = state.effective_rows + n
    if rule.forgets:
        effective_rows = 1.0 / ((1.0 - eta) ** 2 / state.effective_rows + eta**2 / n)
    # The M-step counts rows (for starving components and pseudo-rows), so scale the averages to the effective rows.
    penalty = rule.penalty(moments)
    params, report = mstep(stats.scale(effective_rows), rule.family, penalty, state.params)
    scores = score_rows(compile_density(state.params), _thin_rows(rows, state))
    some_scores = scores.log_density[:: max(len(scores.log_density) // QUANTILE_ROWS, 1)]
    bad = n if state.reservoir is not None and _fits_badly(some_scores, n, state.stats, step_stats) else 0
    state = replace(
        state, params=params, stats=stats, moments=moments, step=state.step + 1, effective_rows=effective_rows,
        loglik=state.loglik + step_stats.loglik, scored_rows=state.scored_rows + n, report=report,
        threshold=(1.0 - eta) * state.threshold + eta * _find_threshold(some_scores, rule),
        badly_fitted_rows=state.badly_fitted_rows + bad,
        reservoir=_keep_rows(state, state.params, rows, number, scores, rule),
        seen=None if state.seen is None else state.seen.merge(step_stats),
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


def _thin_rows(rows: Array, state: OnlineState) -> Array:
    """Return the rows to be scored: all of them if they may be kept, otherwise about ``QUANTILE_ROWS``."""
    return rows if state.reservoir is not None else rows[:: max(len(rows) // QUANTILE_ROWS, 1)]


def _keep_rows(
    state: OnlineState, params: MixtureParams, rows: Array, number: int, scores: Scores, rule: OnlineRule
) -> Reservoir | None:
    """Return the reservoir with rows that have these scores by ``params``, the first of which has this number."""
    if state.reservoir is None or not len(rows):
        return state.reservoir
    return state.reservoir.add_rows(rows, number, rule.random_state, rate_rows(params, scores), scores.proba)


def _find_threshold(log_density: Array, rule: OnlineRule, weights: Array = UNWEIGHTED) -> float:
    if rule.outlier_quantile <= 0.0:
        return -np.inf
    if not len(weights):
        return float(np.quantile(log_density, rule.outlier_quantile))
    return float(np.quantile(log_density, rule.outlier_quantile, weights=weights, method="inverted_cdf"))


def _fits_badly(some_scores: Array, rows: int, before: SuffStats, step: SuffStats) -> bool:
    gap = before.mean_loglik - step.mean_loglik
    if gap <= BAD_FIT[0]:
        return False
    return bool(gap > BAD_FIT[1] * some_scores.std() / np.sqrt(rows))


def _is_review_due(state: OnlineState, rows: int) -> bool:
    return rows >= REVIEW_GROWTH * state.reviewed_rows or state.badly_fitted_rows > BADLY_FITTED_SHARE * rows


def review_state(state: OnlineState, rule: OnlineRule, rows: int, *, thorough: bool) -> OnlineState:
    """Return the state with its model fitted to the reservoir of ``rows`` rows, if it is better than chance gives.

    ``thorough``: from new starts, too. The statistics behind the model are then those of the reservoir.
    """
    assert state.params is not None
    reservoir = state.reservoir
    assert reservoir is not None
    n_init = rule.n_init if thorough else 0
    seed = (rule.random_state, 1 + state.reviews)
    share = len(reservoir.rows) / rows
    weights = calibrate_weights(reservoir, state.seen)
    penalty = rule.penalty(collect_moments(reservoir.rows, weights), share)
    calibrated = state.seen is not None
    found = review_model(state.params, reservoir, weights, rows, penalty, n_init, seed, is_calibrated=calibrated)
    state = replace(state, reviewed_rows=rows, badly_fitted_rows=0, reviews=state.reviews + 1)
    if found is None:
        return state
    params, stats = found
    return replace(
        state, params=params, stats=stats, report=NO_REPORT,
        threshold=_find_threshold(_score_reservoir(params, reservoir), rule, weights),
    )  # fmt: skip


def _score_reservoir(params: MixtureParams, reservoir: Reservoir) -> Array:
    return score_rows(compile_density(params), reservoir.rows).log_density


def conclude_state(state: OnlineState, rule: OnlineRule) -> OnlineState:
    """Return the state as if the stream ended here: a model that rows of all times have shaped, pending ones too.

    It is thorough where many rows have come that the model fits badly; where there is next to nothing new, the state
    is returned as it is.
    """
    if state.params is None or state.reservoir is None:
        return state
    rows = state.rows_seen
    bad = state.badly_fitted_rows > FEW_BADLY_FITTED * rows
    if not bad and rows - state.reviewed_rows <= FEW_NEW * rows:
        return state
    pending = state.pending_rows
    if len(pending):
        scores, seen = score_rows(compile_density(state.params), pending), state.seen
        if seen is not None:
            seen = seen.merge(InMemoryEStep(pending, Scaling.of_rows(pending)).evaluate(state.params))
        reservoir = _keep_rows(state, state.params, pending, rows - len(pending), scores, rule)
        state = replace(state, reservoir=reservoir, seen=seen)
    concluded = review_state(state, rule, rows, thorough=bad)
    return replace(concluded, effective_rows=float(rows))


def make_online_result(state: OnlineState, rule: OnlineRule, columns: tuple[str, ...] = ()) -> FitResult:
    """Return the current model (see :func:`conclude_state`); its criteria are those of the effective rows.

    Threshold and ``training`` are those of the reservoir; without one, the threshold that has followed the rows.

    Raises
    ------
    NotFittedError
        If there are not yet enough rows for the first fit.
    """
    if state.params is None or state.stats is None:
        need = rule.warmup(state.n_features)
        raise NotFittedError(f"no model yet: the first fit needs {need} rows, and {state.rows_seen} were seen.")
    state = conclude_state(state, rule)
    assert state.params is not None
    assert state.stats is not None
    stats = state.stats.scale(state.effective_rows)
    warnings = (f"{state.report.describe()}.",) if state.report else ()
    threshold, training = state.threshold, None
    if state.reservoir is not None:
        log_density = _score_reservoir(state.params, state.reservoir)
        weights = calibrate_weights(state.reservoir, state.seen)
        threshold = _find_threshold(log_density, rule, weights)
        training = LogDensityHistogram.of(log_density, weights)
    return FitResult(
        state.params, Outcome.STREAMED, Criteria.from_stats(stats, state.params.n_parameters), (stats.mean_loglik,),
        state.step, columns=columns, threshold=threshold, outlier_quantile=rule.outlier_quantile,
        training=training, warnings=warnings, provenance={"rows_seen": state.rows_seen, "half_life": rule.half_life},
    )  # fmt: skip
