"""Small and middle data: fits and sweeps from defaults beside scikit-learn, in pairs within one run; and mclust in R.

``python -m benchmarks.search`` prints, for one thread of each,

1. single fits (K right, too small, too large): seconds of ours and of scikit-learn's ``n_init=1``, turn by turn; the
   log-likelihood beside that of the same fit and beside scikit-learn's best of ten restarts, in nats per row; and the
   seconds until scikit-learn's restarts, one after the other, are as good as ours ("never": not one of ten);
2. the 126 cells of mclust's tables of faithful and iris (14 structures x K = 1 to 9), with mclust if Rscript has it;
3. how often K = 3 of four blobs is found; and in how many sweeps a candidate is worse than one with a component less.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from functools import partial

import numpy as np
from sklearn.datasets import make_blobs
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

import stream_gmm as sg
from benchmarks.harness import time_alternately
from stream_gmm.core.model.covariance import FAMILIES
from stream_gmm.core.model.moments import Array
from stream_gmm.execute.threads import ThreadsExecutor
from tests.oracles import rows_of

PAIRS = 3
RESTARTS, EQUAL = 10, 1e-6
"""Restarts of scikit-learn, and the difference in nats per row up to which two fits are equally good."""
SWEEPS = 50


def draw_mixture(rows: int, columns: int, components: int, seed: int) -> Array:
    """Return rows of a mixture of clusters that overlap a little, in random order."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.normal(scale=4.0, size=columns)
        + rng.normal(size=(rows // components, columns))
        @ (np.eye(columns) + 0.3 * rng.normal(size=(columns, columns)))
        for _ in range(components)
    ]
    return rng.permutation(np.vstack(parts))


def list_fits() -> Iterator[tuple[str, Array, int]]:
    """Yield name, rows and K of every single fit."""
    for name, ks in (("iris", (2, 3, 6)), ("faithful", (2, 3, 6)), ("wine", (3, 5))):
        for k in ks:
            yield name, rows_of(name), k
    for rows, columns, components, ks in (
        (1_000, 3, 3, (2, 3, 5)), (5_000, 4, 4, (3, 4, 8)), (20_000, 10, 3, (2, 3, 5)), (100_000, 8, 6, (3, 6, 8)),
    ):  # fmt: skip
        data = draw_mixture(rows, columns, components, rows)
        for k in ks:
            yield f"{rows:,} x {columns} from {components}", data, k


def time_to_equal(rows: Array, k: int, loglik: float) -> tuple[float, bool, float]:
    """Return seconds until a restart is as good as ``loglik`` (nats per row), whether one is, and the best of all."""
    spent, reached, best = 0.0, False, -np.inf
    for seed in range(RESTARTS):
        start = time.perf_counter()
        fit = GaussianMixture(k, random_state=seed).fit(rows)
        spent += 0.0 if reached else time.perf_counter() - start
        best = max(best, fit.score(rows))
        reached = reached or best >= loglik - EQUAL
    return spent, reached, best


def compare_fits() -> None:
    """Print the table of single fits."""
    print(
        f"{'single fits, full':24} {'K':>3} {'ours, s':>8} {'theirs':>8} {'ratio':>6} {'more than theirs':>17} "
        f"{'than best of 10':>16} {'equal, s':>9} {'ratio':>6}"
    )
    ratios: list[tuple[int, float, float, float]] = []
    for name, rows, k in list_fits():
        ours = partial(sg.fit, rows, k, client=ThreadsExecutor(1))
        theirs = partial(GaussianMixture(k, random_state=0).fit, rows)
        seconds = time_alternately({"ours": ours, "theirs": theirs}, PAIRS)
        loglik = ours().criteria.loglik / len(rows)
        spent, reached, best = time_to_equal(rows, k, loglik)
        spent = max(spent, seconds["theirs"])  # a restart by itself is timed less often
        ratio, equal = seconds["theirs"] / seconds["ours"], spent / seconds["ours"]
        ratios.append((len(rows), ratio, equal, loglik - best))
        print(
            f"{name:24} {k:>3} {seconds['ours']:>8.3f} {seconds['theirs']:>8.3f} {ratio:>6.2f} "
            f"{loglik - theirs().score(rows):>+17.6f} {loglik - best:>+16.6f} "
            f"{spent if reached else 'never':>9{'.3f' if reached else ''}} {equal:>6.2f}",
            flush=True,
        )
    print("geometric means of theirs / ours ('never' counts as the time of all ten restarts):")
    for least, title in ((0, "all"), (5_000, "from 5,000 rows on")):
        some = np.array([r for r in ratios if r[0] >= least])
        single, equal = np.exp(np.log(some[:, 1:3]).mean(axis=0))
        print(f"  {title}: one fit {single:.2f} (least {some[:, 1].min():.2f}); to equal quality {equal:.2f} "
              f"(least {some[:, 2].min():.2f}); below their best of ten in {np.sum(some[:, 3] < -EQUAL)} "
              f"of {len(some)}")  # fmt: skip


def compare_tables() -> None:
    """Print the seconds of mclust's tables."""
    for name in ("faithful", "iris"):
        rows = rows_of(name)
        for n_init in (1, 10):
            start = time.perf_counter()
            result = sg.sweep(rows, range(1, 10), [f.name for f in FAMILIES], n_init=n_init, prune=False)
            seconds = time.perf_counter() - start
            fitted = sum(c.result is not None for c in result.candidates)
            print(
                f"{name}: {len(result.candidates)} cells, n_init {n_init}: {seconds:.2f} s, {fitted} fitted",
                flush=True,
            )
        if shutil.which("Rscript"):
            script = (
                "suppressMessages(library(mclust)); x <- as.matrix(read.csv('/dev/stdin', header=FALSE)); "
                "t <- system.time(mclustBIC(x, G=1:9, verbose=FALSE)); cat(t[['elapsed']])"
            )
            text = "\n".join(",".join(map(repr, map(float, row))) for row in rows)
            done = subprocess.run(["Rscript", "-e", script], input=text, capture_output=True, text=True, check=True)
            print(f"{name}: mclust {float(done.stdout):.2f} s")


def count_optima() -> None:
    """Print how often the blobs are solved, and how many sweeps contradict the nesting of K."""
    rows, _ = make_blobs(400, centers=4, cluster_std=0.6, random_state=0)
    best = min(GaussianMixture(3, random_state=s).fit(rows).bic(rows) for s in range(5))
    found = sum(sg.fit(rows, 3, random_state=s).criteria.bic <= best + 0.1 for s in range(20))
    print(f"four blobs, K = 3: scikit-learn's optimum from {found} of 20 seeds")
    violations = []
    for seed in range(SWEEPS):
        data = draw_mixture(2_000, 2 + seed % 4, 2 + seed % 3, seed)
        result = sg.sweep(data, range(1, 7), ("spherical", "diag", "tied", "full"), random_state=seed)
        loglik = {(c.family.name, c.n_components): c.result.criteria.loglik for c in result.candidates if c.result}
        violations += [
            (seed, name, k) for (name, k), value in loglik.items() if value < loglik.get((name, k - 1), -np.inf) - 0.1
        ]
    print(
        f"a candidate below the one with a component less: {len(violations)} times in {SWEEPS} sweeps", violations[:5]
    )


def main() -> None:
    """Print everything, or the single fits alone."""
    parser = argparse.ArgumentParser(description="Small and middle data, beside scikit-learn and mclust.")
    parser.add_argument("--fits", action="store_true", help="the single fits alone")
    only_fits = parser.parse_args().fits
    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        compare_fits()
    if not only_fits:
        compare_tables()
        count_optima()


if __name__ == "__main__":
    main()
