"""The reservoir of a stream: a bounded sample of all its rows, and reviews of the model on it.

Steps of a stream see only new rows, at parameters that earlier rows have led to. If rows arrive in an order (sorted,
or one cluster after the other), no such step can move a component to where it is needed. A *review* fits the mixture
to the reservoir, which holds rows of all times, from the present model and from new starts.

A few rows far out decide a covariance, and a uniform sample misses most of them. So a row is the likelier to be
kept the more it would move the parameters, with at least half the chance of a uniform sample, and counts the less for
it (importance sampling; Duffield, Lund & Thorup 2007).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.scores import Scores
from stream_gmm.core.fit.em import FIT_ERRORS, StopRule
from stream_gmm.core.model.matching import trace_components
from stream_gmm.core.model.moments import DIAGONAL, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import Penalty
from stream_gmm.core.rows.sampling import Hashes, Sample, hash_rows
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.sample_fit import SampleFit
from stream_gmm.core.search.sample_search import SampleSearch
from stream_gmm.core.stats import SuffStats

RESERVOIR_ROWS, RESERVOIR_VALUES = 50_000, 4_000_000
"""Most rows, and most values (rows times columns: 32 MB), of a reservoir whose size is chosen automatically."""
LEAST_IMPORTANCE = 0.5
"""Of a row, in units of the mean: at least half as many ordinary rows are kept as in a uniform sample."""
ROWS_PER_CONTROL, MOST_CONTROLS, CONTROL_CHUNK = 8, 256, 2_048
"""Weights are calibrated by at most so many statistics, and by one for so many rows; rows at once, to save memory."""
CONTROL_RIDGE, LARGEST_FACTOR = 1e-3, 4.0
"""A statistic that hardly any kept row has a part in is not enforced; largest change of a weight by calibration."""
LARGEST_DISTANCE, SMALLEST_WEIGHT = 1e60, 1e-12
"""Limits of squared Mahalanobis distances and weights, between which importance is finite."""


def choose_capacity(n_features: int) -> int:
    """Return the number of rows of a reservoir whose size is not given."""
    return min(RESERVOIR_ROWS, max(RESERVOIR_VALUES // n_features, 1))


@dataclass(frozen=True)
class Reservoir:
    """The ``capacity`` rows ``(n, D)`` of least priority, a row's hash ``(n,)`` divided by its importance ``(n,)``.

    An importance is at least ``LEAST_IMPORTANCE``. So what is kept is a function of the rows and their importance,
    however the stream is cut, and parts can be merged.
    """

    rows: Array
    hashes: Hashes
    importance: Array
    capacity: int
    shares: Array | None = None
    """Responsibilities ``(n, K)`` by the parameters of the time at which the rows came; None: not known."""

    @classmethod
    def empty(cls, n_features: int, capacity: int) -> Reservoir:
        """Return a reservoir without rows."""
        return cls(np.empty((0, n_features)), np.empty(0, np.uint64), np.empty(0), capacity)

    @property
    def is_whole(self) -> bool:
        """True while all rows are kept."""
        return bool(np.isinf(self.limit))

    @cached_property
    def limit(self) -> float:
        """The largest priority of a row that is kept; inf while all rows are."""
        return float((self.hashes / self.importance).max()) if 0 < self.capacity <= len(self.rows) else np.inf

    @property
    def weights(self) -> Array:
        """Rows that each row stands for ``(n,)``, in units of their mean: the inverse of its chance to be kept."""
        if self.is_whole:
            return np.ones(len(self.rows))
        inverse = 1.0 / np.minimum(self.importance * (self.limit / 2.0**64), 1.0)
        return np.asarray(inverse * (len(inverse) / inverse.sum()))

    def add_rows(
        self, rows: Array, first: int, seed: int, importance: Array | None = None, shares: Array | None = None
    ) -> Reservoir:
        """Return the reservoir with ``rows (n, D)`` of the stream, the first of which has the number ``first``."""
        hashes = hash_rows(seed, 0, np.arange(first, first + len(rows)))
        importance = np.ones(len(rows)) if importance is None else importance
        enters = hashes / importance < self.limit
        if not enters.any():
            return self
        shares = None if shares is None else shares[enters]
        return self.merge(Reservoir(rows[enters], hashes[enters], importance[enters], self.capacity, shares))

    def merge(self, other: Reservoir) -> Reservoir:
        """Return the reservoir of both parts of a stream."""
        hashes = np.concatenate([self.hashes, other.hashes])
        importance = np.concatenate([self.importance, other.importance])
        kept = np.lexsort((hashes, hashes / importance))[: self.capacity]
        kept = kept[np.argsort(hashes[kept])]
        rows = np.concatenate([self.rows, other.rows])[kept]
        parts = [part.shares for part in (self, other) if len(part.rows)]
        known = [shares for shares in parts if shares is not None]
        shares = np.concatenate(known)[kept] if known and len(known) == len(parts) else None
        return Reservoir(rows, hashes[kept], importance[kept], self.capacity, shares)

    def shuffle(self, weights: Array) -> Sample:
        """Return the rows with ``weights (n,)`` in random order: the first m of them are like all of them."""
        order = np.argsort(hash_rows(0, 1, self.hashes.astype(np.int64)), kind="stable")
        return Sample(self.rows[order], self.hashes[order], self.capacity, weights[order])

    def take_uniform_rows(self) -> Array:
        """Return a uniform sample of the rows of the stream: of all that are here, a part."""
        return self.rows[self.hashes <= LEAST_IMPORTANCE * self.limit]


def rate_rows(params: MixtureParams, scores: Scores) -> Array:
    """Return the importance of rows ``(n,)``, in units of the mean of these rows, from their scores.

    It is half of it plus half of the length of the score function of the likeliest component (the derivative of
    the log-density of a row), measured by the Fisher information: a sample drawn by that length gives the
    parameters with the least error. Rows of a step are compared with each other only, so that no step has a larger
    share of the reservoir for being new.
    """
    d, distance = params.n_features, np.minimum(scores.mahalanobis_sq, LARGEST_DISTANCE)
    weight = np.maximum(params.weights[scores.component], SMALLEST_WEIGHT)
    length = np.sqrt((1.0 + 0.5 * (distance**2 + d)) / weight)
    return np.asarray(LEAST_IMPORTANCE + (1.0 - LEAST_IMPORTANCE) * length / length.mean())


def calibrate_weights(reservoir: Reservoir, seen: SuffStats | None) -> Array:
    """Return weights ``(n,)`` by which statistics of the kept rows are those of all rows (Deville & Sarndal 1992).

    Parameters
    ----------
    seen
        Statistics of all rows of the stream, each by the parameters of its time, as ``shares`` of the reservoir are.
        What they say about statistics at other parameters is not lost, although the rows are. None: not known.
    """
    weights, n = reservoir.weights, len(reservoir.rows)
    if seen is None or reservoir.shares is None or reservoir.is_whole:
        return weights
    # As much as the rows allow: 3 second moments, 2 variances, 1 means, 0 weights.
    most = min(n // ROWS_PER_CONTROL, MOST_CONTROLS)
    level = next((level for level in (3, 2, 1, 0) if len(_list_controls(seen, level)) <= most), None)
    if level is None:
        return weights
    chunks = [slice(lo, lo + CONTROL_CHUNK) for lo in range(0, n, CONTROL_CHUNK)]
    totals = _list_controls(seen, level)
    gram, sums = np.zeros((len(totals), len(totals))), np.zeros(len(totals))
    for chunk in chunks:
        controls = _compute_controls(reservoir, chunk, seen, level)
        weighted = controls * weights[chunk, None]
        gram, sums = gram + weighted.T @ controls, sums + weighted.sum(axis=0)
    size = np.sqrt(np.diagonal(gram) / n)
    size = np.where(size > 0.0, size, 1.0)
    lack = (totals * (n / seen.rows) - sums) / size
    normal = gram / np.outer(size, size) + CONTROL_RIDGE * n * np.eye(len(totals))
    multipliers = np.linalg.solve(normal, lack) / size
    for chunk in chunks:
        factor = 1.0 + _compute_controls(reservoir, chunk, seen, level) @ multipliers
        weights[chunk] *= np.clip(factor, 1.0 / LARGEST_FACTOR, LARGEST_FACTOR)
    return np.asarray(weights * (n / weights.sum()))


def _list_controls(seen: SuffStats, level: int) -> Array:
    """Return the sums ``(p,)`` over all rows of what :func:`_compute_controls` gives."""
    (k, d), scatter = seen.mean.shape, seen.scatter
    diagonal = np.broadcast_to(seen.moments.diagonal(scatter), (len(scatter), d)) if level == 2 else scatter
    moments = diagonal.ravel() if level >= 2 else np.empty(0)
    return np.concatenate([seen.weight, np.zeros(k * d * (level > 0)), moments])


def _compute_controls(reservoir: Reservoir, chunk: slice, seen: SuffStats, level: int) -> Array:
    """Return, for some rows, their parts ``(m, p)`` of the statistics of all rows."""
    assert reservoir.shares is not None
    shares, k = reservoir.shares[chunk], len(seen.weight)
    centred = [reservoir.rows[chunk] - mean for mean in seen.mean]
    out = [shares, *(shares[:, [i]] * centred[i] for i in range(k) if level > 0)]
    if level >= 2:
        kind = DIAGONAL if level == 2 else seen.moments
        parts = [kind.outer(shares[:, i], centred[i]).reshape(len(shares), -1) for i in range(k)]
        out += parts if len(seen.scatter) == k else [np.sum(parts, axis=0)]
    return np.concatenate(out, axis=1)


def review_model(
    params: MixtureParams,
    reservoir: Reservoir,
    weights: Array,
    rows_seen: float,
    penalty: Penalty,
    n_init: int,
    seed: tuple[int, ...],
    *,
    is_calibrated: bool,
) -> tuple[MixtureParams, SuffStats] | None:
    """Return a better mixture and its statistics per row, both from the reservoir, or None if the present one stays.

    Parameters
    ----------
    weights
        Of the rows of the reservoir ``(n,)``.
    rows_seen
        Rows of the stream, N. With R rows in the reservoir and p parameters, the gain in nats per row that chance
        would give is about p / R (1 - R / N); for a smaller one, no other optimum is taken.
    n_init
        Restarts, raced against the present model; 0: it is only run to convergence.
    seed
        Seed of the restarts.
    is_calibrated
        Whether the weights are calibrated. Then the reservoir knows what the present model knows, which follows it
        without having to gain more than chance would give.

    Notes
    -----
    Components keep their numbers where they can be recognised.
    """
    sample, k = reservoir.shuffle(weights), params.n_components
    rows, n, scaling = sample.rows, len(sample.rows), Scaling.of_rows(sample.rows)
    tol = StopRule().tolerance(params.n_parameters, n)
    search = SampleSearch(rows, scaling, penalty, tol, weights=sample.weights)
    starts = [("the stream so far", params)]
    if n_init and k > 1 and n >= k:
        starts += search.race_restarts(params.family, search.draw_seeds(k, n_init, seed)).finalists
        with contextlib.suppress(*FIT_ERRORS):
            starts.append(("merge and split", search.split_best(search.merge_best(params))))
    # Each goes to its end, and a component that the pseudo-rows hold open may be what the rows want: in the
    # search of a fit over all rows, where they hardly count, that would be a collapse.
    ends = [search.fit_finalists(SampleFit(start, finalists=((name, start),))) for name, start in starts]
    reached = [end.params for end in ends if end.params is not None]
    if not reached:
        return None
    estep = InMemoryEStep(rows, scaling, weights=sample.weights)
    before, *after = (s.mean_loglik for s in estep([params, *reached]))
    by_chance = params.n_parameters / n * max(1.0 - n / rows_seen, 0.0)
    # Another optimum has to be better by more than chance; in its own, the present model only moves to where it is.
    own = after[0] if ends[0].params is not None else -np.inf
    place = int(np.argmax(after)) if max(after) > max(own, before) + by_chance else 0
    best = reached[place]
    if not after[place] > before + (0.0 if is_calibrated else by_chance):
        return None
    with contextlib.suppress(*FIT_ERRORS):
        best = best.reorder(list(trace_components(best, params).order))
    return best, estep.evaluate(best).scale(1.0 / n)
