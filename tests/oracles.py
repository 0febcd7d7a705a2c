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


def slow_missing_stats(weights, means, covariances, rows, row_weights=None, box=None):
    """Return as :func:`slow_stats`, for rows in which NaN is a value missing at random: row after row, by the book.

    Each row counts by the marginal density of the columns that it has; the others come in by their conditional mean
    and covariance. ``box (2, D)`` is that of a noise component, whose weight the weights leave. Rows without any
    value count for nothing. The number of rows comes first.
    """
    k, d = means.shape
    weight, first, second = np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d))
    loglik = entropy = log_max = n = 0.0
    for i, row in enumerate(rows):
        there = ~np.isnan(row)
        if not there.any():
            continue
        count = 1.0 if row_weights is None else row_weights[i]
        both = np.ix_(there, there)
        logp = [
            np.log(w) + multivariate_normal(m[there], c[both]).logpdf(row[there])
            for w, m, c in zip(weights, means, covariances, strict=True)
        ]
        if box is not None:
            logp.append(np.log(1.0 - np.sum(weights)) - np.log(box[1] - box[0])[there].sum())
        log_r = np.array(logp) - logsumexp(logp)
        loglik, n = loglik + count * logsumexp(logp), n + count
        entropy, log_max = entropy - count * np.sum(np.exp(log_r) * log_r), log_max + count * log_r.max()
        for j in range(k):
            r = count * np.exp(log_r[j])
            slope = covariances[j][np.ix_(~there, there)] @ np.linalg.inv(covariances[j][both])
            x, left = row.copy(), np.zeros((d, d))
            x[~there] = means[j][~there] + slope @ (row[there] - means[j][there])
            left[np.ix_(~there, ~there)] = (
                covariances[j][np.ix_(~there, ~there)] - slope @ covariances[j][np.ix_(there, ~there)]
            )
            weight[j] += r
            first[j] += r * x
            second[j] += r * (np.outer(x, x) + left)
    mean = first / weight[:, None]
    scatter = second - weight[:, None, None] * (mean[:, :, None] * mean[:, None, :])
    return n, loglik, entropy, log_max, weight, mean, scatter


SLOW_COVARIANCES = {
    "full": lambda w, s: s / w[:, None, None],
    "tied": lambda w, s: np.tile(s.sum(0) / w.sum(), (len(w), 1, 1)),
    "diag": lambda w, s: np.array([np.diag(np.diag(a) / n) for a, n in zip(s, w, strict=True)]),
    "spherical": lambda w, s: np.array(
        [np.eye(len(a)) * np.trace(a) / len(a) / n for a, n in zip(s, w, strict=True)]
    ),
}
"""The M-steps of four structures, from weights (K,) and scatter (K, D, D), as matrices."""


def slow_missing_em(weights, means, covariances, rows, name, steps):
    """Return log-likelihoods before every step, and weights, means and covariances after all of them."""
    history = []
    for _ in range(steps):
        n, loglik, _, _, weight, means, scatter = slow_missing_stats(weights, means, covariances, rows)
        history.append(loglik / n)
        weights, covariances = weight / n, SLOW_COVARIANCES[name](weight, scatter)
    return history, weights, means, covariances
