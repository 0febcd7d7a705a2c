"""What rows that judge say of candidates: paired differences with their standard errors, and who is beaten.

A difference of log-densities is taken row by row before it is averaged: what makes a row likely or unlikely
for every candidate cancels (Vuong 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from stream_gmm.core.criteria import penalty_per_parameter
from stream_gmm.core.model.moments import Array

CAUTION = 3.0
"""How many times its expected gain from the sample's optimum to that of all rows a candidate is granted."""
RISK = 0.01
"""Chance that any comparison of a sweep is decided wrongly (Bonferroni)."""
POOR_OPTIMUM = 2.0
"""So many standard errors below its neighbours' line a fit is taken for a poor local optimum."""
ALWAYS_KEPT = 3
"""So many candidates go on in any case: the best of the sample may turn out degenerate."""


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference per row, the standard deviation of a row's, and how many rows it was taken over."""

    mean: float
    sd: float
    rows: float

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return self.sd / float(np.sqrt(self.rows))


def compare_paired(a: Array, b: Array, weights: Array) -> PairedDifference:
    """Return ``a - b`` of values ``(n,)`` of the same rows, with weights ``(n,)`` or none."""
    difference = a - b
    w = weights if len(weights) else np.ones(len(difference))
    mean = float(np.average(difference, weights=w))
    sd = float(np.sqrt(np.average((difference - mean) ** 2, weights=w)))
    return PairedDifference(mean, sd, float(w.sum() ** 2 / np.sum(w**2)))


@dataclass(frozen=True)
class SampleCandidate:
    """A candidate as it stands after the sample."""

    name: str
    n_components: int
    n_parameters: int
    in_sample: float
    """Mean log-likelihood on the sample, where it was fitted; NaN if that is not what counts."""
    values: Array
    """What every judging row adds to the criterion ``(n,)``, nats."""
    is_sound: bool = True
    """False for a degenerate fit: it may lose, but beats no other."""
    family: str = ""
    """Name of its covariance structure."""


@dataclass(frozen=True)
class SamplePruning:
    """How candidates are judged after the sample.

    ``rows`` are those of the full data, ``sample_rows`` those of the fits, ``weights`` those of the judging rows.
    """

    criterion: str
    rows: float
    sample_rows: int
    heldout_rows: float
    weights: Array
    allowance: float = 0.0
    """What a candidate is granted on top for a fit that is not run to its end yet, nats per row."""

    def find_reasons(self, candidates: Sequence[SampleCandidate]) -> list[str]:
        """Return for every candidate why it can be given up, or nothing.

        The upper bound of what B may gain over the best, A, is the larger of two: the paired difference on rows
        that neither was fitted to, with ``CAUTION p_B / (2 n)`` for what B gains on its way to the optimum of
        all rows; and the difference of their optima on the sample; both with z standard errors on top. B is
        given up if that is less than its penalty asks for. A single component always goes on.
        """
        out = [""] * len(candidates)
        for group in self._competing_groups(candidates):
            ranked = sorted(group, key=lambda i: -self._predict_value(candidates[i]))
            best = next((i for i in ranked if candidates[i].is_sound), None)
            if best is None:
                continue
            kept = 1 if self.criterion == "elbow" else ALWAYS_KEPT
            for i in ranked[kept:]:
                if i != best and candidates[i].n_components > 1 and not self._is_poor_optimum(i, candidates):
                    out[i] = self._explain_pruning(candidates[i], candidates[best], len(candidates))
        return out

    def _competing_groups(self, candidates: Sequence[SampleCandidate]) -> list[list[int]]:
        """Return who competes with whom: for the elbow only candidates of one K do."""
        if self.criterion != "elbow":
            return [list(range(len(candidates)))]
        ks = sorted({candidate.n_components for candidate in candidates})
        return [[i for i, candidate in enumerate(candidates) if candidate.n_components == k] for k in ks]

    def _is_poor_optimum(self, index: int, candidates: Sequence[SampleCandidate]) -> bool:
        """Return True if a candidate fits worse than those with fewer and more components say it can.

        The optimum of K components is no worse than that of fewer, and gains fall as K grows: a fit that is clearly
        below the line between its neighbours has probably missed a better optimum, and must not be pruned for that.
        """
        own = candidates[index]
        same = [c for c in candidates if c.family == own.family and c is not own]
        below = max(
            (c for c in same if c.n_components < own.n_components), key=lambda c: c.n_components, default=None
        )
        above = min(
            (c for c in same if c.n_components > own.n_components), key=lambda c: c.n_components, default=None
        )
        if below is None:
            return False
        # Positive where the neighbours say more of the rows than the candidate does.
        line = below.values
        if above is not None:
            share = (own.n_components - below.n_components) / (above.n_components - below.n_components)
            line = (1.0 - share) * below.values + share * above.values
        lack = [compare_paired(values, own.values, self.weights) for values in (below.values, line)]
        return any(d.mean > POOR_OPTIMUM * d.standard_error for d in lack)

    def _predict_value(self, candidate: SampleCandidate) -> float:
        mean = float(np.average(candidate.values, weights=self.weights if len(self.weights) else None))
        return mean + candidate.n_parameters * (
            0.5 / self.sample_rows - penalty_per_parameter(self.criterion, self.rows)
        )

    def _explain_pruning(self, candidate: SampleCandidate, best: SampleCandidate, candidates: int) -> str:
        difference = compare_paired(candidate.values, best.values, self.weights)
        z = -float(ndtri(RISK / max(candidates, 2)))
        ahead = difference.mean + CAUTION * 0.5 * candidate.n_parameters / self.sample_rows
        ahead = (
            float(np.fmax(ahead, candidate.in_sample - best.in_sample))
            + z * difference.standard_error
            + self.allowance
        )
        asked = (candidate.n_parameters - best.n_parameters) * penalty_per_parameter(self.criterion, self.rows)
        if self.criterion == "one_se":
            asked = -difference.sd / float(np.sqrt(max(self.heldout_rows, 1.0)))
        if ahead >= asked:
            return ""
        return (
            f"beaten on the sample by {best.name}: {-difference.mean:.4g} nats per row behind, "
            f"standard error {difference.standard_error:.1g}"
        )
