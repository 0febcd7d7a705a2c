"""Columns that the profile finds constant are set aside: the later passes read only those that vary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.rows.constants import Constant
from stream_gmm.core.rows.sampling import Sample
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
        sample=_select_columns_of_sample(profile.sample, kept),
        validation=_select_columns_of_sample(profile.validation, kept),
        row_order=replace(profile.row_order, within=within[kept]) if within.ndim else profile.row_order,
        constants=constants,
        constants_bad=profile.bad[~varies],
        places=tuple(int(j) for j in kept),
    )


def _select_columns_of_sample(sample: Sample, kept: NDArray[np.intp]) -> Sample:
    """Return a sample of some columns, without the rows that have no value there."""
    rows = sample.rows[:, kept]
    some = ~np.isnan(rows).all(axis=1)
    if some.all():
        return replace(sample, rows=np.ascontiguousarray(rows))
    weights = sample.weights[some] if len(sample.weights) else sample.weights
    return replace(sample, rows=np.ascontiguousarray(rows[some]), hashes=sample.hashes[some], weights=weights)


def _select_columns(moments: SuffStats, kept: NDArray[np.intp]) -> SuffStats:
    """Return the moments of some columns."""
    return replace(moments, mean=moments.mean[:, kept], scatter=moments.scatter[:, kept[:, None], kept])
