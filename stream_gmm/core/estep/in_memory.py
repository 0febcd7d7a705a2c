"""The E-step over rows in memory: for the sample, for a step of a stream, and in tests in place of the full data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import numpy as np

from stream_gmm.core.estep.accumulate import CHUNK_ROWS, accumulate_stats, complete_stats, merge_each
from stream_gmm.core.estep.batch import compile_batch
from stream_gmm.core.estep.kernel_choice import ANY_KERNEL, KernelPreference
from stream_gmm.core.estep.marginal.patterns import find_complete
from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.moments import UNWEIGHTED, collect_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.stats import SuffStats


@dataclass(frozen=True, eq=False)
class InMemoryEStep:
    """The E-step over ``rows (N, D)``, as a :data:`stream_gmm.core.fit.em.EStep`; NaN is a missing value.

    ``scaling`` gives the coordinates of the feature kernels; ``weights (N,)`` is empty if every row counts once.
    """

    rows: Array
    scaling: Scaling
    preference: KernelPreference = ANY_KERNEL
    weights: Array = field(default_factory=lambda: UNWEIGHTED)

    @cached_property
    def _chunks(self) -> list[tuple[Array, Array]]:
        # A few more rows than a chunk are not worth a copy.
        step = CHUNK_ROWS if len(self.rows) > 2 * CHUNK_ROWS else max(len(self.rows), 1)
        places = [slice(lo, lo + step) for lo in range(0, len(self.rows), step)]
        return [(np.asfortranarray(self.rows[p]), self.weights[p]) for p in places]

    @cached_property
    def _is_incomplete(self) -> bool:
        return find_complete(self.rows) is not None

    @cached_property
    def _row_moments(self) -> SuffStats:
        return collect_moments(self.rows, self.weights)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("rows", "scaling", "preference", "weights")}

    def __call__(self, candidates: Sequence[MixtureParams]) -> Sequence[SuffStats]:
        """Return the statistics of each candidate over all rows."""
        batch = compile_batch(candidates, self.scaling, self.preference, self._is_incomplete, len(self.rows))
        stacked = reduce(merge_each, (accumulate_stats(batch, *chunk) for chunk in self._chunks))
        row_moments = self._row_moments if batch.needs_row_moments else SuffStats.zero(1, 1, FULL)
        return complete_stats(batch, candidates, stacked, row_moments, self.scaling.shift)

    def evaluate(self, params: MixtureParams) -> SuffStats:
        """Return the statistics of one mixture."""
        return self([params])[0]
