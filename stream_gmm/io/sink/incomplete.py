"""Scored rows with missing values: columns with conditional means in their place, and rows without any value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from stream_gmm.core.estep.scores import Scores
from stream_gmm.io.source.chunks import Chunk

Content = Callable[[Scores, float], Any]
NO_VALUE = "every value is missing"


def imputed_columns(names: Sequence[str]) -> list[tuple[str, pa.DataType, Content]]:
    """Return name, type and content of the columns that come without missing values, and of their deviations."""

    def content(which: int, j: int) -> Content:
        return lambda scores, _: scores.imputed[which][:, j]

    return [
        (f"{name}_{ending}", pa.float64(), content(which, j))
        for j, name in enumerate(names)
        for which, ending in enumerate(("imputed", "sd"))
    ]


def explain_unscored(chunk: Chunk, scores: Scores) -> Chunk:
    """Return a chunk with the reason for those of its rows that have no value, and therefore no log-density."""
    empty = np.isnan(scores.log_density)
    if not (chunk.incomplete and empty.any()):
        return chunk
    reasons = np.full(chunk.size, None, dtype=object) if chunk.reasons is None else chunk.reasons.copy()
    places = np.arange(chunk.size) if chunk.keep is None else np.flatnonzero(chunk.keep)
    reasons[places[empty]] = NO_VALUE
    return replace(chunk, reasons=reasons)
