"""Random mixtures and rows for the property tests; grows with every structure."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from stream_gmm.core.model.covariance import FAMILIES
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.stats import SuffStats

families = st.sampled_from(FAMILIES)
seeds = st.integers(0, 2**32 - 1)


def random_params(
    rng: np.random.Generator, k: int, d: int, family: CovarianceFamily, spread: float = 2.0
) -> MixtureParams:
    """Return a random mixture of a structure."""
    weights = rng.dirichlet(np.full(k, 3.0))
    shapes = rng.normal(size=(k, d, d)) / np.sqrt(d)
    scatter = family.moments.condense(shapes @ shapes.transpose(0, 2, 1) + 0.2 * np.eye(d))
    covariances = family.estimate(np.ones(k), np.array(scatter))
    return MixtureParams(weights, rng.normal(scale=spread, size=(k, d)), covariances, family)


@st.composite
def mixtures(draw, max_k: int = 6, max_d: int = 6):
    """Return (mixture, generator)."""
    rng = np.random.default_rng(draw(seeds))
    k, d = draw(st.integers(1, max_k)), draw(st.integers(1, max_d))
    return random_params(rng, k, d, draw(families)), rng


def random_stats(rng: np.random.Generator, k: int, d: int, family: CovarianceFamily) -> SuffStats:
    """Return valid statistics; some components may be empty."""
    weight = rng.gamma(1.0, 10.0, size=k) * (rng.random(k) > 0.15)
    shapes = rng.normal(size=(k, d, d))
    scatter = family.moments.condense(weight[:, None, None] * (shapes @ shapes.transpose(0, 2, 1)))
    if family.shared:
        scatter = scatter.sum(axis=0, keepdims=True)
    rows = float(max(weight.sum(), 1e-3))
    mean = rng.normal(size=(k, d)) * 10.0 ** rng.integers(-2, 4) * (weight > 0)[:, None]
    return SuffStats(rows, -rows, 0.1 * rows, -0.1 * rows, weight, mean, np.array(scatter), family.moments)
