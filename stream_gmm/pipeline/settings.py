"""How to fit: the options that a fit and a sweep share, and the algorithms by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_gmm.core.em import EMState, Outcome, StopRule, advance, run_to_end
from stream_gmm.core.routes import Preference
from stream_gmm.core.stepwise import PowerDecay, StepwiseState, stepwise_step
from stream_gmm.errors import ConfigError, did_you_mean
from stream_gmm.io.dataset import Leaf, Source
from stream_gmm.pipeline.passes import FullPass
from stream_gmm.pipeline.reading import AUTO, CachePolicy

OnPass = Callable[[Sequence[EMState]], None]

BATCH_ROWS = (1_000, 100_000)
MINIBATCH_TOL = 1e-3


@dataclass(frozen=True)
class Settings:
    """Options of a fit.

    Parameters
    ----------
    algorithm
        ``"em"`` (exact) or ``"minibatch"`` (stepwise EM over row groups in random order).
    n_init
        Restarts on the sample; the best goes on.
    tol
        Predicted remaining gain at which to stop, nats per row; None: a tenth of the statistical
        error, ``0.1 p / (2 N)``.
    max_passes
        Largest number of EM steps on the full data (epochs, for mini-batches).
    reg_covar
        Added to the diagonals of the covariances, as in scikit-learn.
    sample_rows
        Rows of the uniform sample on which fits are started.
    outlier_quantile
        Share of rows that the outlier threshold cuts off.
    holdout
        Share of the rows that no fit uses; their log-likelihood is reported for every candidate.
    kernel
        ``"auto"``: the fastest that holds the bound on rounding errors, for each candidate and step;
        or one by name: ``"quadratic"``, ``"sphered"``, ``"whitened"``.
    dtype
        ``"float64"``; ``"float32"``: where its rounding error stays below 1e-3 nats a row.
    cache
        Where decoded rows stay after the first pass: ``"none"``, ``"memory"`` and ``"disk"`` (of the
        workers), or ``"auto"``: memory for a little data, else disk.
    cache_bytes
        At most so many bytes are kept; None: a quarter of the workers' memory, or what the disk has.
    """

    algorithm: str = "em"
    n_init: int = 1
    tol: float | None = None
    max_passes: int = 100
    reg_covar: float = 1e-6
    random_state: int = 0
    sample_rows: int = 50_000
    outlier_quantile: float = 0.01
    holdout: float = 0.0
    kernel: str = AUTO
    dtype: str = "float64"
    cache: str = AUTO
    cache_bytes: int | None = None

    def __post_init__(self) -> None:
        algorithm_named(self.algorithm)
        _ = self.preference, self.cache_policy
        checks = (
            (self.n_init >= 1, "n_init must be at least 1"),
            (self.tol is None or self.tol >= 0.0, "tol must not be negative"),
            (self.max_passes >= 1, "max_passes must be at least 1"),
            (self.reg_covar >= 0.0, "reg_covar must not be negative"),
            (self.random_state >= 0, "random_state must not be negative"),
            (self.sample_rows >= 1, "sample_rows must be at least 1"),
            (0.0 <= self.outlier_quantile < 1.0, "outlier_quantile must lie in [0, 1)"),
            (0.0 <= self.holdout < 1.0, "holdout must lie in [0, 1)"),
        )
        wrong = [message for ok, message in checks if not ok]
        if wrong:
            raise ConfigError("; ".join(wrong) + ".")

    @property
    def rule(self) -> StopRule:
        """The stop rule on the full data."""
        return StopRule(self.tol, self.max_passes)

    @property
    def preference(self) -> Preference:
        """What is wanted of the kernels."""
        return Preference(self.kernel, self.dtype)

    @property
    def cache_policy(self) -> CachePolicy:
        """Where decoded rows stay."""
        return CachePolicy(self.cache, self.cache_bytes)


def _leaves(source: Source) -> Sequence[Leaf]:
    return source.leaves()


def _pieces(source: Source) -> Sequence[Leaf]:
    return source.pieces()


@dataclass(frozen=True)
class Algorithm:
    """How starts are prepared on the sample, what a task reads, and how the full data is used."""

    sample_steps: int
    leaves: Callable[[Source], Sequence[Leaf]]
    run: Callable[[list[EMState], FullPass, Settings, OnPass], list[EMState]]


def run_exact(states: list[EMState], full: FullPass, settings: Settings, on_pass: OnPass) -> list[EMState]:
    """Run exact EM; all candidates share every pass."""
    return run_to_end(states, full, settings.rule, settings.reg_covar, on_pass)


def run_minibatch(states: list[EMState], full: FullPass, settings: Settings, on_pass: OnPass) -> list[EMState]:
    """Run stepwise EM, all candidates on the same mini-batches; one exact pass evaluates the end."""
    schedule = PowerDecay()
    steps = [StepwiseState(s.params) for s in states]
    tol = MINIBATCH_TOL if settings.tol is None else settings.tol
    largest = max(s.params.n_components * (s.params.n_features + 1) for s in states)
    batch_rows = int(np.clip(50 * largest, *BATCH_ROWS))
    averages: list[list[float]] = [[] for _ in states]
    epochs = 0
    while epochs < settings.max_passes and not _settled(averages, tol):
        rng = np.random.default_rng([settings.random_state, 1, epochs])
        full.passes += 1
        sums = np.zeros((len(steps), 2))
        for leaves in full.batches(batch_rows, rng):
            stats = full.on_batch(leaves, [s.params for s in steps])
            if stats[0].rows:
                steps = [stepwise_step(s, b, schedule, settings.reg_covar) for s, b in zip(steps, stats, strict=True)]
                sums += [[b.loglik, b.rows] for b in stats]
        epochs += 1
        for history, (loglik, rows) in zip(averages, sums, strict=True):
            history.append(loglik / rows)
        on_pass([EMState(s.params, history=tuple(h)) for s, h in zip(steps, averages, strict=True)])
    ended = _evaluate([replace(s, params=t.params) for s, t in zip(states, steps, strict=True)], full, settings)
    return [_verdict(s, h, tol, epochs) for s, h in zip(ended, averages, strict=True)]


def _settled(averages: list[list[float]], tol: float) -> bool:
    return all(len(h) > 1 and h[-1] - h[-2] <= tol for h in averages)


def _evaluate(states: list[EMState], full: FullPass, settings: Settings) -> list[EMState]:
    """Read once more, for the exact log-likelihood of the parameters as they are."""
    stats = full([s.params for s in states])
    rule = StopRule(settings.tol, max_passes=0)
    return [advance(s, b, rule, settings.reg_covar) for s, b in zip(states, stats, strict=True)]


def _verdict(state: EMState, averages: list[float], tol: float, epochs: int) -> EMState:
    history = (*averages, state.history[-1])
    outcome = state.outcome
    if outcome is Outcome.MAX_PASSES and _settled([averages], tol):
        outcome = Outcome.CONVERGED
    return replace(state, history=history, n_iter=epochs, outcome=outcome)


ALGORITHMS = {
    "em": Algorithm(1000, _leaves, run_exact),
    "minibatch": Algorithm(5, _pieces, run_minibatch),
}


def algorithm_named(name: str) -> Algorithm:
    """Return an algorithm.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        raise ConfigError(f"unknown algorithm {name!r}{did_you_mean(name, ALGORITHMS)} Known: {known}.")
    return ALGORITHMS[name]
