"""Digests of the results of fits, sweeps and scoring, to show that a change of the code changes no bit of them.

Run ``python -m benchmarks.same_bits [SET ...]`` before and after the change, and compare the output. Each line names
a result and gives the SHA-256 of its parameters, of the numbers of its sweep table, or of its scored columns. The
script uses public names only.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import stream_gmm as sg

DATA = Path(__file__).parent.parent / "tests" / "data"
SETS: dict[str, list[str]] = {
    "faithful": ["eruptions", "waiting"],
    "iris": ["sepal_length", "sepal_width", "petal_length", "petal_width"],
    "wine": ["alcohol", "malic_acid", "flavanoids", "color_intensity", "proline"],
    "penguins": [],
    "ecoli_cytometry": ["fsc_a", "ssc_a", "v2_a", "y2_a", "b1_a"],
}
STRUCTURES = ("full", "tied", "diag", "spherical", "VEI", "EEV")


def digest_values(*values: Any) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of numbers, bit for bit."""
    sha = hashlib.sha256()
    for value in values:
        sha.update(np.ascontiguousarray(np.asarray(value, dtype="<f8")).tobytes())
    return sha.hexdigest()[:16]


def digest_table(table: pa.Table) -> str:
    """Return the digest of the numeric columns of a table, except ``seconds``."""
    numbers = [
        name
        for name in table.column_names
        if name != "seconds" and (pa.types.is_floating(table[name].type) or pa.types.is_integer(table[name].type))
    ]
    return digest_values(*([np.nan if v is None else v for v in table[name].to_pylist()] for name in numbers))


def digest_model(model: sg.FitResult) -> str:
    """Return the digest of a model's parameters, criteria and history."""
    c = model.criteria
    return digest_values(
        model.weights_, model.means_, model.covariances_, model.threshold, model.history, model.n_iter_,
        [c.loglik, c.entropy, c.log_max, c.n_rows, c.heldout_loglik],
    )  # fmt: skip


def print_digests(name: str, columns: list[str], out: Path) -> None:
    """Fit, sweep, bootstrap, stream and score one data set, and print the digest of each result."""
    data = sg.open_dataset(DATA / name, columns or None, missing="drop")

    def print_digest(what: str, digest: str) -> None:
        print(f"{name:16} {what:24} {digest}", flush=True)

    for algorithm in ("auto", "em", "minibatch"):
        print_digest(f"fit {algorithm}", digest_model(sg.fit(data, 3, algorithm=algorithm, random_state=3)))
    for accel in ("anderson", "squarem"):
        print_digest(f"fit {accel}", digest_model(sg.fit(data, 2, "tied", accel=accel, sample_rows=60, n_init=2)))
    print_digest("fit noise", digest_model(sg.fit(data, 2, "diag", noise=True)))
    print_digest("fit prior", digest_model(sg.fit(data, 2, prior="mclust")))
    print_digest("fit reg_covar", digest_model(sg.fit(data, 3, "spherical", reg_covar=1e-3, kernel="whitened")))
    small = sg.sweep(data, range(1, 5), STRUCTURES, sample_rows=100, n_init=2)
    print_digest("sweep on a sample", digest_table(small.table))
    held = sg.sweep(data, range(1, 5), ("full", "diag"), criterion="one_se", holdout=0.2)
    print_digest("sweep held out", digest_table(held.table))
    whole = sg.sweep(data, range(1, 5), STRUCTURES, n_init=2)
    print_digest("sweep", digest_table(whole.table))
    print_digest("best", digest_model(whole.best))
    print_digest("bootstrap", digest_table(sg.bootstrap(whole.best, data, 5).table))
    rows = np.concatenate([c.features for leaf in data.leaves() for c in leaf.chunks()])
    online = sg.OnlineGaussianMixture(2, warmup_rows=100, step_rows=20).partial_fit(rows)
    print_digest("stream", digest_model(online.result_))
    target = out / name
    sg.score(whole.best, data, target)
    files = sorted(target.rglob("*.parquet"))
    print_digest("scores", digest_table(pa.concat_tables([pq.read_table(f) for f in files])))


def main() -> None:
    """Print the digests of all data sets, or of those named on the command line."""
    with tempfile.TemporaryDirectory() as folder:
        for name, columns in SETS.items():
            if name in sys.argv[1:] or not sys.argv[1:]:
                print_digests(name, columns, Path(folder))


if __name__ == "__main__":
    main()
