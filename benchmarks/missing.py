"""The cost of a pass over rows with missing values, as a ratio to the same pass over complete rows.

``python -m benchmarks.missing [ROWS [COLUMNS [COMPONENTS]]]``: in memory on one thread, at 5 %, 20 % and 60 % of
values missing at random places (so that nearly every pattern of columns occurs), and for comparison with the values
of two columns always missing together.
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np

from benchmarks.harness import time_alternately, write_report
from benchmarks.pass_speed import draw_mixture
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.marginal.patterns import Patterns
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.rows.scaling import Scaling

NAMES = ("full", "tied", "diag", "spherical")
SHARES = (0.05, 0.2, 0.6)
HEADINGS = ("structure", "missing", "complete rows", "patterns", "complete data, ns/row", "ns/row", "ratio")


def main(rows: int = 200_000, columns: int = 8, components: int = 8) -> None:
    """Measure, print and write the table."""
    rng = np.random.default_rng(0)
    table = []
    for name in NAMES:
        params = draw_mixture(np.random.default_rng(1), components, columns, name)
        complete = rng.permutation(draw_rows(params, rows, rng)[0])
        scaling = Scaling.of_rows(complete)
        data = {"complete": complete}
        for share in SHARES:
            data[f"{share:.0%}"] = np.where(rng.random(complete.shape) < share, np.nan, complete)
        block = complete.copy()
        block[rng.random(rows) < 0.2, :2] = np.nan
        data["20% of rows, 2 columns"] = block
        passes = {key: InMemoryEStep(values, scaling) for key, values in data.items()}
        times = time_alternately({key: partial(e.evaluate, params) for key, e in passes.items()}, rounds=3)
        for key, values in data.items():
            if key != "complete":
                whole = float((~np.isnan(values)).all(axis=1).mean())
                own = times[key] / rows * 1e9
                base = times["complete"] / rows * 1e9
                table.append((name, key, whole, len(Patterns.of(values).observed), base, own, own / base))
    write_report("missing", HEADINGS, table)


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
