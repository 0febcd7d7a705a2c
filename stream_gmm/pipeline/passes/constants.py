"""Columns that the profile finds constant are set aside: the later passes read only those that vary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.rows.constants import Constant
from stream_gmm.core.stats import SuffStats
from stream_gmm.pipeline.passes.profile import Profile


def set_constants_aside(profile: Profile) -> Profile:
    """Return the profile of the columns that vary; the others are in its ``constants``.

    If no column varies, all are kept: there would be nothing left to fit.
    """
    varies = profile.low < profile.high
    if varies.all() or not varies.any():
        return profile
    kept = np.flatnonzero(varies)
    constants = tuple(
        Constant(name, float(profile.low[j]), j) for j, name in enumerate(profile.columns) if not varies[j]
    )
    within = np.asarray(profile.row_order.within)
    return replace(
        profile,
        columns=tuple(profile.columns[j] for j in kept),
        bad=profile.bad[kept],
        low=profile.low[kept],
        high=profile.high[kept],
        moments=_select_columns(profile.moments, kept),
        heldout=_select_columns(profile.heldout, kept),
        sample=replace(profile.sample, rows=np.ascontiguousarray(profile.sample.rows[:, kept])),
        validation=replace(profile.validation, rows=np.ascontiguousarray(profile.validation.rows[:, kept])),
        row_order=replace(profile.row_order, within=within[kept]) if within.ndim else profile.row_order,
        constants=constants,
        constants_bad=profile.bad[~varies],
        places=tuple(int(j) for j in kept),
    )


def _select_columns(moments: SuffStats, kept: NDArray[np.intp]) -> SuffStats:
    """Return the moments of some columns."""
    return replace(moments, mean=moments.mean[:, kept], scatter=moments.scatter[:, kept[:, None], kept])
