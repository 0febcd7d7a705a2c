"""Fit the constants of ``stream_gmm/core/estep/cost.py``, the cost of a row in each kernel, and check the cost model.

``python -m benchmarks.cost_model``: times every kernel over a grid of (D columns, K components), fits non-negative
constants by least squares of the relative errors, and prints them. They are copied into the code by hand.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import nnls
from threadpoolctl import threadpool_limits

from benchmarks.harness import time_calls, write_report
from benchmarks.pass_speed import draw_mixture
from stream_gmm.core.estep import cost
from stream_gmm.core.estep.accumulate import accumulate_stats
from stream_gmm.core.estep.active.screen import Screen
from stream_gmm.core.estep.batch import FeatureGroup, compile_batch
from stream_gmm.core.estep.kernel_choice import QUADRATIC, SPHERED, WHITENED, KernelPreference, choose_kernel
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.scaling import Scaling

SHAPES = ((2, 3), (4, 5), (8, 8), (8, 40), (10, 10), (16, 20), (24, 8), (30, 30), (40, 10), (60, 8), (80, 4))
MANY = ((4, 40), (7, 50), (7, 200), (10, 20), (10, 100), (16, 50), (16, 200), (30, 60))
DISTANCES = (0.5, 2.0, 6.0)
ROWS = 30_000
STRUCTURES = ("full", "diag", "spherical")
HEADINGS = ("kernel", "type", "covariance", "D", "K", "measured, ns/row", "model, ns/row")


def time_estep(params: MixtureParams, rows: Any, preference: KernelPreference) -> float:
    """Return the median seconds of an E-step over the rows, after one to warm up."""
    batch = compile_batch([params], Scaling.of_rows(rows), preference)
    accumulate_stats(batch, rows)
    return time_calls(lambda: accumulate_stats(batch, rows), rounds=5)


def measure_kernel(d: int, k: int, name: str, kernel: str, dtype: str) -> tuple[tuple[float, ...], float, str]:
    """Return the terms of the cost model, the measured nanoseconds per row, and the kernel that was run."""
    rng = np.random.default_rng(0)
    params = draw_mixture(rng, k, d, name)
    rows = np.asfortranarray(draw_rows(params, ROWS, rng)[0])
    preference = KernelPreference(kernel, dtype)
    choice = choose_kernel(params, compile_density(params), Scaling.of_rows(rows), preference)
    if choice.kernel == WHITENED:
        terms = cost.whitened_terms(k, d, params.family.matrices)
    else:
        terms = cost.feature_terms(k, d, params.family.features.count(d), choice.kernel == SPHERED)
    return terms, time_estep(params, rows, preference) / ROWS * 1e9, choice.kernel


def measure_active(d: int, k: int, distance: float) -> tuple[tuple[float, ...], float]:
    """Return the terms and the nanoseconds per row of the kernel that skips; the means are moved by a factor."""
    rng = np.random.default_rng(0)
    drawn = draw_mixture(rng, k, d, "full")
    params = MixtureParams(drawn.weights, distance * drawn.means, drawn.covariances, drawn.family)
    rows = np.asfortranarray(draw_rows(params, ROWS, rng)[0])
    batch = compile_batch([params], Scaling.of_rows(rows), KernelPreference(QUADRATIC))
    (group,) = batch.groups
    assert isinstance(group, FeatureGroup)
    screen = Screen.of(params.weights, compile_density(params), group.coordinates)
    batch = replace(batch, groups=(replace(group, screen=screen),))
    accumulate_stats(batch, rows)
    seconds = time_calls(lambda: accumulate_stats(batch, rows), rounds=5)
    return cost.active_terms(k, d, params.family.features.count(d), False, screen.active), seconds / ROWS * 1e9


def fit_constants(measurements: list[tuple[tuple[float, ...], float]]) -> Any:
    """Return the non-negative constants with the least squares of relative errors, from pairs (terms, time)."""
    terms, times = np.array([m[0] for m in measurements]), np.array([m[1] for m in measurements])
    return nnls(terms / times[:, None], np.ones(len(times)))[0]


def main() -> None:
    """Measure, fit, and print the constants and a table of measured and modelled times."""
    groups = {
        ("float64", "features"): [(n, QUADRATIC, "float64") for n in STRUCTURES] + [("full", SPHERED, "float64")],
        ("float32", "features"): [(n, QUADRATIC, "float32") for n in STRUCTURES],
        ("float64", WHITENED): [(n, WHITENED, "float64") for n in ("full", "diag")],
    }
    table: list[tuple[Any, ...]] = []
    with threadpool_limits(1):
        for (dtype, kind), runs in groups.items():
            cells = [(d, k, *run, *measure_kernel(d, k, *run)) for run in runs for d, k in SHAPES]
            constants = fit_constants([(c[5], c[6]) for c in cells])
            print(kind, dtype, [f"{v:.3g}" for v in constants], flush=True)
            table += [(c[7], dtype, c[2], c[0], c[1], c[6], float(np.dot(constants, c[5]))) for c in cells]
        many = [(d, k, *measure_active(d, k, distance)) for d, k in MANY for distance in DISTANCES]
        constants = fit_constants([(c[2], c[3]) for c in many])
        print("skipping float64", [f"{v:.3g}" for v in constants], flush=True)
        table += [("skipping", "float64", "full", d, k, ns, float(np.dot(constants, t))) for d, k, t, ns in many]
    write_report("cost_model", HEADINGS, table)


if __name__ == "__main__":
    main()
