"""Which candidates take part in no pass over the data, because their fits on the sample are clearly worse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stream_gmm.core.estep.scores import score_rows
from stream_gmm.core.fit.em import FIT_ERRORS
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.sampling import Sample
from stream_gmm.core.search.evidence import SampleCandidate, SamplePruning
from stream_gmm.core.search.sample_search import RACE_ROWS
from stream_gmm.execute.protocol import Executor
from stream_gmm.pipeline.fit.grid import CandidateSpec
from stream_gmm.pipeline.fit.sample import SampleOutcome
from stream_gmm.pipeline.passes.profile import Profile

UNFINISHED_ALLOWANCE = 0.05
"""What a candidate may still gain after the race of its restarts, nats per row, beside what chance allows."""
MIN_VALIDATION_ROWS = 500
"""With fewer validation rows, no candidate is pruned on the sample."""


def select_validation_rows(profile: Profile) -> Sample:
    """Return the rows on which candidates are compared: rows that no fit has used, if there are enough of them."""
    return profile.validation if len(profile.validation.rows) >= MIN_VALIDATION_ROWS else profile.sample


def _evaluate_rows(params: MixtureParams, rows: Array) -> Array | None:
    """Return the log-density and the log of the largest responsibility of each row, ``(2, n)``; None without any."""
    try:
        scores = score_rows(compile_density(params), rows)
    except FIT_ERRORS:
        return None
    return np.array([scores.log_density, np.log(scores.max_proba)])


def evaluate_on_validation_rows(
    mixtures: Sequence[MixtureParams], profile: Profile, executor: Executor
) -> list[Array | None]:
    """Return for each mixture the log-density and the log of the largest responsibility of each row, ``(2, n)``.

    None for a mixture that has no density.
    """
    if not mixtures:
        return []
    return executor.map(_evaluate_rows, mixtures, shared=select_validation_rows(profile).rows, label="validate")


def prune_on_sample(
    grid: Sequence[CandidateSpec],
    outcomes: Sequence[SampleOutcome],
    profile: Profile,
    criterion: str,
    executor: Executor,
    allowance: float = 0.0,
) -> list[SampleOutcome]:
    """Return the outcomes, with the reason in those that are clearly worse; ``allowance`` as in ``SamplePruning``.

    None is pruned if the sample holds all the rows, because passes then cost next to nothing, or if there are too
    few validation rows. A candidate that was pruned before it was fitted to convergence stays pruned.
    """
    places = [i for i, outcome in enumerate(outcomes) if outcome.fit.params is not None]
    if profile.sample_is_whole or select_validation_rows(profile) is not profile.validation or len(places) < 2:
        return list(outcomes)
    mixtures = [params for outcome in outcomes if (params := outcome.fit.params) is not None]
    candidates, compared = [], []
    for i, params, values in zip(
        places, mixtures, evaluate_on_validation_rows(mixtures, profile, executor), strict=True
    ):
        if values is None:
            continue
        compared.append(i)
        fit = outcomes[i].fit
        terms = np.asarray(values.sum(axis=0) if criterion == "icl" else values[0])
        in_sample = fit.history[-1] if criterion != "icl" and not fit.finalists else float("nan")
        candidates.append(
            SampleCandidate(
                grid[i].name,
                grid[i].n_components,
                params.n_parameters,
                in_sample,
                terms,
                fit.is_sound,
                grid[i].covariance_type,
            )
        )
    rows = profile.moments.rows * (profile.total_rows / profile.rows if profile.is_partial else 1.0)
    fitted_rows = min(len(profile.sample.rows), RACE_ROWS) if allowance else len(profile.sample.rows)
    pruning = SamplePruning(criterion, rows, fitted_rows, profile.heldout.rows, profile.validation.weights, allowance)
    reasons = dict(zip(compared, pruning.find_reasons(candidates), strict=True))
    return [
        SampleOutcome(
            outcome.fit,
            outcome.seconds,
            reasons.get(i, "") or (outcome.pruned_reason if outcome.is_unfinished else ""),
        )
        for i, outcome in enumerate(outcomes)
    ]
