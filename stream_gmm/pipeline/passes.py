"""Where the executor, the data and the E-step meet: one read of the data serves all candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stream_gmm.core.density import Batch, Scaling, compile_batch
from stream_gmm.core.estep import accumulate, merge_all
from stream_gmm.core.params import MixtureParams
from stream_gmm.core.stats import SuffStats
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.dataset import Leaf, Source
from stream_gmm.pipeline.progress import Listener, Meter, silent


def leaf_stats(leaf: Leaf, shared: tuple[Batch, tuple[SuffStats, ...]]) -> tuple[SuffStats, ...]:
    """Return every candidate's statistics of the rows of one leaf."""
    batch, out = shared
    for chunk in leaf.chunks():
        if len(chunk.rows):
            out = merge_all(out, accumulate(batch, chunk.rows))
    return out


def _zeros(candidates: Sequence[MixtureParams]) -> tuple[SuffStats, ...]:
    return tuple(SuffStats.zero(p.n_components, p.n_features, p.family.moments) for p in candidates)


@dataclass
class FullPass:
    """The E-step over a whole data set (:data:`stream_gmm.core.em.EStep`); counts its passes."""

    source: Source
    executor: Executor
    scaling: Scaling
    listener: Listener = silent
    stage: str = "fit"
    passes: int = 0
    routes: dict[int, str] = field(default_factory=dict)

    def __call__(self, candidates: Sequence[MixtureParams]) -> Sequence[SuffStats]:
        """Read the data once."""
        self.passes += 1
        return self._over(self.source.leaves(), candidates, self.stage)

    def _over(self, leaves: Sequence[Leaf], candidates: Sequence[MixtureParams], stage: str) -> Sequence[SuffStats]:
        batch = compile_batch(candidates, self.scaling)
        meter = Meter(
            self.listener,
            stage,
            [leaf.rows for leaf in leaves],
            number=self.passes,
            live=len(candidates),
            note=_route_note(batch),
        )
        return self.executor.map_reduce(
            leaf_stats, merge_all, leaves,
            shared=(batch, _zeros(candidates)), label="e-step", on_done=meter,
        )  # fmt: skip

    def batches(self, batch_rows: int, rng: np.random.Generator) -> list[list[Leaf]]:
        """Return mini-batches: row groups in random order, collected up to ``batch_rows`` rows."""
        pieces = self.source.pieces()
        out: list[list[Leaf]] = [[]]
        for index in rng.permutation(len(pieces)):
            if sum(p.rows for p in out[-1]) >= batch_rows:
                out.append([])
            out[-1].append(pieces[index])
        return out

    def on_batch(self, leaves: Sequence[Leaf], candidates: Sequence[MixtureParams]) -> Sequence[SuffStats]:
        """Read one mini-batch."""
        return self._over(leaves, candidates, "mini-batch")


def _route_note(batch: Batch) -> str:
    routes = batch.routes
    whitened = sum(r != "quadratic" for r in routes)
    return f"{whitened} on the whitened kernel" if whitened else ""
