"""The bootstrap over all rows: each replicate weighs each row by a Poisson(1) number from the row's hash.

All replicates share the reads of the data. Each starts at the fit of the original rows, so that its components keep
their numbers, and is fitted to its own optimum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from stream_gmm.core.criteria import CRITERIA, HELDOUT, Criteria
from stream_gmm.core.estep.accumulate import accumulate_stats, complete_stats, merge_each
from stream_gmm.core.estep.batch import Batch, StackedStats, compile_batch
from stream_gmm.core.fit.em import EMState, Outcome, Scheme, advance
from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.rows.sampling import Holdout, draw_poisson_weights, hash_rows
from stream_gmm.core.rows.transforms import Transforms, log_jacobians
from stream_gmm.core.search.pruning import prune_states
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.chunks import HoldoutSplit, split_holdout
from stream_gmm.io.source.protocols import Leaf
from stream_gmm.io.store.tables import table_of
from stream_gmm.pipeline.fit.algorithms import make_scheme
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.progress import Listener, Meter, ignore_progress
from stream_gmm.pipeline.passes.tasks import PassTasks

LEVEL = 0.95
PRECISION = 1e-3
"""Predicted gain at which a replicate stops, as a share of the statistical error ``p / 2N``."""
_STREAM = 0xB007


@dataclass(frozen=True)
class _ReplicateStats:
    """The statistics of a pass, by replicate: those of its candidates, and the moments of its rows.

    ``jacobians (R,)`` are the sums of the log-Jacobians of the transforms over the rows of a replicate, nats.
    """

    groups: tuple[tuple[StackedStats, ...], ...]
    moments: tuple[SuffStats, ...]
    jacobians: Array

    def merge(self, other: _ReplicateStats) -> _ReplicateStats:
        """Return the statistics of both sets of rows."""
        return _ReplicateStats(
            tuple(merge_each(a, b) for a, b in zip(self.groups, other.groups, strict=True)),
            merge_each(self.moments, other.moments),
            self.jacobians + other.jacobians,
        )


@dataclass(frozen=True)
class _BootstrapTask:
    """What every task of a bootstrap pass needs."""

    batches: tuple[Batch, ...]
    replicates: tuple[int, ...]
    seed: int
    holdout: Holdout
    columns: tuple[int, ...]
    """Positions of the columns to fit among those read; empty: all."""
    names: tuple[str, ...]
    transforms: Transforms


def _resample_leaf(leaf: Leaf, task: _BootstrapTask) -> _ReplicateStats:
    out = _ReplicateStats(
        tuple(b.no_stats for b in task.batches),
        tuple(SuffStats.zero(1, 1, FULL) for _ in task.batches),
        np.zeros(len(task.batches)),
    )
    for chunk in leaf.chunks():
        part = split_holdout(chunk, task.holdout, task.columns)
        hashes = hash_rows(task.seed + _STREAM, chunk.file_index, part.numbers)
        slopes = log_jacobians(part.rows, task.names, task.transforms)
        stats = [_weigh_rows(part, slopes, hashes, b, r) for b, r in zip(task.batches, task.replicates, strict=True)]
        groups, moments, jacobians = zip(*stats, strict=True)
        out = out.merge(_ReplicateStats(groups, moments, np.array(jacobians)))
    return out


def _weigh_rows(
    part: HoldoutSplit, slopes: Array, hashes: Any, batch: Batch, replicate: int
) -> tuple[tuple[StackedStats, ...], SuffStats, float]:
    weights = draw_poisson_weights(hashes, replicate)
    drawn = weights > 0.0
    weights = weights[drawn] * (part.weights[drawn] if len(part.weights) else 1.0)
    rows = np.asfortranarray(part.rows[drawn])
    if not len(rows):
        return batch.no_stats, SuffStats.zero(1, 1, FULL), 0.0
    moments = collect_moments(rows, weights) if batch.needs_row_moments else SuffStats.zero(1, 1, FULL)
    return accumulate_stats(batch, rows, weights), moments, float(slopes[drawn] @ weights)


@dataclass(frozen=True)
class BootstrapResult:
    """The fits of all replicates, and the standard errors that follow.

    Attributes
    ----------
    models
        The candidates that were refitted in every replicate; the standard errors are those of the first.
    fits
        The fitted states: ``fits[b][c]`` of replicate b and candidate c.
    criterion
        What chooses among the candidates in each replicate: ``"bic"``, ``"aic"`` or ``"icl"``.
    passes
        Reads of the data.
    jacobians
        Mean log-Jacobian of the transforms over the rows of each replicate, nats; 0 without transforms.
    """

    models: tuple[FitResult, ...]
    fits: tuple[tuple[EMState, ...], ...]
    criterion: str
    passes: int
    jacobians: tuple[float, ...]

    @property
    def replicates(self) -> tuple[MixtureParams, ...]:
        """The first candidate's parameters in every replicate in which it could be fitted."""
        return tuple(states[0].params for states in self.fits if states[0].outcome is not Outcome.FAILED)

    @cached_property
    def weights_se(self) -> Array:
        """Standard errors of the mixing weights ``(K,)``."""
        return np.asarray(np.std([p.weights for p in self.replicates], axis=0, ddof=1))

    @cached_property
    def means_se(self) -> Array:
        """Standard errors of the means ``(K, D)``."""
        return np.asarray(np.std([p.means for p in self.replicates], axis=0, ddof=1))

    @cached_property
    def covariances_se(self) -> Array:
        """Standard errors of the entries of the covariances ``(K, D, D)``."""
        return np.asarray(np.std([p.dense_covariances for p in self.replicates], axis=0, ddof=1))

    @cached_property
    def loglik_se(self) -> float:
        """Standard error of the mean log-likelihood per row, of the columns as they were before any transform."""
        values = [s[0].history[-1] + j for s, j in zip(self.fits, self.jacobians, strict=True) if s[0].history]
        return float(np.std(values, ddof=1))

    @cached_property
    def chosen(self) -> Mapping[str, int]:
        """How often each candidate would be chosen, most often first."""
        winners = [
            self._choose_in_replicate(states) for states in self.fits if any(s.stats is not None for s in states)
        ]
        return dict(Counter(winners).most_common())

    @cached_property
    def chosen_k(self) -> Mapping[int, int]:
        """How often each K would be chosen."""
        by_name = {model_name(m): m.n_components for m in self.models}
        out: Counter[int] = Counter()
        for name, count in self.chosen.items():
            out[by_name[name]] += count
        return dict(sorted(out.items()))

    def _choose_in_replicate(self, states: Sequence[EMState]) -> str:
        value = CRITERIA[self.criterion]
        scored = [
            (value(Criteria.from_stats(s.stats, s.params.n_parameters)), i)
            for i, s in enumerate(states)
            if s.stats is not None and s.outcome is not Outcome.FAILED
        ]
        return model_name(self.models[min(scored)[1]])

    @cached_property
    def table(self) -> Any:
        """Estimate, standard error and interval of every weight, mean and variance, as an Arrow table."""
        model, replicates = self.models[0], self.replicates
        columns = model.columns or tuple(f"x{j}" for j in range(model.n_features_in_))
        rows = []
        for k in range(model.n_components):
            rows.append(_make_row("weight", k, "", model.weights_[k], [p.weights[k] for p in replicates]))
            for j, name in enumerate(columns):
                rows.append(_make_row("mean", k, name, model.means_[k, j], [p.means[k, j] for p in replicates]))
                own = model.params.dense_covariances[k, j, j]
                rows.append(_make_row("variance", k, name, own, [p.dense_covariances[k, j, j] for p in replicates]))
        return table_of(rows)

    def to_pandas(self) -> Any:
        """Return the table as a pandas data frame."""
        return self.table.to_pandas()


def _make_row(quantity: str, component: int, column: str, estimate: float, values: Sequence[float]) -> dict[str, Any]:
    low, high = np.quantile(values, [0.5 - LEVEL / 2.0, 0.5 + LEVEL / 2.0])
    return {
        "quantity": quantity, "component": component, "column": column, "estimate": float(estimate),
        "standard_error": float(np.std(values, ddof=1)), "low": float(low), "high": float(high),
    }  # fmt: skip


def model_name(model: FitResult) -> str:
    """Return the short name of a model, such as ``full-5``."""
    return f"{model.covariance_type}-{model.n_components}"


def bootstrap(
    models: Sequence[FitResult],
    tasks: PassTasks,
    profile: Profile,
    settings: Settings,
    executor: Executor,
    *,
    replicates: int = 100,
    criterion: str = "bic",
    listener: Listener = ignore_progress,
) -> BootstrapResult:
    """Refit models in replicates of the data; all replicates share every read.

    The standard errors are those of the first model. The others serve to count how often each would be chosen, by
    the criterion, or by BIC if the criterion needs held-out rows or looks at all K.

    Raises
    ------
    ConfigError
        If there are fewer than two replicates.
    """
    if replicates < 2:
        raise ConfigError("replicates must be at least 2.")
    criterion = criterion if criterion in CRITERIA and criterion != HELDOUT else "bic"
    usual = make_scheme(settings, profile)
    schemes = (_tighten_tolerance(usual, models[0]), *[usual] * (len(models) - 1))
    states = [[EMState(m.params) for m in models] for _ in range(replicates)]
    passes, jacobians = 0, np.zeros(replicates)
    while any(s.live for row in states for s in row):
        live = [b for b in range(replicates) if any(s.live for s in states[b])]
        passes += 1
        stats, jacobians[live] = _run_pass(
            [states[b] for b in live], live, models[0], tasks, profile, settings, executor, listener, passes
        )
        pairs = [(c, states[b][c], s) for b, row in zip(live, stats, strict=True) for c, s in row.items()]
        moved = iter(executor.map(_advance, pairs, shared=schemes, label="accelerate"))
        for b, row in zip(live, stats, strict=True):
            for c in row:
                states[b][c] = next(moved)
            states[b] = [states[b][0], *prune_states(states[b], criterion)[1:]]
    fits = tuple(tuple(row) for row in states)
    return BootstrapResult(tuple(models), fits, criterion, passes, tuple(jacobians.tolist()))


def _tighten_tolerance(scheme: Scheme, model: FitResult) -> Scheme:
    """Return a scheme whose remaining gain is negligible beside a standard error.

    With the usual tolerance a replicate, which starts at the fit of all rows, would stop too near to it.
    """
    tol = PRECISION * model.params.n_parameters / (2.0 * model.criteria.n_rows)
    return replace(scheme, rule=replace(scheme.rule, tol=tol))


def _advance(pair: tuple[int, EMState, SuffStats], schemes: Sequence[Scheme]) -> EMState:
    candidate, state, stats = pair
    return advance(state, stats, schemes[candidate])


def _run_pass(
    states: Sequence[Sequence[EMState]], replicates: Sequence[int], model: FitResult, tasks: PassTasks,
    profile: Profile, settings: Settings, executor: Executor, listener: Listener, number: int,
) -> tuple[list[dict[int, SuffStats]], list[float]]:  # fmt: skip
    """Return the statistics of every live candidate of every replicate, by its position, and mean log-Jacobians."""
    places = [[c for c, s in enumerate(row) if s.live] for row in states]
    candidates = [[row[c].params for c in own] for row, own in zip(states, places, strict=True)]
    incomplete = profile.may_be_incomplete
    batches = tuple(compile_batch(c, profile.scaling, settings.preference, incomplete) for c in candidates)
    holdout = Holdout(settings.holdout, settings.random_state)
    task = _BootstrapTask(
        batches, tuple(replicates), settings.random_state, holdout, profile.places, model.columns, model.transforms
    )
    live = sum(len(c) for c in candidates)
    meter = Meter(listener, "bootstrap", list(tasks.rows), number=number, live=live)
    out = executor.map_reduce(
        _resample_leaf, _ReplicateStats.merge, tasks.items, shared=task, label="bootstrap", on_done=meter
    )  # fmt: skip
    shift = profile.scaling.shift
    stats = [
        dict(zip(own, complete_stats(batch, params, groups, moments, shift), strict=True))
        for own, batch, params, groups, moments in zip(
            places, batches, candidates, out.groups, out.moments, strict=True
        )
    ]
    rows = [next(iter(own.values())).rows for own in stats]
    return stats, [float(total / n) if n else 0.0 for total, n in zip(out.jacobians, rows, strict=True)]
