"""What remains to be gained: predictions of EM's limit from its last steps, and signs that it has not converged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba.extending import register_jitable

from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams

SAFETY = 2.0
"""Factor on an extrapolated gain."""
SAFETY_OF_LENGTHS = 5.0
"""Factor on an extrapolated way, with a ridge: behind the directions that show there are often slower ones."""
ROUNDING = 1e-13
"""Gains of no more than this part of the objective are rounding."""
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
RISING_GAINS = 2.0
"""A rise of the ratio of two gains is assumed to go on for so many more steps."""
FLATTEST_RATE = 0.999
"""Gains whose ratio is about to reach 1 are assumed to shrink by no more than this factor in each step."""
STALL_STEPS = 50
"""A fit on the sample has stalled if so many steps have gained next to nothing."""
NO_SHARE, SMALL_SHARE = 1e-12, 1e-2
"""Between these weights, a component that grows shows that a fit has not converged."""


@register_jitable  # type: ignore[untyped-decorator]
def extrapolate_gains(last: float, before: float, earlier: float) -> float:
    """Return what is left of gains whose last three these are; inf if they do not shrink.

    With the ratio a of the last two, a geometric tail has ``last a / (1 - a)`` left. A ratio that rises is assumed to
    rise on: beside a saddle the gains shrink for a while before they grow. ``earlier`` is 0 if it is not known.
    """
    if last <= 0.0:
        return 0.0
    if last >= before:
        return np.inf
    ratio = last / before
    if earlier > 0.0:
        ratio = min(ratio + RISING_GAINS * max(ratio - before / earlier, 0.0), max(ratio, FLATTEST_RATE))
    return last * ratio / (1.0 - ratio)


@register_jitable  # type: ignore[untyped-decorator]
def bound_plain_gain(last: float, before: float, earlier: float) -> float:
    """Return what plain EM has left to gain, with caution, after three gains of an objective; inf if unknown.

    It is twice what the ratio of the last two leaves (Aitken's rule; McLachlan & Krishnan 2008, section 4.9), at
    least what :func:`extrapolate_gains` returns, and what remains at a rate of 0.99 per step: while a fast direction
    still dominates the gains, their ratio is too small for the slower ones behind it.
    """
    slow = max(last, 0.0) * SLOW_RATE / (1.0 - SLOW_RATE)
    by_ratio, rising = extrapolate_gains(last, before, 0.0), extrapolate_gains(last, before, earlier)
    return float(max(SAFETY * by_ratio, rising, slow))


def bound_remaining_gain(objectives: Sequence[float]) -> float:
    """Return :func:`bound_plain_gain` for the objectives of plain EM, nats per row; inf without three of them.

    A last gain that is no more than rounding counts as none.
    """
    if len(objectives) < 3:
        return np.inf
    gains = np.diff(objectives[-4:])[::-1].tolist()
    if gains[0] <= ROUNDING * abs(objectives[-1]):
        return 0.0
    return float(bound_plain_gain(gains[0], gains[1], gains[2] if len(gains) > 2 else 0.0))


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
