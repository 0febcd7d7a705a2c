"""Rows per second of one EM pass in memory, beside one EM iteration of scikit-learn, in one run.

``python -m benchmarks.pass_speed`` (also ``make bench``): one thread each, float64 and float32, on rows drawn from
the very mixture that is evaluated. The share of the machine's peak counts the matrix products only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from benchmarks.harness import in_turn, report
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.kernel_choice import DTYPES, KernelPreference, choose_kernel
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.rows.scaling import Scaling

GRID = ((400_000, 2, 3), (400_000, 4, 5), (400_000, 10, 10), (200_000, 16, 20), (100_000, 50, 20),
        (100_000, 30, 64), (200_000, 8, 210))  # fmt: skip
TYPES = ("full", "tied", "diag", "spherical")
HEADS = (
    "covariance", "rows", "D", "K", "scikit-learn, M rows/s", "float64, M rows/s", "ratio", "share of peak",
    "float32, M rows/s", "ratio float32", "kernels",
)  # fmt: skip


def mixture(rng: np.random.Generator, k: int, d: int, name: str) -> MixtureParams:
    """Return K components of this structure, with variances between 1/4 and 4 in random directions."""
    family = family_named(name)
    turns = np.linalg.qr(rng.normal(size=(k, d, d)))[0]
    spread = np.exp(rng.uniform(-np.log(4.0), np.log(4.0), size=(k, d)))
    scatter = family.moments.condense(np.asarray((turns * spread[:, None, :]) @ np.swapaxes(turns, 1, 2)))
    return MixtureParams(
        np.full(k, 1.0 / k), rng.normal(scale=2.0, size=(k, d)), family.estimate(np.ones(k), scatter), family
    )


def scikit_learn(params: MixtureParams) -> GaussianMixture:
    """Return scikit-learn's estimator in the same state."""
    theirs = GaussianMixture(params.n_components, covariance_type=params.family.name)
    theirs.weights_, theirs.means_, theirs.covariances_ = params.weights, params.means, params.covariances
    theirs.precisions_cholesky_ = params.precisions_cholesky
    return theirs


def their_iteration(params: MixtureParams, rows: Any) -> Callable[[], None]:
    """Return one E-step and M-step of scikit-learn."""
    theirs = scikit_learn(params)

    def run() -> None:
        _, log_r = theirs._e_step(rows)
        theirs._m_step(rows, log_r)

    return run


def our_pass(params: MixtureParams, rows: Any, dtype: str) -> Callable[[], None]:
    """Return one E-step and M-step of ours."""
    estep = InMemoryEStep(rows, Scaling.of_rows(rows), KernelPreference(dtype=dtype))
    return lambda: mstep(estep([params])[0], params.family) and None


def peak() -> float:
    """Return floating-point operations per second of a large matrix product on one thread."""
    a = np.random.default_rng(0).normal(size=(1500, 1500))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2.0 * len(a) ** 3 / min(times)


def measure(n: int, d: int, k: int, name: str, best: float) -> tuple[Any, ...]:
    """Return one row of the table."""
    rng = np.random.default_rng(0)
    params = mixture(rng, k, d, name)
    rows = rng.permutation(draw_rows(params, n, rng)[0])
    rivals = {"sklearn": their_iteration(params, rows)} | {t: our_pass(params, rows, t) for t in DTYPES}
    speed = {name: n / t / 1e6 for name, t in in_turn(rivals, rounds=5).items()}
    chosen = [
        choose_kernel(params, compile_density(params), Scaling.of_rows(rows), KernelPreference(dtype=t))
        for t in DTYPES
    ]
    share = 4e6 * params.family.features.count(d) * k * speed["float64"] / best
    return (
        name, n, d, k, speed["sklearn"], speed["float64"], speed["float64"] / speed["sklearn"], share,
        speed["float32"], speed["float32"] / speed["sklearn"], " / ".join(f"{c.kernel} {c.dtype}" for c in chosen),
    )  # fmt: skip


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def main() -> None:
    """Measure the grid for every covariance type."""
    rows = []
    with threadpool_limits(1):
        best = peak()
        for name in TYPES:
            rows += [measure(*cell, name, best) for cell in GRID]
            for dtype, column in (("float64", 6), ("float32", 9)):
                mine = [r[column] for r in rows if r[0] == name]
                print(f"{name} {dtype}: geometric mean {geometric_mean(mine):.1f}, least {min(mine):.1f}", flush=True)
    report("pass_speed", HEADS, rows)


if __name__ == "__main__":
    main()
