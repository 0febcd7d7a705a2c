"""Where the executor, the data and the E-step meet: one read of the data serves all candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream_gmm.core.estep import accumulate, complete, merge_all, moments_of
from stream_gmm.core.moments import FULL
from stream_gmm.core.params import MixtureParams
from stream_gmm.core.routes import NO_PREFERENCE, WHITENED, Batch, Preference, compile_batch
from stream_gmm.core.scaling import Scaling
from stream_gmm.core.stats import SuffStats
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.dataset import Leaf
from stream_gmm.pipeline.profile import Profile
from stream_gmm.pipeline.progress import Listener, Meter, silent
from stream_gmm.pipeline.reading import Reading

Stats = tuple[SuffStats, ...]


@dataclass(frozen=True)
class _Shared:
    """What every task of a pass needs: the candidates, and the statistics of no rows."""

    batch: Batch
    zeros: Stats
    with_moments: bool
    """Also return the moments of the rows, as the last of the statistics."""


def leaf_stats(leaf: Leaf, shared: _Shared) -> Stats:
    """Return every candidate's statistics of the rows of one leaf."""
    out = shared.zeros
    for chunk in leaf.chunks():
        if len(chunk.rows):
            extra = (moments_of(chunk.rows),) if shared.with_moments else ()
            out = merge_all(out, accumulate(shared.batch, chunk.rows) + extra)
    return out


def _zeros(candidates: Sequence[MixtureParams]) -> Stats:
    return tuple(SuffStats.zero(p.n_components, p.n_features, p.family.moments) for p in candidates)


@dataclass
class FullPass:
    """The E-step over a whole data set (:data:`stream_gmm.core.em.EStep`); counts its passes."""

    reading: Reading
    executor: Executor
    scaling: Scaling
    moments: SuffStats
    """Weight, mean and scatter of all usable rows."""
    preference: Preference = NO_PREFERENCE
    listener: Listener = silent
    passes: int = 0

    @classmethod
    def over(
        cls, reading: Reading, found: Profile, executor: Executor, preference: Preference, listener: Listener
    ) -> FullPass:
        """Return the E-step over a data set that was profiled."""
        return cls(reading, executor, found.scaling, found.moments, preference, listener)

    def __call__(self, candidates: Sequence[MixtureParams]) -> Sequence[SuffStats]:
        """Read the data once."""
        self.passes += 1
        return self._over(range(len(self.reading.rows)), candidates, "fit", self.moments)

    def _over(
        self, index: Sequence[int], candidates: Sequence[MixtureParams], stage: str, moments: SuffStats | None
    ) -> Sequence[SuffStats]:
        batch = compile_batch(candidates, self.scaling, self.preference)
        with_moments = batch.incomplete and moments is None
        zero = (SuffStats.zero(1, candidates[0].n_features, FULL),) if with_moments else ()
        rows = [self.reading.rows[i] for i in index]
        meter = Meter(self.listener, stage, rows, number=self.passes, live=len(candidates), note=_note(batch))
        stats = self.executor.map_reduce(
            leaf_stats, merge_all, [self.reading.items[i] for i in index],
            shared=_Shared(batch, _zeros(candidates) + zero, with_moments), label="e-step", on_done=meter,
        )  # fmt: skip
        if with_moments:
            stats, moments = stats[:-1], stats[-1]
        return stats if moments is None else complete(candidates, stats, moments, self.scaling.shift)

    def batches(self, batch_rows: int, rng: np.random.Generator) -> list[list[int]]:
        """Return mini-batches: leaves in random order, collected up to ``batch_rows`` rows."""
        out: list[list[int]] = [[]]
        for index in rng.permutation(len(self.reading.rows)):
            if sum(self.reading.rows[i] for i in out[-1]) >= batch_rows:
                out.append([])
            out[-1].append(int(index))
        return out

    def on_batch(self, index: Sequence[int], candidates: Sequence[MixtureParams]) -> Sequence[SuffStats]:
        """Read one mini-batch."""
        return self._over(index, candidates, "mini-batch", None)


def _note(batch: Batch) -> str:
    whitened = sum(r == WHITENED for r in batch.routes)
    return f"{whitened} on the whitened kernel" if whitened else ""
