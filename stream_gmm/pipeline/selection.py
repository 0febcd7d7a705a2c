"""The finished sweep: its candidates, its table, and the choice among them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from stream_gmm.core.criteria import CRITERIA
from stream_gmm.core.em import Outcome
from stream_gmm.core.families import CovarianceFamily
from stream_gmm.core.result import FitResult
from stream_gmm.errors import NoAdmissibleModelError, explain
from stream_gmm.io.tables import table_of
from stream_gmm.pipeline.profile import Profile

ADMISSIBLE = (Outcome.CONVERGED, Outcome.MAX_PASSES)


@dataclass(frozen=True)
class Candidate:
    """One cell of the grid and how it ended; ``result`` is None if it failed."""

    n_components: int
    family: CovarianceFamily
    result: FitResult | None
    outcome: Outcome
    reason: str

    @property
    def admissible(self) -> bool:
        """True if a criterion may choose it."""
        return self.result is not None and self.outcome in ADMISSIBLE

    @property
    def name(self) -> str:
        """Short name, such as ``full-5``."""
        return f"{self.family.name}-{self.n_components}"


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep.

    Attributes
    ----------
    candidates
        Every cell of the grid, failed ones included, in the order of the table.
    chosen
        Position of the chosen candidate.
    criterion
        What chose it.
    profile
        What the first pass found.
    passes
        Reads of the full data, the profile pass included.
    warnings
        What a reader of the result should know.
    """

    candidates: tuple[Candidate, ...]
    chosen: int
    criterion: str
    profile: Profile
    passes: int
    warnings: tuple[str, ...]

    @property
    def best(self) -> FitResult:
        """The chosen model."""
        result = self.candidates[self.chosen].result
        assert result is not None
        return result

    @cached_property
    def table(self) -> Any:
        """One row for each candidate, as an Arrow table."""
        return table_of([self._row(i) for i in range(len(self.candidates))])

    def _row(self, index: int) -> dict[str, Any]:
        c = self.candidates[index]
        row: dict[str, Any] = {
            "candidate": c.name,
            "n_components": c.n_components,
            "covariance_type": c.family.name,
            "outcome": c.outcome.name,
            "chosen": index == self.chosen,
        }
        row |= _figures(c.result)
        row["delta"] = self._delta(c)
        row["reason"] = c.reason
        return row

    def _delta(self, candidate: Candidate) -> float | None:
        value = CRITERIA[self.criterion]
        if candidate.result is None:
            return None
        return value(candidate.result.criteria) - value(self.best.criteria)


_COLUMNS = (
    "n_parameters", "mean_loglik", "loglik", "bic", "aic", "icl", "heldout", "entropy", "n_iter", "passes",
    "smallest_weight", "smallest_variance", "kernel",
)  # fmt: skip


def _figures(result: FitResult | None) -> dict[str, Any]:
    if result is None:
        return dict.fromkeys(_COLUMNS)
    c, params = result.criteria, result.params
    dense = params.dense_covariances
    values = (
        c.n_parameters, result.lower_bound_, c.loglik, c.bic, c.aic, c.icl,
        c.heldout if c.heldout_rows else None, c.entropy,
        result.n_iter_, result.passes, float(params.weights.min()),
        float(np.linalg.eigvalsh(dense)[:, 0].min()), result.provenance.get("kernel_used"),
    )  # fmt: skip
    return dict(zip(_COLUMNS, values, strict=True))


def choose(candidates: tuple[Candidate, ...], criterion: str, found: Profile, passes: int) -> SweepResult:
    """Choose the admissible candidate with the smallest criterion; ties go to the smaller model.

    Raises
    ------
    NoAdmissibleModelError
        If there is none.
    """
    value = CRITERIA[criterion]
    ranked = sorted(
        (value(c.result.criteria), c.result.params.n_parameters, i)
        for i, c in enumerate(candidates)
        if c.admissible and c.result is not None
    )
    if not ranked:
        reasons = "; ".join(f"{c.name}: {c.reason or c.outcome.value}" for c in candidates[:5])
        raise NoAdmissibleModelError(
            explain(
                f"none of the {len(candidates)} candidates is admissible ({reasons})",
                remedy="use fewer components, raise reg_covar, or look for repeated values in the columns",
            )
        )
    chosen = ranked[0][-1]
    return SweepResult(candidates, chosen, criterion, found, passes, _sweep_warnings(candidates, chosen, found))


def _sweep_warnings(candidates: tuple[Candidate, ...], chosen: int, found: Profile) -> tuple[str, ...]:
    best = candidates[chosen]
    out = list(found.warnings)
    ks = sorted({c.n_components for c in candidates})
    if len(ks) > 1 and best.n_components == ks[-1]:
        out.append(f"the chosen number of components, {ks[-1]}, is the largest tried: a larger one may be better.")
    if best.outcome is not Outcome.CONVERGED:
        out.append(f"the chosen model {best.name} {best.outcome.value}.")
    rejected = [c.name for c in candidates if not c.admissible and c.outcome is not Outcome.PRUNED]
    if rejected:
        out.append(f"{len(rejected)} candidates are not admissible: {', '.join(rejected)}.")
    return tuple(out)
