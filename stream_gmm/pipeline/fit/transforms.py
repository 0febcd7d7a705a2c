"""From the option ``transforms`` to transforms with all their parameters, and to the profile of transformed columns.

Where a parameter is to be estimated, or a transform to be chosen, a first read of the columns as they are gives the
facts; all later passes read the transformed columns.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from stream_gmm.core.rows.transform_requests import (
    AUTO,
    TransformRequest,
)
from stream_gmm.core.rows.transforms import ColumnFacts, Transforms, label_columns, sum_log_jacobians
from stream_gmm.core.search.transform_gain import ColumnTrial, TransformGain, propose_transform
from stream_gmm.errors import ConfigError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.chunks import split_holdout
from stream_gmm.io.source.protocols import Leaf, Source, read_completely
from stream_gmm.pipeline.fit.settings import ASIDE, FIT, Settings
from stream_gmm.pipeline.fit.steps import make_profile, open_tasks
from stream_gmm.pipeline.passes.full_pass import NO_HOLDOUT
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.progress import Listener, Meter, ignore_progress
from stream_gmm.pipeline.passes.tasks import PassTasks

log = logging.getLogger(__name__)


def open_and_profile(
    source: Source, settings: Settings, executor: Executor, listener: Listener = ignore_progress
) -> tuple[PassTasks, Profile, int]:
    """Return the tasks of all passes, the profile of the columns as they are fitted, and the reads it took.

    Raises
    ------
    ConfigError
        If a transform is asked for a column that there is not, or gives all rows one value; or if rows with missing
        values are to be used.
    InputDataError
        If the data cannot be used; or a value has no transform, and the policy for missing values is ``"error"``.
    """
    requests = settings.check_columns(source.columns)
    if not requests:
        tasks = open_tasks(source, settings, executor)
        return tasks, make_profile(source, tasks, settings, executor, listener), 1
    facts, reads = None, 0
    if not all(r.is_complete for r in requests.values()):
        facts, reads = _read_untransformed(source, settings, executor, listener), 1
    while True:
        transforms, gains = _complete_requests(requests, facts, settings, executor)
        transformed = source.with_transforms(transforms)
        tasks = open_tasks(transformed, settings, executor)
        profile = replace(make_profile(transformed, tasks, settings, executor, listener), transform_gains=gains)
        reads += 1
        same = {c.name for c in profile.constants}
        same |= {profile.columns[j] for j in np.flatnonzero(profile.low == profile.high)}
        constant = [t.name for t in transforms if t.name in same]
        if settings.constants != ASIDE or not constant:
            break
        if facts is not None:
            raise ConfigError(
                explain(
                    f"transforms: {', '.join(label_columns(constant, transforms))} has the same value in all rows",
                    remedy="choose wider limits, or leave the transform or the column out",
                )
            )
        facts, reads = _read_untransformed(source, settings, executor, listener), reads + 1
    if profile.is_partial and transforms:
        total = _sum_log_jacobians(tasks, profile, executor, listener)
        profile, reads = replace(profile, log_jacobian=total), reads + 1
    return tasks, profile, reads


def count_profile_reads(requests: Mapping[str, TransformRequest], settings: Settings) -> int:
    """Return how many reads a profile takes: for the facts of transforms, its own, and for log-Jacobians."""
    facts = not all(r.is_complete for r in requests.values())
    return 1 + facts + bool(requests and settings.profile != "full")


def _read_untransformed(source: Source, settings: Settings, executor: Executor, listener: Listener) -> Profile:
    plain = replace(settings, constants=FIT, cache="none", cache_bytes=None)
    return make_profile(source, open_tasks(source, plain, executor), plain, executor, listener)


def _complete_requests(
    requests: Mapping[str, TransformRequest], facts: Profile | None, settings: Settings, executor: Executor
) -> tuple[Transforms, tuple[TransformGain, ...]]:
    """Return the transforms with all parameters, and what those that were to be chosen gain.

    A column with one value is set aside, and needs no transform.
    """
    if facts is None:
        return tuple(r.complete(name) for name, r in requests.items()), ()
    proposals, given = [], {}
    for name, request in requests.items():
        j = facts.columns.index(name)
        if settings.constants == ASIDE and facts.low[j] == facts.high[j]:
            continue
        sample, weights, others = facts.sample.rows[:, j], facts.sample.weights, facts.validation.rows[:, j]
        there = ~np.isnan(sample)
        weights = weights[there] if len(weights) else weights
        known = ColumnFacts(float(facts.mean[j]), float(facts.variances[j] ** 0.5), sample[there], weights)
        if request.kind == AUTO:
            # A sample that holds every row leaves none to compare on: then its halves are compared.
            fitted, others, half = known.values, others[~np.isnan(others)], len(known.values) // 2
            if len(others) < half:
                fitted, others = fitted[:half], fitted[half:]
            # Of rows that were not read, nothing is known: every number must have a transform.
            limits = (-np.inf, np.inf) if facts.is_partial else (float(facts.low[j]), float(facts.high[j]))
            proposals.append(ColumnTrial(name, replace(known, values=fitted), others, limits))
        else:
            given[name] = request.complete(name, known)
    found = (
        executor.map(propose_transform, proposals, shared=settings.random_state, label="transforms")
        if proposals
        else []
    )
    gains = tuple(g for g in found if g is not None)
    for gain in gains:
        log.info("transform of %s: %s", gain.transform.name, gain)
    chosen = given | {g.transform.name: g.transform for g in gains if g.adopted}
    return tuple(chosen[name] for name in requests if name in chosen), gains


@dataclass(frozen=True)
class _JacobianTask:
    columns: tuple[str, ...]
    places: tuple[int, ...]
    transforms: Transforms


def _sum_log_jacobians(tasks: PassTasks, profile: Profile, executor: Executor, listener: Listener) -> float:
    """Return the log-Jacobian of all rows, which a profile of some rows does not know; one read."""
    shared = _JacobianTask(profile.columns, profile.places, profile.transforms)
    meter = Meter(listener, "transforms", list(tasks.rows))
    total: float = executor.map_reduce(
        _sum_in_leaf, operator.add, tasks.items, shared=shared, label="transforms", on_done=meter
    )  # fmt: skip
    return total


def _sum_in_leaf(leaf: Leaf, task: _JacobianTask) -> float:
    total = 0.0
    for chunk in read_completely(leaf):
        part = split_holdout(chunk, NO_HOLDOUT, task.places)
        total += sum_log_jacobians(part.rows, part.weights, task.columns, task.transforms)
    return total
