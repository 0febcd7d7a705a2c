"""Small and middle data: fits and sweeps from defaults beside scikit-learn, in pairs within one run; and mclust in R.

``python -m benchmarks.search`` prints, for one thread of each,

1. single fits (K right, too small, too large): seconds of ours and of scikit-learn's ``n_init=1``, turn by turn, and
   the log-likelihood beside scikit-learn's best of ten restarts, in nats per row;
2. the 126 cells of mclust's tables of faithful and iris (14 structures x K = 1 to 9), with mclust if Rscript has it;
3. how often K = 3 of four blobs is found; and in how many sweeps a candidate is worse than one with a component less.
"""

from __future__ import annotations

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
SWEEPS = 20


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


def compare_fits() -> None:
    """Print the table of single fits."""
    print(f"{'single fits, full':24} {'K':>3} {'ours, s':>9} {'theirs, s':>9} {'ratio':>7} {'nats per row':>13}")
    ratios: list[tuple[int, float]] = []
    for name, rows, k in list_fits():
        ours = partial(sg.fit, rows, k, client=ThreadsExecutor(1))
        theirs = partial(GaussianMixture(k, random_state=0).fit, rows)
        seconds = time_alternately({"ours": ours, "theirs": theirs}, PAIRS)
        best = max(GaussianMixture(k, n_init=10, random_state=1).fit(rows).score(rows), theirs().score(rows))
        gain = ours().criteria.loglik / len(rows) - best
        ratio = seconds["theirs"] / seconds["ours"]
        ratios.append((len(rows), ratio))
        print(
            f"{name:24} {k:>3} {seconds['ours']:>9.3f} {seconds['theirs']:>9.3f} {ratio:>7.2f} {gain:>+13.6f}",
            flush=True,
        )
    values = np.array([r for _, r in ratios])
    large = [r for n, r in ratios if n >= 5_000]
    print(f"geometric mean of theirs / ours: {np.exp(np.log(values).mean()):.2f}; least {values.min():.2f}; "
          f"from 5,000 rows on {np.exp(np.log(large).mean()):.2f}, least {min(large):.2f}")  # fmt: skip


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
    """Print everything."""
    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        compare_fits()
    compare_tables()
    count_optima()


if __name__ == "__main__":
    main()
