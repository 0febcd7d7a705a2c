"""Variational inference on all rows: the passes of exact EM, with a posterior in the place of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.result import FitResult
from stream_gmm.core.stats import SuffStats
from stream_gmm.core.variational import (
    VariationalPrior,
    VariationalState,
    advance_variational,
    make_tilted_mixture,
    update_posterior,
)
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit.results import describe_provenance, summarise_log_densities
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.steps import make_full_pass, make_profile, open_tasks

MakePrior = Callable[[SuffStats], VariationalPrior]
"""Returns the prior, from the moments of all rows as of one component."""
OnStep = Callable[[Sequence[VariationalState]], None]


@dataclass(frozen=True)
class VariationalFit:
    """A finished fit.

    Attributes
    ----------
    state
        The posterior and the lower bounds.
    prior
        The prior, with what was taken from the data.
    tilted
        The mixture whose responsibilities are those of the posterior, as a result that scores rows.
    log_scale
        What is to be added to its log-densities, nats.
    """

    state: VariationalState
    prior: VariationalPrior
    tilted: FitResult
    log_scale: float


def fit_variational(
    source: Source,
    starts: Sequence[SuffStats] | VariationalState,
    start_rows: float,
    family: CovarianceFamily,
    make_prior: MakePrior,
    tol: float,
    settings: Settings,
    executor: Executor,
    on_step: OnStep = lambda _: None,
) -> VariationalFit:
    """Run variational inference from the statistics of some starts, which share every pass; keep the best.

    The statistics may be those of a sample of ``start_rows`` rows: they are scaled to all rows. An earlier fit in
    their place is continued.

    Raises
    ------
    SingularCovarianceError
        If a covariance is not positive definite.
    """
    tasks = open_tasks(source, settings, executor)
    profile = make_profile(source, tasks, settings, executor)
    full = make_full_pass(tasks, profile, settings, executor)
    prior = make_prior(profile.moments)
    if isinstance(starts, VariationalState):
        states = [VariationalState(starts.posterior, earlier_bound=starts.bound)]
    else:
        scaled = [stats.scale(profile.moments.rows / start_rows) for stats in starts]
        states = [VariationalState(update_posterior(stats, prior, family)) for stats in scaled]
    for _ in range(settings.max_passes):
        live = [i for i, state in enumerate(states) if not state.converged]
        if not live:
            break
        gathered = full([make_tilted_mixture(states[i].posterior, prior, family)[0] for i in live])
        for i, stats in zip(live, gathered, strict=True):
            states[i] = advance_variational(states[i], stats, prior, family, tol)
        on_step(states)
    best = max(states, key=lambda state: state.bound)
    params, log_scale = make_tilted_mixture(best.posterior, prior, family)
    (stats,) = full([params])
    threshold, training = summarise_log_densities(params, profile, settings.outlier_quantile)
    result = FitResult(
        params, Outcome.CONVERGED if best.converged else Outcome.MAX_PASSES,
        Criteria.from_stats(stats, params.n_parameters), best.bounds, len(best.bounds), full.passes,
        columns=profile.columns, threshold=threshold,
        outlier_quantile=settings.outlier_quantile, training=training,
        warnings=profile.warnings,
        provenance=describe_provenance(source, profile, settings),
    )  # fmt: skip
    return VariationalFit(best, prior, result, log_scale)
