"""Evidence from rows of the new files: for a challenger, and for another number of components or structure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from stream_gmm.core.estep.scores import score_rows
from stream_gmm.core.fit.em import FIT_ERRORS
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.sampling import Sample
from stream_gmm.core.search.evidence import PairedDifference, compare_paired
from stream_gmm.core.search.sample_fit import SampleFit
from stream_gmm.pipeline.fit.sample import make_sample_search
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.profile import Profile

LEAST_ROWS = 100
"""With fewer rows, a mean and its standard error tell nothing."""
MOST_ROWS = 20_000
"""Rows on which models are compared: the standard error hardly falls with more."""


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger is better than the champion, on rows that neither has used.

    Attributes
    ----------
    wins
        True if the mean difference exceeds ``z`` standard errors.
    difference
        Paired difference of log-densities, challenger less champion, nats per row; None with too few rows.
    z
        Standard errors that were asked for.
    """

    wins: bool
    difference: PairedDifference | None
    z: float

    def describe(self) -> str:
        """Return the verdict in words."""
        d = self.difference
        if d is None:
            return f"the champion stays: fewer than {LEAST_ROWS} new rows were set apart, too few to compare models."
        verb = "follows the champion" if self.wins else "does not replace the champion"
        return (
            f"the new model {verb}: on {d.rows:,.0f} new rows that neither has used it is {d.mean:+.4g} nats per row "
            f"ahead, standard error {d.standard_error:.2g}, and {self.z:g} standard errors are asked for."
        )

    def as_record(self) -> dict[str, object]:
        """Return the numbers for a record."""
        d = self.difference
        numbers = {} if d is None else {"mean": d.mean, "standard_error": d.standard_error, "rows": d.rows}
        return {"wins": self.wins, "z": self.z, **numbers}


def judge_challenger(champion: Array, challenger: Array, weights: Array, z: float) -> Verdict:
    """Compare two models by their log-densities ``(n,)`` of rows that neither has used, with weights or none."""
    if len(champion) < LEAST_ROWS:
        return Verdict(False, None, z)
    difference = compare_paired(challenger, champion, weights)
    return Verdict(difference.mean > z * difference.standard_error, difference, z)


def score_log_density(params: MixtureParams, rows: Array) -> Array:
    """Return the log-density ``(n,)`` of rows as they are fitted, nats."""
    return score_rows(compile_density(params), rows).log_density


@dataclass(frozen=True)
class RivalEvidence:
    """What new rows say about another number of components or structure.

    Attributes
    ----------
    name
        The rival for which the evidence is strongest; empty if there is none.
    now, before
        By how much it is ahead of the model on new rows, and on old ones, nats per row.
    standard_error
        Standard error of the difference of the two.
    crosses
        True if it is ahead on new rows, and by more than on old ones: by the bound and so many standard errors.
    bound
        The bound, nats per row.
    """

    name: str = ""
    now: float = -math.inf
    before: float = 0.0
    standard_error: float = math.inf
    crosses: bool = False
    bound: float = 0.0

    @property
    def shift(self) -> float:
        """By how much more it is ahead on new rows than on old ones, nats per row."""
        return self.now - self.before

    def describe(self) -> str:
        """Return the evidence in words."""
        if not self.name:
            return "there are too few new rows to compare other numbers of components and structures."
        end = "which asks for a new sweep" if self.crosses else "which asks for no new sweep"
        return (
            f"of other numbers of components and structures {self.name} does best on the new rows: {self.now:+.4g} "
            f"nats per row beside the model, and {self.before:+.4g} on old rows (standard error of the shift "
            f"{self.standard_error:.2g}, bound {self.bound:g}), {end}."
        )


def compare_rivals(
    current: MixtureParams, rivals: Mapping[str, MixtureParams], new: Sample, old: Sample, bound: float, z: float
) -> RivalEvidence:
    """Return for which rival the new rows speak most, compared with what the old rows say.

    The choice on the old rows has weighed its lead there, or lag, against its size; what is new is only the shift.
    """
    if min(len(new.rows), len(old.rows)) < LEAST_ROWS or not rivals:
        return RivalEvidence()
    new_rows, old_rows = new.rows[:MOST_ROWS], old.rows[:MOST_ROWS]
    own = [score_log_density(current, rows) for rows in (new_rows, old_rows)]
    found = []
    for name, params in rivals.items():
        try:
            values = [score_log_density(params, rows) for rows in (new_rows, old_rows)]
        except FIT_ERRORS:
            continue
        now = compare_paired(values[0], own[0], new.weights[:MOST_ROWS])
        before = compare_paired(values[1], own[1], old.weights[:MOST_ROWS])
        shift = now.mean - before.mean
        error = math.hypot(now.standard_error, before.standard_error)
        # A rival that is behind on the new rows, too, is no reason to search.
        crosses = shift - z * error > bound and now.mean > z * now.standard_error
        found.append(RivalEvidence(name, now.mean, before.mean, error, crosses, bound))
    return max(found, key=lambda e: (e.crosses, e.now), default=RivalEvidence())


def grow_and_shrink(params: MixtureParams, profile: Profile, settings: Settings) -> dict[str, MixtureParams]:
    """Return the neighbours of a mixture with one component more and one less, fitted on the sample."""
    sample = profile.sample
    few = replace(sample, rows=sample.rows[:MOST_ROWS], weights=sample.weights[:MOST_ROWS])
    search = make_sample_search(replace(profile, sample=few), settings)

    def fit(start: MixtureParams) -> SampleFit:
        return search.fit_finalists(SampleFit(start, finalists=(("neighbour", start),)))

    def grow() -> SampleFit:
        return search.improve_from_neighbours(fit(search.split_best(params)), SampleFit(params), None)

    neighbours = {params.n_components + 1: grow}
    if params.n_components > 1:
        neighbours[params.n_components - 1] = lambda: fit(search.merge_best(params))
    out: dict[str, MixtureParams] = {}
    for k, make in neighbours.items():
        try:
            found = make().params
        except FIT_ERRORS:
            continue
        if found is not None:
            out[f"{params.family.name}-{k}"] = found
    return out
