"""A quasi-Newton method on EM's own terms: limited-memory BFGS in the coordinates of :class:`.Chart`.

In these coordinates the information of the complete data is the identity, so the EM step is the gradient, already
preconditioned (Lange 1995; Jamshidian & Jennrich 1997). The pairs of steps and changes of the gradient then hold only
what EM does not know: the information that is missing. Where components overlap or are superfluous EM needs hundreds
of steps along a flat valley, and this method some tens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from stream_gmm.core.fit.coordinates import Chart
from stream_gmm.core.fit.em import EMState, Proposal, Scheme
from stream_gmm.core.fit.stopping import predict_gain
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.stats import SuffStats

PAIRS = 20
"""Pairs that are kept."""
CENTRED_STEPS = 40
"""The chart is centred anew after so many steps: far from its centre the EM step is a poor gradient."""
SHORTER, TRIES = 0.25, 3
"""A step that is not accepted is shortened by this factor, for so many tries in all; then an EM step follows."""
LEAST_CURVATURE = 1e-10


@dataclass(frozen=True)
class Curvature:
    """What the method remembers: where it stands, the gradient there, the pairs, and the step under trial."""

    chart: Chart
    point: Array
    gradient: Array
    pairs: tuple[tuple[Array, Array], ...] = ()
    """Steps, and the changes of the gradient along them (with the sign of a minimisation)."""
    steps: int = 0
    direction: Array | None = None
    length: float = 1.0
    tries: int = 1

    def move_to(self, point: Array, gradient: Array) -> Curvature:
        """Return the memory at the next accepted point; a pair without curvature is left out."""
        step, change = point - self.point, self.gradient - gradient
        pairs = self.pairs
        if step @ change > LEAST_CURVATURE * np.linalg.norm(step) * np.linalg.norm(change):
            pairs = (*pairs, (step, change))[-PAIRS:]
        return Curvature(self.chart, point, gradient, pairs, self.steps + 1)

    def compute_direction(self) -> Array:
        """Return the quasi-Newton step by the two-loop recursion (Nocedal 1980); the EM step without pairs."""
        out, weights = self.gradient.copy(), []
        for step, change in reversed(self.pairs):
            weights.append(float(step @ out / (change @ step)))
            out -= weights[-1] * change
        if self.pairs:
            step, change = self.pairs[-1]
            out *= step @ change / (change @ change)
        for (step, change), weight in zip(self.pairs, reversed(weights), strict=True):
            out += step * (weight - change @ out / (change @ step))
        return out if out @ self.gradient > 0.0 else self.gradient


@dataclass(frozen=True)
class QuasiNewton:
    """Limited-memory BFGS with the EM step as the gradient. ``state.memory`` holds the :class:`Curvature`."""

    costly: ClassVar[bool] = False
    needs_confirmation: ClassVar[bool] = True

    def propose_after_acceptance(self, state: EMState, em: MixtureParams, scheme: Scheme) -> Proposal:
        at, _ = state.accepted_point
        memory = state.memory
        if memory is None or memory.steps >= CENTRED_STEPS:
            chart = Chart(at)
            memory = Curvature(chart, np.zeros_like(chart.vector(at)), chart.vector(em))
        else:
            point = memory.chart.vector(at)
            memory = memory.move_to(point, memory.chart.vector(em) - point)
        if not memory.pairs:
            return Proposal(em, is_plain_step=True, memory=memory)
        direction = memory.compute_direction()
        return Proposal(
            memory.chart.params(memory.point + direction),
            predict_gain(memory.gradient, direction, state.slope),
            memory=replace(memory, direction=direction),
        )

    def propose_after_rejection(self, state: EMState, stats: SuffStats, scheme: Scheme) -> Proposal:
        memory = state.memory
        if memory.tries >= TRIES:
            at, before = state.accepted_point
            return Proposal(mstep(before, at.family, scheme.penalty, at)[0], is_plain_step=True)
        memory = replace(memory, length=SHORTER * memory.length, tries=memory.tries + 1)
        return Proposal(memory.chart.params(memory.point + memory.length * memory.direction), memory=memory)


QUASI_NEWTON = QuasiNewton()
