"""What a pass reads: the leaves of a data set, or what is kept of them since the first pass."""

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
# Up to this much a worker is kept in memory without being asked; more goes to its scratch folder, so that
# the memory of a worker does not grow with the data.
AUTO_MEMORY_BYTES = 32 << 20
MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class CachePolicy:
    """``cache``: where decoded rows stay between passes; ``cache_bytes``: at most how many of them."""

    cache: str = AUTO
    cache_bytes: int | None = None

    def __post_init__(self) -> None:
        one_of(self.cache, CACHES, "cache")
        if self.cache_bytes is not None and self.cache_bytes < 0:
            raise ConfigError("cache_bytes must not be negative.")


@dataclass(frozen=True)
class PassTasks:
    """The tasks of a pass: leaves, or an executor's handles to kept leaves; and the rows of each."""

    items: Sequence[Any]
    rows: tuple[int, ...]
    cache_mode: str
    """How rows were meant to be kept."""


def plan_tasks(source: Source, leaves: Sequence[Leaf], executor: Executor, policy: CachePolicy) -> PassTasks:
    """Return the leaves as tasks of the passes to come, kept after the first of them as the policy says.

    Results are the same bits whatever the policy.
    """
    rows = tuple(leaf.rows for leaf in leaves)
    sizes = [8 * len(source.columns) * n for n in rows]
    cache_mode = _choose_cache_mode(source, sum(sizes), executor, policy)
    if cache_mode == NONE:
        return PassTasks(leaves, rows, NONE)
    budget = _cache_budget(cache_mode, executor, policy)
    modes = [cache_mode if upto <= budget else NONE for upto in accumulate(sizes)]
    return PassTasks(executor.keep(cache_leaf, list(zip(leaves, modes, strict=True)), label="load"), rows, cache_mode)


def _choose_cache_mode(source: Source, size: int, executor: Executor, policy: CachePolicy) -> str:
    if policy.cache != AUTO:
        return policy.cache
    if size <= AUTO_MEMORY_BYTES * executor.n_workers:
        return MEMORY
    return NONE if source.resident else DISK


def _cache_budget(mode: str, executor: Executor, policy: CachePolicy) -> float:
    if policy.cache_bytes is not None:
        return policy.cache_bytes
    return MEMORY_SHARE * executor.memory_bytes if mode == MEMORY else float("inf")


SAMPLE_READ_FACTOR = 5
"""How many times the rows of a sample are read where it is drawn from some of the data."""
MIN_SAMPLE_LEAVES = 8


def draw_tasks(source: Source, wanted: int, seed: int) -> PassTasks:
    """Return a reading of row groups drawn at random, with some times as many rows as wanted, in their order."""
    pieces = source.small_leaves()
    order = np.random.default_rng([seed, 2]).permutation(len(pieces))
    enough = int(np.searchsorted(np.cumsum([pieces[i].rows for i in order]), SAMPLE_READ_FACTOR * wanted)) + 1
    chosen = [pieces[i] for i in sorted(order[: max(enough, MIN_SAMPLE_LEAVES)].tolist())]
    return PassTasks(chosen, tuple(p.rows for p in chosen), NONE)
