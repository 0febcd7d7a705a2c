"""The reservoir of a stream: a bounded uniform sample of all its rows, and reviews of the model on it.

Steps of a stream see only new rows, at parameters that earlier rows have led to. If rows arrive in an order (sorted,
or one cluster after the other), no such step can move a component to where it is needed. A *review* fits the mixture
to the reservoir, which holds rows of all times, from the present model and from new starts.
"""

from __future__ import annotations

import contextlib

import numpy as np

from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.em import FIT_ERRORS, StopRule
from stream_gmm.core.model.matching import trace_components
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import Penalty
from stream_gmm.core.rows.sampling import Sample, hash_rows
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.sample_fit import SampleFit
from stream_gmm.core.search.sample_search import SampleSearch
from stream_gmm.core.stats import SuffStats

RESERVOIR_ROWS, RESERVOIR_VALUES = 50_000, 4_000_000
"""Most rows, and most values (rows times columns: 32 MB), of a reservoir whose size is chosen automatically."""


def choose_capacity(n_features: int) -> int:
    """Return the number of rows of a reservoir whose size is not given."""
    return min(RESERVOIR_ROWS, max(RESERVOIR_VALUES // n_features, 1))


def empty_reservoir(n_features: int, capacity: int) -> Sample:
    """Return a reservoir without rows."""
    return Sample(np.empty((0, n_features)), np.empty(0, np.uint64), capacity)


def add_rows(reservoir: Sample, rows: Array, first: int, seed: int) -> Sample:
    """Return the reservoir with ``rows (n, D)`` of the stream added, the first of which has the number ``first``.

    The rows with the smallest hashes of their numbers stay, so how the stream is cut makes no difference.
    """
    hashes = hash_rows(seed, 0, np.arange(first, first + len(rows)))
    if len(reservoir.rows) >= reservoir.capacity:
        enters = hashes < reservoir.hashes[-1]
        rows, hashes = rows[enters], hashes[enters]
    if not len(rows):
        return reservoir
    return reservoir.merge(Sample.of(rows, hashes, reservoir.capacity))


def review_model(
    params: MixtureParams, reservoir: Sample, rows_seen: float, penalty: Penalty, n_init: int, seed: tuple[int, ...]
) -> tuple[MixtureParams, SuffStats] | None:
    """Return a better mixture and its statistics per row, both from the reservoir, or None if the present one stays.

    Parameters
    ----------
    rows_seen
        Rows of the stream, N. With R rows in the reservoir and p parameters, the gain in nats per row that chance
        would give is about p / R (1 - R / N); a smaller one changes nothing.
    n_init
        Restarts, raced against the present model; 0: it is only run to convergence.
    seed
        Seed of the restarts.

    Notes
    -----
    Components keep their numbers where they can be recognised.
    """
    rows, k = reservoir.rows, params.n_components
    n, scaling = len(rows), Scaling.of_rows(rows)
    search = SampleSearch(rows, scaling, penalty, StopRule().tolerance(params.n_parameters, n))
    starts = [("the stream so far", params)]
    if n_init and k > 1 and n >= k:
        starts += search.race_restarts(params.family, search.draw_seeds(k, n_init, seed)).finalists
        with contextlib.suppress(*FIT_ERRORS):
            starts.append(("merge and split", search.split_best(search.merge_best(params))))
    # Each goes to its end, and a component that the pseudo-rows hold open may be what the rows want: in the
    # search of a fit over all rows, where they hardly count, that would be a collapse.
    ends = [search.fit_finalists(SampleFit(start, finalists=((name, start),))) for name, start in starts]
    best = max(ends, key=lambda end: end.rank[2] if end.params is not None else -np.inf)
    if best.params is None:
        return None
    estep = InMemoryEStep(rows, scaling)
    before, after = (s.mean_loglik for s in estep([params, best.params]))
    if not after - before > params.n_parameters / n * max(1.0 - n / rows_seen, 0.0):
        return None
    with contextlib.suppress(*FIT_ERRORS):
        best_params = best.params.reorder(list(trace_components(best.params, params).order))
        return best_params, estep.evaluate(best_params).scale(1.0 / n)
    return best.params, estep.evaluate(best.params).scale(1.0 / n)
