"""Where the full passes start: restarts raced on a sample, EM to convergence there, and steps between neighbouring K.

The search for good optima happens on the sample, without a pass over the data; the full passes refine its results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.scores import score_rows
from stream_gmm.core.fit.em import FIT_ERRORS, EMState, Outcome, Scheme, StopRule, run_to_end
from stream_gmm.core.fit.few_rows import End, FewRows
from stream_gmm.core.fit.quasi_newton import QUASI_NEWTON
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.model.split_merge import merge_components, rank_pairs, split_component
from stream_gmm.core.mstep.mstep import RIDGE, STARVING_ROWS
from stream_gmm.core.mstep.penalty import Penalty
from stream_gmm.core.rows.moments import UNWEIGHTED
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.search.incomplete import take_whole_rows
from stream_gmm.core.search.judging import FINALISTS, RACE_TOL, Judge
from stream_gmm.core.search.sample_fit import SampleFit, Start, is_regular, is_same_seed
from stream_gmm.core.search.seeding import (
    DENSITY_ROWS,
    NEIGHBOURS,
    SEEDINGS,
    LocalDensity,
    RowsToSeed,
    add_peak,
    list_seedings,
    start_from_seed,
    widen_clusters,
)
from stream_gmm.core.search.superfluous import STALL_GAIN, end_stalled, reduce_superfluous
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import InputDataError, explain

RACE_STEPS = 15
"""EM steps of every restart in a round of the race, on ``RACE_ROWS`` rows in the first one."""
RACE_ROWS = 4_000
SPLIT_STEPS = 5
"""EM steps after which splits and merges are compared."""
MERGED_PAIRS = 10
"""So many pairs of components are tried when one component less is wanted."""
DUEL_STEPS, DUEL_ROWS = 30, 25
"""Steps after which the better finalist goes on alone, on at least so many rows for each parameter."""
SAMPLE_PRECISION = 100.0
"""Fits on the sample stop at the default tolerance of so many times its rows."""
JUDGING_STEPS = 10
"""Ordinary steps after compiled ones that have ended without a small predicted gain."""
REPAIRS = 2
"""At most so many superfluous components are moved."""
NOISE_START = 0.05
"""Weight of the noise at the start."""
Seed = tuple[str, SuffStats]
"""The name of a seeding, and its statistics."""


@dataclass(frozen=True, eq=False)
class SampleSearch:
    """Fits candidates on a sample ``rows (n, D)`` in random order.

    Parameters
    ----------
    tol
        Predicted remaining gain at which to stop; None: far below the sample's own error.
    max_steps
        Largest number of EM steps.
    weights
        Weights ``(n,)`` of the rows, or none.
    """

    rows: Array
    scaling: Scaling
    penalty: Penalty = RIDGE
    tol: float | None = None
    max_steps: int = 1000
    weights: Array = field(default_factory=lambda: UNWEIGHTED)
    noise: Array | None = None
    """Box ``(2, D)`` of the noise component, or None without one."""
    moments: SuffStats | None = None
    """Moments of all rows, where they cannot be computed from the rows because some values are missing."""

    def fit(
        self, n_components: int, family: CovarianceFamily, n_init: int = 1, seed: Sequence[int] = (0,)
    ) -> SampleFit:
        """Fit one candidate: :meth:`draw_seeds`, :meth:`race_restarts`, and :meth:`fit_finalists`.

        Raises
        ------
        InputDataError
            If there are fewer rows than components.
        """
        return self.fit_finalists(self.race_restarts(family, self.draw_seeds(n_components, n_init, seed)))

    def draw_seeds(self, n_components: int, n_init: int = 1, seed: Sequence[int] = (0,)) -> tuple[Seed, ...]:
        """Seed ``n_init`` restarts, for all structures, by every kind of seeding that finds clusters of its own.

        Raises
        ------
        InputDataError
            If there are fewer rows than components.
        """
        if len(self.rows) < n_components:
            what = f"{n_components} components need at least as many rows, and there are {len(self.rows)}"
            raise InputDataError(explain(what, remedy="use fewer components or more data"))
        out: list[Seed] = []
        complete: RowsToSeed | None = None
        for i in range(n_init if n_components > 1 else 1):
            for j, name in enumerate(list_seedings(len(self.rows), n_components, self.rows.shape[1])):
                rng = np.random.default_rng([*seed, i, j])
                # A seeding that these rows defeat is left out; the others go on.
                with contextlib.suppress(*FIT_ERRORS):
                    rows = complete
                    if rows is None:
                        whole = take_whole_rows(self.rows, self.weights, n_components, self.moments, rng)
                        rows = RowsToSeed.of(whole[0], n_components, self.scaling, whole[1])
                        complete = rows if whole[0] is self.rows else None
                    stats = rows.collect_stats(n_components, rng, SEEDINGS[name])
                    if not any(is_same_seed(stats, other) for _, other in out):
                        out.append((f"restart {i + 1}, {name}", stats))
        return tuple(out)

    def race_restarts(self, family: CovarianceFamily, seeds: Sequence[Seed]) -> SampleFit:
        """Return the best of the restarts as it stands before it is run to convergence, and the finalists.

        The restarts race by successive halving: some EM steps each on a few rows, the better half goes on with
        more rows, until two are left.
        """
        size, n_features = min(RACE_ROWS, len(self.rows)), self.rows.shape[1]
        estep, few = self._take_rows(size)
        is_compiled = len(seeds) > FINALISTS and self.noise is None and few.can_step_in(n_features)
        reason = "no seeding gives a start: too many rows are equal"
        starts: list[Start] = []
        ends: list[tuple[str, End]] = []
        for name, stats in seeds:
            try:
                if is_compiled:
                    ends.append((name, self._run_from_seed(stats, family, few, self._count_steps(size))))
                else:
                    starts.append((name, self._make_start(stats, family)))
            except FIT_ERRORS as error:
                reason = str(error)
        if not (starts or ends):
            return SampleFit(None, reason=reason)
        if starts:
            return self._race_starts(starts, size)
        judged = self._judge.judge_ends([end for _, end in ends], estep)
        ahead, best = self._judge.keep_ahead([name for name, _ in ends], judged)
        return self._race_starts(ahead, min(2 * size, len(self.rows)), best)

    def _run_from_seed(self, stats: SuffStats, family: CovarianceFamily, few: FewRows, steps: int) -> End:
        """Return where EM steps from a seeding lead, compiled; of one without a density, in the ordinary way."""
        if stats.weight.min() > STARVING_ROWS:
            end = few.run_steps_from(widen_clusters(stats, self._spread), family, steps, RACE_TOL)
            if np.isfinite(end.loglik):
                return end
        return few.run_plain_steps(self._make_start(stats, family), steps, RACE_TOL)

    @cached_property
    def _spread(self) -> Array:
        return np.asarray(self.scaling.scale**2)

    def _count_steps(self, size: int) -> int:
        """Return the EM steps of a rung: on all the rows until the order is nearly settled; on few it need not be."""
        return RACE_STEPS if size < len(self.rows) else 8 * RACE_STEPS

    def _make_start(self, stats: SuffStats, family: CovarianceFamily) -> MixtureParams:
        params = start_from_seed(stats, family, self.scaling, self.penalty)
        return params if self.noise is None else params.with_noise(self.noise, NOISE_START)

    def fit_finalists(self, raced: SampleFit) -> SampleFit:
        """Run the finalists of a race to convergence on all rows; the best is the fit."""
        return raced if raced.params is None else self._fit_to_convergence(raced.finalists)

    def improve_from_neighbours(self, own: SampleFit, below: SampleFit | None, above: SampleFit | None) -> SampleFit:
        """Return a fit, or a better one made from those with K - 1 and K + 1 components.

        Tried are the best split of K - 1, a new component where the rows lie most densely beside K - 1, and the best
        merge of K + 1.
        """
        if own.params is None:
            return own
        rivals: list[Start] = []
        if below is not None and below.params is not None:
            rivals.append(("split of K - 1", self.split_best(below.params)))
            grown = self._add_at_density_peak(below.params)
            rivals += [] if grown is None else [("density peak beside K - 1", grown)]
        if above is not None and above.params is not None:
            rivals.append(("merge of K + 1", self.merge_best(above.params)))
        rivals = [(name, params) for name, params in rivals if is_regular(params)]
        # On a few rows first: most rivals lose there.
        raced = self._run_em(
            [own.params, *(p for _, p in rivals)], min(2 * RACE_ROWS, len(self.rows)), 2 * RACE_STEPS
        )
        ahead = [
            (name, s.params)
            for (name, _), s in zip(rivals, raced[1:], strict=True)
            if self._judge.rank(s) > self._judge.rank(raced[0])
        ]
        if not ahead:
            return own
        climbed = self._fit_to_convergence(ahead)
        return climbed if climbed.rank > own.rank else own

    def split_best(self, params: MixtureParams) -> MixtureParams:
        """Return the mixture with one more component, split where that promises most."""
        splits = [split_component(params, k) for k in range(params.n_components)]
        tried = self._run_em(splits, min(RACE_ROWS, len(self.rows)), SPLIT_STEPS)
        return max(tried, key=self._judge.rank).params

    def merge_best(self, params: MixtureParams) -> MixtureParams:
        """Return the mixture with one component less: the best of several merges after a few EM steps.

        The pair that loses least by a bound is not always the best to merge: two halves of a broad component lose
        more by the bound than a small dense one that is merged into it.
        """
        merged = [merge_components(params, i, j) for _, i, j in rank_pairs(params)[:MERGED_PAIRS]]
        merged = [params for params in merged if is_regular(params)] or merged[:1]
        tried = self._run_em(merged, min(RACE_ROWS, len(self.rows)), SPLIT_STEPS)
        return max(tried, key=self._judge.rank).params

    def _add_at_density_peak(self, params: MixtureParams) -> MixtureParams | None:
        """Return the mixture with one more component where rows lie most densely beside it, or None."""
        density = self._local_density
        if density is None:
            return None
        few = self._whole_rows[: len(density.rows)]
        log_mixture = score_rows(compile_density(params), few).log_density
        peak = density.find_peak(log_mixture + np.log(self.scaling.scale).sum())
        return None if peak is None else add_peak(params, few[peak])

    def run_briefly(self, params: MixtureParams, steps: int = SPLIT_STEPS) -> EMState:
        """Return a mixture after as many steps as :meth:`split_best` makes, to be compared with it."""
        return self._run_em([params], min(RACE_ROWS, len(self.rows)), steps)[0]

    def _run_em(self, starts: Sequence[MixtureParams], size: int, steps: int) -> list[EMState]:
        estep, few = self._take_rows(size)
        if starts and few.can_step(starts[0]):
            return self._judge.judge_ends([few.run_plain_steps(p, steps, RACE_TOL) for p in starts], estep)
        scheme = Scheme(StopRule(RACE_TOL, steps), self.penalty)
        return run_to_end([EMState(p) for p in starts], estep, scheme)

    def _take_rows(self, size: int) -> tuple[InMemoryEStep, FewRows]:
        """Return the ordinary E-step over the first rows, and the compiled steps."""
        if size >= len(self.rows):
            return self._estep, self._few_rows
        rows, weights = self.rows[:size], self.weights[:size]
        return InMemoryEStep(rows, self.scaling, weights=weights), FewRows(rows, weights, self.penalty)

    def _race_starts(self, starts: Sequence[Start], size: int, best: SampleFit | None = None) -> SampleFit:
        """Race restarts on so many rows and more, until at most two are left; ``best`` says how good the best is."""
        while len(starts) > FINALISTS:
            ended = self._run_em([p for _, p in starts], size, self._count_steps(size))
            starts, best = self._judge.keep_ahead([name for name, _ in starts], ended)
            size = min(2 * size, len(self.rows))
        before = best or SampleFit(None, rank=(True, True, -np.inf))
        return replace(before, params=starts[0][1], origin=starts[0][0], finalists=tuple(starts))

    def _fit_to_convergence(self, starts: Sequence[Start]) -> SampleFit:
        """Run to convergence on all rows; the best is repaired if that is needed and helps."""
        origin, best, left = self._run_to_best(starts)
        events: tuple[str, ...] = ()
        for _ in range(REPAIRS):
            found = None if best.outcome is Outcome.FAILED else reduce_superfluous(best)
            if found is None:
                break
            reduced, event = found
            _, repaired, of_repaired = self._run_to_best([("", self.split_best(reduced))])
            if self._judge.rank(repaired) <= self._judge.rank(best):
                break
            best, left, events = repaired, of_repaired, (*events, event)
        if best.outcome is Outcome.FAILED:
            return SampleFit(None, reason=best.reason)
        rank = self._judge.rank(best)
        return SampleFit(best.params, best.history, events=events, rank=rank, origin=origin, left=left)

    def _run_to_best(self, starts: Sequence[Start]) -> tuple[str, EMState, float]:
        """Return the name of the best start, its end, and what is left to gain there, nats per row."""
        tol = self.tol
        if tol is None:  # far below the sample's own error: what is left here costs full passes
            tol = StopRule().tolerance(starts[0][1].n_parameters, SAMPLE_PRECISION * len(self.rows))
        scheme = Scheme(StopRule(tol, self.max_steps), self.penalty, QUASI_NEWTON)
        least_gain = max(tol, STALL_GAIN / len(self.rows))
        starts, others, left, ended = list(starts), list(starts)[:0], np.inf, []
        if self._few_rows.can_climb(starts[0][1]):
            if len(starts) > 1:
                starts, others = self._hold_duel(starts, tol, least_gain)
            end = self._few_rows.climb(starts[0][1], self.max_steps, tol, least_gain)
            starts, left = [(starts[0][0], end.params)], end.left
            # Where it is no optimum, ordinary steps judge the end.
            scheme = replace(scheme, rule=StopRule(tol, JUDGING_STEPS))
            ended = [self._judge.judge_end(end, self._estep)] if end.is_optimum else []
        review = partial(end_stalled, least_gain=least_gain)
        ended = ended or run_to_end([EMState(p) for _, p in starts], self._estep, scheme, review=review)
        ranks = [self._judge.rank(state) for state in ended]
        best = ranks.index(max(ranks))
        if others and not ranks[best][1]:  # the duel was won by a component that has collapsed since
            other = self._run_to_best(others)
            if self._judge.rank(other[1]) > ranks[best]:
                return other
        return starts[best][0], ended[best], left

    def _hold_duel(self, starts: Sequence[Start], tol: float, stall: float) -> tuple[list[Start], list[Start]]:
        """Return the start that is ahead after some steps on rows enough, and the others, where they stand then."""
        size = max(2 * RACE_ROWS, DUEL_ROWS * starts[0][1].n_parameters)
        estep, few = self._take_rows(size)
        ends = [few.climb(p, min(DUEL_STEPS, self.max_steps), tol, stall) for _, p in starts]
        ranks = [self._judge.rank(self._judge.judge_end(end, estep)) for end in ends]
        places = sorted(range(len(ends)), key=lambda i: ranks[i], reverse=True)
        ranked = [(starts[i][0], ends[i].params) for i in places]
        return ranked[:1], ranked[1:]

    @cached_property
    def _few_rows(self) -> FewRows:
        return FewRows(self.rows, self.weights, self.penalty)

    @cached_property
    def _estep(self) -> InMemoryEStep:
        return InMemoryEStep(self.rows, self.scaling, weights=self.weights)

    @cached_property
    def _judge(self) -> Judge:
        return Judge(self._estep, self.penalty, self.moments)

    @cached_property
    def _whole_rows(self) -> Array:
        """Rows to measure local densities at."""
        return take_whole_rows(self.rows, self.weights, 1, self.moments, np.random.default_rng(0))[0]

    @cached_property
    def _local_density(self) -> LocalDensity | None:
        few = self.scaling.scaled.apply(self._whole_rows[:DENSITY_ROWS])
        return LocalDensity.of(few, NEIGHBOURS[1]) if len(few) > NEIGHBOURS[1] else None
