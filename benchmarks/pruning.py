"""Does pruning drop the winner? Seeded sweeps with and without it, over mixtures from far apart to all but one.

``python -m benchmarks.pruning [SWEEPS [ROWS COLUMNS SAMPLE]]``: by default 50 sweeps over 40,000 rows of 3 columns,
with a sample of 2,000; K = 1 ... 6, three structures.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import stream_gmm as sg
from benchmarks.harness import report
from benchmarks.pass_sets import mixture_rows
from stream_gmm.core.fit.em import Outcome

NAMES = ("full", "diag", "tied")


def main() -> None:
    """Measure and print."""
    given = [int(float(a)) for a in sys.argv[1:]]
    sweeps, n, d, sample = (*given, *(50, 40_000, 3, 2_000)[len(given) :])
    same, reads, seconds, pruned = 0, np.zeros(2), np.zeros(2), 0
    for seed in range(sweeps):
        k, separation = 1 + seed % 5, (0.5, 1.0, 2.0, 4.0)[seed % 4]
        rows = mixture_rows(seed, n, d, k, separation, tails=5.0 if seed % 3 == 0 else None)
        found = []
        for i, prune in enumerate((False, True)):
            start = time.perf_counter()
            result = sg.sweep(rows, range(1, 7), NAMES, prune=prune, sample_rows=sample, random_state=seed)
            seconds[i] += time.perf_counter() - start
            reads[i] += result.passes
            found.append(result)
        pruned += sum(c.outcome is Outcome.PRUNED for c in found[1].candidates)
        winners = [r.candidates[r.chosen].name for r in found]
        same += winners[0] == winners[1]
        print(seed, *winners, *(r.passes for r in found), flush=True)
    report(
        f"pruning_{n}",
        ("sweeps", "same winner", "candidates pruned", "reads without", "reads with", "s without", "s with"),
        [(sweeps, same, pruned / (18 * sweeps), *(reads / sweeps), *seconds)],
    )


if __name__ == "__main__":
    main()
