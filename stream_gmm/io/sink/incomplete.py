"""Scored rows with missing values: columns with conditional means in their place, and rows without any value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stream_gmm.core.estep.scores import Scores
from stream_gmm.io.source.chunks import Chunk

NO_VALUE = "every value is missing"


def imputed_columns(j: int, name: str) -> list[tuple[str, pa.DataType, Callable[[Scores, float], Any]]]:
    """Return name, type and content of the columns that column j of the model adds, if missing values are imputed."""
    return [
        (f"{name}_imputed", pa.float64(), lambda s, _: s.imputed[0][:, j]),
        (f"{name}_sd", pa.float64(), lambda s, _: s.imputed[1][:, j]),
    ]


def explain_unscored(chunk: Chunk, empty: NDArray[np.bool_]) -> Chunk:
    """Return a chunk with the reason for those of its rows that have no value; ``empty (n,)`` marks them."""
    reasons = np.full(chunk.size, None, dtype=object) if chunk.reasons is None else chunk.reasons.copy()
    places = np.arange(chunk.size) if chunk.keep is None else np.flatnonzero(chunk.keep)
    reasons[places[empty]] = NO_VALUE
    return replace(chunk, reasons=reasons)
