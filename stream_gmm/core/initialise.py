"""Where to start: k-means++ seeds on a sample, restarts by successive halving, EM to the end there.

The sample does the exploring, at no pass over the data; the full data confirms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.batch import compile_batch
from stream_gmm.core.covariance import CovarianceFamily
from stream_gmm.core.em import EMState, EStep, Outcome, StopRule, run_to_end
from stream_gmm.core.estep import CHUNK_ROWS, accumulate, finish, merge_all, moments_of
from stream_gmm.core.moments import Array
from stream_gmm.core.mstep import mstep
from stream_gmm.core.params import MixtureParams
from stream_gmm.core.routes import NO_PREFERENCE, Preference
from stream_gmm.core.scaling import Scaling
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import InputDataError, SingularCovarianceError, explain

LLOYD_STEPS = 10
SEEDING_ROWS = 20_000
RUNG_STEPS = 15
RUNG_ROWS = 4_000
RUNG_TOL = 1e-5
FINALISTS = 2


def rows_estep(rows: Array, scaling: Scaling, preference: Preference = NO_PREFERENCE) -> EStep:
    """Return the E-step over rows ``(N, D)`` in memory."""
    chunks = [np.asfortranarray(rows[lo : lo + CHUNK_ROWS]) for lo in range(0, len(rows), CHUNK_ROWS)]
    everything = moments_of(rows)

    def estep(candidates: Sequence[MixtureParams]) -> Sequence[SuffStats]:
        batch = compile_batch(candidates, scaling, preference)
        out = reduce(merge_all, (accumulate(batch, chunk) for chunk in chunks))
        return finish(batch, candidates, out, everything, scaling.shift)

    return estep


def _squared_distances(rows: Array, centre: Array) -> Array:
    delta = rows - centre
    return np.asarray(np.einsum("nj,nj->n", delta, delta))


def kmeans_plusplus(rows: Array, n_clusters: int, rng: np.random.Generator) -> Array:
    """Return seeds ``(K, D)`` by greedy k-means++ (Arthur & Vassilvitskii 2007)."""
    trials = 2 + int(np.log(n_clusters))
    centres = [rows[rng.integers(len(rows))]]
    closest = _squared_distances(rows, centres[0])
    for _ in range(1, n_clusters):
        candidates = _draw(closest, trials, rng)
        reduced = [np.minimum(closest, _squared_distances(rows, rows[c])) for c in candidates]
        best = int(np.argmin([r.sum() for r in reduced]))
        closest = reduced[best]
        centres.append(rows[candidates[best]])
    return np.array(centres)


def _draw(closest: Array, trials: int, rng: np.random.Generator) -> NDArray[np.int64]:
    total = closest.sum()
    if total <= 0.0:  # fewer distinct rows than clusters
        return rng.integers(len(closest), size=trials)
    return rng.choice(len(closest), size=trials, p=closest / total)


def _assign(rows: Array, centres: Array) -> NDArray[np.int64]:
    distances = np.stack([_squared_distances(rows, c) for c in centres], axis=1)
    return np.asarray(distances.argmin(axis=1))


def lloyd(rows: Array, centres: Array, steps: int = LLOYD_STEPS) -> NDArray[np.int64]:
    """Return the labels ``(N,)`` after a few k-means steps; an empty cluster keeps its centre."""
    labels = _assign(rows, centres)
    for _ in range(steps):
        counts = np.bincount(labels, minlength=len(centres))
        sums = np.stack([np.bincount(labels, c, len(centres)) for c in rows.T], axis=1)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
        new = _assign(rows, centres)
        if np.array_equal(new, labels):
            break
        labels = new
    return labels


def hard_stats(rows: Array, labels: NDArray[np.int64], n_components: int, family: CovarianceFamily) -> SuffStats:
    """Return the statistics of a hard assignment."""
    weight = np.bincount(labels, minlength=n_components).astype(np.float64)
    safe = np.maximum(weight, 1.0)[:, None]
    mean = np.stack([np.bincount(labels, c, n_components) for c in rows.T], axis=1) / safe
    scatter = np.zeros(family.moments.shape(n_components, rows.shape[1]))
    for k in range(n_components):
        scatter[k] = family.moments.scatter(rows[labels == k] - mean[k])
    return SuffStats(float(len(rows)), 0.0, 0.0, 0.0, weight, mean, scatter, family.moments)


def seed_params(
    rows: Array,
    n_components: int,
    family: CovarianceFamily,
    scaling: Scaling,
    rng: np.random.Generator,
    reg_covar: float,
) -> MixtureParams:
    """Return a start: k-means++ and a few k-means steps on standardised rows, one M-step."""
    rows = rows[:SEEDING_ROWS]
    scaled = scaling.scaled.apply(rows)
    labels = lloyd(scaled, kmeans_plusplus(scaled, n_components, rng))
    # A cluster of one or two rows has no covariance: lend it a little of the whole data's.
    stats = hard_stats(rows, labels, n_components, family)
    lent = family.moments.from_diagonal(scaling.scale**2)
    stats = replace(stats, scatter=stats.scatter + 0.1 * lent)
    params, _ = mstep(stats, family, reg_covar)
    return params


@dataclass(frozen=True)
class SampleFit:
    """A candidate fitted on the sample: where its full passes start."""

    params: MixtureParams | None
    history: tuple[float, ...] = ()
    reason: str = ""


def fit_sample(
    rows: Array,
    n_components: int,
    family: CovarianceFamily,
    scaling: Scaling,
    *,
    n_init: int = 1,
    reg_covar: float = 1e-6,
    tol: float | None = None,
    max_steps: int = 1000,
    seed: Sequence[int] = (0,),
) -> SampleFit:
    """Fit one candidate on a sample ``(n, D)`` whose rows are in random order.

    ``n_init`` restarts race by successive halving: some EM steps each on a few rows, the better half
    goes on with more rows; the winner runs to convergence on all of them.

    Raises
    ------
    InputDataError
        If there are fewer rows than components.
    """
    if len(rows) < n_components:
        raise InputDataError(
            explain(
                f"{n_components} components need at least as many rows, and there are {len(rows)}",
                remedy="use fewer components or more data",
            )
        )
    rngs = [np.random.default_rng([*seed, i]) for i in range(n_init)]
    states = []
    for rng in rngs:
        try:
            params = seed_params(rows, n_components, family, scaling, rng, reg_covar)
        except SingularCovarianceError as error:
            return SampleFit(None, reason=str(error))
        states.append(EMState(params))
    estep = rows_estep(rows, scaling)
    finalists = _race(states, rows, scaling, reg_covar)
    rule = StopRule(tol, max_steps)
    ended = run_to_end([EMState(s.params) for s in finalists], estep, rule, reg_covar)
    best = max(ended, key=_rank)
    if best.outcome is Outcome.FAILED:
        return SampleFit(None, reason=best.reason)
    return SampleFit(best.params, best.history)


def _race(states: list[EMState], rows: Array, scaling: Scaling, reg_covar: float) -> list[EMState]:
    """Race restarts, all in one batch, until at most two are left."""
    size = min(RUNG_ROWS, len(rows))
    while len(states) > FINALISTS:
        # On all the rows a rung is run until the order is nearly settled; on a few it need not be.
        steps = RUNG_STEPS if size < len(rows) else 20 * RUNG_STEPS
        rule = StopRule(tol=RUNG_TOL, max_passes=steps)
        estep = rows_estep(rows[:size], scaling)
        states = run_to_end([EMState(s.params) for s in states], estep, rule, reg_covar)
        states = sorted(states, key=_rank, reverse=True)
        states = states[: max(FINALISTS, len(states) // 2)]
        size = min(2 * size, len(rows))
    return states


def _rank(state: EMState) -> tuple[bool, bool, float]:
    sound = state.outcome is not Outcome.FAILED
    loglik = state.history[-1] if sound and state.history else -np.inf
    return sound, state.outcome is not Outcome.DEGENERATE, loglik
