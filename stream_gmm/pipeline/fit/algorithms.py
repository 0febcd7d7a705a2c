"""The algorithms by name: how starts are prepared, what a task reads, and how the full data is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.accelerate import METHODS, Auto
from stream_gmm.core.fit.em import (
    FIT_ERRORS,
    PLAIN_EM,
    EMState,
    Outcome,
    Review,
    Scheme,
    advance,
    advance_all,
    run_to_end,
)
from stream_gmm.core.fit.stepwise import PowerDecay, StepwiseState, take_stepwise_step
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import one_of
from stream_gmm.io.source.protocols import Leaf, Source
from stream_gmm.pipeline.fit.penalty import make_penalty
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.full_pass import FullPass
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.tasks import AUTO

OnPass = Callable[[Sequence[EMState]], None]

"""Called with the states of all candidates after every pass."""
BATCH_ROWS = (1_000, 100_000)
"""Least and largest number of rows of a mini-batch."""
MINIBATCH_TOL = 1e-3
"""Gain of the mean log-likelihood from one epoch to the next, nats per row, at which mini-batches stop."""


@dataclass(frozen=True)
class Algorithm:
    """How a fit is made.

    Attributes
    ----------
    sample_steps
        Largest number of EM steps on the sample, for each start.
    leaves
        What the tasks of a pass read.
    run
        Advances candidates on the full data until each has an outcome.
    """

    sample_steps: int
    leaves: Callable[[Source], Sequence[Leaf]]
    run: Callable[[list[EMState], FullPass, Scheme, Settings, OnPass, Review], list[EMState]]


def _advance_one(pair: tuple[EMState, SuffStats], scheme: Scheme) -> EMState:
    return advance(*pair, scheme)


def run_exact(
    states: list[EMState], full: FullPass, scheme: Scheme, settings: Settings, on_pass: OnPass, review: Review
) -> list[EMState]:
    """Run exact EM; all candidates share every pass."""
    del settings

    def on_workers(pairs: Sequence[tuple[EMState, SuffStats]], scheme: Scheme) -> list[EMState]:
        return full.executor.map(_advance_one, pairs, shared=scheme, label="accelerate")

    return run_to_end(states, full, scheme, on_pass, on_workers if scheme.method.costly else advance_all, review)


def run_minibatch(
    states: list[EMState], full: FullPass, scheme: Scheme, settings: Settings, on_pass: OnPass, review: Review
) -> list[EMState]:
    """Run stepwise EM, all candidates on the same mini-batches; one exact pass at the end evaluates them."""
    del review  # before the end there is no exact log-likelihood to compare candidates by
    schedule = PowerDecay()
    steps = [StepwiseState(s.params) for s in states]
    tol = MINIBATCH_TOL if settings.tol is None else settings.tol
    largest = max(s.params.n_components * (s.params.n_features + 1) for s in states)
    batch_rows = int(np.clip(50 * largest, *BATCH_ROWS))
    averages: list[list[float]] = [[] for _ in states]
    epochs, failures = 0, dict[int, str]()
    while epochs < settings.max_passes and not _have_settled(averages, tol):
        rng = np.random.default_rng([settings.random_state, 1, epochs])
        full.passes += 1
        sums = np.zeros((len(steps), 2))
        for leaves in full.batches(batch_rows, rng):
            stats = full.read_batch(leaves, [s.params for s in steps])
            if stats[0].rows:
                for i, batch in enumerate(stats):
                    try:
                        steps[i] = take_stepwise_step(steps[i], batch, schedule, scheme.penalty)
                    except FIT_ERRORS as error:  # it stays where it is until the others have ended
                        failures.setdefault(i, str(error))
                sums += [[b.loglik, b.rows] for b in stats]
        epochs += 1
        for history, (loglik, rows) in zip(averages, sums, strict=True):
            history.append(loglik / rows)
        on_pass([EMState(s.params, history=tuple(h)) for s, h in zip(steps, averages, strict=True)])
    # One more read: the exact log-likelihood at the parameters as they are.
    stats = full([s.params for s in steps])
    evaluation = replace(scheme, rule=replace(scheme.rule, max_passes=0), method=PLAIN_EM)
    out = []
    for i, (state, step, own, average) in enumerate(zip(states, steps, stats, averages, strict=True)):
        if i in failures:
            out.append(replace(state, outcome=Outcome.FAILED, reason=failures[i], passes=epochs + 1))
            continue
        ended = advance(replace(state, params=step.params), own, evaluation)
        settled = ended.outcome is Outcome.MAX_PASSES and _have_settled([average], tol)
        out.append(
            replace(
                ended,
                history=(*average, ended.history[-1]),
                n_iter=epochs,
                outcome=Outcome.CONVERGED if settled else ended.outcome,
                passes=epochs + 1,
            )
        )
    return out


def _have_settled(averages: list[list[float]], tol: float) -> bool:
    return all(len(h) > 1 and h[-1] - h[-2] <= tol for h in averages)


ALGORITHMS = {
    AUTO: Algorithm(1000, lambda source: source.leaves(), run_exact),
    "em": Algorithm(1000, lambda source: source.leaves(), run_exact),
    "minibatch": Algorithm(5, lambda source: source.small_leaves(), run_minibatch),
}


def algorithm_named(name: str) -> Algorithm:
    """Return an algorithm.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    return ALGORITHMS[one_of(name, ALGORITHMS, "algorithm")]


def make_scheme(settings: Settings, profile: Profile) -> Scheme:
    """Return the stop rule, the penalty and the acceleration for passes over the full data."""
    name = settings.acceleration
    method = (
        Auto(InMemoryEStep(profile.sample.rows, profile.scaling, weights=profile.sample.weights))
        if name == AUTO
        else METHODS[name or "none"]
    )
    return Scheme(settings.rule, make_penalty(profile, settings), method)
