"""Does 'converged' mean converged? Plain EM, run on from where a fit stopped, must gain no more than the tolerance.

``python -m benchmarks.converged [--fits N] [--steps N] [--order N]`` fits a grid of structures, penalties, weights,
noise, accelerations and scales of the data (1e-6 to 1e6), continues every fit that says CONVERGED with plain EM in
memory, and prints how much the objective (with a ridge: the log-likelihood) still changes, in units of the tolerance.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import stream_gmm as sg
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.em import Scheme, em_step
from stream_gmm.core.model.covariance import FAMILIES
from stream_gmm.core.model.moments import Array
from stream_gmm.core.mstep.prior import STRUCTURES
from stream_gmm.core.rows.moments import UNWEIGHTED, collect_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.pipeline.fit.settings import Settings

ROWS = 400
PENALTIES = ("default", "ridge 1e-6", "ridge 0.1", "mclust")
"""Ridges are in units of the variance of the data."""
METHODS: tuple[dict[str, Any], ...] = ({}, {"algorithm": "em"}, {"accel": "lbfgs"}, {"accel": "squarem"})
SAMPLES = (50_000, 200)
"""Rows of the sample: all of them, or half."""
SCALES = (1e-6, 1e-3, 1.0, 1e3, 1e6)


@dataclass(frozen=True)
class Case:
    """One fit of the grid."""

    structure: str
    penalty: str
    weighted: bool
    noise: bool
    scale: float
    options: dict[str, Any]
    sample_rows: int
    seed: int


def grid(order: int) -> Iterator[Case]:
    """Yield every case of the grid, in one of the orders in which any prefix covers all of its axes."""
    axes = list(itertools.product(FAMILIES, PENALTIES, (False, True), (False, True), SCALES, METHODS, SAMPLES))
    for place, i in enumerate(np.random.default_rng(order).permutation(len(axes))):
        family, penalty, weighted, noise, scale, options, sample_rows = axes[i]
        if penalty != "mclust" or family.name in STRUCTURES:
            yield Case(family.name, penalty, weighted, noise, scale, options, sample_rows, place + order * len(axes))


def draw_data(case: Case) -> tuple[Array, Array]:
    """Return overlapping clusters ``(N, 2)``, whose EM is slow, and their weights or none."""
    rng = np.random.default_rng(case.seed)
    centres = rng.normal(scale=1.5, size=(3, 2))
    rows = centres[rng.integers(3, size=ROWS)] + rng.normal(size=(ROWS, 2)) * rng.uniform(0.5, 1.5, size=(ROWS, 1))
    weights = rng.integers(1, 4, size=ROWS).astype(np.float64) if case.weighted else UNWEIGHTED
    return rows * case.scale * np.array([1.0, 10.0]), weights


def measure_case(case: Case, steps: int) -> tuple[str, float]:
    """Return the outcome, and what plain EM still changes in units of the tolerance (0 unless it converged)."""
    rows, weights = draw_data(case)
    ridge = {"ridge 1e-6": 1e-6, "ridge 0.1": 0.1}.get(case.penalty)
    settings = Settings(
        reg_covar=None if ridge is None else ridge * float(rows.var(axis=0).min()),
        prior="mclust" if case.penalty == "mclust" else None,
        noise=case.noise, sample_rows=case.sample_rows, random_state=case.seed, max_passes=400, **case.options,
    )  # fmt: skip
    model = sg.fit(
        rows, 3, case.structure, weight=weights if case.weighted else None, noise=case.noise,
        reg_covar=settings.reg_covar, prior=settings.prior, sample_rows=case.sample_rows, random_state=case.seed,
        max_passes=400, **case.options,
    )  # fmt: skip
    if model.outcome is not sg.Outcome.CONVERGED:
        return model.outcome.name, 0.0
    estep = InMemoryEStep(rows, Scaling.of_rows(rows), weights=weights)
    scheme = Scheme(settings.rule, settings.penalty_of(collect_moments(rows, weights)))
    params = model.params
    before = scheme.objective(params, estep.evaluate(params))
    for _ in range(steps):
        params, stats, _ = em_step(params, estep, scheme.penalty)
    change = scheme.objective(params, estep.evaluate(params)) - before
    change = change if scheme.penalty.has_objective else abs(change)
    return model.outcome.name, change / scheme.rule.tolerance(params.n_parameters, stats.rows)


def main() -> None:
    """Run the grid and print the distribution of what is left to gain."""
    parser = argparse.ArgumentParser(description="Does converged mean converged?")
    parser.add_argument("--fits", type=int, default=300)
    parser.add_argument("--order", type=int, default=0, help="another number: other cases, of other data")
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    outcomes: Counter[str] = Counter()
    changes: list[tuple[float, Case]] = []
    start = time.perf_counter()
    for done, case in enumerate(itertools.islice(grid(args.order), args.fits)):
        if done % 50 == 0:
            print(f"{done} fits in {time.perf_counter() - start:.0f} s", flush=True)
        outcome, change = measure_case(case, args.steps)
        outcomes[outcome] += 1
        if outcome == "CONVERGED":
            changes.append((change, case))
        if change > 1.0:
            print(f"{change:10.3g} tolerances: {case}", flush=True)
    values = np.array([c for c, _ in changes])
    print(f"{args.fits} fits in {time.perf_counter() - start:.0f} s: {dict(outcomes)}")
    print(f"left to gain, in tolerances: median {np.median(values):.2g}, 95 % {np.quantile(values, 0.95):.2g}, "
          f"largest {values.max():.3g}; above 1: {np.sum(values > 1.0)}")  # fmt: skip


if __name__ == "__main__":
    main()
