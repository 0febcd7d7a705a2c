"""Scoring rows in memory, beside scikit-learn with the same parameters, one thread each.

``python -m benchmarks.score_rows [--rounds N]``: ``predict``, ``predict_proba``, ``score_samples``, ``score`` and
``bic`` of both estimators, in turns (A B A B). The first table has the medians of the ratios of the times, the second
one nanoseconds per row; times are those of the thread, so that other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture as Theirs
from threadpoolctl import threadpool_limits

import stream_gmm as sg
from benchmarks.harness import write_report
from stream_gmm.core.criteria import Criteria
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.params import MixtureParams

CASES = (
    (300_000, 8, 8, "full"),
    (20_000, 10, 5, "full"),
    (300_000, 8, 8, "diag"),
    (20_000, 10, 5, "diag"),
    (100_000, 32, 16, "full"),
    (100_000, 10, 50, "full"),
)
METHODS = ("predict", "predict_proba", "score_samples", "score", "bic")


def make_pair(n: int, d: int, k: int, structure: str) -> tuple[np.ndarray, Any, Any]:
    """Return rows (N, D), and both estimators with the same random parameters."""
    rng = np.random.default_rng(0)
    means = 3.0 * rng.normal(size=(k, d))
    shapes = np.eye(d) + 0.4 * rng.normal(size=(k, d, d))
    covariances = shapes @ shapes.transpose(0, 2, 1)
    if structure == "diag":
        covariances = np.einsum("kjj->kj", covariances)
    params = MixtureParams(np.full(k, 1.0 / k), means, covariances, family_named(structure))
    rows = means[rng.integers(k, size=n)] + 1.2 * rng.normal(size=(n, d))
    columns = tuple(f"x{j}" for j in range(d))
    nothing = Criteria(0.0, params.n_parameters, 1.0, 0.0, 0.0)
    ours = sg.GaussianMixture(k, covariance_type=structure)
    ours.result_ = sg.FitResult(params, Outcome.CONVERGED, nothing, (0.0,), 0, columns=columns)
    ours.n_features_in_ = d
    theirs: Any = Theirs(k, covariance_type=structure)
    theirs.weights_, theirs.means_, theirs.covariances_ = params.weights, params.means, params.covariances
    theirs.precisions_cholesky_, theirs.n_features_in_ = np.array(params.precisions_cholesky), d
    np.testing.assert_allclose(ours.predict_proba(rows[:999]), theirs.predict_proba(rows[:999]), atol=1e-9)
    return rows, ours, theirs


def take_time(call: Callable[[np.ndarray], Any], rows: np.ndarray) -> float:
    """Return the seconds of this thread that a call takes."""
    started = time.thread_time()
    call(rows)
    return time.thread_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    ratios, times = [], []
    with threadpool_limits(1):
        for case in CASES:
            rows, ours, theirs = make_pair(*case)
            found = []
            for method in METHODS:
                pairs = [
                    (take_time(getattr(ours, method), rows), take_time(getattr(theirs, method), rows))
                    for _ in range(rounds)
                ]
                found.append([statistics.median(column) / len(rows) * 1e9 for column in zip(*pairs, strict=True)])
            name = "{:,} x {}, K = {}, {}".format(*case)
            ratios.append((name, *(theirs / ours for ours, theirs in found)))
            times.append((name, *(f"{ours:.0f} / {theirs:.0f}" for ours, theirs in found)))
    write_report("score_rows", ("rows, times as fast as scikit-learn", *METHODS), ratios)
    write_report("score_rows_times", ("rows, ns per row: ours / scikit-learn", *METHODS), times)


if __name__ == "__main__":
    main()
