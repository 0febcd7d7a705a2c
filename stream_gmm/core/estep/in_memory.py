"""The E-step over rows in memory: the sample's, and what stands for the full data in tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import numpy as np

from stream_gmm.core.estep.accumulate import CHUNK_ROWS, accumulate, finish, merge_all
from stream_gmm.core.estep.batch import compile_batch
from stream_gmm.core.estep.kernel_choice import NO_PREFERENCE, Preference
from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.moments import UNWEIGHTED, moments_of
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.stats import SuffStats


@dataclass(frozen=True, eq=False)
class RowsEStep:
    """The E-step over rows ``(N, D)`` (:data:`stream_gmm.core.fit.em.EStep`); ``weights (N,)``, or none."""

    rows: Array
    scaling: Scaling
    preference: Preference = NO_PREFERENCE
    weights: Array = field(default_factory=lambda: UNWEIGHTED)

    @cached_property
    def _chunks(self) -> list[tuple[Array, Array]]:
        # A few more rows than a chunk are not worth a copy.
        step = CHUNK_ROWS if len(self.rows) > 2 * CHUNK_ROWS else max(len(self.rows), 1)
        places = [slice(lo, lo + step) for lo in range(0, len(self.rows), step)]
        return [(np.asfortranarray(self.rows[p]), self.weights[p]) for p in places]

    @cached_property
    def _moments(self) -> SuffStats:
        return moments_of(self.rows, self.weights)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("rows", "scaling", "preference", "weights")}

    def __call__(self, candidates: Sequence[MixtureParams]) -> Sequence[SuffStats]:
        """Return the statistics of each candidate."""
        batch = compile_batch(candidates, self.scaling, self.preference)
        out = reduce(merge_all, (accumulate(batch, *chunk) for chunk in self._chunks))
        everything = self._moments if batch.incomplete else SuffStats.zero(1, 1, FULL)
        return finish(batch, candidates, out, everything, self.scaling.shift)

    def one(self, params: MixtureParams) -> SuffStats:
        """Return the statistics of one mixture."""
        return self([params])[0]
