"""The monitor's figures: false alarms without a change, the smallest shift that is seen, and the gain of a refit.

``python -m benchmarks.drift [--periods N] [--rows N] [--refits N]``: periods drawn from the distribution that the
models were fitted to, at several sizes, and how many raise an alarm at the stated rates; files of ``--rows`` rows
with and without a shift of one column of one component, through :func:`stream_gmm.monitor`; and models of six
structures on drifted rows, for each of which the predicted gain of a refit is compared with that of an actual one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import stream_gmm as sg
from benchmarks.harness import write_report
from stream_gmm.core.drift import predict_refit_gain, summarise_rows
from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.sampling import hash_rows

MEANS = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 1.0], [0.0, 4.0, -1.0]])
WEIGHTS = (0.5, 0.3, 0.2)
PERIODS_OF_A_MODEL = 20
RATES = (0.05, 0.01, 0.001)
STRUCTURES = ("full", "tied", "diag", "spherical", "VEV", "tied_diag")
Row = tuple[object, ...]


def draw(rng: np.random.Generator, n: int, shift: float = 0.0, weights: tuple[float, ...] = WEIGHTS) -> Array:
    """Draw rows ``(n, 3)`` of three components; one column of the second one is shifted by ``shift`` sd."""
    component = rng.choice(3, size=n, p=weights)
    rows = MEANS[component] + rng.normal(size=(n, 3))
    rows[component == 1, 0] += shift
    return rows


def predict(model: FitResult, rows: Array, capacity: int = 20_000) -> tuple[float, float]:
    """Return the predicted gain of a refit to the rows, nats per row, and the p-value."""
    assert model.training is not None
    summary = summarise_rows(
        rows, np.ones(len(rows)), model.scores(rows), hash_rows(0, 0, np.arange(len(rows))), rows_read=len(rows),
        bad=np.zeros(rows.shape[1]), edges=model.training.edges, threshold=model.threshold,
        centre=model.lower_bound_, capacity=capacity,
    )  # fmt: skip
    found = predict_refit_gain(model.params, summary, model.criteria.n_rows)
    return found.total, found.p_value


def count_alarms(periods: int) -> list[Row]:
    """Return, for periods of several sizes without a change, how many p-values are below each rate.

    Every twentieth period has a model of other rows: what a model owes to chance is common to its periods.
    """
    sizes = (1_000, 10_000, 100_000)
    p_values = np.empty((periods, len(sizes)))
    for period in range(periods):
        rng = np.random.default_rng([1, period])
        if period % PERIODS_OF_A_MODEL == 0:
            model = sg.fit(draw(rng, 100_000), 3)
        p_values[period] = [predict(model, draw(rng, size))[1] for size in sizes]
    alarms = [[int((column < rate).sum()) for rate in RATES] for column in p_values.T]
    return [(periods, size, *counts) for size, counts in zip(sizes, alarms, strict=True)]


def look_for_shifts(rows: int) -> list[Row]:
    """Return what the monitor says about files with small shifts, by a model of as many rows."""
    rng = np.random.default_rng(2)
    out: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for shift in (0.0, 0.0, 0.02, 0.05, 0.1):
            path = Path(folder) / f"{len(out)}.parquet"
            pq.write_table(pa.table(dict(zip("abc", draw(rng, rows, shift).T, strict=True))), path)
            if not out:
                model = sg.fit(sg.open_dataset(path), 3)
            total = sg.monitor(model, path).total
            out.append((shift, rows, *(total[k] for k in ("refit_gain", "chance_gain", "p_value", "status", "psi"))))
    return out[1:]


def compare_refits(cases: int) -> list[Row]:
    """Return, for each structure, how far the predicted gain of a refit is from that of an actual one."""
    ratios: dict[str, list[float]] = {name: [] for name in STRUCTURES}
    for seed in range(cases):
        rng, family = np.random.default_rng([3, seed]), STRUCTURES[seed % len(STRUCTURES)]
        model = sg.fit(draw(rng, 20_000), 3, family)
        weights = tuple(rng.dirichlet([20, 12, 8]))
        rows = draw(rng, 20_000, rng.uniform(0.1, 1.5), weights)
        refit = sg.fit(rows, 3, family, init=model.params, tol=1e-8)
        ratios[family].append(predict(model, rows, 2_000)[0] / (refit.score(rows) - model.score(rows)))
    every = [("all", [r for found in ratios.values() for r in found]), *ratios.items()]
    out: list[Row] = []
    for name, found in every:
        errors = np.abs(np.array(found) - 1.0)
        out.append((name, len(found), float(np.median(errors)), float(np.quantile(errors, 0.9)), float(errors.max())))
    return out


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--periods", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--refits", type=int, default=60)
    given = parser.parse_args()
    names = ("periods", "rows each", *(f"alarms at {rate:g}" for rate in RATES))
    write_report("drift_alarms", names, count_alarms(given.periods))
    names = ("shift, sd", "rows", "predicted gain", "gain by chance", "p-value", "status", "PSI")
    write_report("drift_shifts", names, look_for_shifts(given.rows))
    names = ("structure", "refits", "median error", "90 % below", "largest")
    write_report("drift_gains", names, compare_refits(given.refits))


if __name__ == "__main__":
    main()
