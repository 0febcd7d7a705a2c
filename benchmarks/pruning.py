"""Does pruning drop the winner? Seeded sweeps with and without it, on mixtures from well separated to almost one.

``python -m benchmarks.pruning [SWEEPS [ROWS COLUMNS SAMPLE]]``: by default 50 sweeps over 40,000 rows of 3 columns,
with a sample of 2,000 rows; K = 1 ... 6, three covariance structures.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import stream_gmm as sg
from benchmarks.harness import write_report
from benchmarks.pass_sets import draw_mixture_rows
from stream_gmm.core.fit.em import Outcome

STRUCTURES = ("full", "diag", "tied")


def main() -> None:
    """Measure, print and write the tables."""
    arguments = [int(float(a)) for a in sys.argv[1:]]
    sweeps, n, d, sample = (*arguments, *(50, 40_000, 3, 2_000)[len(arguments) :])
    same_winner, no_worse, reads, seconds, pruned = 0, 0, np.zeros(2), np.zeros(2), 0
    for seed in range(sweeps):
        k, separation = 1 + seed % 5, (0.5, 1.0, 2.0, 4.0)[seed % 4]
        rows = draw_mixture_rows(seed, n, d, k, separation, tails=5.0 if seed % 3 == 0 else None)
        results = []
        for i, prune in enumerate((False, True)):
            start = time.perf_counter()
            result = sg.sweep(rows, range(1, 7), STRUCTURES, prune=prune, sample_rows=sample, random_state=seed)
            seconds[i] += time.perf_counter() - start
            reads[i] += result.passes
            results.append(result)
        pruned += sum(c.outcome is Outcome.PRUNED for c in results[1].candidates)
        winners = [r.candidates[r.chosen].name for r in results]
        lost = results[1].best.criteria.bic - results[0].best.criteria.bic
        same_winner += winners[0] == winners[1]
        no_worse += winners[0] == winners[1] or lost <= 0.0
        print(seed, *winners, f"{lost:+.1f}", *(r.passes for r in results), flush=True)
    headings = (
        "sweeps", "same winner", "the same or a better one", "candidates pruned", "reads without", "reads with",
        "seconds without", "seconds with",
    )  # fmt: skip
    row = (sweeps, same_winner, no_worse, pruned / (18 * sweeps), *(reads / sweeps), *seconds)
    write_report(f"pruning_{n}", headings, [row])


if __name__ == "__main__":
    main()
