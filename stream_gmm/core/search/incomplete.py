"""Rows with missing values where whole ones are needed: moments of all columns together, and rows for seedings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.marginal.patterns import find_complete
from stream_gmm.core.estep.scores import impute_rows, score_rows
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.seeding import SEEDING_ROWS
from stream_gmm.core.stats import SuffStats

MOST_STEPS, TOLERANCE = 50, 1e-4
"""EM for the moments ends after so many steps, or when no correlation moves by more than this."""
RIDGE = 1e-8
"""Part of the variances that keeps collinear columns from a singular covariance."""
_WORK = 2e8
"""Rows times D^3, beyond which the moments are estimated from fewer rows."""
ENOUGH = 50
"""So many complete rows for each component make up for the others where fits are seeded, if a quarter is complete."""


def estimate_moments(rows: Array, weights: Array, total: float) -> SuffStats:
    """Return weight, mean and scatter of ``total`` rows, as of one component, estimated from ``rows (n, D)``.

    NaN is a missing value. The estimate is the normal distribution of greatest likelihood, which takes account of
    what the observed values say about those that are missing.
    """
    d = rows.shape[1]
    few = int(np.clip(_WORK / d**3, 2_000, len(rows)))
    rows, weights = rows[:few], weights[:few]
    seen = ~np.isnan(rows)
    counts = np.maximum(seen.sum(axis=0), 1)
    centre = np.where(seen, rows, 0.0).sum(axis=0) / counts
    deviations = np.where(seen, rows - centre, 0.0)
    scale = np.sqrt((deviations**2).sum(axis=0) / counts)
    scale = np.where(scale > 0.0, scale, 1.0)
    family, ridge = family_named("full"), RIDGE * np.eye(d)
    standardised = (rows - centre) / scale
    z = np.where(seen, standardised, 0.0)
    covariance = (z.T @ z) / np.sqrt(np.outer(counts, counts)) + ridge
    mean = np.zeros(d)
    estep = InMemoryEStep(standardised, Scaling.identity(d), weights=weights)
    for _ in range(MOST_STEPS):
        stats = estep.evaluate(MixtureParams([1.0], mean[None], covariance[None], family))
        before, mean = covariance, stats.mean[0]
        covariance = stats.scatter[0] / stats.rows + ridge
        if np.abs(covariance - before).max() <= TOLERANCE:
            break
    return SuffStats(
        total, 0.0, 0.0, 0.0, np.array([total]), (centre + mean * scale)[None],
        (total * covariance * np.outer(scale, scale))[None], FULL,
    )  # fmt: skip


def take_whole_rows(
    rows: Array, weights: Array, n_components: int, moments: SuffStats | None, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return rows without missing values to seed a fit with, and their weights.

    These are the complete rows if there are enough; otherwise the first rows, with random draws in place of what is
    missing: from the normal distribution with the ``moments`` of all rows, given the values that a row has.
    """
    complete = find_complete(rows)
    if complete is None:
        return rows, weights
    n = int(complete.sum())
    if n >= max(ENOUGH * n_components, len(rows) / 4):
        return np.ascontiguousarray(rows[complete]), weights[complete] if len(weights) else weights
    rows, weights = rows[:SEEDING_ROWS], weights[:SEEDING_ROWS]
    moments = moments or estimate_moments(rows, weights, 1.0)
    params = MixtureParams([1.0], moments.mean, moments.scatter / moments.rows, family_named("full"))
    drawn = rng.multivariate_normal(params.means[0], params.covariances[0], len(rows), method="cholesky")
    # Conditional simulation: the residual of a drawn row, given the same columns, is a draw of what is missing.
    density = replace(compile_density(params), means=np.zeros_like(params.means))
    residual = np.where(np.isnan(rows), np.nan, rows - drawn)
    filled, _ = impute_rows(density, residual, score_rows(density, residual))
    return np.where(np.isnan(rows), drawn + filled, rows), weights
