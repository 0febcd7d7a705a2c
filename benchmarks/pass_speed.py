"""Rows per second of one EM pass in memory, beside one EM iteration of scikit-learn, in one run.

``python -m benchmarks.pass_speed`` (also ``make bench``): one thread each, float64 and float32, on rows drawn from
the mixture that is evaluated. The share of peak counts the operations of the matrix products only, relative to the
speed of a large matrix product.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from benchmarks.harness import time_alternately, write_report
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.kernel_choice import DTYPES, KernelPreference, choose_kernel
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.rows.scaling import Scaling

SHAPES = ((400_000, 2, 3), (400_000, 4, 5), (400_000, 10, 10), (200_000, 16, 20), (100_000, 50, 20),
        (100_000, 30, 64), (200_000, 8, 210))  # fmt: skip
COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
HEADINGS = (
    "covariance", "rows", "D", "K", "scikit-learn, M rows/s", "float64, M rows/s", "ratio", "share of peak",
    "float32, M rows/s", "ratio float32", "kernels",
)  # fmt: skip


def draw_mixture(rng: np.random.Generator, k: int, d: int, name: str) -> MixtureParams:
    """Draw K components of a covariance structure, with variances between 1/4 and 4 in random directions."""
    family = family_named(name)
    rotations = np.linalg.qr(rng.normal(size=(k, d, d)))[0]
    spread = np.exp(rng.uniform(-np.log(4.0), np.log(4.0), size=(k, d)))
    scatter = family.moments.condense(np.asarray((rotations * spread[:, None, :]) @ np.swapaxes(rotations, 1, 2)))
    return MixtureParams(
        np.full(k, 1.0 / k), rng.normal(scale=2.0, size=(k, d)), family.estimate(np.ones(k), scatter), family
    )


def make_sklearn_estimator(params: MixtureParams) -> GaussianMixture:
    """Return scikit-learn's estimator with the same parameters."""
    theirs = GaussianMixture(params.n_components, covariance_type=params.family.name)
    theirs.weights_, theirs.means_, theirs.covariances_ = params.weights, params.means, params.covariances
    theirs.precisions_cholesky_ = params.precisions_cholesky
    return theirs


def make_sklearn_iteration(params: MixtureParams, rows: Any) -> Callable[[], None]:
    """Return a function that makes one E-step and M-step of scikit-learn."""
    theirs = make_sklearn_estimator(params)

    def run() -> None:
        _, log_r = theirs._e_step(rows)
        theirs._m_step(rows, log_r)

    return run


def make_pass(params: MixtureParams, rows: Any, dtype: str) -> Callable[[], None]:
    """Return a function that makes one E-step and M-step of this library."""
    estep = InMemoryEStep(rows, Scaling.of_rows(rows), KernelPreference(dtype=dtype))
    return lambda: mstep(estep([params])[0], params.family) and None


def measure_peak() -> float:
    """Return the floating-point operations per second of a large matrix product on one thread."""
    a = np.random.default_rng(0).normal(size=(1500, 1500))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2.0 * len(a) ** 3 / min(times)


def measure_shape(n: int, d: int, k: int, name: str, peak: float) -> tuple[Any, ...]:
    """Return one row of the table: n rows, d columns, k components."""
    rng = np.random.default_rng(0)
    params = draw_mixture(rng, k, d, name)
    rows = rng.permutation(draw_rows(params, n, rng)[0])
    rivals = {"sklearn": make_sklearn_iteration(params, rows)} | {t: make_pass(params, rows, t) for t in DTYPES}
    speed = {name: n / t / 1e6 for name, t in time_alternately(rivals, rounds=5).items()}
    chosen = [
        choose_kernel(params, compile_density(params), Scaling.of_rows(rows), KernelPreference(dtype=t))
        for t in DTYPES
    ]
    share = 4e6 * params.family.features.count(d) * k * speed["float64"] / peak
    return (
        name, n, d, k, speed["sklearn"], speed["float64"], speed["float64"] / speed["sklearn"], share,
        speed["float32"], speed["float32"] / speed["sklearn"], " / ".join(f"{c.kernel} {c.dtype}" for c in chosen),
    )  # fmt: skip


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def main() -> None:
    """Measure all shapes for every covariance type, print and write the table."""
    rows = []
    with threadpool_limits(1):
        peak = measure_peak()
        for name in COVARIANCE_TYPES:
            rows += [measure_shape(*shape, name, peak) for shape in SHAPES]
            for dtype, column in (("float64", 6), ("float32", 9)):
                mine = [r[column] for r in rows if r[0] == name]
                print(
                    f"{name} {dtype}: geometric mean {geometric_mean(mine):.1f}, lowest {min(mine):.1f}", flush=True
                )
    write_report("pass_speed", HEADINGS, rows)


if __name__ == "__main__":
    main()
