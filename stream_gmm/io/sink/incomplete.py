"""Scored rows without any value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stream_gmm.core.estep.scores import Scores
from stream_gmm.io.source.chunks import Chunk

NO_VALUE = "every value is missing"


def explain_unscored(chunk: Chunk, scores: Scores) -> Chunk:
    """Return a chunk with the reason for those of its rows that have no value, and therefore no log-density."""
    empty = np.isnan(scores.log_density)
    if not (chunk.incomplete and empty.any()):
        return chunk
    reasons = np.full(chunk.size, None, dtype=object) if chunk.reasons is None else chunk.reasons.copy()
    places = np.arange(chunk.size) if chunk.keep is None else np.flatnonzero(chunk.keep)
    reasons[places[empty]] = NO_VALUE
    return replace(chunk, reasons=reasons)
