"""The compiled function that estimates the covariances of a structure, for callers in Python and in compiled code."""

from __future__ import annotations

from typing import Any

from numba import types

from stream_gmm.core.compiled.calls import make_call
from stream_gmm.core.model.decomposition import (
    EQUAL,
    IDENTITY,
    VARYING,
    Letters,
    estimate_covariances,
    estimate_oriented_covariances,
)

_MATRICES = types.float64[:, :, ::1]
ESTIMATION = types.void(types.int64, types.int64, types.int64, types.float64[::1], _MATRICES, _MATRICES)
call_estimator = make_call(ESTIMATION)


def find_estimator(letters: Letters) -> Any:
    """Return the compiled function that estimates the covariances of a structure."""
    volume, shape, orientation = letters
    simple = orientation == IDENTITY or (orientation == shape and (shape == VARYING or volume == EQUAL))
    return estimate_covariances if simple else estimate_oriented_covariances
