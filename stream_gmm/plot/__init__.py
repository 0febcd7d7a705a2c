"""Plots of fits and sweeps: every function draws on matplotlib axes and returns them.

What lives here: plots of a sweep (:mod:`.candidates`), of components (:mod:`.components`), of rows (:mod:`.rows`), of
passes (:mod:`.passes`) and of what the monitor found (:mod:`.monitored`); what they take (:mod:`.inputs`), and
colours and axes (:mod:`.style`). A function is imported when it is used: the report takes words and colours from here
where matplotlib is not installed, too.

May import: :mod:`stream_gmm.pipeline`, :mod:`stream_gmm.core` and :mod:`stream_gmm.errors`; matplotlib is imported
here and in :mod:`stream_gmm.report` only.

Where to begin: :func:`stream_gmm.plot.components.ellipses`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stream_gmm.extras import import_extra

if TYPE_CHECKING:
    from stream_gmm.plot.candidates import criteria, differences, gains, rivals
    from stream_gmm.plot.components import covariance_types, ellipses, overlap, pairs, profiles, weights
    from stream_gmm.plot.monitored import drift
    from stream_gmm.plot.passes import convergence
    from stream_gmm.plot.rows import assignment, assignments, log_density, uncertainty

_WHERE = {
    "criteria": "stream_gmm.plot.candidates",
    "differences": "stream_gmm.plot.candidates",
    "gains": "stream_gmm.plot.candidates",
    "rivals": "stream_gmm.plot.candidates",
    "covariance_types": "stream_gmm.plot.components",
    "ellipses": "stream_gmm.plot.components",
    "overlap": "stream_gmm.plot.components",
    "pairs": "stream_gmm.plot.components",
    "profiles": "stream_gmm.plot.components",
    "weights": "stream_gmm.plot.components",
    "drift": "stream_gmm.plot.monitored",
    "convergence": "stream_gmm.plot.passes",
    "assignment": "stream_gmm.plot.rows",
    "assignments": "stream_gmm.plot.rows",
    "log_density": "stream_gmm.plot.rows",
    "uncertainty": "stream_gmm.plot.rows",
}

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


def __getattr__(name: str) -> Any:
    """Return a plotting function; what it draws with is imported then."""
    if name not in _WHERE:
        raise AttributeError(f"module 'stream_gmm.plot' has no attribute {name!r}")
    import_extra("matplotlib", f"sg.plot.{name}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
