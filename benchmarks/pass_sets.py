"""Data sets of ``benchmarks.passes``: real ones, and ones drawn from mixtures that are hard in a known way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stream_gmm.core.model.moments import Array


@dataclass(frozen=True)
class PassSet:
    """A data set and the number of components to fit.

    ``smooth``: no value is repeated so often that a component collapses onto it.
    """

    name: str
    n_components: int
    load_rows: Callable[[], Array]
    smooth: bool = True


def draw_mixture_rows(
    seed: int,
    n: int,
    d: int,
    k: int,
    separation: float,
    weights: list[float] | None = None,
    tails: float | None = None,
) -> Array:
    """Draw rows ``(n, d)`` from a mixture with randomly oriented components.

    ``separation``: standard deviation of the means. ``tails``: degrees of freedom of t-distributed components; None:
    normal ones.
    """
    rng = np.random.default_rng(seed)
    w = rng.dirichlet(np.full(k, 3.0)) if weights is None else np.array(weights)
    means, labels = rng.normal(size=(k, d)) * separation, rng.choice(k, size=n, p=w)
    out = np.empty((n, d))
    for j in range(k):
        mine = labels == j
        z = rng.normal(size=(int(mine.sum()), d))
        if tails:
            z *= np.sqrt(tails / rng.chisquare(tails, size=(len(z), 1)))
        axes = np.linalg.qr(rng.normal(size=(d, d)))[0] * np.exp(0.5 * rng.normal(size=d))
        out[mine] = means[j] + z @ axes.T
    return out


def read_real_rows(folder: Path) -> Array:
    """Read the complete rows of a real data set, standardised; ``sklearn_reference.json`` names its columns."""
    columns = json.loads((folder / "sklearn_reference.json").read_text())["columns"]
    files = sorted((folder / "parquet").rglob("*.parquet"))
    tables = [pq.read_table(f, columns=columns, partitioning=None) for f in files]
    table = pa.concat_tables(tables, promote_options="permissive")
    rows = np.column_stack([table[c].to_numpy().astype(np.float64) for c in columns])
    rows = rows[np.isfinite(rows).all(axis=1)]
    return np.asarray((rows - rows.mean(axis=0)) / rows.std(axis=0))


_REAL_SETS = (
    ("flights", 6, True), ("skin", 8, True), ("taxi_green", 6, False), ("ecoli_cytometry", 6, False),
    ("shuttle", 6, False), ("diamonds", 8, False),
)  # fmt: skip


def list_pass_sets(data: Path) -> list[PassSet]:
    """Return all sets; the real ones only if they are in the folder ``data``."""
    rare = [0.4, 0.3, 0.18, 0.1, 0.01, 0.01]
    drawn = [
        PassSet("overlap", 8, lambda: draw_mixture_rows(1, 400_000, 5, 8, 1.5)),
        PassSet("t4 tails", 8, lambda: draw_mixture_rows(2, 400_000, 5, 8, 2.5, tails=4.0)),
        PassSet("t3 tails, 2-D", 6, lambda: draw_mixture_rows(3, 400_000, 2, 4, 3.0, tails=3.0)),
        PassSet("three too many", 9, lambda: draw_mixture_rows(4, 300_000, 6, 6, 1.5)),
        PassSet("one percent", 6, lambda: draw_mixture_rows(5, 400_000, 4, 6, 2.5, weights=rare)),
        PassSet("heavy overlap, 2-D", 5, lambda: draw_mixture_rows(6, 400_000, 2, 5, 1.0)),
        PassSet("separated", 10, lambda: draw_mixture_rows(7, 400_000, 8, 10, 4.0)),
        PassSet("16 columns", 6, lambda: draw_mixture_rows(8, 300_000, 16, 6, 1.2)),
        PassSet("10 million rows", 6, lambda: draw_mixture_rows(9, 10_000_000, 4, 6, 1.5)),
    ]
    available = [(n, k, s) for n, k, s in _REAL_SETS if (data / n / "sklearn_reference.json").exists()]
    real = [PassSet(n, k, lambda n=n: read_real_rows(data / n), s) for n, k, s in available]  # type: ignore[misc]
    return drawn + real
