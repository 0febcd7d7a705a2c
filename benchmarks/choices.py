"""Is the known number of components chosen? Fifty sweeps over awkward clusters, beside scikit-learn (and mclust).

``python -m benchmarks.choices [--sets N]`` draws sets with a known K: small dense clusters inside broad ones, tight
clusters, heavy tails, rounded values, and plain overlapping clusters. It counts how often the lowest BIC over K = 1
to 5 and four structures has that K: for a sweep from defaults, for the same sweep without pruning, for scikit-learn
with ``n_init=10``, and for mclust where Rscript has it; and whether a pruned candidate would have won.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.mixture import GaussianMixture

import stream_gmm as sg
from stream_gmm.core.model.moments import Array

STRUCTURES = ("spherical", "diag", "tied", "full")
CODES = "c('VII', 'VVI', 'EEE', 'VVV')"
"""The same structures in mclust."""
LARGEST = 5
Draw = Callable[[np.random.Generator], tuple[Array, int]]


def draw_dense_inside_broad(rng: np.random.Generator) -> tuple[Array, int]:
    """Return a broad cluster, and in it one of 2 to 5 % of the rows that is 5 to 20 times narrower."""
    n, d = int(rng.integers(2000, 5000)), int(rng.integers(2, 5))
    few = int(n * rng.uniform(0.02, 0.05))
    inside = rng.normal(scale=0.7, size=d) + rng.normal(size=(few, d)) / rng.uniform(5.0, 20.0)
    return np.vstack([rng.normal(size=(n - few, d)), inside]), 2


def draw_tight(rng: np.random.Generator) -> tuple[Array, int]:
    """Return three clusters with standard deviations from 0.003 to 3."""
    n, d = int(rng.integers(1500, 4000)), int(rng.integers(2, 5))
    scales = 10.0 ** rng.uniform(-2.5, 0.5, size=3)
    return np.vstack([rng.normal(scale=6.0, size=d) + s * rng.normal(size=(n // 3, d)) for s in scales]), 3


def draw_heavy_tailed(rng: np.random.Generator) -> tuple[Array, int]:
    """Return two clusters with t distributions of 12 degrees of freedom."""
    n, d = int(rng.integers(800, 2000)), int(rng.integers(2, 4))
    return np.vstack([rng.standard_t(12, size=(n // 2, d)) + c for c in (0.0, 7.0)]), 2


def draw_rounded(rng: np.random.Generator) -> tuple[Array, int]:
    """Return three clusters rounded to a tenth or a half of their standard deviation."""
    n, d, step = int(rng.integers(1500, 4000)), int(rng.integers(2, 4)), float(rng.choice([0.1, 0.5]))
    rows = np.vstack([rng.normal(scale=6.0, size=d) + rng.normal(size=(n // 3, d)) for _ in range(3)])
    return np.round(rows / step) * step, 3


def draw_overlapping(rng: np.random.Generator) -> tuple[Array, int]:
    """Return four correlated clusters of unequal size that overlap."""
    n, d = int(rng.integers(2000, 5000)), int(rng.integers(2, 5))
    shares = rng.dirichlet(np.full(4, 8.0))
    parts = [
        rng.normal(scale=3.0, size=d) + rng.normal(size=(int(n * s), d)) @ (np.eye(d) + 0.5 * rng.normal(size=(d, d)))
        for s in shares
    ]
    return np.vstack(parts), 4


KINDS: dict[str, Draw] = {
    "small dense inside broad": draw_dense_inside_broad, "tight": draw_tight, "heavy tails": draw_heavy_tailed,
    "rounded": draw_rounded, "overlapping": draw_overlapping,
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What one method chose, the BIC of that, and the seconds it took."""

    n_components: int
    bic: float
    seconds: float


def choose_here(rows: Array, prune: bool) -> tuple[Choice, sg.SweepResult]:
    """Return the choice of a sweep from defaults, and its result."""
    start = time.perf_counter()
    result = sg.sweep(rows, range(1, LARGEST + 1), STRUCTURES, prune=prune)
    best = result.best
    return Choice(best.n_components, best.criteria.bic, time.perf_counter() - start), result


def choose_by_sklearn(rows: Array) -> Choice:
    """Return the lowest BIC of scikit-learn with ten restarts."""
    start = time.perf_counter()
    fits = [
        GaussianMixture(k, covariance_type=name, n_init=10, random_state=0).fit(rows)
        for k in range(1, LARGEST + 1)
        for name in STRUCTURES
    ]
    bics = [fit.bic(rows) for fit in fits]
    best = int(np.argmin(bics))
    return Choice(int(fits[best].n_components), bics[best], time.perf_counter() - start)


def choose_by_mclust(rows: Array) -> Choice | None:
    """Return the choice of mclust, or None without it."""
    if shutil.which("Rscript") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        np.savetxt(Path(folder) / "rows.csv", rows, delimiter=",")
        start = time.perf_counter()
        done = subprocess.run(
            ["Rscript", "-e", f"suppressMessages(library(mclust)); x <- as.matrix(read.csv('{folder}/rows.csv', "
             f"header=FALSE)); m <- Mclust(x, G=1:{LARGEST}, modelNames={CODES}, verbose=FALSE); cat(m$G, m$bic)"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            return None
        k, bic = done.stdout.split()
        return Choice(int(k), -float(bic), time.perf_counter() - start)


def draw_sets(count: int) -> Iterator[tuple[str, int, Array, int]]:
    """Yield kind, seed, rows in random order, and the known K."""
    for seed in range(count):
        kind = list(KINDS)[seed % len(KINDS)]
        rng = np.random.default_rng(1000 + seed)
        rows, k = KINDS[kind](rng)
        yield kind, seed, rng.permutation(rows), k


def main() -> None:
    """Run the sets and print the counts."""
    parser = argparse.ArgumentParser(description="How often is the known number of components chosen?")
    parser.add_argument("--sets", type=int, default=50)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    right: dict[tuple[str, str], int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    total: dict[str, int] = defaultdict(int)
    wrongly_pruned = 0
    for kind, seed, rows, k in draw_sets(args.sets):
        ours, result = choose_here(rows, prune=True)
        whole, unpruned = choose_here(rows, prune=False)
        choices = {"stream-gmm": ours, "without pruning": whole, "scikit-learn": choose_by_sklearn(rows)}
        if (theirs := choose_by_mclust(rows)) is not None:
            choices["mclust"] = theirs
        total[kind] += 1
        for name, choice in choices.items():
            right[kind, name] += choice.n_components == k
            seconds[name] += choice.seconds
        pruned = {c.name for c in result.candidates if c.outcome is sg.Outcome.PRUNED}
        lost = [
            c.name
            for c in unpruned.candidates
            if c.name in pruned and c.admissible and c.result and c.result.criteria.bic < ours.bic - 0.01
        ]
        wrongly_pruned += bool(lost)
        wrong = {n: (c.n_components, round(c.bic, 1)) for n, c in choices.items() if c.n_components != k}
        if wrong or lost:
            print(
                f"set {seed}, {kind}, K = {k}: {wrong} {'wrongly pruned: ' + str(lost) if lost else ''}", flush=True
            )
    names = [n for n in ("stream-gmm", "without pruning", "scikit-learn", "mclust") if seconds[n]]
    print(f"{'known K chosen':28}" + "".join(f"{n:>18}" for n in names))
    for kind in total:
        print(f"{kind:28}" + "".join(f"{right[kind, n]:>11} of {total[kind]:>3}" for n in names))
    print(f"{'all':28}" + "".join(f"{sum(right[k, n] for k in total):>11} of {args.sets:>3}" for n in names))
    print(f"{'seconds':28}" + "".join(f"{seconds[n]:>18.1f}" for n in names))
    print(f"sets in which a pruned candidate would have won: {wrongly_pruned}")


if __name__ == "__main__":
    main()
