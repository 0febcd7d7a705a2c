"""Splits, merges and removes components: the steps of a search over K, the number of components."""

from __future__ import annotations

import numpy as np

from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams

_SPLIT_DISTANCE = 0.7
"""Distance of each half of a split from the mean of the whole, in standard deviations along the longest axis."""


def split_component(params: MixtureParams, component: int) -> MixtureParams:
    """Return the mixture with one component halved along its longest axis.

    The two halves together have the weight, mean and covariance of the component.
    """
    matrices = params.dense_covariances
    values, vectors = np.linalg.eigh(matrices[component])
    step = _SPLIT_DISTANCE * np.sqrt(values[-1]) * vectors[:, -1]
    narrower = matrices[component] - np.outer(step, step)
    order = [*range(params.n_components), component]
    weights, means, covariances = params.weights[order], params.means[order], np.array(matrices[order])
    weights[[component, -1]] /= 2.0
    means[component] += step
    means[-1] -= step
    covariances[[component, -1]] = narrower
    return MixtureParams.from_matrices(weights, means, covariances, params.family, params.noise)


def merge_components(params: MixtureParams, i: int, j: int) -> MixtureParams:
    """Return the mixture with components i and j replaced, in last place, by one of the same moments."""
    weight, mean, covariance = _merge_moments(params, i, j)
    rest = [k for k in range(params.n_components) if k not in (i, j)]
    return MixtureParams.from_matrices(
        np.append(params.weights[rest], weight), np.vstack([params.means[rest], mean]),
        np.concatenate([params.dense_covariances[rest], covariance[None]]), params.family, params.noise,
    )  # fmt: skip


def remove_component(params: MixtureParams, component: int) -> MixtureParams:
    """Return the mixture without one of its components; the other weights are scaled up."""
    rest = np.delete(np.arange(params.n_components), component)
    covariances = params.covariances if params.family.shared else params.covariances[rest]
    weights = params.weights[rest]
    weights = weights * (params.weights.sum() / weights.sum())
    return MixtureParams(weights, params.means[rest], covariances, params.family, params.noise)


def _merge_moments(params: MixtureParams, i: int, j: int) -> tuple[float, Array, Array]:
    """Return weight, mean ``(D,)`` and covariance ``(D, D)`` of two components together."""
    pair = [i, j]
    weight = float(params.weights[pair].sum())
    share = params.weights[pair] / weight if weight > 0.0 else np.array([0.5, 0.5])
    mean = share @ params.means[pair]
    delta = params.means[pair] - mean
    covariance = np.einsum("k,kab->ab", share, params.dense_covariances[pair] + delta[:, :, None] * delta[:, None, :])
    return weight, mean, covariance


def bound_merge_loss(params: MixtureParams, i: int, j: int) -> float:
    """Return an upper bound on the Kullback-Leibler divergence that merging i and j causes, in nats per row.

    Source: Runnalls (2007).
    """
    weight, _, covariance = _merge_moments(params, i, j)
    log_dets = np.linalg.slogdet(np.stack([covariance, *params.dense_covariances[[i, j]]]))[1]
    return 0.5 * float(weight * log_dets[0] - params.weights[[i, j]] @ log_dets[1:])


def find_closest_pair(params: MixtureParams) -> tuple[float, int, int]:
    """Return the least :func:`bound_merge_loss` in nats per row, and the two components.

    Raises
    ------
    ValueError
        If there is only one component.
    """
    k = params.n_components
    return min((bound_merge_loss(params, i, j), i, j) for i in range(k) for j in range(i + 1, k))
