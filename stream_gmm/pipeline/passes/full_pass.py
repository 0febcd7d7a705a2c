"""Where the executor, the data and the E-step meet: one read of the data serves all candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream_gmm.core.estep.accumulate import accumulate_stats, add_heldout, complete_stats, merge_each
from stream_gmm.core.estep.batch import Batch, StackedStats, compile_batch
from stream_gmm.core.estep.kernel_choice import ANY_KERNEL, WHITENED, KernelPreference
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.constants import Constant, find_unlike
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.rows.sampling import Holdout
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import InputDataError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.chunks import Chunk, split_holdout
from stream_gmm.io.source.protocols import Leaf, read_completely
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.progress import Listener, Meter, ignore_progress
from stream_gmm.pipeline.passes.tasks import PassTasks

NO_HOLDOUT = Holdout()
STATISTICS_BYTES = 128 << 20
"""Largest size of the statistics of all candidates in one task; larger batches are split into several reads."""


@dataclass(frozen=True)
class _PassShared:
    """What every task of a pass needs."""

    batch: Batch
    with_moments: bool
    """Whether the tasks also take the moments of the rows."""
    holdout: Holdout
    columns: tuple[int, ...] = ()
    """Positions of the columns to fit among those read; empty: all."""
    presumed: tuple[Constant, ...] = ()
    """Columns that are constant in the rows of a profile which did not read all rows."""


@dataclass(frozen=True)
class PassStats:
    """The statistics that a pass gathers; a monoid under :meth:`merge`.

    Attributes
    ----------
    groups
        Statistics of every group of candidates that share a kernel.
    moments
        Moments of the rows, if some structure needs them and the profile does not know them.
    heldout
        Log-likelihood ``(C,)`` of the held-out rows for the candidates of each group.
    """

    groups: tuple[StackedStats, ...]
    moments: SuffStats
    heldout: tuple[Array, ...]

    def merge(self, other: PassStats) -> PassStats:
        """Return the statistics of both sets of rows."""
        heldout = tuple(a + b for a, b in zip(self.heldout, other.heldout, strict=True))
        return PassStats(merge_each(self.groups, other.groups), self.moments.merge(other.moments), heldout)


def collect_leaf_stats(leaf: Leaf, shared: _PassShared) -> PassStats:
    """Return the statistics of the rows of one leaf.

    Raises
    ------
    InputDataError
        If a file has fewer rows than its footer says, or a column that was set aside as constant is not.
    """
    batch, no_moments = shared.batch, SuffStats.zero(1, 1, FULL)
    no_groups = batch.no_stats
    no_sums = tuple(np.zeros(len(g.layout.index)) for g in (*batch.groups, *batch.marginal))
    out = PassStats(no_groups, no_moments, no_sums)
    for chunk in read_completely(leaf):
        if shared.presumed:
            _refuse_unlike(chunk, shared.presumed)
        part = split_holdout(chunk, shared.holdout, shared.columns)
        rows, heldout = part.rows, part.heldout
        groups = accumulate_stats(batch, rows, part.weights) if len(rows) else no_groups
        moments = collect_moments(rows, part.weights) if shared.with_moments else no_moments
        heldout_stats = accumulate_stats(batch, heldout, part.heldout_weights) if len(heldout) else ()
        sums = tuple(
            s.sums[:, 0] if s.stats.rows else none
            for s, none in zip(heldout_stats or no_groups, no_sums, strict=True)
        )
        out = out.merge(PassStats(groups, moments, sums))
    return out


def _refuse_unlike(chunk: Chunk, constants: Sequence[Constant]) -> None:
    rows = chunk.rows[chunk.rows[:, -1] > 0.0] if chunk.weighted else chunk.rows
    values = rows[:, [c.position for c in constants]]
    unlike = find_unlike(values, constants)
    if unlike.any():
        found = values[np.argmax(unlike)]
        other = next(c.describe_other(v) for c, v in zip(constants, found.tolist(), strict=True) if c.differs(v))
        raise InputDataError(
            explain(
                f"a column that was set aside as constant is not: {other} that the profile read",
                why="with profile: sample only some rows were read to begin with",
                remedy="use profile: full, or leave the column out of data.columns",
            )
        )


def pack_candidates(candidates: Sequence[MixtureParams]) -> list[Sequence[MixtureParams]]:
    """Return the candidates in order, in packs whose statistics fit into a task; depends on the candidates alone."""
    out: list[list[MixtureParams]] = [[]]
    size = 0
    for params in candidates:
        own = count_statistics_bytes(params.n_components, params.n_features, params.family)
        if out[-1] and size + own > STATISTICS_BYTES:
            out, size = [*out, []], 0
        out[-1].append(params)
        size += own
    return [pack for pack in out if pack]


def count_statistics_bytes(n_components: int, n_features: int, family: CovarianceFamily) -> int:
    """Return the size of a candidate's statistics, in bytes."""
    scatter = int(np.prod(family.moments.shape(n_components, n_features)))
    return 8 * (n_components * (1 + n_features) + scatter)


@dataclass
class FullPass:
    """The E-step over a whole data set (:data:`stream_gmm.core.fit.em.EStep`); counts its passes."""

    tasks: PassTasks
    executor: Executor
    scaling: Scaling
    moments: SuffStats | None
    """Weight, mean and scatter of all rows to fit; None: each pass takes them if a structure needs them."""
    heldout: SuffStats | None = None
    """The same of the held-out rows."""
    holdout: Holdout = NO_HOLDOUT
    preference: KernelPreference = ANY_KERNEL
    listener: Listener = ignore_progress
    passes: int = 0
    columns: tuple[int, ...] = ()
    """Positions of the columns to fit among those that the tasks read; empty: all."""
    presumed: tuple[Constant, ...] = ()
    """Columns that are constant in the rows of a profile which did not read all rows; every pass makes sure."""
    incomplete: bool = False
    """Whether rows may have missing values."""

    @classmethod
    def for_profile(
        cls,
        tasks: PassTasks,
        profile: Profile,
        executor: Executor,
        holdout: Holdout = NO_HOLDOUT,
        preference: KernelPreference = ANY_KERNEL,
        listener: Listener = ignore_progress,
    ) -> FullPass:
        """Return the E-step over the data set of a profile."""
        moments = None if profile.is_partial else profile.moments
        return cls(
            tasks, executor, profile.scaling, moments, profile.heldout, holdout, preference, listener,
            columns=profile.places, presumed=profile.constants if profile.is_partial else (),
            incomplete=profile.may_be_incomplete,
        )  # fmt: skip

    def __call__(self, candidates: Sequence[MixtureParams]) -> Sequence[SuffStats]:
        """Read the data once; more often if the statistics of all candidates are too large for one task."""
        out: list[SuffStats] = []
        for pack in pack_candidates(candidates):
            self.passes += 1
            out += self._read(range(len(self.tasks.rows)), pack, "fit", self.moments)
        return out

    def _read(
        self, index: Sequence[int], candidates: Sequence[MixtureParams], stage: str, moments: SuffStats | None
    ) -> Sequence[SuffStats]:
        n_rows = sum(self.tasks.rows[i] for i in index)
        batch = compile_batch(candidates, self.scaling, self.preference, self.incomplete, n_rows)
        with_moments = batch.needs_row_moments and moments is None
        shared = _PassShared(batch, with_moments, self.holdout, self.columns, self.presumed)
        rows = [self.tasks.rows[i] for i in index]
        whitened = sum(kernel == WHITENED for kernel in batch.kernels_used)
        note = f"{whitened} on the whitened kernel" if whitened else ""
        meter = Meter(self.listener, stage, rows, number=self.passes, live=len(candidates), note=note)
        gathered = self.executor.map_reduce(
            collect_leaf_stats, PassStats.merge, [self.tasks.items[i] for i in index],
            shared=shared, label="e-step", on_done=meter,
        )  # fmt: skip
        if not any(group.stats.rows for group in gathered.groups):
            return [SuffStats.zero(p.n_components, p.n_features, p.family.moments) for p in candidates]
        shift = self.scaling.shift
        stats = complete_stats(batch, candidates, gathered.groups, moments or gathered.moments, shift)
        if moments is None or self.heldout is None or not self.heldout.rows:
            return stats
        return add_heldout(batch, candidates, stats, gathered.heldout, self.heldout, shift)

    def batches(self, batch_rows: int, rng: np.random.Generator) -> list[list[int]]:
        """Return mini-batches: leaves in random order, collected up to ``batch_rows`` rows."""
        out: list[list[int]] = [[]]
        for index in rng.permutation(len(self.tasks.rows)):
            if sum(self.tasks.rows[i] for i in out[-1]) >= batch_rows:
                out.append([])
            out[-1].append(int(index))
        return out

    def read_batch(self, index: Sequence[int], candidates: Sequence[MixtureParams]) -> Sequence[SuffStats]:
        """Read one mini-batch."""
        return self._read(index, candidates, "mini-batch", None)
