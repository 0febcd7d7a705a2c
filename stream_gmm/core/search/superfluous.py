"""Signs of more components than the rows call for: a flat likelihood, and components that are empty or equal."""

from __future__ import annotations

from collections.abc import Sequence

from stream_gmm.core.fit.em import EMState, Outcome, end_state
from stream_gmm.core.fit.stopping import STALL_STEPS
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.model.split_merge import find_closest_pair, merge_components, remove_component

STALL_GAIN = 2e-2
"""A fit on the sample has stalled if ``STALL_STEPS`` have gained no more nats than this in all, over all rows."""
DUPLICATE = 1e-6
"""Two components are one if a merge loses less than this, nats per row."""


def end_stalled(states: Sequence[EMState], least_gain: float) -> list[EMState]:
    """End the fits whose objective has changed by less than ``least_gain`` nats per row in ``STALL_STEPS`` steps.

    Where a component is superfluous the likelihood is flat, and it would take thousands of steps to gain nothing that
    a choice depends on.
    """
    return [
        end_state(s, Outcome.MAX_PASSES)
        if s.live and len(o := s.objectives) > STALL_STEPS and abs(o[-1] - o[-STALL_STEPS - 1]) < least_gain
        else s
        for s in states
    ]


def reduce_superfluous(state: EMState) -> tuple[MixtureParams, str] | None:
    """Return the mixture without an empty component or with two equal ones merged, and what was done."""
    params = state.params
    if params.n_components < 2:
        return None
    loss, i, j = find_closest_pair(params)
    if state.report.starving:
        empty = state.report.starving[0]
        what = f"on the sample, component {empty} had no rows left: it was moved to a split of another"
        return remove_component(params, empty), what
    if loss < DUPLICATE:
        what = f"on the sample, components {i} and {j} were one (merging them loses {loss:.1g} nats per row)"
        return merge_components(params, i, j), f"{what}: one was moved to a split of another"
    return None
