"""Which candidates take part in no pass over the data, since the sample's fits are clearly beaten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stream_gmm.core.estep.scores import score_rows
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.sampling import Sample
from stream_gmm.core.search.evidence import SampleCandidate, SamplePruning
from stream_gmm.core.search.sample_search import RACE_ROWS, SampleFit
from stream_gmm.execute.protocol import Executor
from stream_gmm.pipeline.fit.grid import CandidateSpec
from stream_gmm.pipeline.fit.sample import SampleOutcome
from stream_gmm.pipeline.passes.profile import Profile

UNFINISHED_ALLOWANCE = 0.05
"""What a candidate may still gain after the race of its restarts, nats per row, beside what chance allows."""

MIN_VALIDATION_ROWS = 500
"""With fewer rows that no fit has used, nobody is given up after the sample."""


def select_validation_rows(profile: Profile) -> Sample:
    """Return the rows that candidates are compared on: others than they were fitted to, if there are enough."""
    return profile.validation if len(profile.validation.rows) >= MIN_VALIDATION_ROWS else profile.sample


def _evaluate_rows(params: MixtureParams, rows: Array) -> Array:
    """Return the log-density and the logarithm of the largest responsibility of rows ``(2, n)``."""
    scores = score_rows(compile_density(params), rows)
    return np.array([scores.log_density, np.log(scores.max_proba)])


def evaluate_on_validation_rows(
    mixtures: Sequence[MixtureParams], profile: Profile, executor: Executor
) -> list[Array]:
    """Return what :func:`_evaluate_rows` says of the validation rows, ``(2, n)`` for each mixture."""
    return (
        executor.map(_evaluate_rows, mixtures, shared=select_validation_rows(profile).rows, label="judge")
        if mixtures
        else []
    )


def criterion_terms(values: Array, criterion: str) -> Array:
    """Return what the rows add to a criterion ``(n,)``, nats."""
    return np.asarray(values.sum(axis=0) if criterion == "icl" else values[0])


def prune_on_sample(
    grid: Sequence[CandidateSpec],
    sample_outcome: Sequence[SampleOutcome],
    profile: Profile,
    criterion: str,
    executor: Executor,
    allowance: float = 0.0,
) -> list[SampleOutcome]:
    """Return the cells, with those that are clearly beaten marked so; ``allowance`` is as in :class:`SamplePruning`.

    That is none if the sample holds all the rows, so that passes cost next to nothing; or where there are too few
    rows that no fit has used.
    """
    places = [i for i, e in enumerate(sample_outcome) if e.fit.params is not None]
    if profile.sample_is_whole or select_validation_rows(profile) is not profile.validation or len(places) < 2:
        return list(sample_outcome)
    values = evaluate_on_validation_rows(
        [p for e in sample_outcome if (p := e.fit.params) is not None], profile, executor
    )
    entrants = [
        _make_entrant(grid[i], sample_outcome[i].fit, v, criterion) for i, v in zip(places, values, strict=True)
    ]
    rows = profile.moments.rows * (profile.total_rows / profile.rows if profile.is_partial else 1.0)
    fitted_to = min(len(profile.sample.rows), RACE_ROWS) if allowance else len(profile.sample.rows)
    pruning = SamplePruning(criterion, rows, fitted_to, profile.heldout.rows, profile.validation.weights, allowance)
    reasons = dict(zip(places, pruning.find_reasons(entrants), strict=True))
    return [
        SampleOutcome(e.fit, e.seconds, reasons.get(i, "") or _as_before(e)) for i, e in enumerate(sample_outcome)
    ]


def _as_before(sample_outcome: SampleOutcome) -> str:
    """Return why a cell that is not run to convergence was given up: that stands."""
    return sample_outcome.pruned_reason if sample_outcome.is_unfinished else ""


def _make_entrant(spec: CandidateSpec, fit: SampleFit, values: Array, criterion: str) -> SampleCandidate:
    assert fit.params is not None
    in_sample = fit.history[-1] if criterion != "icl" and not fit.finalists else float("nan")
    name = f"{spec[1]}-{spec[0]}"
    return SampleCandidate(
        name, spec[0], fit.params.n_parameters, in_sample, criterion_terms(values, criterion), fit.is_sound, spec[1]
    )
