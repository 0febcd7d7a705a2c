"""Draws random rows from a mixture."""

from __future__ import annotations

from typing import Any

import numpy as np

from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.errors import InputDataError


def draw_rows(params: MixtureParams, n_samples: int, rng: np.random.Generator) -> tuple[Array, np.ndarray[Any, Any]]:
    """Draw rows from a mixture.

    Returns
    -------
    rows
        ``(n_samples, D)``, grouped by component; rows of the noise come last.
    components
        Number of the component ``(n_samples,)`` that each row comes from; -1 for noise.

    Raises
    ------
    InputDataError
        If ``n_samples`` is less than 1.
    """
    if n_samples < 1:
        raise InputDataError(f"Invalid value for 'n_samples': {n_samples}. It must be at least 1.")
    if params.noise is not None:
        return _draw_rows_with_noise(params, n_samples, rng)
    counts = rng.multinomial(n_samples, params.weights / params.weights.sum())
    factors = np.linalg.cholesky(params.dense_covariances)
    normal = rng.standard_normal((n_samples, params.n_features))
    components = np.repeat(np.arange(params.n_components), counts)
    rows = params.means[components] + np.einsum("nij,nj->ni", factors[components], normal)
    return rows, components


def _draw_rows_with_noise(
    params: MixtureParams, n_samples: int, rng: np.random.Generator
) -> tuple[Array, np.ndarray[Any, Any]]:
    low, high = np.array(params.noise)
    n_noise = int(rng.binomial(n_samples, params.noise_weight))
    noise_rows, noise_components = rng.uniform(low, high, size=(n_noise, params.n_features)), np.full(n_noise, -1)
    if n_noise == n_samples:
        return noise_rows, noise_components
    gaussians = MixtureParams(params.weights / params.weights.sum(), params.means, params.covariances, params.family)
    rows, components = draw_rows(gaussians, n_samples - n_noise, rng)
    return np.concatenate([rows, noise_rows]), np.concatenate([components, noise_components])
