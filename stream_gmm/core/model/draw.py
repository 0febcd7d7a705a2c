"""Rows drawn from a mixture."""

from __future__ import annotations

from typing import Any

import numpy as np

from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.errors import InputDataError


def draw_rows(params: MixtureParams, n_samples: int, rng: np.random.Generator) -> tuple[Array, np.ndarray[Any, Any]]:
    """Draw from a mixture: rows ``(n, D)`` and components ``(n,)``, grouped by component; noise (-1) comes last."""
    if n_samples < 1:
        raise InputDataError(f"n_samples must be at least 1, not {n_samples}.")
    if params.noise is not None:
        return _draw_rows_with_noise(params, n_samples, rng)
    counts = rng.multinomial(n_samples, params.weights / params.weights.sum())
    factors = np.linalg.cholesky(params.dense_covariances)
    noise = rng.standard_normal((n_samples, params.n_features))
    labels = np.repeat(np.arange(params.n_components), counts)
    rows = params.means[labels] + np.einsum("nij,nj->ni", factors[labels], noise)
    return rows, labels


def _draw_rows_with_noise(
    params: MixtureParams, n: int, rng: np.random.Generator
) -> tuple[Array, np.ndarray[Any, Any]]:
    low, high = np.array(params.noise)
    stray = int(rng.binomial(n, params.noise_weight))
    uniform = rng.uniform(low, high, size=(stray, params.n_features)), np.full(stray, -1)
    if stray == n:
        return uniform
    bare = MixtureParams(params.weights / params.weights.sum(), params.means, params.covariances, params.family)
    rows, labels = draw_rows(bare, n - stray, rng)
    return np.concatenate([rows, uniform[0]]), np.concatenate([labels, uniform[1]])
