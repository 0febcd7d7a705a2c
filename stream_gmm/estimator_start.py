"""Where a fit of the estimator starts: from scikit-learn's initialisations, and from parameters that are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.cluster import KMeans, kmeans_plusplus

from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.rows.moments import UNWEIGHTED, collect_moments
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError, InputDataError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.memory import ArrayDataset
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.steps import profile_source

Assign = Callable[[Array, int, Array, np.random.RandomState], Array]
"""Returns responsibilities ``(N, K)`` of rows ``(N, D)`` with weights ``(N,)`` or none."""


def _mark(n_rows: int, n_components: int, rows: Any, components: Any) -> Array:
    out = np.zeros((n_rows, n_components))
    out[rows, components] = 1.0
    return out


def assign_by_kmeans(rows: Array, n_components: int, weights: Array, rng: np.random.RandomState) -> Array:
    """Assign every row to a cluster of k-means."""
    kmeans = KMeans(n_components, n_init=1, random_state=rng)
    labels = kmeans.fit(rows, sample_weight=weights if len(weights) else None).labels_
    return _mark(len(rows), n_components, np.arange(len(rows)), labels)


def assign_kmeans_plusplus(rows: Array, n_components: int, weights: Array, rng: np.random.RandomState) -> Array:
    """Assign to each component one row, drawn by k-means++; the other rows belong to none."""
    _, chosen = kmeans_plusplus(rows, n_components, sample_weight=weights if len(weights) else None, random_state=rng)
    return _mark(len(rows), n_components, chosen, np.arange(n_components))


def assign_at_random(rows: Array, n_components: int, weights: Array, rng: np.random.RandomState) -> Array:
    """Assign every row to all components, in shares drawn at random."""
    del weights
    out = rng.uniform(size=(len(rows), n_components))
    return np.asarray(out / out.sum(axis=1, keepdims=True))


def assign_random_rows(rows: Array, n_components: int, weights: Array, rng: np.random.RandomState) -> Array:
    """Assign to each component one row, drawn at random; the other rows belong to none."""
    chances = weights / weights.sum() if len(weights) else None
    chosen = rng.choice(len(rows), size=n_components, replace=False, p=chances)
    return _mark(len(rows), n_components, chosen, np.arange(n_components))


INITIALISATIONS: dict[str, Assign] = {
    "kmeans": assign_by_kmeans, "k-means++": assign_kmeans_plusplus,
    "random": assign_at_random, "random_from_data": assign_random_rows,
}  # fmt: skip
AUTO = "auto"


def draw_starts(
    source: Source,
    n_components: int,
    covariance_type: str,
    init_params: str,
    settings: Settings,
    executor: Executor,
    rng: np.random.RandomState,
) -> list[MixtureParams]:
    """Return ``n_init`` starts by one of scikit-learn's initialisations.

    Raises
    ------
    InputDataError
        If there are fewer rows than components.
    SingularCovarianceError
        If no covariance can be estimated.
    """
    family = family_named(covariance_type)
    starts, moments = draw_start_stats(source, n_components, family, init_params, settings, executor, rng)
    return [mstep(stats, family, settings.penalty_of(moments))[0] for stats in starts]


def draw_start_stats(
    source: Source,
    n_components: int,
    family: CovarianceFamily,
    init_params: str,
    settings: Settings,
    executor: Executor,
    rng: np.random.RandomState,
) -> tuple[list[SuffStats], SuffStats]:
    """Return the statistics of ``n_init`` starts, and those of the same rows as of one component.

    They are made from all rows if those are in memory, as in scikit-learn; of files, from the uniform sample.

    Raises
    ------
    InputDataError
        If there are fewer rows than components.
    """
    if isinstance(source, ArrayDataset):
        rows, weights = source.values, UNWEIGHTED if source.weights is None else source.weights
        if len(weights):
            rows, weights = rows[weights > 0.0], weights[weights > 0.0]
    else:
        sample = profile_source(source, settings, executor).sample
        rows, weights = sample.rows, sample.weights
    if np.isnan(rows).any():
        raise ConfigError(f"init_params={init_params!r} needs complete rows: with missing values use 'auto'.")
    check_enough_rows(len(rows), n_components)
    starts = []
    for _ in range(settings.n_init):
        shares = INITIALISATIONS[init_params](rows, n_components, weights, rng)
        starts.append(collect_stats(rows, shares * weights[:, None] if len(weights) else shares, family))
    return starts, collect_moments(rows, weights)


def check_enough_rows(n_rows: int, n_components: int) -> None:
    """Refuse fewer rows than components.

    Raises
    ------
    InputDataError
        If there are.
    """
    if n_rows < n_components:
        raise InputDataError(
            explain(
                f"Expected n_samples >= n_components but got n_components = {n_components}, n_samples = {n_rows}",
                remedy="use fewer components or more data",
            )
        )


def collect_stats(rows: Array, shares: Array, family: CovarianceFamily) -> SuffStats:
    """Return the statistics of rows ``(N, D)`` that belong to components in ``shares (N, K)``."""
    weight = shares.sum(axis=0)
    mean = shares.T @ rows / np.maximum(weight, np.finfo(np.float64).tiny)[:, None]
    scatter = np.empty(FULL.shape(len(weight), rows.shape[1]))
    for k, own in enumerate(shares.T):
        centred = rows - mean[k]
        scatter[k] = (centred.T * own) @ centred
    moments = family.moments
    return SuffStats(float(weight.sum()), 0.0, 0.0, 0.0, weight, mean, moments.condense(scatter), moments)


def replace_given(
    start: MixtureParams | None, weights: Any, means: Any, precisions: Any, family: CovarianceFamily
) -> MixtureParams:
    """Return a start with those of its parameters replaced that are not None; without a start all must be given."""
    covariances = None if precisions is None else family.from_precisions(precisions)
    if start is None:
        return MixtureParams(weights, means, covariances, family)  # type: ignore[arg-type]
    given = {"weights": weights, "means": means, "covariances": covariances}
    return replace(start, **{name: value for name, value in given.items() if value is not None})


def check_given(
    n_components: int, n_features: int, covariance_type: str, weights: Any, means: Any, precisions: Any
) -> tuple[Array | None, Array | None, Array | None]:
    """Return ``weights_init``, ``means_init`` and ``precisions_init`` as arrays; those that are None stay None.

    Raises
    ------
    ConfigError
        If one has the wrong shape, is not finite, or is none of a mixture.
    """
    k, d, family = n_components, n_features, family_named(covariance_type)
    weights = _check_shape(weights, (k,), "weights")
    means = _check_shape(means, (k, d), "means")
    precisions = _check_shape(precisions, family.shape(k, d), f"{covariance_type} precision")
    if weights is not None:
        if weights.min() < 0.0 or weights.max() > 1.0:
            raise ConfigError(
                "The parameter 'weights' should be in the range [0, 1], but got max value "
                f"{weights.max():.5f}, min value {weights.min():.5f}"
            )
        if abs(weights.sum() - 1.0) > 1e-6:
            raise ConfigError(
                f"The parameter 'weights' should be normalized, but got sum(weights) = {weights.sum():.5f}"
            )
    if precisions is not None:
        _check_positive(precisions, family, covariance_type)
    return weights, means, precisions


def _check_shape(values: Any, shape: tuple[int, ...], name: str) -> Array | None:
    if values is None:
        return None
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The parameter '{name}' cannot be read as numbers.") from error
    if array.shape != shape:
        raise ConfigError(f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}")
    if not np.isfinite(array).all():
        raise ConfigError(f"The parameter '{name}' holds NaN or infinity.")
    return array


def _check_positive(precisions: Array, family: CovarianceFamily, covariance_type: str) -> None:
    if precisions.ndim < 2 or not family.matrices:
        if not np.all(precisions > 0.0):
            raise ConfigError(f"'{covariance_type} precision' should be positive")
        return
    symmetric = np.allclose(precisions, np.swapaxes(precisions, -1, -2))
    if not symmetric or not np.all(np.linalg.eigvalsh(precisions) > 0.0):
        raise ConfigError(f"'{covariance_type} precision' should be symmetric, positive-definite")
