"""Evidence of validation rows: paired differences of candidates with standard errors, and pruning by them.

Validation rows are rows of the sample that no candidate was fitted to. The log-densities of two candidates are
subtracted row by row before they are averaged, so that what makes a row likely or unlikely under every candidate
cancels (Vuong 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from stream_gmm.core.criteria import penalty_per_parameter
from stream_gmm.core.model.moments import Array

GAIN_FACTOR = 3.0
"""Multiple of the expected gain, from the optimum of the sample to that of all rows, that a candidate may make."""
ERROR_PROBABILITY = 0.01
"""Probability that any comparison of a sweep is decided wrongly (Bonferroni)."""
POOR_OPTIMUM = 2.0
"""A fit this many standard errors below the line between its neighbours is taken for a poor local optimum."""
ALWAYS_KEPT = 3
"""Number of candidates that are kept in any case, since the best on the sample may turn out degenerate."""


@dataclass(frozen=True)
class PairedDifference:
    """A difference per row in nats: its mean, its standard deviation over the rows, and the number of rows.

    With weights, the number is that of the effective rows (Kish 1965).
    """

    mean: float
    sd: float
    rows: float

    @property
    def standard_error(self) -> float:
        """Standard error of the mean."""
        return self.sd / float(np.sqrt(self.rows))


def compare_paired(a: Array, b: Array, weights: Array) -> PairedDifference:
    """Return the paired difference ``a - b`` of values ``(n,)`` of the same rows, with weights ``(n,)`` or none."""
    difference = a - b
    w = weights if len(weights) else np.ones(len(difference))
    mean = float(np.average(difference, weights=w))
    sd = float(np.sqrt(np.average((difference - mean) ** 2, weights=w)))
    return PairedDifference(mean, sd, float(w.sum() ** 2 / np.sum(w**2)))


def group_competitors(n_components: Sequence[int], within_k: bool) -> list[list[int]]:
    """Return the indices of candidates in groups that compete: all together, or ``within_k`` those of equal K."""
    if not within_k:
        return [list(range(len(n_components)))]
    return [[i for i, k in enumerate(n_components) if k == group_k] for group_k in sorted(set(n_components))]


@dataclass(frozen=True)
class SampleCandidate:
    """A candidate fitted on the sample."""

    name: str
    n_components: int
    n_parameters: int
    in_sample: float
    """Mean log-likelihood on the rows that it was fitted to, nats per row; NaN if that must not count."""
    values: Array
    """Contribution of every validation row to the criterion ``(n,)``, nats."""
    is_sound: bool = True
    """False for a degenerate fit: it may be pruned, but no other candidate is pruned because of it."""
    structure: str = ""
    """Name of its covariance structure."""


@dataclass(frozen=True)
class SamplePruning:
    """The rule by which candidates are pruned after the fits on the sample.

    ``rows``, ``sample_rows`` and ``heldout_rows`` are the numbers of rows of the full data, of the sample that
    candidates were fitted to, and held out; ``weights (n,)`` are those of the validation rows, or none.
    """

    criterion: str
    rows: float
    sample_rows: int
    heldout_rows: float
    weights: Array
    allowance: float = 0.0
    """Additional gain that a candidate may make because its fit is not converged yet, nats per row."""

    def find_reasons(self, candidates: Sequence[SampleCandidate]) -> list[str]:
        """Return for every candidate the reason why it can be pruned, or "" if it must be kept.

        A is the best candidate on the sample, B another one. What B may gain over A is bounded by the larger of two
        estimates: the paired difference on validation rows, plus ``GAIN_FACTOR p_B / (2 n)`` for the gain of B on its
        way to the optimum of all rows (p_B its free parameters, n the rows of the sample); and the difference of
        their maxima on the sample. Both get z standard errors on top, with z from ``ERROR_PROBABILITY``. B is pruned
        if that is less than the gain that the criterion requires for its additional parameters. Candidates with one
        component, and the best ``ALWAYS_KEPT``, are never pruned. For the elbow, only candidates with equal K are
        compared, and the best of each K is kept.
        """
        weights = self.weights if len(self.weights) else None

        def predicted_value(i: int) -> float:
            per_parameter = 0.5 / self.sample_rows - penalty_per_parameter(self.criterion, self.rows)
            mean = float(np.average(candidates[i].values, weights=weights))
            return mean + candidates[i].n_parameters * per_parameter

        reasons = [""] * len(candidates)
        within_k = self.criterion == "elbow"
        for group in group_competitors([c.n_components for c in candidates], within_k):
            ranked = sorted(group, key=lambda i: -predicted_value(i))
            best = next((i for i in ranked if candidates[i].is_sound), None)
            if best is None:
                continue
            for i in ranked[1 if within_k else ALWAYS_KEPT :]:
                if i != best and candidates[i].n_components > 1 and not self._is_poor_optimum(i, candidates):
                    reasons[i] = self._explain_pruning(candidates[i], candidates[best], len(candidates))
        return reasons

    def _is_poor_optimum(self, index: int, candidates: Sequence[SampleCandidate]) -> bool:
        """Return True if a candidate fits worse than those with fewer and more components say it can.

        The optimum of K components is no worse than that of fewer, and gains fall as K grows: a fit that is clearly
        below the line between its neighbours has probably missed a better optimum, and must not be pruned for that.
        """
        own = candidates[index]
        same = [c for c in candidates if c.structure == own.structure and c is not own]
        smaller = [c for c in same if c.n_components < own.n_components]
        larger = [c for c in same if c.n_components > own.n_components]
        if not smaller:
            return False
        below = max(smaller, key=lambda c: c.n_components)
        # Positive where the neighbours give the rows a higher density than the candidate does.
        line = below.values
        if larger:
            above = min(larger, key=lambda c: c.n_components)
            share = (own.n_components - below.n_components) / (above.n_components - below.n_components)
            line = (1.0 - share) * below.values + share * above.values
        lack = [compare_paired(values, own.values, self.weights) for values in (below.values, line)]
        return any(d.mean > POOR_OPTIMUM * d.standard_error for d in lack)

    def _explain_pruning(self, candidate: SampleCandidate, best: SampleCandidate, n_candidates: int) -> str:
        """Return why a candidate has no chance against the best one, or "" if it has."""
        difference = compare_paired(candidate.values, best.values, self.weights)
        z = -float(ndtri(ERROR_PROBABILITY / max(n_candidates, 2)))
        largest_gain = difference.mean + GAIN_FACTOR * 0.5 * candidate.n_parameters / self.sample_rows
        largest_gain = (
            float(np.fmax(largest_gain, candidate.in_sample - best.in_sample))
            + z * difference.standard_error
            + self.allowance
        )
        additional = candidate.n_parameters - best.n_parameters
        required_gain = additional * penalty_per_parameter(self.criterion, self.rows)
        if self.criterion == "one_se":
            required_gain = -difference.sd / float(np.sqrt(max(self.heldout_rows, 1.0)))
        if largest_gain >= required_gain:
            return ""
        return (
            f"clearly worse on the sample than {best.name}: {-difference.mean:.4g} nats per row behind, "
            f"standard error {difference.standard_error:.1g}"
        )
