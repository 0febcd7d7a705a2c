"""The step in which the values of a column were recorded: whole numbers, one decimal, the digits of a float32."""

from __future__ import annotations

import numpy as np

from stream_gmm.core.model.moments import Array

DECIMALS = 6
"""So many decimals are tried."""
_SLACK = 1e-6
"""Rounding of a decimal number, in steps."""
_MAX_STEPS = 1 << 40
"""A column with more steps than this between zero and its largest value has none."""


def find_steps(rows: Array) -> Array:
    """Return the recording step of each column ``(D,)`` of ``rows (N, D)``; 0 where the values have none.

    It is the greatest number of which all values are multiples, if that has at most ``DECIMALS`` decimals; else the
    spacing of float32 at the largest value, if all values are float32. NaN is a missing value.
    """
    return np.array([_find_step(np.unique(column[~np.isnan(column)])) for column in rows.T])


def _find_step(values: Array) -> float:
    largest = float(np.abs(values).max(initial=0.0))
    for decimals in range(DECIMALS + 1):
        scaled = values * 10.0**decimals
        if largest * 10.0**decimals > _MAX_STEPS:
            break
        whole = np.rint(scaled)
        if np.all(np.abs(scaled - whole) <= _SLACK):
            common = int(np.gcd.reduce(np.abs(whole).astype(np.int64)))
            return max(common, 1) / 10.0**decimals
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return float(np.spacing(np.abs(narrow).max())) if np.array_equal(narrow.astype(np.float64), values) else 0.0
