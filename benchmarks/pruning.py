"""Does pruning drop the winner? Seeded sweeps with and without it, over mixtures from far apart to all but one.

``python -m benchmarks.pruning [SWEEPS]``: 40,000 rows of 3 columns, K = 1 ... 6, three structures, a sample of 2,000.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import stream_gmm as sg
from benchmarks.harness import report
from benchmarks.pass_sets import mixture_rows
from stream_gmm.core.em import Outcome

NAMES = ("full", "diag", "tied")


def main() -> None:
    """Measure and print."""
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    same, reads, seconds, pruned = 0, np.zeros(2), np.zeros(2), 0
    for seed in range(sweeps):
        k, separation = 1 + seed % 5, (0.5, 1.0, 2.0, 4.0)[seed % 4]
        rows = mixture_rows(seed, 40_000, 3, k, separation, tails=5.0 if seed % 3 == 0 else None)
        found = []
        for i, prune in enumerate((False, True)):
            start = time.perf_counter()
            result = sg.sweep(rows, range(1, 7), NAMES, prune=prune, sample_rows=2_000, random_state=seed)
            seconds[i] += time.perf_counter() - start
            reads[i] += result.passes
            found.append(result)
        pruned += sum(c.outcome is Outcome.PRUNED for c in found[1].candidates)
        winners = [r.candidates[r.chosen].name for r in found]
        same += winners[0] == winners[1]
        print(seed, *winners, *(r.passes for r in found), flush=True)
    report(
        "pruning",
        ("sweeps", "same winner", "candidates pruned", "reads without", "reads with", "s without", "s with"),
        [(sweeps, same, pruned / (18 * sweeps), *(reads / sweeps), *seconds)],
    )


if __name__ == "__main__":
    main()
