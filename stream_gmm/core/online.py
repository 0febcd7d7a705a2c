"""Online EM for a stream that is seen once: bounded memory, forgetting by half-life, a prior that fades.

Rows are cut into steps of a size that depends on nothing but how many steps were made, whatever the batches in
which they arrive; what is left over waits in the state. So the state after N rows is a function of those
rows alone, and a saved state resumes to the same bits.
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
QUANTILE_ROWS = 1_000
MAX_PENDING = 64
"""Batches that wait before they are put together: a stream may come row by row."""
LOST_SHARE = 0.1
"""A component with less than this part of its share of the rows may be better used elsewhere."""
RELOCATE_EVERY = 8
DOUBLE_AFTER = 64
"""Steps after which steps take twice the rows: the estimate needs many steps first, and precise ones later."""


@dataclass(frozen=True)
class OnlineRule:
    """How a stream is fitted.

    Parameters
    ----------
    n_components, family
        K and the covariance structure.
    half_life
        Rows after which a row counts half; None: all rows count, by the step sizes ``(t + 2)^-power``.
    power
        See ``half_life``; more than 0.5 and at most 1.
    step_rows
        Rows of a step; None: 50 K (D + 1), doubling every 64 steps up to 131,072 (never beyond a tenth of
        ``half_life``).
    warmup_rows
        Rows collected before the first fit; None: 20 rows a parameter, at least 1,000.
    n_init
        Restarts of the first fit.
    prior_rows
        Pseudo-rows in every component, that vary as all the data do; what they weigh fades as rows arrive.
    reg_covar
        Added to the diagonals instead, in units of the data.
    outlier_quantile
        The outlier threshold follows this quantile of the log-density of rows not learnt from yet.
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
        """Return the rows to collect before the first fit."""
        if self.warmup_rows is not None:
            return max(self.warmup_rows, self.n_components)
        k, d = self.n_components, n_features
        return max(1_000, 20 * (k - 1 + k * d + self.family.n_parameters(k, d)))

    def rows_of_step(self, step: int, n_features: int) -> int:
        """Return the rows that a step takes."""
        if self.step_rows is not None:
            return self.step_rows
        first = int(np.clip(50 * self.n_components * (n_features + 1), *STEP_ROWS))
        rows = min(first << min(step // DOUBLE_AFTER, 16), STEP_ROWS[1])
        return rows if self.half_life is None else max(min(rows, int(0.1 * self.half_life)), 1)

    def step_size(self, step: int, rows: int) -> float:
        """Return how much the statistics of a step count against all before."""
        if self.half_life is not None:
            return float(1.0 - 2.0 ** (-rows / self.half_life))
        return PowerDecay(self.power)(step)

    def penalty(self, moments: SuffStats) -> Penalty:
        """Return what keeps covariances away from singular ones, given moments of the rows."""
        if self.reg_covar is not None:
            return Ridge(self.reg_covar)
        return PseudoRows.of(moments, self.prior_rows)


@dataclass(frozen=True)
class OnlineState:
    """All that is needed to go on with a stream.

    ``pending`` rows wait for the next step; ``stats`` and ``moments`` are per row, of ``effective_rows`` effective
    rows (Kish). ``loglik`` sums over ``scored_rows`` rows, each scored before it was learnt from.
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
    """Components that had lost their rows and were moved to a split of another."""
    report: MStepReport = NO_REPORT

    @classmethod
    def start(cls, n_features: int) -> OnlineState:
        """Return the state before the first row."""
        return cls(n_features)

    @property
    def n_pending(self) -> int:
        """Rows that wait for the next step."""
        return sum(len(p) for p in self.pending)

    @property
    def pending_rows(self) -> Array:
        """The rows that wait, ``(m, D)``."""
        return _stack_rows(self.pending, self.n_features)


def _stack_rows(parts: Sequence[Array], n_features: int) -> Array:
    """Return rows put together, column-major as the kernels like them."""
    out, at = np.empty((n_features, sum(len(p) for p in parts))), 0
    for part in parts:
        out[:, at : at + len(part)] = part.T
        at += len(part)
    return out.T


def feed_rows(state: OnlineState, rows: Array, rule: OnlineRule) -> OnlineState:
    """Take in rows ``(n, D)``: make as many steps as they are good for, and keep the rest.

    Raises
    ------
    SingularCovarianceError
        If the first rows cannot be fitted.
    """
    state, start = replace(state, rows_seen=state.rows_seen + len(rows)), 0
    while True:
        first, d = state.params is None, state.n_features
        need = (rule.warmup(d) if first else rule.rows_of_step(state.step, d)) - state.n_pending
        if len(rows) - start < need:
            return _keep_pending(state, rows[start:])
        batch = _stack_rows((*state.pending, rows[start : start + need]), d)
        state = replace(state, pending=())
        state = _fit_first_rows(state, batch, rule) if first else _take_step(state, batch, rule)
        start += need


def _keep_pending(state: OnlineState, rest: Array) -> OnlineState:
    if not len(rest):
        return state
    pending = (*state.pending, np.array(rest, dtype=np.float64))
    if len(pending) > MAX_PENDING:
        pending = (_stack_rows(pending, state.n_features),)
    return replace(state, pending=pending)


def _fit_first_rows(state: OnlineState, rows: Array, rule: OnlineRule) -> OnlineState:
    """Fit the first rows to convergence; their statistics stand behind the parameters."""
    moments, scaling = collect_moments(rows), Scaling.of_rows(rows)
    explorer = SampleSearch(rows, scaling, rule.penalty(moments))
    fitted = explorer.fit(rule.n_components, rule.family, rule.n_init, (rule.random_state,))
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
    assert state.params is not None
    assert state.stats is not None
    assert state.moments is not None
    n = len(rows)
    eta = rule.step_size(state.step, n)
    scaling = Scaling.from_moments(state.moments.mean[0], state.moments.scatter[0] / state.moments.rows)
    gathered = InMemoryEStep(rows, scaling).evaluate(state.params)
    stats = blend_stats(state.stats, gathered, eta)
    moments = blend_stats(state.moments, pool_moments(gathered, rows), eta)
    behind = 1.0 / ((1.0 - eta) ** 2 / state.effective_rows + eta**2 / n)
    # Starving components and priors are in rows: show them the rows that stand behind the statistics.
    penalty = rule.penalty(moments)
    params, report = mstep(stats.scale(behind), rule.family, penalty, state.params)
    state = replace(
        state, params=params, stats=stats, moments=moments, step=state.step + 1, effective_rows=behind,
        loglik=state.loglik + gathered.loglik, scored_rows=state.scored_rows + n, report=report,
        threshold=(1.0 - eta) * state.threshold + eta * _estimate_threshold(state.params, rows, rule),
    )  # fmt: skip
    lost = params.weights.min() < LOST_SHARE / rule.n_components
    if rule.half_life is None or not lost or state.step % RELOCATE_EVERY:
        return state
    return _relocate_lost_component(state, params, SampleSearch(rows, scaling, penalty))


def _relocate_lost_component(state: OnlineState, params: MixtureParams, explorer: SampleSearch) -> OnlineState:
    """Move the smallest component to a split of another, if the rows of this step are better off with that.

    After a shift, one component can take all rows and leave none to the others; EM alone never gets out of it.
    """
    estep = InMemoryEStep(explorer.rows, explorer.scaling)
    moved = explorer.split_best(remove_component(params, int(params.weights.argmin())))
    stats = estep.evaluate(moved)
    if stats.mean_loglik <= explorer.run_briefly(params).history[-1]:
        return state
    n = stats.rows
    return replace(
        state, params=moved, stats=stats.scale(1.0 / n), effective_rows=n, relocations=state.relocations + 1
    )


def _estimate_threshold(params: MixtureParams, rows: Array, rule: OnlineRule) -> float:
    """Return the outlier threshold of these parameters, from a thousand rows at most."""
    if rule.outlier_quantile <= 0.0:
        return -np.inf
    some = rows[:: max(len(rows) // QUANTILE_ROWS, 1)]
    log_densities = score_rows(compile_density(params), some).log_density
    return float(np.quantile(log_densities, rule.outlier_quantile))


def make_online_result(state: OnlineState, rule: OnlineRule, columns: tuple[str, ...] = ()) -> FitResult:
    """Return the model as it is now; its criteria are those of the effective rows behind it.

    Raises
    ------
    NotFittedError
        If the first fit is still to come.
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
