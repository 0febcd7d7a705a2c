"""Which component of one mixture is which of another: an optimal assignment."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from stream_gmm.core.moments import Array
from stream_gmm.core.params import MixtureParams


def bhattacharyya(a: MixtureParams, b: MixtureParams) -> Array:
    """Return the distances ``(K_a, K_b)`` between components, as Gaussians (Bhattacharyya 1943)."""
    ca, cb = a.dense_covariances[:, None], b.dense_covariances[None]
    mid = 0.5 * (ca + cb)
    delta = a.means[:, None] - b.means[None]
    solved = np.linalg.solve(mid, delta[..., None])[..., 0]
    log_dets = [np.linalg.slogdet(c)[1] for c in (mid, ca, cb)]
    spread = log_dets[0] - 0.5 * (log_dets[1] + log_dets[2])
    return np.asarray(0.125 * np.einsum("abj,abj->ab", delta, solved) + 0.5 * spread)


def match(new: MixtureParams, reference: MixtureParams) -> list[tuple[int, int, float]]:
    """Return pairs ``(component of new, component of reference, distance)`` of least total distance."""
    distance = bhattacharyya(new, reference)
    rows, columns = linear_sum_assignment(distance)
    return [(int(i), int(j), float(distance[i, j])) for i, j in zip(rows, columns, strict=True)]
