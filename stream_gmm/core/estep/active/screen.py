"""What tells quickly that a component is negligible for a row: labels, and one whitened coordinate for each pair.

The squared Mahalanobis distance of a row from component k is the squared norm of the whitened row ``y_k``, which is
not smaller than the square of any coordinate of ``y_k``. For rows of label l the coordinate is taken along the
whitened mean of l, ``y_k(mean_l)``: in that direction the rows of l are farthest from k.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_gmm.core.estep.active.loops import GAP
from stream_gmm.core.estep.cost import active_cost, feature_cost, screen_cost
from stream_gmm.core.model.density import Density
from stream_gmm.core.model.features import QUADRATIC_ORDER, Features
from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.scaling import Scaling

_NEAREST = 1.77
"""Expected distance of the nearest of sixteen rows from their mean, in standard deviations."""
_FEWEST = 16
"""With fewer components skipping never pays."""
_TABLE_BYTES = 32 << 20
"""Largest tables: they are sent to every worker in every pass."""
_WORTH = 0.85
"""Skipping must cost less than this share of the dense kernel: the estimate is rough."""


@dataclass(frozen=True)
class Screen:
    """The tables of :func:`~.loops.active_pass`, in the coordinates of the kernel."""

    label_weights: Array
    """``(K, 1 + D)``: scores of the features ``[1, z]``; the highest one gives the label."""
    directions: Array
    """``(K * K, 1 + D)``: the coordinate of ``y_k`` for label l in row ``l * K + k``, of the features ``[1, z]``."""
    log_norm: Array
    """Weighted log-densities ``(K,)`` at the means, in nats."""
    active: float
    """Estimated number of components that are evaluated for a row."""

    @classmethod
    def of(cls, weights: Array, density: Density, coordinates: Scaling) -> Screen:
        """Return the screen of a mixture with ``weights (K,)`` and covariance matrices."""
        log_norm, means = density.log_norm, coordinates.apply(density.means)
        whitener = coordinates.transform_whitener(density.whitener)
        k, d = means.shape
        unwhiten = np.linalg.inv(whitener)
        covariances = np.swapaxes(unwhiten, 1, 2) @ unwhiten
        # The label is that of the nearest mean in the metric of the pooled covariance.
        linear = np.linalg.solve(np.einsum("k,kij->ij", weights, covariances), means.T).T
        labels = np.column_stack([-0.5 * np.einsum("kj,kj->k", linear, means), linear])
        # Indices: label l, component k, columns i and j.
        apart = (means[None] - means[:, None]) @ whitener
        apart = np.swapaxes(apart, 0, 1)
        size = np.linalg.norm(apart, axis=2, keepdims=True)
        axes = np.divide(apart, size, out=np.zeros_like(apart), where=size > 0.0)
        axes[np.arange(k), np.arange(k), 0] = 1.0
        slopes = np.swapaxes(np.swapaxes(axes, 0, 1) @ np.swapaxes(whitener, 1, 2), 0, 1)
        constants = -np.einsum("lki,ki->lk", slopes, means)
        directions = np.concatenate([constants[:, :, None], slopes], axis=2).reshape(k * k, 1 + d)
        # The nearest of a group of rows of component l along the coordinate, and a likelihood that such rows reach.
        spread = np.linalg.norm(slopes @ np.swapaxes(unwhiten, 1, 2), axis=2)
        nearest = np.maximum(size[:, :, 0] - _NEAREST * spread, 0.0)
        possible = log_norm - 0.5 * nearest**2 >= (log_norm - 0.5 * d)[:, None] - GAP
        active = float(weights @ possible.sum(axis=1))
        return cls(np.ascontiguousarray(labels), np.ascontiguousarray(directions), np.array(log_norm), active)


def choose_screen(
    weights: Array, density: Density, features: Features, coordinates: Scaling, dtype: str, n_rows: float
) -> Screen | None:
    """Return the screen of a candidate of the feature kernels if skipping components pays, else None.

    ``n_rows`` is the number of rows of the pass; the estimate is made from the parameters alone, so that the choice
    is the same for any executor.
    """
    k, d = density.means.shape
    f, sphered = features.count(d), coordinates.root is not None
    if features.order != QUADRATIC_ORDER or dtype != "float64" or k < _FEWEST or 8 * k * k * (1 + d) > _TABLE_BYTES:
        return None
    dense, tables = feature_cost(k, d, f, sphered, dtype), screen_cost(k, d)
    if n_rows * (_WORTH * dense - active_cost(k, d, f, sphered, 1.0)) < tables:
        return None
    screen = Screen.of(weights, density, coordinates)
    gain = _WORTH * dense - active_cost(k, d, f, sphered, screen.active)
    return screen if n_rows * gain > tables else None
