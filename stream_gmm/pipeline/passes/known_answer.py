"""A question that every worker must answer as the caller does: the statistics of one pass over a few rows."""

from __future__ import annotations

import numpy as np

from stream_gmm.core.estep.accumulate import accumulate_stats
from stream_gmm.core.estep.batch import compile_batch
from stream_gmm.core.model.covariance import FAMILIES
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.scaling import Scaling


def answer_known_question() -> tuple[float, ...]:
    """Return log-density, weights, means and scatter of a full and a diagonal mixture over 257 fixed rows.

    Deterministic: no file, no random number; sines spread the rows.
    """
    index = np.arange(257.0)
    rows = np.asfortranarray(np.column_stack([np.sin(index), np.cos(1.7 * index) + 0.3 * np.sin(index)]))
    rows[::2] += 2.5
    weights, means = np.array([0.5, 0.5]), np.array([[0.0, 0.1], [2.4, 2.6]])
    matrix = np.array([[0.6, 0.1], [0.1, 0.7]])
    out: list[float] = []
    for family in (f for f in FAMILIES if f.name in ("full", "diag")):
        matrices = np.tile(matrix, (2, 1, 1)) if family.matrices else np.tile(matrix.diagonal(), (2, 1))
        params = MixtureParams.from_matrices(weights, means, matrices, family)
        for stacked in accumulate_stats(compile_batch([params], Scaling.of_rows(rows)), rows):
            for values in (stacked.sums, stacked.stats.weight, stacked.stats.mean, stacked.stats.scatter):
                out += np.ravel(values).tolist()
    return tuple(out)
