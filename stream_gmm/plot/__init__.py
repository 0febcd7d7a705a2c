"""Plots of fits and sweeps: every function draws on matplotlib axes and returns them.

What lives here: plots of a sweep (:mod:`.candidates`), of components (:mod:`.components`), of rows (:mod:`.rows`), of
passes (:mod:`.passes`) and of what the monitor found (:mod:`.drift`); what they take (:mod:`.inputs`), and colours
and axes (:mod:`.style`).

May import: :mod:`stream_gmm.pipeline`, :mod:`stream_gmm.core` and :mod:`stream_gmm.errors`; matplotlib is imported
here and in :mod:`stream_gmm.report` only.

Where to begin: :func:`stream_gmm.plot.components.ellipses`.
"""

from __future__ import annotations

from stream_gmm.plot.candidates import criteria, differences, gains, rivals
from stream_gmm.plot.components import covariance_types, ellipses, overlap, pairs, profiles, weights
from stream_gmm.plot.drift import drift
from stream_gmm.plot.passes import convergence
from stream_gmm.plot.rows import assignment, assignments, log_density, uncertainty

__all__ = [
    "assignment",
    "assignments",
    "convergence",
    "covariance_types",
    "criteria",
    "differences",
    "drift",
    "ellipses",
    "gains",
    "log_density",
    "overlap",
    "pairs",
    "profiles",
    "rivals",
    "uncertainty",
    "weights",
]
