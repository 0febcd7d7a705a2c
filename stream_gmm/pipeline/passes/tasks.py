"""The tasks of a pass: the leaves of a data set, or the decoded rows of those leaves that workers have cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from stream_gmm.errors import ConfigError, one_of
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.cache import DISK, MEMORY, NONE, cache_leaf
from stream_gmm.io.source.protocols import Leaf, Source

AUTO = "auto"
CACHES = (AUTO, NONE, MEMORY, DISK)
AUTO_MEMORY_BYTES = 32 << 20
"""With ``cache="auto"``: bytes a worker that stay in memory. More goes to the worker's scratch folder, so that its
memory does not grow with the data."""
MEMORY_SHARE = 0.25
"""Largest share of the workers' memory that ``cache="memory"`` fills, unless ``cache_bytes`` says otherwise."""
SAMPLE_READ_FACTOR = 5
"""How many times the rows of the sample are read when the profile reads only some leaves."""
MIN_SAMPLE_LEAVES = 8


@dataclass(frozen=True)
class CachePolicy:
    """Where decoded rows stay between passes, and the largest number of bytes that do (None: by the mode)."""

    cache: str = AUTO
    cache_bytes: int | None = None

    def __post_init__(self) -> None:
        one_of(self.cache, CACHES, "cache")
        if self.cache_bytes is not None and self.cache_bytes < 0:
            raise ConfigError("cache_bytes must not be negative.")


@dataclass(frozen=True)
class PassTasks:
    """The tasks of a pass.

    Attributes
    ----------
    items
        Leaves, or an executor's handles to cached leaves.
    rows
        Rows of each item.
    cache_mode
        How rows were to be cached: ``"none"``, ``"memory"`` or ``"disk"``.
    """

    items: Sequence[Any]
    rows: tuple[int, ...]
    cache_mode: str


def plan_tasks(source: Source, leaves: Sequence[Leaf], executor: Executor, policy: CachePolicy) -> PassTasks:
    """Return the leaves as tasks of the coming passes, cached by the first of them as the policy says.

    The results have the same bits whatever the policy.
    """
    rows = tuple(leaf.rows for leaf in leaves)
    sizes = [8 * len(source.columns) * n for n in rows]
    cache_mode = policy.cache
    if cache_mode == AUTO:
        fits_memory = sum(sizes) <= AUTO_MEMORY_BYTES * executor.n_workers
        cache_mode = MEMORY if fits_memory else NONE if source.resident else DISK
    if cache_mode == NONE:
        return PassTasks(leaves, rows, NONE)
    budget: float
    if policy.cache_bytes is not None:
        budget = policy.cache_bytes
    else:
        budget = MEMORY_SHARE * executor.memory_bytes if cache_mode == MEMORY else float("inf")
    modes = [cache_mode if upto <= budget else NONE for upto in accumulate(sizes)]
    return PassTasks(executor.keep(cache_leaf, list(zip(leaves, modes, strict=True)), label="load"), rows, cache_mode)


def draw_tasks(source: Source, wanted: int, seed: int) -> PassTasks:
    """Return tasks of row groups drawn at random, in their order: some times as many rows as ``wanted``."""
    leaves = source.small_leaves()
    order = np.random.default_rng([seed, 2]).permutation(len(leaves))
    enough = int(np.searchsorted(np.cumsum([leaves[i].rows for i in order]), SAMPLE_READ_FACTOR * wanted)) + 1
    chosen = [leaves[i] for i in sorted(order[: max(enough, MIN_SAMPLE_LEAVES)].tolist())]
    return PassTasks(chosen, tuple(leaf.rows for leaf in chosen), NONE)
