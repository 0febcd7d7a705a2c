"""Rows per second of one EM pass in memory, beside one EM iteration of scikit-learn, in one run.

``python -m benchmarks.pass_speed`` (also ``make bench``); one thread each, float64.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from benchmarks.harness import in_turn, report
from stream_gmm.core.covariance import family_named
from stream_gmm.core.density import Scaling, compile_batch
from stream_gmm.core.estep import CHUNK_ROWS, accumulate, merge_all
from stream_gmm.core.mstep import mstep
from stream_gmm.core.params import MixtureParams

GRID = ((400_000, 2, 3), (400_000, 4, 5), (400_000, 10, 10), (200_000, 16, 20), (100_000, 50, 20),
        (100_000, 30, 64), (100_000, 8, 210))  # fmt: skip
TYPES = ("full", "tied", "diag", "spherical")
HEADS = ("covariance", "rows", "D", "K", "ours, M rows/s", "scikit-learn, M rows/s", "ratio", "route")


def _data(rng: np.random.Generator, n: int, d: int, k: int) -> np.ndarray[Any, Any]:
    centres = rng.normal(scale=2.0, size=(k, d))
    return np.asarray(centres[rng.integers(k, size=n)] + rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / d**0.5)


def _start(rows: np.ndarray[Any, Any], k: int, name: str) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = GaussianMixture(k, covariance_type=name, max_iter=2, init_params="random_from_data", random_state=0)
        return model.fit(rows[: max(5000, 60 * k)])


def measure(n: int, d: int, k: int, name: str) -> tuple[Any, ...]:
    """Return one row of the table."""
    rng = np.random.default_rng(0)
    rows = _data(rng, n, d, k)
    columns = np.asfortranarray(rows)
    theirs = _start(rows, k, name)
    params = MixtureParams(theirs.weights_, theirs.means_, theirs.covariances_, family_named(name))
    scaling = Scaling.from_moments(rows.mean(0), rows.var(0))

    def our_pass() -> None:
        batch = compile_batch([params], scaling)
        out = accumulate(batch, columns[:CHUNK_ROWS])
        for lo in range(CHUNK_ROWS, n, CHUNK_ROWS):
            out = merge_all(out, accumulate(batch, columns[lo : lo + CHUNK_ROWS]))
        mstep(out[0], params.family)

    def their_pass() -> None:
        _, log_r = theirs._e_step(rows)
        theirs._m_step(rows, log_r)

    times = in_turn({"ours": our_pass, "theirs": their_pass}, rounds=3)
    route = compile_batch([params], scaling).routes[0]
    ours, sklearn = n / times["ours"] / 1e6, n / times["theirs"] / 1e6
    return name, n, d, k, ours, sklearn, ours / sklearn, route


def main() -> None:
    """Measure the grid for every covariance type."""
    rows = []
    with threadpool_limits(1):
        for name in TYPES:
            rows += [measure(*cell, name) for cell in GRID]
            mine = [r[6] for r in rows if r[0] == name]
            mean = math.exp(sum(map(math.log, mine)) / len(mine))
            print(f"{name}: geometric mean {mean:.1f}, least {min(mine):.1f}", flush=True)
    report("pass_speed", HEADS, rows)


if __name__ == "__main__":
    main()
