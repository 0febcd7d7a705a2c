"""The sweep: every (K, covariance structure) from one sample and the same shared passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from stream_gmm.core.criteria import CHOICES, HELDOUT, measure
from stream_gmm.core.fit.em import EMState, Outcome, Review
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult
from stream_gmm.core.search.pruning import prune as drop_beaten
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError, one_of
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit.algorithms import OnPass
from stream_gmm.pipeline.fit.grid import Cell, parse_grid
from stream_gmm.pipeline.fit.results import collapsed, finished, of_the_sample, on_the_sample, provenance_of
from stream_gmm.pipeline.fit.sample import Explored, explore
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.steps import first_pass, fit_states, full_pass, open_data
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.progress import Listener, silent
from stream_gmm.pipeline.passes.tasks import Reading
from stream_gmm.pipeline.sweep.choice import BY_BIC, Choice, choose
from stream_gmm.pipeline.sweep.ledger import NO_LEDGER, Entries, Ledger
from stream_gmm.pipeline.sweep.result import Candidate, SweepResult
from stream_gmm.pipeline.sweep.sample_pruning import SEARCH, give_up, judge, judges


@dataclass(frozen=True)
class Sweeping:
    """A sweep to be made: of what data, which cells, how fitted, what chooses, who computes, what is kept."""

    source: Source
    grid: Sequence[Cell]
    settings: Settings
    executor: Executor
    choice: Choice = BY_BIC
    prune: bool = True
    ledger: Ledger = NO_LEDGER
    match_to: FitResult | None = None
    listener: Listener = silent
    on_pass: OnPass = lambda _: None

    @property
    def pruning(self) -> str:
        """What candidates are given up by."""
        return self.choice.criterion if self.prune else ""

    def run(self) -> SweepResult:
        """Make it."""
        entries = self.ledger.read().begun(self.pruning, self.grid)
        reused = sum(c in entries.states and not entries.states[c].live for c in self.grid)
        reading = open_data(self.source, self.settings, self.executor)
        entries = self._profiled(entries, reading)
        found = entries.profile
        assert found is not None
        explored = self._explored(entries, found)
        entries = replace(entries, explored=entries.explored | dict(zip(self.grid, explored, strict=True)))
        entries = self._confirmed(entries, reading, found)
        return replace(self._chosen(entries, found), reused=reused)

    def _profiled(self, entries: Entries, reading: Reading) -> Entries:
        if entries.profile is not None:
            return entries
        found = first_pass(self.source, reading, self.settings, self.executor, self.listener)
        entries = replace(entries, profile=found, reads=entries.reads + 1)
        self.ledger.write(entries)
        return entries

    def _explored(self, entries: Entries, found: Profile) -> list[Explored]:
        def keep(fits: dict[Cell, Explored]) -> None:
            self.ledger.write(replace(entries, explored=fits))

        def prune(explored: list[Explored], search: float = SEARCH) -> list[Explored]:
            return give_up(self.grid, explored, found, self.choice.criterion, self.executor, search)

        explored = explore(
            self.grid, found, self.settings, self.executor, self.listener, entries.explored, keep,
            prune if self.prune else None,
        )  # fmt: skip
        return prune(explored, 0.0) if self.prune else [replace(e, beaten="") for e in explored]

    def _confirmed(self, entries: Entries, reading: Reading, found: Profile) -> Entries:
        """Fit on the full data what is not finished and worth it."""
        states = {c: s for c, s in entries.states.items() if c in set(self.grid)}
        for cell in self.grid:
            e = entries.explored[cell]
            if cell not in states and e.fit.params is not None and not e.beaten:
                states[cell] = EMState(e.fit.params, events=e.fit.events)
        if not any(s.live for s in states.values()):
            return replace(entries, states=entries.states | states, done=True)
        cells, reads = list(states), entries.reads

        def after(now: Sequence[EMState], made: int, done: bool = False) -> Entries:
            both = entries.states | dict(zip(cells, now, strict=True))
            out = replace(entries, states=both, reads=reads + made, done=done)
            self.ledger.write(out)
            return out

        def on_pass(now: Sequence[EMState]) -> None:
            if all(s.at is not None for s in now):  # mini-batches have no state to go on from
                after(now, full.passes)
            self.on_pass(now)

        full = full_pass(reading, found, self.settings, self.executor, self.listener)
        review: Review = partial(drop_beaten, criterion=self.choice.criterion) if self.prune else list
        ended = fit_states([states[c] for c in cells], full, found, self.settings, on_pass, review)
        return after(ended, full.passes, done=True)

    def _chosen(self, entries: Entries, found: Profile) -> SweepResult:
        provenance = provenance_of(self.source, found, self.settings)
        beaten = {c: p for c in self.grid if c not in entries.states and (p := entries.explored[c].fit.params)}
        stats = dict(zip(beaten, on_the_sample(list(beaten.values()), found, self.executor), strict=True))
        candidates = [self._candidate(cell, entries, found, provenance, stats.get(cell)) for cell in self.grid]
        fitted = [i for i, c in enumerate(candidates) if c.result is not None]
        judged = judge([r.params for c in candidates if (r := c.result)], found, self.executor)
        values: list[Array | None] = [None] * len(candidates)
        for i, v in zip(fitted, judged, strict=True):
            values[i] = v
        out = choose(candidates, values, self.choice, found, judges(found).weights, entries.reads)
        return out if self.match_to is None else _numbered(out, self.match_to)

    def _candidate(
        self, cell: Cell, entries: Entries, found: Profile, provenance: dict[str, Any], of_sample: SuffStats | None
    ) -> Candidate:
        family, explored = family_named(cell[1]), entries.explored[cell]
        state = entries.states.get(cell)
        if of_sample is not None:
            result = of_the_sample(explored, of_sample, found, provenance)
            return Candidate(cell[0], family, result, result.outcome, result.reason, explored, took_part=False)
        if state is None or state.outcome is Outcome.FAILED:
            reason = explored.fit.reason if state is None else state.reason
            return Candidate(cell[0], family, None, Outcome.FAILED, reason, explored)
        state = collapsed(state, found)
        result = finished(replace(state, params=state.params.canonical()), found, self.settings, provenance)
        return Candidate(cell[0], family, result, result.outcome, result.reason, explored)


def _numbered(result: SweepResult, reference: FitResult) -> SweepResult:
    """Return the result with the chosen model's components numbered after an earlier model's."""
    candidates, best = list(result.candidates), result.best.matched_to(reference)
    candidates[result.chosen] = replace(candidates[result.chosen], result=best)
    told = best.events[len(result.best.events) :]
    warnings = (*result.warnings, *(f"beside the earlier model: {t}." for t in told))
    return replace(result, candidates=tuple(candidates), warnings=warnings)


def sweep(
    source: Source,
    n_components: int | Iterable[int],
    covariance_type: str | Iterable[str],
    settings: Settings,
    executor: Executor,
    *,
    choice: Choice = BY_BIC,
    prune: bool = True,
    ledger: Ledger = NO_LEDGER,
    match_to: FitResult | None = None,
    listener: Listener = silent,
    on_pass: OnPass = lambda _: None,
) -> SweepResult:
    """Fit every candidate and choose one.

    With ``prune``, a candidate that is clearly beaten on the sample takes part in no pass over the data, and one
    that cannot win any more in no further one. Both stay in the table. What ``ledger`` holds is not fitted again. The
    components of the chosen model are numbered after those of ``match_to``.

    Raises
    ------
    ConfigError
        If the grid or the criterion is malformed, or ``match_to`` has other columns.
    InputDataError
        If the data cannot be used.
    NoAdmissibleModelError
        If every candidate failed or is degenerate.
    """
    one_of(choice.criterion, CHOICES, "criterion")
    if measure(choice.criterion) == HELDOUT and not settings.holdout:
        raise ConfigError(f"the criterion {choice.criterion!r} needs rows held out: set holdout, such as 0.1.")
    if choice.elbow < 0.0:
        raise ConfigError("elbow must not be negative.")
    grid = parse_grid(n_components, covariance_type)
    settings.check_structures([name for _, name in grid])
    return Sweeping(source, grid, settings, executor, choice, prune, ledger, match_to, listener, on_pass).run()
