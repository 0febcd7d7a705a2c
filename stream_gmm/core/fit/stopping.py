"""What remains to be gained: predictions of EM's limit from its last steps, and signs that it has not converged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams

SAFETY = 2.0
"""Factor on an extrapolated gain."""
SAFETY_OF_LENGTHS = 5.0
"""Factor on an extrapolated way, with a ridge: behind the directions that show there are often slower ones."""
SLOW_RATE = 0.99
"""The gains of plain EM are assumed to shrink by no more than this factor in each step."""
SLOWEST_RATE = 0.98
"""Directions in which no step has been seen yet are assumed to shrink by a fiftieth in each EM step."""
LEAST_STEPS = 50.0
"""With a ridge, the way to the fixed point is assumed to be at least so many of the next EM step."""
NO_STEP = 1e-7
"""With a ridge, an EM step of no more than this length is rounding."""
RISING_STEPS = 10.0
"""With a ridge, a rise of the ratio of two EM steps is assumed to go on for so many more."""
STALL_STEPS = 50
"""A fit on the sample has stalled if so many steps have gained next to nothing."""
NO_SHARE, SMALL_SHARE = 1e-12, 1e-2
"""Between these weights, a component that grows shows that a fit has not converged."""


def aitken_gain(values: Sequence[float]) -> float:
    """Return the gain of the objective that remains by Aitken's rule, nats per row; inf if unknown.

    A geometric tail with ratio a = d_t / d_{t-1} has ``d_t a / (1 - a)`` left to gain
    (McLachlan & Krishnan 2008, section 4.9).
    """
    if len(values) < 3:
        return np.inf
    last, before = values[-1] - values[-2], values[-2] - values[-3]
    if last <= 1e-13 * abs(values[-1]):
        return 0.0
    ratio = last / before if before > 0.0 else np.inf
    return last * ratio / (1.0 - ratio) if ratio < 1.0 else np.inf


def cautious_aitken_gain(values: Sequence[float]) -> float:
    """Return twice :func:`aitken_gain`, but at least what remains at a rate of 0.99 per step.

    While a fast direction still dominates the gains, their ratio is too small for the slower ones behind it, and on a
    plateau it can rise above 1 later.
    """
    slow = (values[-1] - values[-2]) * SLOW_RATE / (1.0 - SLOW_RATE) if len(values) > 1 else np.inf
    return max(SAFETY * aitken_gain(values), slow)


def predict_gain(step: Array, to_optimum: Array, slope: float = 0.0) -> float:
    """Return the gain of moving to the optimum, nats per row, in the coordinates of :class:`.Chart`.

    There the information of the complete data is the identity, so that the EM step is the gradient, and the gain
    of a quadratic objective is half its product with the way to the optimum. ``slope`` is the change of the
    log-likelihood per unit of length where it has no maximum at the fixed point (with a ridge).
    """
    gain = max(0.5 * float(step @ to_optimum), 0.5 * float(step @ step) / (1.0 - SLOWEST_RATE))
    distance = max(float(np.linalg.norm(to_optimum)), float(np.linalg.norm(step)) * LEAST_STEPS)
    return max(gain, slope * distance)


def predict_gain_by_lengths(lengths: Sequence[float], slope: float) -> float:
    """Return :func:`predict_gain` for EM steps of these lengths, which shrink geometrically; inf if unknown.

    A ratio that still rises is extrapolated: if that leads to 1, the steps are about to grow, as beside a saddle.
    """
    if lengths and lengths[-1] <= NO_STEP:
        return 0.0
    if len(lengths) < 3:
        return np.inf
    ratio, before = lengths[-1] / lengths[-2], lengths[-2] / lengths[-3]
    ratio = max(ratio, before) + RISING_STEPS * max(ratio - before, 0.0)
    if ratio >= 1.0:
        return np.inf
    step = np.array([lengths[-1]])
    return predict_gain(step, SAFETY_OF_LENGTHS * step / (1.0 - ratio), slope)


def is_fixed_point(a: MixtureParams, b: MixtureParams) -> bool:
    """Return True if an EM step from one point to the other is no more than rounding."""
    sd = np.sqrt(np.einsum("kjj->kj", b.dense_covariances))
    return bool(
        np.all(np.abs(a.means - b.means) <= 1e-9 * sd)
        and np.all(np.abs(a.weights - b.weights) <= 1e-9)
        and np.allclose(a.covariances, b.covariances, rtol=1e-8, atol=0.0)
    )


def has_growing_share(params: MixtureParams, em: MixtureParams) -> bool:
    """Return True if a component of almost no weight, or the noise, grows by more than a tenth in one EM step.

    EM leaves such a point only slowly, with gains as small as the weight: they do not mean that it has converged.
    """
    before, after = (np.append(p.weights, p.noise_weight) for p in (params, em))
    return bool(np.any((before > NO_SHARE) & (before < SMALL_SHARE) & (after > 1.1 * before)))
