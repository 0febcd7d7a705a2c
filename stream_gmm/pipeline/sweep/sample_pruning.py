"""Which candidates take part in no pass over the data, since the sample's fits are clearly beaten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stream_gmm.core.estep.scores import score_rows
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.sampling import Sample
from stream_gmm.core.search.evidence import Trial, Tried
from stream_gmm.core.search.sample_search import RUNG_ROWS, SampleFit
from stream_gmm.execute.protocol import Executor
from stream_gmm.pipeline.fit.grid import Cell
from stream_gmm.pipeline.fit.sample import Explored
from stream_gmm.pipeline.passes.profile import Profile

SEARCH = 0.05
"""What a candidate may still gain after the race of its restarts, nats per row, beside what chance allows."""

FEWEST_JUDGES = 500
"""With fewer rows that no fit has used, nobody is given up after the sample."""


def judges(found: Profile) -> Sample:
    """Return the rows that candidates are compared on: others than they were fitted to, if there are enough."""
    return found.check if len(found.check.rows) >= FEWEST_JUDGES else found.sample


def _judged(params: MixtureParams, rows: Array) -> Array:
    """Return the log-density and the logarithm of the largest responsibility of rows ``(2, n)``."""
    scores = score_rows(compile_density(params), rows)
    return np.array([scores.log_density, np.log(scores.max_proba)])


def judge(mixtures: Sequence[MixtureParams], found: Profile, executor: Executor) -> list[Array]:
    """Return what every row of :func:`judges` says of every mixture, ``(2, n)`` as in :func:`_judged`."""
    return executor.map(_judged, mixtures, shared=judges(found).rows, label="judge") if mixtures else []


def counted(values: Array, criterion: str) -> Array:
    """Return what the rows add to a criterion ``(n,)``, nats."""
    return np.asarray(values.sum(axis=0) if criterion == "icl" else values[0])


def give_up(
    grid: Sequence[Cell],
    explored: Sequence[Explored],
    found: Profile,
    criterion: str,
    executor: Executor,
    search: float = 0.0,
) -> list[Explored]:
    """Return the cells, with those that are clearly beaten marked so; ``search`` is as in :class:`Trial`.

    That is none if the sample holds all the rows, so that passes cost next to nothing; or where there are too few
    rows that no fit has used.
    """
    at = [i for i, e in enumerate(explored) if e.fit.params is not None]
    if found.complete or judges(found) is not found.check or len(at) < 2:
        return list(explored)
    values = judge([p for e in explored if (p := e.fit.params) is not None], found, executor)
    tried = [_tried(grid[i], explored[i].fit, v, criterion) for i, v in zip(at, values, strict=True)]
    rows = found.moments.rows * (found.total_rows / found.rows if found.partial else 1.0)
    fitted_to = min(len(found.sample.rows), RUNG_ROWS) if search else len(found.sample.rows)
    trial = Trial(criterion, rows, fitted_to, found.heldout.rows, found.check.weights, search)
    reasons = dict(zip(at, trial.beaten(tried), strict=True))
    return [Explored(e.fit, e.seconds, reasons.get(i, "") or _as_before(e)) for i, e in enumerate(explored)]


def _as_before(explored: Explored) -> str:
    """Return why a cell that is not run to convergence was given up: that stands."""
    return explored.beaten if explored.rough else ""


def _tried(cell: Cell, fit: SampleFit, values: Array, criterion: str) -> Tried:
    assert fit.params is not None
    in_sample = fit.history[-1] if criterion != "icl" and not fit.finalists else float("nan")
    name = f"{cell[1]}-{cell[0]}"
    return Tried(name, cell[0], fit.params.n_parameters, in_sample, counted(values, criterion), fit.sound)
