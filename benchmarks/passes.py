"""How many passes over the data a fit needs from one start: EM, Anderson, SQUAREM, auto; and mini-batches.

``python -m benchmarks.passes [--data FOLDER] [--only NAME] [--sklearn]``: full covariances. The start is a fit on a
sample of at most a tenth of the rows; the pass that profiles the data and draws the sample is not included. A method
has reached a level when an accepted point is within that many nats (units of the natural logarithm) per row of the
best optimum known, which is the best of all methods and of a long run. ``--sklearn`` only fits with scikit-learn, and
stores the result for later runs: the best of 10 starts on 50,000 rows, continued to convergence on all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import RESULTS, write_report
from benchmarks.pass_sets import PassSet, list_pass_sets
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.accelerate import METHODS, Auto
from stream_gmm.core.fit.em import EMState, Method, Scheme, StopRule, run_pass
from stream_gmm.core.fit.stepwise import PowerDecay, StepwiseState, take_stepwise_step
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import PseudoRows
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.sample_search import SampleSearch
from stream_gmm.core.search.seeding import collect_seed_stats, start_from_seed

SEEDS, MAX_PASSES = 3, 60
LARGE_ROWS = 5_000_000
"""Data sets of this size or more get half as many passes."""
FAMILY = family_named("full")
HEADINGS = (
    "set", "rows", "n/p", "method", "to 1e-4", "to 1e-5", "to 0.1 p/2N", "stopped after", "gap at the stop",
    "rejected", "predicted/realised",
)  # fmt: skip


@dataclass(frozen=True)
class MethodRun:
    """One method from one start: log-likelihood per row after every pass, and where the stop rule ends the fit."""

    trace: list[float]
    passes_at_stop: int
    rejected: int
    gain_ratios: list[float]
    """Predicted over realised gain, by pass."""

    def passes_to(self, level: float) -> float:
        """Return the number of passes until a log-likelihood is reached; infinite if it is not."""
        return next((i + 1.0 for i, v in enumerate(self.trace) if v >= level), np.inf)


def run_method(
    method: Method, start: MixtureParams, full: InMemoryEStep, penalty: PseudoRows, max_passes: int
) -> MethodRun:
    """Run a method for a fixed number of passes, and record where the stop rule would have ended it."""
    scheme = Scheme(StopRule(0.0, max_passes - 1), penalty, method)
    state, trace = EMState(start), list[float]()
    at_stop: EMState | None = None
    tol = StopRule().tolerance(start.n_parameters, len(full.rows))
    while state.live:
        (state,) = run_pass([state], full, scheme)
        trace.append(state.history[-1])
        if at_stop is None and state.predicted_gains[-1] <= tol:
            at_stop = state
    gains = np.diff(state.history)
    ratios = [p / g for p, g in zip(state.predicted_gains, gains, strict=False) if np.isfinite(p) and g > tol]
    at_stop = at_stop or state
    return MethodRun(trace, at_stop.passes, len(at_stop.rejected), ratios)


def compare_epoch_with_passes(
    rows: Array, k: int, scaling: Scaling, penalty: PseudoRows, seed: int
) -> tuple[float, float]:
    """Return the log-likelihood after one mini-batch epoch and after five EM passes, from the same cold start."""
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(len(rows))
    start = start_from_seed(collect_seed_stats(rows[order[:20_000]], k, scaling, rng), FAMILY, scaling, penalty)
    full = InMemoryEStep(rows, scaling)
    state = EMState(start)
    for _ in range(6):
        (state,) = run_pass([state], full, Scheme(StopRule(0.0, 10), penalty))
    step, schedule = StepwiseState(start), PowerDecay()
    size = int(np.clip(50 * k * (rows.shape[1] + 1), 1_000, 100_000))
    for lo in range(0, len(rows) - size + 1, size):
        batch = InMemoryEStep(rows[order[lo : lo + size]], scaling).evaluate(step.params)
        step = take_stepwise_step(step, batch, schedule, penalty)
    return full.evaluate(step.params).mean_loglik, state.history[-1]


def measure_methods(
    case: PassSet, seed: int, rows: Array, sklearn_loglik: float | None
) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """Return the table rows of one data set and seed, and the values for the summary."""
    rng, n = np.random.default_rng([seed, 0]), min(len(rows) // 10, 200_000)
    sample = rows[rng.permutation(len(rows))[:n]]
    scaling, penalty = Scaling.of_rows(rows), PseudoRows(np.cov(rows.T, bias=True))
    fitted = SampleSearch(sample, scaling, penalty).fit(case.n_components, FAMILY, 10, (seed,))
    assert fitted.params is not None
    full, max_passes = InMemoryEStep(rows, scaling), MAX_PASSES if len(rows) < LARGE_ROWS else MAX_PASSES // 2
    methods = {**METHODS, "auto": Auto(InMemoryEStep(sample, scaling))}
    runs = {name: run_method(m, fitted.params, full, penalty, max_passes) for name, m in methods.items()}
    best = max(max(r.trace) for r in runs.values())
    if len(rows) < LARGE_ROWS:
        best = max(best, *run_method(METHODS["squarem"], fitted.params, full, penalty, 5 * MAX_PASSES).trace)
    p = fitted.params.n_parameters
    levels = (best - 1e-4, best - 1e-5, best - 0.1 * p / (2 * len(rows)))
    table = [
        (
            case.name, len(rows), round(n / p), name, *(r.passes_to(v) for v in levels), r.passes_at_stop,
            best - r.trace[r.passes_at_stop - 1], r.rejected,
            statistics.median(r.gain_ratios) if r.gain_ratios else None,
        )
        for name, r in runs.items()
    ]  # fmt: skip
    epoch, passes = compare_epoch_with_passes(rows, case.n_components, scaling, penalty, seed)
    loglik_at_stop = runs["auto"].trace[runs["auto"].passes_at_stop - 1]
    summary = {
        "set": case.name, "seed": seed, "smooth": case.smooth, "epoch": epoch, "five passes": passes,
        "auto": loglik_at_stop, "sklearn": sklearn_loglik,
        "em stopped": runs["none"].passes_at_stop, "auto stopped": runs["auto"].passes_at_stop,
    }  # fmt: skip
    return table, summary


def fit_sklearn(case: PassSet, rows: Array) -> float:
    """Return scikit-learn's mean log-likelihood: the best of 10 starts, continued on all rows."""
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sample = rows[np.random.default_rng(0).permutation(len(rows))[:50_000]]
        start = GaussianMixture(case.n_components, n_init=10, random_state=0).fit(sample)
        init = {"weights_init": start.weights_, "means_init": start.means_, "precisions_init": start.precisions_}
        steps = 200 if len(rows) < LARGE_ROWS else 5
        return float(GaussianMixture(case.n_components, tol=1e-6, max_iter=steps, **init).fit(rows).score(rows))


def _take_medians_over_seeds(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return one row for each data set and method: the medians over the seeds."""
    out = []
    for key in dict.fromkeys((r[0], r[3]) for r in rows):
        mine = [r for r in rows if (r[0], r[3]) == key]
        medians = [statistics.median([float(r[i]) for r in mine]) for i in range(4, 10)]
        ratios = [r[10] for r in mine if r[10] is not None]
        out.append((*mine[0][:4], *medians, statistics.median(ratios) if ratios else None))
    return out


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only")
    parser.add_argument("--sklearn", action="store_true")
    args = parser.parse_args()
    cases = [c for c in list_pass_sets(args.data) if args.only in (None, c.name)]
    cache = RESULTS / "passes_sklearn.json"
    theirs = json.loads(cache.read_text()) if cache.exists() else {}
    if args.sklearn:
        for case in cases:
            theirs[case.name] = fit_sklearn(case, case.load_rows())
            cache.write_text(json.dumps(theirs, indent=1) + "\n")
            print(case.name, theirs[case.name], flush=True)
        return
    table, summaries = [], []
    for case in cases:
        rows = case.load_rows()
        for seed in range(SEEDS):
            table_rows, summary = measure_methods(case, seed, rows, theirs.get(case.name))
            table += table_rows
            summaries.append(summary)
            print(summary, flush=True)
    write_report("passes_by_seed", HEADINGS, table)
    write_report("passes", HEADINGS, _take_medians_over_seeds(table))
    write_report("passes_summary", tuple(summaries[0]), [tuple(s.values()) for s in summaries])
    _print_summary(table, summaries)


def _print_summary(table: list[tuple[Any, ...]], summaries: list[dict[str, Any]]) -> None:
    smooth = {s["set"] for s in summaries if s["smooth"]}
    for name in ("none", "anderson", "squarem", "lbfgs", "auto"):
        mine = [r for r in table if r[3] == name]
        for kind, rows in (("all", mine), ("smooth", [r for r in mine if r[0] in smooth])):
            medians = [statistics.median([float(r[i]) for r in rows]) for i in (4, 5, 6, 7)]
            worst = max(r[7] for r in rows)
            print(
                f"{name}, {kind} sets: median to 1e-4, 1e-5, 0.1 p/2N, stop: {medians}; "
                f"largest number of passes at the stop {worst}"
            )
    more = [(s["set"], s["seed"]) for s in summaries if s["auto stopped"] > s["em stopped"]]
    wins = sum(s["epoch"] > s["five passes"] for s in summaries)
    behind = [(s["set"], s["seed"]) for s in summaries if s["sklearn"] and s["auto"] < s["sklearn"] - 1e-4]
    print(f"auto stopped after more passes than EM: {more}")
    print(f"one epoch beat five passes in {wins} of {len(summaries)}")
    print(f"auto more than 1e-4 below scikit-learn: {behind}")


if __name__ == "__main__":
    main()
