"""The sweep: every (K, covariance structure) from one sample and the same shared passes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from stream_gmm.core.criteria import CHOICES, HELDOUT, base_criterion
from stream_gmm.core.fit.em import FIT_ERRORS, EMState, Outcome, Review
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult
from stream_gmm.core.search.pruning import PASSES_LEFT, STEPS_LEFT, prune_states
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError, one_of
from stream_gmm.execute.protocol import Executor
from stream_gmm.faults import fault_site
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit.algorithms import OnPass
from stream_gmm.pipeline.fit.grid import CandidateSpec, parse_grid
from stream_gmm.pipeline.fit.results import (
    collect_sample_stats,
    describe_provenance,
    explain_collapse,
    make_result,
    make_sample_result,
)
from stream_gmm.pipeline.fit.sample import SampleOutcome, fit_on_sample
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.size import check_size
from stream_gmm.pipeline.fit.steps import make_full_pass, open_tasks, run_states
from stream_gmm.pipeline.fit.transforms import open_and_profile
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress
from stream_gmm.pipeline.passes.tasks import AUTO, PassTasks
from stream_gmm.pipeline.sweep.choice import LOWEST_BIC, SelectionRule, choose
from stream_gmm.pipeline.sweep.ledger import NO_LEDGER, Entries, Ledger
from stream_gmm.pipeline.sweep.nested import NestedReview, choose_start, tracks_by_spec
from stream_gmm.pipeline.sweep.result import Candidate, SweepResult
from stream_gmm.pipeline.sweep.sample_pruning import (
    UNFINISHED_ALLOWANCE,
    evaluate_on_validation_rows,
    prune_on_sample,
    select_validation_rows,
)


@dataclass(frozen=True)
class SweepJob:
    """All that decides a sweep: data, candidates, settings, executor, selection rule, ledger; and who listens."""

    source: Source
    grid: Sequence[CandidateSpec]
    settings: Settings
    executor: Executor
    choice: SelectionRule = LOWEST_BIC
    prune: bool = True
    ledger: Ledger = NO_LEDGER
    match_to: FitResult | None = None
    listener: Listener = ignore_progress
    on_pass: OnPass = lambda _: None

    @property
    def pruning(self) -> str:
        """The criterion by which candidates are pruned; empty if they are not."""
        return self.choice.criterion if self.prune else ""

    def run(self) -> SweepResult:
        """Run the sweep: profile, sample, full passes, choice."""
        entries = self.ledger.read().prepare_for(self.pruning, self.grid)
        reused = sum(c in entries.states and not entries.states[c].live for c in self.grid)
        entries, tasks, profile = self._ensure_profile(entries)
        outcomes = self._fit_on_sample(entries, profile)
        entries = replace(
            entries, outcomes=entries.outcomes | dict(zip(self.grid, outcomes, strict=True)), sample_stage="",
            unfinished={},
        )  # fmt: skip
        entries = self._fit_on_full_data(entries, tasks, profile)
        fault_site("choice")
        result = self._choose_candidate(entries, profile)
        return replace(result, reused=reused, warnings=(*result.warnings, *self.ledger.notes))

    def _ensure_profile(self, entries: Entries) -> tuple[Entries, PassTasks, Profile]:
        if entries.profile is not None:
            source = self.source.with_transforms(entries.profile.transforms)
            return entries, open_tasks(source, self.settings, self.executor), entries.profile
        tasks, profile, reads = open_and_profile(self.source, self.settings, self.executor, self.listener)
        entries = replace(entries, profile=profile, reads=entries.reads + reads)
        self.ledger.write(entries)
        fault_site("profile")
        return entries, tasks, profile

    def _fit_on_sample(self, entries: Entries, profile: Profile) -> list[SampleOutcome]:
        def save_fits(fits: dict[CandidateSpec, SampleOutcome]) -> None:
            self.ledger.write(replace(entries, outcomes=fits, sample_stage="", unfinished={}))
            fault_site("sample")

        def save_stage(stage: str, fits: dict[CandidateSpec, SampleOutcome]) -> None:
            self.ledger.write(replace(entries, sample_stage=stage, unfinished=fits))
            fault_site(stage)

        def prune(outcomes: list[SampleOutcome], allowance: float = UNFINISHED_ALLOWANCE) -> list[SampleOutcome]:
            return prune_on_sample(self.grid, outcomes, profile, self.choice.criterion, self.executor, allowance)

        outcomes = fit_on_sample(
            self.grid, profile, self.settings, self.executor, self.listener, entries.outcomes, save_fits,
            prune if self.prune else None, (entries.sample_stage, entries.unfinished), save_stage,
        )  # fmt: skip
        return prune(outcomes, 0.0) if self.prune else [replace(e, pruned_reason="") for e in outcomes]

    def _fit_on_full_data(self, entries: Entries, tasks: PassTasks, profile: Profile) -> Entries:
        """Fit on the full data the candidates that are neither finished nor pruned."""
        states = {c: s for c, s in entries.states.items() if c in set(self.grid)}
        for spec in self.grid:
            e = entries.outcomes[spec]
            if spec not in states and e.fit.params is not None and not e.pruned_reason:
                states[spec] = e.fit.make_start(profile.sample_is_whole)
        if not any(s.live for s in [*states.values(), *itertools.chain(*entries.restarts.values())]):
            return replace(entries, states=entries.states | states, done=True)
        reads, rounds = entries.reads, dict(entries.rounds)

        def save_states(now: Sequence[EMState], made: int, done: bool = False) -> Entries:
            tracks = tracks_by_spec(now)
            fitted = {c: choose_start(own) if done else own[0] for c, own in tracks.items()}
            restarts = {} if done else {c: own[1:] for c, own in tracks.items() if own[1:]}
            out = replace(
                entries, states=entries.states | fitted, restarts=restarts, rounds=dict(rounds),
                reads=reads + made, done=done,
            )  # fmt: skip
            self.ledger.write(out)
            return out

        def on_pass(now: Sequence[EMState]) -> None:
            if all(s.accepted is not None for s in now[: len(states)]):  # mini-batches cannot resume from a state
                save_states(now, full.passes)
                fault_site("pass")
            self.on_pass(now)

        full = make_full_pass(tasks, profile, self.settings, self.executor, self.listener)
        passes_left = PASSES_LEFT if self.settings.acceleration == AUTO else STEPS_LEFT
        criterion = self.choice.criterion
        pruning = partial(prune_states, criterion=criterion, passes_left=passes_left)
        review: Review = pruning if self.prune else list
        if not profile.sample_is_whole:  # else the fits on the sample have been compared with splits on all rows
            review = NestedReview(
                len(states), profile, self.settings, self.executor, criterion, passes_left, self.prune, rounds
            )
        restarts = [s for c in states for s in entries.restarts.get(c, ())]
        ended = run_states([*states.values(), *restarts], full, profile, self.settings, on_pass, review)
        return save_states(ended, full.passes, done=True)

    def _choose_candidate(self, entries: Entries, profile: Profile) -> SweepResult:
        provenance = describe_provenance(self.source, profile, self.settings)
        sample_only = {c: p for c in self.grid if c not in entries.states and (p := entries.outcomes[c].fit.params)}
        stats = dict(
            zip(sample_only, collect_sample_stats(list(sample_only.values()), profile, self.executor), strict=True)
        )
        candidates = [self._make_candidate(spec, entries, profile, provenance, stats.get(spec)) for spec in self.grid]
        fitted = [i for i, c in enumerate(candidates) if c.result is not None]
        evaluated = evaluate_on_validation_rows(
            [r.params for c in candidates if (r := c.result)], profile, self.executor
        )
        values: list[Array | None] = [None] * len(candidates)
        for i, v in zip(fitted, evaluated, strict=True):
            values[i] = v
        out = choose(candidates, values, self.choice, profile, select_validation_rows(profile).weights, entries.reads)
        return out if self.match_to is None else _match_numbers(out, self.match_to)

    def _make_candidate(
        self,
        spec: CandidateSpec,
        entries: Entries,
        profile: Profile,
        provenance: dict[str, Any],
        of_sample: SuffStats | None,
    ) -> Candidate:
        k, family, outcome = spec.n_components, family_named(spec.covariance_type), entries.outcomes[spec]
        state = entries.states.get(spec)
        try:
            if of_sample is not None:
                result = make_sample_result(outcome, of_sample, profile, provenance)
                return Candidate(k, family, result, result.outcome, result.reason, outcome, on_full_data=False)
            if state is None or state.outcome is Outcome.FAILED:
                reason = (outcome.fit.reason if state is None else state.reason) or "its parameters have no density"
                return Candidate(k, family, None, Outcome.FAILED, reason, outcome)
            state = explain_collapse(state, profile, self.settings)
            state = replace(state, params=state.params.sort_by_weight())
            result = make_result(state, profile, self.settings, provenance)
        except FIT_ERRORS as error:
            return Candidate(k, family, None, Outcome.FAILED, str(error), outcome)
        return Candidate(k, family, result, result.outcome, result.reason, outcome)


def _match_numbers(result: SweepResult, reference: FitResult) -> SweepResult:
    """Return the result with the chosen model's components numbered after an earlier model's."""
    if result.best.columns != reference.columns and result.best.input_columns == reference.input_columns:
        warning = (
            f"components are not numbered after the earlier model: it has {list(reference.columns)}, and now "
            f"{list(result.best.columns)} vary."
        )
        return replace(result, warnings=(*result.warnings, warning))
    if result.best.transforms != reference.transforms:
        warning = (
            f"components are not numbered after the earlier model: it was fitted to {list(reference.labels)}, and "
            f"this one to {list(result.best.labels)}."
        )
        return replace(result, warnings=(*result.warnings, warning))
    candidates, best = list(result.candidates), result.best.match_to(reference)
    candidates[result.chosen] = replace(candidates[result.chosen], result=best)
    new_events = best.events[len(result.best.events) :]
    warnings = (*result.warnings, *(f"compared with the earlier model: {event}." for event in new_events))
    return replace(result, candidates=tuple(candidates), warnings=warnings)


def sweep(
    source: Source,
    n_components: int | Iterable[int],
    covariance_type: str | Iterable[str],
    settings: Settings,
    executor: Executor,
    *,
    choice: SelectionRule = LOWEST_BIC,
    prune: bool = True,
    ledger: Ledger = NO_LEDGER,
    match_to: FitResult | None = None,
    listener: Listener = ignore_progress,
    on_pass: OnPass = lambda _: None,
) -> SweepResult:
    """Fit every candidate and choose one.

    With ``prune``, a candidate that is clearly worse on the sample takes part in no pass over the data, and one that
    can no longer win takes part in no further pass. Both stay in the table. What ``ledger`` holds is not fitted
    again. The components of the chosen model keep the numbers of those of ``match_to``.

    Raises
    ------
    ConfigError
        If the grid or the criterion is malformed, ``match_to`` has other columns, or a worker has not the memory that
        is needed.
    InputDataError
        If the data cannot be used.
    NoAdmissibleModelError
        If every candidate failed or is degenerate.
    """
    one_of(choice.criterion, CHOICES, "criterion")
    if base_criterion(choice.criterion) == HELDOUT and not settings.holdout:
        raise ConfigError(f"the criterion {choice.criterion!r} needs rows held out: set holdout, such as 0.1.")
    if choice.elbow < 0.0:
        raise ConfigError("elbow must not be negative.")
    grid = parse_grid(n_components, covariance_type)
    settings.check_structures([name for _, name in grid])
    check_size(source, grid, settings, executor)
    try:
        return SweepJob(source, grid, settings, executor, choice, prune, ledger, match_to, listener, on_pass).run()
    finally:
        if ledger.mirror is not None:
            ledger.mirror.flush()
