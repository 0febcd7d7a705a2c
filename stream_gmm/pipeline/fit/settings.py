"""How to fit: the options that a fit and a sweep share, and the algorithms by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from stream_gmm.core.estep.in_memory import RowsEStep
from stream_gmm.core.estep.kernel_choice import Preference
from stream_gmm.core.fit.accelerate import METHODS, Auto
from stream_gmm.core.fit.em import (
    PLAIN_EM,
    EMState,
    Outcome,
    Review,
    Scheme,
    StopRule,
    advance,
    advance_all,
    run_to_end,
)
from stream_gmm.core.fit.stepwise import PowerDecay, StepwiseState, stepwise_step
from stream_gmm.core.mstep.penalty import Penalty, PseudoRows, Ridge
from stream_gmm.core.mstep.prior import STRUCTURES, ConjugatePrior
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError, one_of
from stream_gmm.io.source.dataset import Leaf, Source
from stream_gmm.pipeline.passes.full_pass import FullPass
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.tasks import AUTO, CachePolicy

OnPass = Callable[[Sequence[EMState]], None]

BATCH_ROWS = (1_000, 100_000)
MINIBATCH_TOL = 1e-3
PROFILES = ("full", "sample")
PRIORS: dict[str, Callable[[SuffStats], Penalty]] = {"mclust": ConjugatePrior.of}


@dataclass(frozen=True)
class Settings:
    """Options of a fit.

    Parameters
    ----------
    algorithm
        ``"auto"`` (exact EM, accelerated), ``"em"`` (exact EM, step by step as in scikit-learn) or
        ``"minibatch"`` (stepwise EM over row groups in random order).
    accel
        How exact EM is accelerated: ``"auto"`` (Anderson acceleration of steps continued on the sample, with a
        SQUAREM cycle as a fallback), ``"anderson"``, ``"squarem"`` or ``"none"``. None: what ``algorithm`` says.
    n_init
        Restarts on the sample; the best goes on.
    tol
        Predicted remaining gain at which to stop, nats per row; None: a tenth of the statistical
        error, ``0.1 p / (2 N)``.
    max_passes
        Largest number of steps on the full data (epochs, for mini-batches).
    reg_covar
        Added to the diagonals of the covariances, as in scikit-learn, in units of the data. None: a penalty of
        a thousandth of a pseudo-row for each component instead, which knows no units.
    sample_rows
        Rows of the uniform sample on which fits are started.
    profile
        ``"full"``: the first pass reads everything. ``"sample"``: it reads leaves drawn at random, for five times
        the rows of the sample; what those are worth is estimated and reported.
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
    prior
        ``"mclust"``: the conjugate prior of Fraley & Raftery (2007) in place of a penalty or ridge.
    noise
        One more component, uniform in the box that holds the data: for rows that belong nowhere.
    """

    algorithm: str = "auto"
    accel: str | None = None
    n_init: int = 1
    tol: float | None = None
    max_passes: int = 100
    reg_covar: float | None = None
    random_state: int = 0
    sample_rows: int = 50_000
    profile: str = "full"
    outlier_quantile: float = 0.01
    holdout: float = 0.0
    kernel: str = AUTO
    dtype: str = "float64"
    cache: str = AUTO
    cache_bytes: int | None = None
    prior: str | None = None
    noise: bool = False

    def __post_init__(self) -> None:
        accel = algorithm_named(self.algorithm).accel
        if self.accel is not None:
            one_of(self.accel, ACCELERATIONS, "accel")
        _ = self.preference, self.cache_policy
        one_of(self.profile, PROFILES, "profile")
        checks = (
            (self.accel is None or accel is not None, "accel is for exact EM: algorithm auto or em"),
            (self.profile == "full" or not self.holdout, "holdout needs profile: full"),
            (self.n_init >= 1, "n_init must be at least 1"),
            (self.tol is None or self.tol >= 0.0, "tol must not be negative"),
            (self.max_passes >= 1, "max_passes must be at least 1"),
            (self.reg_covar is None or self.reg_covar >= 0.0, "reg_covar must not be negative"),
            (self.prior in (None, *PRIORS), f"prior must be none or {' or '.join(PRIORS)}, not {self.prior!r}"),
            (self.prior is None or self.reg_covar is None, "prior and reg_covar exclude each other"),
            (self.random_state >= 0, "random_state must not be negative"),
            (self.sample_rows >= 1, "sample_rows must be at least 1"),
            (0.0 <= self.outlier_quantile < 1.0, "outlier_quantile must lie in [0, 1)"),
            (0.0 <= self.holdout < 1.0, "holdout must lie in [0, 1)"),
        )
        wrong = [message for ok, message in checks if not ok]
        if wrong:
            raise ConfigError("; ".join(wrong) + ".")

    @property
    def decisive(self) -> dict[str, Any]:
        """The options that decide a fit; those of keeping rows and of the outlier threshold do not."""
        return {k: v for k, v in asdict(self).items() if k not in ("cache", "cache_bytes", "outlier_quantile")}

    @property
    def rule(self) -> StopRule:
        """The stop rule on the full data."""
        return StopRule(self.tol, self.max_passes)

    def penalty(self, found: Profile) -> Penalty:
        """Return what keeps covariances away from singular ones."""
        return self.penalty_of(found.moments)

    def penalty_of(self, moments: SuffStats) -> Penalty:
        """Return the same for rows of these moments."""
        if self.prior is not None:
            return PRIORS[self.prior](moments)
        return PseudoRows.of(moments) if self.reg_covar is None else Ridge(self.reg_covar)

    def check_structures(self, names: Sequence[str]) -> None:
        """Refuse structures that the prior is not defined for.

        Raises
        ------
        ConfigError
            If there is one.
        """
        unknown = [n for n in names if n not in STRUCTURES]
        if self.prior is not None and unknown:
            raise ConfigError(
                f"prior {self.prior!r} is there for {', '.join(STRUCTURES)}, and not for {', '.join(unknown)}."
            )

    def scheme(self, found: Profile) -> Scheme:
        """Return how candidates are brought to their end on the full data."""
        name = self.accel or algorithm_named(self.algorithm).accel
        method = (
            Auto(RowsEStep(found.sample.rows, found.scaling, weights=found.sample.weights))
            if name == AUTO
            else METHODS[name or "none"]
        )
        return Scheme(self.rule, self.penalty(found), method)

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
    run: Callable[[list[EMState], FullPass, Scheme, Settings, OnPass, Review], list[EMState]]
    accel: str | None = None
    """The acceleration it stands for; None: it has no full passes to accelerate."""


def _advance_one(pair: tuple[EMState, SuffStats], scheme: Scheme) -> EMState:
    return advance(*pair, scheme)


def run_exact(
    states: list[EMState], full: FullPass, scheme: Scheme, settings: Settings, on_pass: OnPass, review: Review
) -> list[EMState]:
    """Run exact EM; all candidates share every pass."""
    del settings

    def on_workers(pairs: Sequence[tuple[EMState, SuffStats]], scheme: Scheme) -> list[EMState]:
        return full.executor.map(_advance_one, pairs, shared=scheme, label="accelerate")

    return run_to_end(states, full, scheme, on_pass, on_workers if scheme.method.heavy else advance_all, review)


def run_minibatch(
    states: list[EMState], full: FullPass, scheme: Scheme, settings: Settings, on_pass: OnPass, review: Review
) -> list[EMState]:
    """Run stepwise EM, all candidates on the same mini-batches to the end; one exact pass evaluates that."""
    del review  # there is no exact log-likelihood to judge by before the end
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
                steps = [stepwise_step(s, b, schedule, scheme.penalty) for s, b in zip(steps, stats, strict=True)]
                sums += [[b.loglik, b.rows] for b in stats]
        epochs += 1
        for history, (loglik, rows) in zip(averages, sums, strict=True):
            history.append(loglik / rows)
        on_pass([EMState(s.params, history=tuple(h)) for s, h in zip(steps, averages, strict=True)])
    ended = _evaluate([replace(s, params=t.params) for s, t in zip(states, steps, strict=True)], full, scheme)
    return [_verdict(s, h, tol, epochs) for s, h in zip(ended, averages, strict=True)]


def _settled(averages: list[list[float]], tol: float) -> bool:
    return all(len(h) > 1 and h[-1] - h[-2] <= tol for h in averages)


def _evaluate(states: list[EMState], full: FullPass, scheme: Scheme) -> list[EMState]:
    """Read once more, for the exact log-likelihood of the parameters as they are."""
    stats = full([s.params for s in states])
    last = replace(scheme, rule=replace(scheme.rule, max_passes=0), method=PLAIN_EM)
    return [advance(s, b, last) for s, b in zip(states, stats, strict=True)]


def _verdict(state: EMState, averages: list[float], tol: float, epochs: int) -> EMState:
    history = (*averages, state.history[-1])
    outcome = state.outcome
    if outcome is Outcome.MAX_PASSES and _settled([averages], tol):
        outcome = Outcome.CONVERGED
    return replace(state, history=history, n_iter=epochs, outcome=outcome, passes=epochs + 1)


ACCELERATIONS = (AUTO, *METHODS)
ALGORITHMS = {
    AUTO: Algorithm(1000, _leaves, run_exact, accel=AUTO),
    "em": Algorithm(1000, _leaves, run_exact, accel="none"),
    "minibatch": Algorithm(5, _pieces, run_minibatch),
}


def algorithm_named(name: str) -> Algorithm:
    """Return an algorithm.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    return ALGORITHMS[one_of(name, ALGORITHMS, "algorithm")]
