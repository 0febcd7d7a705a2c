"""Splits, merges and removes components: the steps of a search over K, the number of components."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams

Places = NDArray[np.intp]
_STACKED_VALUES = 1 << 20
"""Values of matrices of pairs that are computed together."""
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


def rank_pairs(params: MixtureParams) -> list[tuple[float, int, int]]:
    """Return all pairs of components by what a merge loses at most, the least first: nats per row, and the two.

    It is an upper bound on the Kullback-Leibler divergence that the merge causes (Runnalls 2007).
    """
    one, other = np.triu_indices(params.n_components, 1)
    own = np.linalg.slogdet(params.dense_covariances)[1]
    step = max(_STACKED_VALUES // params.n_features**2, 1)
    blocks = [slice(lo, lo + step) for lo in range(0, len(one), step)]
    losses = [_bound_losses(params, own, one[block], other[block]) for block in blocks]
    return sorted(zip(np.concatenate([*losses, []]).tolist(), one.tolist(), other.tolist(), strict=True))


def _bound_losses(params: MixtureParams, log_dets: Array, one: Places, other: Places) -> Array:
    """Return what merges lose at most, ``(P,)``, of pairs ``(P,)`` of components with these log-determinants."""
    matrices, means, weights = params.dense_covariances, params.means, params.weights
    both = weights[one] + weights[other]
    share = np.divide(weights[one], both, out=np.full(len(both), 0.5), where=both > 0.0)[:, None, None]
    delta = means[one] - means[other]
    between = share * (1.0 - share) * (delta[:, :, None] * delta[:, None, :])
    merged = np.linalg.slogdet(share * matrices[one] + (1.0 - share) * matrices[other] + between)[1]
    return np.asarray(0.5 * (both * merged - weights[one] * log_dets[one] - weights[other] * log_dets[other]))


def find_closest_pair(params: MixtureParams) -> tuple[float, int, int]:
    """Return the first of :func:`rank_pairs`.

    Raises
    ------
    ValueError
        If there is only one component.
    """
    if params.n_components < 2:
        raise ValueError("a pair needs two components")
    return rank_pairs(params)[0]
