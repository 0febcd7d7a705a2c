"""Methods that accelerate EM. Each implements :class:`stream_gmm.core.fit.em.Method`.

``anderson`` combines the last steps (Walker & Ni 2011; for EM: Henderson & Varadhan 2019). ``squarem`` extrapolates
from two steps (Varadhan & Roland 2008, scheme SqS3). ``auto`` combines steps that were continued on the sample
(:mod:`.surrogate`), and makes a SQUAREM cycle whenever such a proposal is rejected. ``lbfgs``, which serves the fits
on the sample, is in :mod:`.quasi_newton`. All of them extrapolate in the coordinates of :mod:`.coordinates`, where
every vector is a valid mixture. The safeguard costs no extra pass: the pass that evaluates a proposal also decides
whether it is accepted (:mod:`.em`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.coordinates import Chart
from stream_gmm.core.fit.em import PLAIN_EM, EMState, Method, Proposal, Scheme
from stream_gmm.core.fit.quasi_newton import QUASI_NEWTON
from stream_gmm.core.fit.stopping import SLOWEST_RATE, predict_gain, predict_gain_by_lengths
from stream_gmm.core.fit.surrogate import guaranteed_gain, run_inner_steps
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.stats import SuffStats

MEMORY = 8
"""Number of differences that Anderson acceleration combines."""
_MIXING_RIDGE = 1e-7
"""Ridge of the least squares of Anderson acceleration, relative to the largest squared singular value."""
INNER_STEPS = 10
"""Largest number of steps on the sample between two passes."""


def take_em_step(params: MixtureParams, stats: SuffStats, scheme: Scheme) -> MixtureParams:
    """Return the parameters after one EM step from ``params``, whose statistics are ``stats``."""
    return mstep(stats, params.family, scheme.penalty, params)[0]


@dataclass(frozen=True)
class Secants:
    """Points and their images under the map to be accelerated (such as an EM step), as vectors of one chart."""

    chart: Chart
    points: tuple[Array, ...] = ()
    images: tuple[Array, ...] = ()

    def append(self, point: MixtureParams, image: MixtureParams) -> Secants:
        """Return the secants with one more pair; only the last ``MEMORY + 1`` pairs are kept."""
        points = (*self.points, self.chart.vector(point))[-MEMORY - 1 :]
        return replace(self, points=points, images=(*self.images, self.chart.vector(image))[-MEMORY - 1 :])

    def extrapolate(self) -> Array:
        """Return the next point of Anderson acceleration, as a vector of the chart.

        It is the combination of the images whose combined step (image minus point) is smallest, by least squares
        with a ridge.
        """
        images = np.array(self.images)
        steps = images - np.array(self.points)
        if len(steps) < 2:
            return np.asarray(images[-1])
        step_differences, image_differences = np.diff(steps, axis=0), np.diff(images, axis=0)
        u, s, vt = np.linalg.svd(step_differences.T, full_matrices=False)
        gamma = vt.T @ (s / (s**2 + _MIXING_RIDGE * s[0] ** 2 + 1e-300) * (u.T @ steps[-1]))
        return np.asarray(images[-1] - gamma @ image_differences)


@dataclass(frozen=True)
class Anderson:
    """Anderson acceleration of EM. ``state.memory`` holds the :class:`Secants`."""

    costly: ClassVar[bool] = False
    needs_confirmation: ClassVar[bool] = True

    def propose_after_acceptance(self, state: EMState, em: MixtureParams, scheme: Scheme) -> Proposal:
        at, _ = state.accepted_point
        secants = state.memory or Secants(Chart(at))
        secants = secants.append(at, em)
        target = secants.extrapolate()
        predicted_gain = np.inf
        if len(secants.points) > 1:
            step = secants.images[-1] - secants.points[-1]
            predicted_gain = predict_gain(step, target - secants.points[-1], state.slope)
        return Proposal(
            secants.chart.params(target), predicted_gain, is_plain_step=len(secants.points) == 1, memory=secants
        )

    def propose_after_rejection(self, state: EMState, stats: SuffStats, scheme: Scheme) -> Proposal:
        secants = state.memory.append(state.params, take_em_step(state.params, stats, scheme))
        return Proposal(take_em_step(*state.accepted_point, scheme), is_plain_step=True, memory=secants)


@dataclass(frozen=True)
class SquaremCycle:
    """Progress of a SQUAREM cycle: ``stage`` EM steps were made from the reference of the chart."""

    stage: int = 0
    chart: Chart | None = None
    second: MixtureParams | None = None
    """The point after the second EM step, which follows if the extrapolation is rejected."""
    cap: float = 4.0
    """Largest step length; it grows while it is reached and shrinks after a rejection."""


@dataclass(frozen=True)
class Squarem:
    """Squared extrapolation: two EM steps, one extrapolation, and the EM step from there.

    ``state.memory`` holds the :class:`SquaremCycle`.
    """

    costly: ClassVar[bool] = False
    needs_confirmation: ClassVar[bool] = True

    def propose_after_acceptance(self, state: EMState, em: MixtureParams, scheme: Scheme) -> Proposal:
        at, _ = state.accepted_point
        cycle = state.memory or SquaremCycle()
        if cycle.stage != 1 or cycle.chart is None:
            return Proposal(em, is_plain_step=True, memory=SquaremCycle(1, Chart(at), cap=cycle.cap))
        r, second = cycle.chart.vector(at), cycle.chart.vector(em)
        v = second - 2.0 * r
        longest = float(np.linalg.norm(r)) / max(float(np.linalg.norm(v)), 1e-300)
        length = min(max(longest, 1.0), cycle.cap)
        target = 2.0 * length * r + length**2 * v
        predicted_gain = predict_gain(second - r, target - r, state.slope)
        if length == 1.0:
            return Proposal(em, predicted_gain, is_plain_step=True, memory=SquaremCycle(cap=cycle.cap))
        cap = 4.0 * cycle.cap if length == cycle.cap else cycle.cap
        return Proposal(cycle.chart.params(target), predicted_gain, memory=SquaremCycle(2, second=em, cap=cap))

    def propose_after_rejection(self, state: EMState, stats: SuffStats, scheme: Scheme) -> Proposal:
        return Proposal(
            state.memory.second, is_plain_step=True, memory=SquaremCycle(cap=max(4.0, state.memory.cap / 16.0))
        )


@dataclass(frozen=True)
class Auto:
    """Anderson acceleration of EM steps that are continued on the sample; a SQUAREM cycle after a rejection.

    ``sample`` is the E-step over a uniform sample of the rows. ``state.memory`` holds the :class:`Secants`, or the
    :class:`SquaremCycle` during a cycle.
    """

    sample: InMemoryEStep
    costly: ClassVar[bool] = True
    needs_confirmation: ClassVar[bool] = False  # plain EM steps on the sample show the slow directions

    def inner_step_count(self, rows: float) -> int:
        """Return the number of steps on the sample between two passes over so many rows.

        Together they cost at most about as much arithmetic as a pass. The number is the same for all proposals of a
        fit; otherwise the secants would belong to different maps.
        """
        n = len(self.sample.rows)
        return INNER_STEPS if n >= rows else int(np.clip(rows // n, 3, INNER_STEPS))

    def propose_after_acceptance(self, state: EMState, em: MixtureParams, scheme: Scheme) -> Proposal:
        at, stats = state.accepted_point
        memory, of_step = state.memory, 0.0
        if scheme.penalty.has_objective:  # steps on the sample may leave slow directions alone
            of_penalty = scheme.penalty.value(em) - scheme.penalty.value(at)
            of_step = (guaranteed_gain(stats, at, em) + of_penalty / stats.rows) / (1.0 - SLOWEST_RATE)
            if not state.n_iter and max(state.left, of_step) <= scheme.tolerance(state):
                return Proposal(em, max(state.left, of_step), is_plain_step=True)
        if isinstance(memory, SquaremCycle) and memory.stage == 1:
            # Two steps tell too little to stop by them; the next steps on the sample will.
            return replace(SQUAREM.propose_after_acceptance(state, em, scheme), predicted_gain=np.inf)
        secants = memory if isinstance(memory, Secants) else Secants(Chart(at))
        tol = 0.01 * scheme.tolerance(state)
        image = run_inner_steps(
            at, stats, self.sample.evaluate, scheme.penalty, self.inner_step_count(stats.rows), tol
        )
        secants = secants.append(at, image.params)
        params = secants.chart.params(secants.extrapolate()) if len(secants.points) > 1 else image.params
        predicted_gain = image.predicted_gain
        if not scheme.penalty.has_objective:
            chart, slope = Chart(at), max(state.slope, image.slope)
            of_lengths = 0.0 if len(image.lengths) < 2 else predict_gain_by_lengths(image.lengths, slope)
            predicted_gain = max(of_lengths, predict_gain(chart.vector(em), chart.vector(image.params), slope))
        predicted_gain = max(predicted_gain, of_step)
        return Proposal(params, predicted_gain, memory=secants)

    def propose_after_rejection(self, state: EMState, stats: SuffStats, scheme: Scheme) -> Proposal:
        if isinstance(state.memory, SquaremCycle):
            return SQUAREM.propose_after_rejection(state, stats, scheme)
        at, before = state.accepted_point
        return Proposal(take_em_step(at, before, scheme), is_plain_step=True, memory=SquaremCycle(1, Chart(at)))


ANDERSON = Anderson()
SQUAREM = Squarem()
METHODS: dict[str, Method] = {
    "none": PLAIN_EM, "anderson": ANDERSON, "squarem": SQUAREM, "lbfgs": QUASI_NEWTON
}  # fmt: skip
"""The methods that need no sample, by name."""
