"""Rows per second of one EM pass in memory, beside one EM iteration of scikit-learn, in one run.

``python -m benchmarks.pass_speed [--data FOLDER] [--cpu-time]`` (also ``make bench``): one thread each, float64 and
float32, on rows drawn from the mixture that is evaluated. The share of peak counts the operations of the matrix
products only, relative to the speed of a large matrix product. With a folder of data sets, also passes of many
components over real rows, all components evaluated and negligible ones skipped. ``--cpu-time`` counts the time of the
thread on a processor instead of wall time, for machines with other work; it does not see slower memory.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

import stream_gmm as sg
from benchmarks.harness import time_alternately, write_report
from stream_gmm.core.estep.accumulate import accumulate_stats
from stream_gmm.core.estep.active.screen import Screen
from stream_gmm.core.estep.batch import FeatureGroup, compile_batch
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

MANY_SETS = ("magic", "flights", "ecoli_cytometry")
MANY_COMPONENTS = (5, 10, 20, 50, 100)
MANY_HEADINGS = (
    "data", "D", "K", "scikit-learn, ns/row", "all components, ns/row", "skipping, ns/row", "ratio",
    "evaluated of K (estimate)", "chosen",
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


def read_rows(folder: Path) -> Any:
    """Return the complete rows of a data set, columns as chosen by default, standardised, in random order."""
    data = sg.open_dataset(str(folder / "parquet" / "**" / "*.parquet"), missing="drop")
    rows = np.concatenate([c.rows for leaf in data.leaves() for c in leaf.chunks()])
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    return np.asfortranarray(np.random.default_rng(0).permutation(rows)[:65_536])


def measure_many(name: str, rows: Any, k: int) -> tuple[Any, ...]:
    """Return one row of the table of many components: a fit to 20,000 rows, evaluated on all."""
    theirs = GaussianMixture(k, random_state=0, max_iter=60, reg_covar=1e-4).fit(rows[:20_000])
    params = MixtureParams(theirs.weights_, theirs.means_, theirs.covariances_, family_named("full"))
    scaling, preference = Scaling.of_rows(rows), KernelPreference("quadratic")
    batch = compile_batch([params], scaling, preference)
    (group,) = batch.groups
    assert isinstance(group, FeatureGroup)
    screen = Screen.of(params.weights, compile_density(params), group.coordinates)
    skipping = replace(batch, groups=(replace(group, screen=screen),))
    (chosen,) = compile_batch([params], scaling, preference, n_rows=1e9).groups
    times = time_alternately(
        {
            "sklearn": make_sklearn_iteration(params, rows),
            "all": lambda: accumulate_stats(batch, rows),
            "skipping": lambda: accumulate_stats(skipping, rows),
        }
    )
    each = [times[t] / len(rows) * 1e9 for t in ("sklearn", "all", "skipping")]
    skips = isinstance(chosen, FeatureGroup) and chosen.screen is not None
    return name, rows.shape[1], k, *each, each[1] / each[2], screen.active, "skipping" if skips else "all"


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def main() -> None:
    """Measure all shapes for every covariance type, and many components, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the data sets " + ", ".join(MANY_SETS))
    parser.add_argument("--cpu-time", action="store_true", help="count the time of the thread, not wall time")
    arguments = parser.parse_args()
    if arguments.cpu_time:
        time.perf_counter = time.thread_time
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
        if arguments.data:
            warnings.simplefilter("ignore")
            sets = {name: read_rows(arguments.data / name) for name in MANY_SETS}
            many = [measure_many(name, sets[name], k) for name in MANY_SETS for k in MANY_COMPONENTS]
            write_report("pass_speed_many", MANY_HEADINGS, many)


if __name__ == "__main__":
    main()
