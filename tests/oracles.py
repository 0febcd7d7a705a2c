"""Slow and obvious: what the fast code is held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

DATA = Path(__file__).parent / "data"
COLUMNS = {
    "faithful": ["eruptions", "waiting"],
    "iris": ["sepal_length", "sepal_width", "petal_length", "petal_width"],
    "wine": None,
    "ecoli_cytometry": ["fsc_a", "ssc_a", "v2_a", "y2_a", "b1_a"],
}


def rows_of(name: str) -> np.ndarray:
    """Return the feature columns of a data set as float64 rows."""
    columns = COLUMNS[name]
    tables = [pq.read_table(p, columns=columns) for p in sorted((DATA / name).glob("*.parquet"))]
    if columns is None:
        columns = [c for c in tables[0].column_names if c != "cultivar"]
    return np.concatenate([np.column_stack([t[c].to_numpy().astype(float) for c in columns]) for t in tables])


def standardised(rows: np.ndarray) -> np.ndarray:
    """Return rows with mean 0 and variance 1 in every column."""
    return (rows - rows.mean(0)) / rows.std(0)


def weighted_log_densities(weights, means, covariances, rows) -> np.ndarray:
    """Return log(weight) + log N(x) as (N, K), by scipy, one component after the other."""
    return np.column_stack(
        [
            np.log(w) + multivariate_normal(m, c, allow_singular=False).logpdf(rows)
            for w, m, c in zip(weights, means, covariances, strict=True)
        ]
    ).reshape(len(rows), len(weights))


def slow_stats(weights, means, covariances, rows):
    """Return log-likelihood, entropy, sum of log max r, and weight, mean, scatter, in longdouble sums."""
    logp = weighted_log_densities(weights, means, covariances, rows)
    log_density = logsumexp(logp, axis=1)
    log_r = logp - log_density[:, None]
    r = np.exp(log_r)
    weight = r.astype(np.longdouble).sum(0)
    mean = (r.T.astype(np.longdouble) @ rows.astype(np.longdouble)) / weight[:, None]
    scatter = np.stack([((r[:, k, None] * (rows - mean[k])).T @ (rows - mean[k])) for k in range(len(weights))])
    with np.errstate(invalid="ignore"):
        entropy = -np.nansum(r * log_r)
    return (
        float(log_density.sum()), float(entropy), float(log_r.max(1).sum()),
        weight.astype(float), mean.astype(float), scatter.astype(float),
    )  # fmt: skip
