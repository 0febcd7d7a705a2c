"""The result of a sweep: its candidates, how they compare, and the sweep table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from stream_gmm.core.criteria import CRITERIA, base_criterion, nat_value
from stream_gmm.core.display import count_noun, make_html_table
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult
from stream_gmm.core.search.evidence import PairedDifference, compare_paired
from stream_gmm.io.store.tables import table_of
from stream_gmm.pipeline.fit.results import sum_sample_log_jacobians
from stream_gmm.pipeline.fit.sample import SampleOutcome
from stream_gmm.pipeline.passes.profile import Profile

ADMISSIBLE = (Outcome.CONVERGED, Outcome.MAX_PASSES)
NEAR_TIE = 2.0
"""Differences of fewer standard errors are called near-ties."""


@dataclass(frozen=True)
class Candidate:
    """One candidate of the sweep and how it ended; ``result`` is None if it failed.

    ``sample_outcome`` is its fit on the sample. If it was pruned there, ``on_full_data`` is False and its result is
    that of the sample.
    """

    n_components: int
    family: CovarianceFamily
    result: FitResult | None
    outcome: Outcome
    reason: str
    sample_outcome: SampleOutcome
    on_full_data: bool = True

    @property
    def admissible(self) -> bool:
        """True if a criterion may choose it."""
        return self.result is not None and self.outcome in ADMISSIBLE

    @property
    def is_sound(self) -> bool:
        """True if no component has collapsed; of a candidate that was pruned, so far."""
        return self.admissible or (self.outcome is Outcome.PRUNED and self.sample_outcome.fit.is_sound)

    @property
    def name(self) -> str:
        """Short name, such as ``full-5``."""
        return f"{self.family.name}-{self.n_components}"

    @property
    def full_data_result(self) -> FitResult | None:
        """Its result, if that is one of the full data."""
        return self.result if self.on_full_data else None


@dataclass(frozen=True)
class Evidence:
    """How a candidate compares with others on the validation rows, as paired differences; nats per row."""

    behind: PairedDifference | None = None
    """By how much the chosen candidate is ahead."""
    gain: PairedDifference | None = None
    """What it gains over the candidate of its structure with K - 1; None if that is not in the sweep, or if a
    component of one of the two has collapsed: the likelihood of a singularity is no gain."""
    behind_classified: float = 0.0
    """As ``behind``, with the logarithm of the largest responsibility added, as ICL has it."""


def compare_with_chosen(
    candidates: Sequence[Candidate], chosen: int, values: Sequence[Array | None], weights: Array
) -> tuple[Evidence, ...]:
    """Return the :class:`Evidence` on every candidate from its values on the validation rows.

    ``values (2, n)`` holds log-densities and logarithms of the largest responsibility.
    """
    sound = [value is not None and c.is_sound for c, value in zip(candidates, values, strict=True)]
    places = {(c.family.name, c.n_components): i for i, c in enumerate(candidates) if sound[i]}
    best, out = values[chosen], []
    for c, own, is_sound in zip(candidates, values, sound, strict=True):
        if own is None or best is None:
            out.append(Evidence())
            continue
        place = places.get((c.family.name, c.n_components - 1))
        below = None if place is None or not is_sound else values[place]
        gain = None if below is None else compare_paired(own[0], below[0], weights)
        classified = compare_paired(best.sum(axis=0), own.sum(axis=0), weights).mean
        out.append(Evidence(compare_paired(best[0], own[0], weights), gain, classified))
    return tuple(out)


@dataclass(frozen=True, repr=False)
class SweepResult:
    """A finished sweep.

    Attributes
    ----------
    candidates
        Every candidate of the grid, failed ones included, in the order of the table.
    chosen
        Position of the chosen candidate.
    criterion
        The criterion or rule that chose it.
    profile
        The profile of the data.
    passes
        Reads of the full data, the profile pass included.
    evidence
        How every candidate compares with others, with standard errors.
    alternatives
        What each criterion would choose among the candidates that were fitted to the end.
    why
        Why this model was chosen and how certain that is, in sentences.
    warnings
        What a reader of the result should know.
    reused
        Number of candidates that an earlier sweep of the same data had finished.
    """

    candidates: tuple[Candidate, ...]
    chosen: int
    criterion: str
    profile: Profile
    passes: int
    evidence: tuple[Evidence, ...]
    alternatives: dict[str, str] = field(default_factory=dict)
    why: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    reused: int = 0

    def __repr__(self) -> str:
        n, best = len(self.candidates), self.candidates[self.chosen]
        return (
            f"SweepResult({n} candidate{'s' * (n != 1)}: {best.name} chosen by {self.criterion}, "
            f"{self.best.criteria.n_rows:,.9g} rows, {count_noun(self.passes, 'pass', 'passes')})"
        )

    def _repr_html_(self) -> str:
        rows = [[row[name] for name in _SHOWN] for row in self.table.to_pylist()]
        return make_html_table(repr(self), _SHOWN, rows)

    @property
    def best(self) -> FitResult:
        """The chosen model."""
        result = self.candidates[self.chosen].result
        assert result is not None
        return result

    @cached_property
    def table(self) -> Any:
        """One row for each candidate, as an Arrow table."""
        return table_of([self._make_row(i) for i in range(len(self.candidates))])

    def to_pandas(self) -> Any:
        """Return the table as a pandas data frame, one row for each candidate."""
        return self.table.to_pandas()

    def _make_row(self, index: int) -> dict[str, Any]:
        c = self.candidates[index]
        row = _describe_candidate(c.family, c.n_components, c.outcome, index == self.chosen)
        row |= _full_data_columns(c.full_data_result) | _shape_columns(c.result) | self._estimated_columns(index)
        row["delta"], row["delta_se"] = self.delta(index)
        return row | self._sample_columns(index) | {"reason": c.reason}

    def _estimated_columns(self, index: int) -> dict[str, float | None]:
        """Return estimates of the criteria of a candidate that was pruned on the sample, from the validation rows."""
        own, evidence, best = self.candidates[index], self.evidence[index], self.best.criteria
        if own.on_full_data or own.result is None or evidence.behind is None:
            return dict.fromkeys(_ESTIMATED_COLUMNS)
        more, n = own.result.params.n_parameters - best.n_parameters, best.n_rows
        asked, lost = more * float(np.log(n)), 2.0 * n * evidence.behind.mean
        values = (best.bic + lost + asked, best.aic + lost + 2.0 * more,
                  best.icl + 2.0 * n * evidence.behind_classified + asked)  # fmt: skip
        return dict(zip(_ESTIMATED_COLUMNS, values, strict=True))

    def _sample_columns(self, index: int) -> dict[str, Any]:
        fit, evidence = self.candidates[index].sample_outcome.fit, self.evidence[index]
        behind, gain = evidence.behind, evidence.gain
        heldout = self.profile.heldout.rows
        values = (
            behind.sd / heldout**0.5 if behind and heldout else None,
            fit.history[-1] + self._sample_log_jacobian if fit.history else None,
            behind.mean if behind else None,
            behind.standard_error if behind else None,
            gain.mean if gain else None,
            gain.standard_error if gain else None,
            fit.origin,
            self.candidates[index].sample_outcome.seconds,
        )
        return dict(zip(_SAMPLE_COLUMNS, values, strict=True))

    @cached_property
    def _sample_log_jacobian(self) -> float:
        """Mean log-Jacobian of the sample's rows."""
        weights, rows = self.profile.sample.weights, self.profile.sample.rows
        n = float(weights.sum()) if len(weights) else float(len(rows))
        return sum_sample_log_jacobians(self.profile) / n

    def delta(self, index: int) -> tuple[float | None, float | None]:
        """Return by how much a candidate's criterion is above the chosen one's, and the standard error of that."""
        own, value = self.candidates[index].full_data_result, CRITERIA[base_criterion(self.criterion)]
        if own is None:
            return None, None
        worth, rows = nat_value(self.criterion, self.best.criteria.n_rows, self.best.criteria.heldout_rows)
        behind = self.evidence[index].behind
        error = worth * behind.sd / rows**0.5 if behind and rows else None
        return value(own.criteria) - value(self.best.criteria), error

    def near_ties(self) -> list[int]:
        """Return the other admissible candidates within two standard errors of the chosen one, nearest first."""
        found = [(d, i) for i, c in enumerate(self.candidates) if c.admissible for d in [self._standardised_delta(i)]]
        return [i for d, i in sorted(found) if i != self.chosen and d <= NEAR_TIE]

    def _standardised_delta(self, index: int) -> float:
        delta, error = self.delta(index)
        if delta is None or error is None:
            return float("inf")
        return abs(delta) / error if error > 0.0 else (0.0 if delta == 0.0 else float("inf"))


_SHOWN = ("candidate", "outcome", "chosen", "bic", "aic", "icl", "delta", "delta_se", "reason")
"""Columns of the table that a notebook shows."""
_FULL_DATA_COLUMNS = (
    "mean_loglik",
    "loglik",
    "bic",
    "aic",
    "icl",
    "heldout",
    "entropy",
    "n_iter",
    "passes",
    "kernel",
)
_ESTIMATED_COLUMNS = ("bic_estimate", "aic_estimate", "icl_estimate")
_SAMPLE_COLUMNS = ("heldout_se", "sample_loglik", "behind", "behind_se", "gain", "gain_se", "restart", "seconds")
_SHAPE_COLUMNS = ("n_parameters", "smallest_weight", "smallest_variance", "largest_condition")


def make_single_table(result: FitResult) -> Any:
    """Return the sweep table of a model without rivals, such as that of a stream."""
    row = _describe_candidate(result.params.family, result.n_components, result.outcome, chosen=True)
    row |= _full_data_columns(result) | _shape_columns(result) | dict.fromkeys(_ESTIMATED_COLUMNS)
    row |= {"delta": 0.0, "delta_se": None} | dict.fromkeys(_SAMPLE_COLUMNS)
    return table_of([row | {"reason": result.reason}])


def _describe_candidate(family: CovarianceFamily, k: int, outcome: Outcome, chosen: bool) -> dict[str, Any]:
    return {
        "candidate": f"{family.name}-{k}",
        "n_components": k,
        "covariance_type": family.name,
        "mclust": family.mclust,
        "outcome": outcome.name,
        "chosen": chosen,
    }


def _full_data_columns(result: FitResult | None) -> dict[str, Any]:
    if result is None:
        return dict.fromkeys(_FULL_DATA_COLUMNS)
    c = result.criteria
    values = (
        result.lower_bound_, c.loglik, c.bic, c.aic, c.icl, c.heldout if c.heldout_rows else None, c.entropy,
        result.n_iter_, result.passes, result.provenance.get("kernel_used"),
    )  # fmt: skip
    return dict(zip(_FULL_DATA_COLUMNS, values, strict=True))


def _shape_columns(result: FitResult | None) -> dict[str, Any]:
    if result is None:
        return dict.fromkeys(_SHAPE_COLUMNS)
    spectra = np.linalg.eigvalsh(result.params.dense_covariances)
    with np.errstate(over="ignore"):  # of a component without spread it is infinite
        condition = float((spectra[:, -1] / np.maximum(spectra[:, 0], 1e-300)).max())
    values = (result.params.n_parameters, float(result.weights_.min()), float(spectra[:, 0].min()), condition)
    return dict(zip(_SHAPE_COLUMNS, values, strict=True))
