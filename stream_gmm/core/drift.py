"""How far rows have drifted from a mixture: one summary of the rows at the model's parameters answers everything.

The number that decides is the *gain per row of a refit*: by how many nats per row the log-likelihood of the new rows
would rise if the same mixture were fitted to them, from the model's parameters. It is predicted, not fitted: the EM
step is exact, from the statistics of all new rows; the steps after it are taken on a sample of them with the frozen
correction of :mod:`stream_gmm.core.fit.surrogate`, and a geometric tail (Aitken) stands for the rest.

Where nothing has changed, a refit still gains by fitting noise: twice the gain of all n rows is chi-squared with p
degrees of freedom (Wilks 1938), times ``1 + n / N`` because the model itself comes from N rows. That gives the
expected gain without any change, and the p-value. It holds for a well-specified, regular mixture, and for many rows:
with fewer than some 20 p rows there are too many false alarms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import eigh
from scipy.special import chdtrc

from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.scores import Scores, collect_scored_stats
from stream_gmm.core.fit.surrogate import guaranteed_gain, run_inner_steps
from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.mstep.penalty import PseudoRows
from stream_gmm.core.rows.histogram import count_bins
from stream_gmm.core.rows.sampling import Hashes, Sample
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import SingularCovarianceError

STEPS = 15
"""Most steps on the sample; what they leave is extrapolated."""
_STEADY = 0.98
"""Where a step gains more than this share of what the one before did, the sample is too small to go on with."""
_SLOWEST = 0.9
"""Largest ratio of successive gains that is extrapolated: the tail is at most nine times the last gain."""
_NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class RowSummary:
    """What is kept of rows that were scored by a model; a monoid under :meth:`merge`.

    Attributes
    ----------
    rows_read
        Rows, those that could not be scored included.
    stats
        Statistics at the model's parameters, with full second moments; their ``loglik`` is the sum of log-densities.
    squares
        Sum of the squared log-densities about ``centre``, nats squared.
    centre
        An origin near the mean log-density, against cancellation.
    weight_squares
        Sum of the squared weights.
    counts
        Weight of the rows in each bin of the model's histogram ``(B,)``; empty if it has none.
    outliers
        Weight of the rows below the threshold.
    bad
        Values of each column ``(D,)`` that are null, NaN, infinite or too large.
    sample
        Uniform sample of the rows.
    """

    rows_read: int
    stats: SuffStats
    squares: float
    centre: float
    weight_squares: float
    counts: Array
    outliers: float
    bad: Array
    sample: Sample

    def merge(self, other: RowSummary) -> RowSummary:
        """Return the summary of both sets of rows."""
        return RowSummary(
            self.rows_read + other.rows_read, self.stats.merge(other.stats),
            self.squares + other.squares, self.centre,
            self.weight_squares + other.weight_squares, self.counts + other.counts, self.outliers + other.outliers,
            self.bad + other.bad, self.sample.merge(other.sample),
        )  # fmt: skip

    @property
    def effective_rows(self) -> float:
        """Number of rows of equal weight that say as much (Kish 1965): the unit of the weights does not matter."""
        return self.stats.rows**2 / self.weight_squares

    @property
    def standard_error(self) -> float:
        """Standard error of the mean log-density, nats."""
        n = self.stats.rows
        variance = max(self.squares / n - (self.stats.mean_loglik - self.centre) ** 2, 0.0)
        return float(np.sqrt(variance * self.weight_squares) / n)


def summarise_rows(
    rows: Array,
    weights: Array,
    scores: Scores,
    hashes: Hashes,
    *,
    rows_read: int,
    bad: Array,
    edges: Array,
    threshold: float,
    centre: float,
    capacity: int,
) -> RowSummary:
    """Return the summary of ``rows (N, D)`` with positive ``weights (N,)``, their scores and hashes ``(N,)``."""
    loglik = scores.log_density
    return RowSummary(
        rows_read, collect_scored_stats(rows, weights, scores), float(weights @ (loglik - centre) ** 2), centre,
        float(np.sum(weights**2)), count_bins(edges, loglik, weights) if len(edges) else np.zeros(0),
        float(weights[loglik < threshold].sum()), bad, Sample.of(rows, hashes, capacity, weights),
    )  # fmt: skip


@dataclass(frozen=True)
class RefitGain:
    """What a refit of the same mixture would gain on new rows, nats per row.

    Attributes
    ----------
    step
        What one EM step gains at least, exactly.
    total
        What a refit to convergence is predicted to gain.
    noise
        What a refit gains on average where nothing has changed.
    p_value
        Probability of a gain as large as ``total`` where nothing has changed.
    """

    step: float
    total: float
    noise: float
    p_value: float

    @property
    def excess(self) -> float:
        """The gain that noise does not explain; it may be negative."""
        return self.total - self.noise


def predict_refit_gain(params: MixtureParams, summary: RowSummary, training_rows: float) -> RefitGain:
    """Predict the gain of a refit, from rows summarised at ``params``, which were fitted to ``training_rows`` rows.

    Where no step can be made, because a component has no rows or a covariance would be singular, the gain is 0.
    What chance explains is that of the effective rows; the weights of the fit are taken to vary as these do.
    """
    stats = reduce_moments(summary.stats, params)
    n, p = summary.effective_rows, params.n_parameters
    penalty = PseudoRows.of(summarise_moments(summary.stats))
    sample = summary.sample
    estep = InMemoryEStep(sample.rows, Scaling.of_rows(sample.rows), weights=sample.weights)
    try:
        step = guaranteed_gain(stats, params, mstep(stats, params.family, penalty, params)[0])

        def evaluate(mixture: MixtureParams) -> SuffStats:
            return reduce_moments(estep.evaluate(mixture), params)

        point = run_inner_steps(params, stats, evaluate, penalty, STEPS, _NEGLIGIBLE)
        total = max(_extrapolate(np.diff(point.values)), step, 0.0)
    except SingularCovarianceError:
        step = total = 0.0
    spread = 1.0 + stats.rows / training_rows
    return RefitGain(step, total, 0.5 * p * spread / n, float(chdtrc(p, 2.0 * n * total / spread)))


def predict_chance_gain(n_parameters: int, new_rows: float, rows: float) -> float:
    """Return what a refit to ``rows`` rows, ``new_rows`` of them new, gains on average where nothing has changed.

    The parameters of the other rows differ from those of all rows by a share ``n / (N - n)`` of the variance of the
    latter, of which the log-likelihood gains half, nats per row.
    """
    old = max(rows - new_rows, 1.0)
    return 0.5 * n_parameters * new_rows / (old * rows) if rows else 0.0


def _extrapolate(gains: Array) -> float:
    """Return the sum of the gains of steps, with a geometric tail after the last one.

    The gains of EM fall. The objective with the frozen correction is that of the full data near the anchor only, and
    rises without bound in directions that a small sample does not determine; gains that stop falling tell.
    """
    rising = np.flatnonzero(gains[1:] > _STEADY * gains[:-1])
    gains = gains[: rising[0] + 1] if len(rising) else gains
    if len(gains) < 2:
        return float(gains.sum())
    ratio = float(np.clip(gains[-1] / gains[-2], 0.0, _SLOWEST))
    return float(gains.sum() + max(gains[-1], 0.0) * ratio / (1.0 - ratio))


def reduce_moments(stats: SuffStats, params: MixtureParams) -> SuffStats:
    """Return statistics with the second moments that the structure of a mixture needs, pooled if it shares them."""
    family = params.family
    scatter = family.moments.condense(stats.scatter) if stats.moments is FULL else stats.scatter
    if family.shared and len(scatter) > 1:
        scatter = scatter.sum(axis=0, keepdims=True)
    return replace(stats, scatter=scatter, moments=family.moments)


def summarise_moments(stats: SuffStats) -> SuffStats:
    """Return the moments, as of one component, of the rows that statistics with full second moments come from."""
    weight = stats.weight.sum()
    mean = stats.weight @ stats.mean / weight
    delta = stats.mean - mean
    scatter = stats.scatter.sum(axis=0) + (stats.weight * delta.T) @ delta
    one = np.array([weight])
    return SuffStats(float(weight), 0.0, 0.0, 0.0, one, mean[None], scatter[None], FULL)


@dataclass(frozen=True)
class ComponentShift:
    """How rows differ from the components of a model, and from its columns as a whole.

    Attributes
    ----------
    weights
        Weight of each component among the rows ``(K,)``.
    means
        Shift of the mean ``(K, D)``, in the component's standard deviations.
    deviations
        Standard deviation of the rows divided by the model's ``(K, D)``.
    covariances
        Largest change of a standard deviation in any direction ``(K,)``, as a factor of at least 1.
    column_means, column_deviations
        The same of each column, over all components ``(D,)``.
    """

    weights: Array
    means: Array
    deviations: Array
    covariances: Array
    column_means: Array
    column_deviations: Array


def compare_components(params: MixtureParams, stats: SuffStats) -> ComponentShift:
    """Compare the components of a model with the statistics of rows at its parameters, with full second moments."""
    model = params.dense_covariances
    weight = np.maximum(stats.weight, np.finfo(float).tiny)
    found = stats.scatter / weight[:, None, None]
    sd = np.sqrt(np.diagonal(model, axis1=1, axis2=2))
    rows_sd = np.sqrt(np.diagonal(found, axis1=1, axis2=2))
    total, expected = summarise_moments(stats), summarise_moments(_expect(params))
    column_sd = np.sqrt(np.diagonal(expected.scatter[0]) / expected.rows)
    return ComponentShift(
        stats.weight / stats.rows, (stats.mean - params.means) / sd, rows_sd / sd,
        np.array([_largest_factor(a, b) for a, b in zip(found, model, strict=True)]),
        (total.mean[0] - expected.mean[0]) / column_sd,
        np.sqrt(np.diagonal(total.scatter[0]) / total.rows) / column_sd,
    )  # fmt: skip


def _expect(params: MixtureParams) -> SuffStats:
    weight = params.weights
    scatter = params.dense_covariances * weight[:, None, None]
    return SuffStats(1.0, 0.0, 0.0, 0.0, weight, params.means, scatter, FULL)


def _largest_factor(found: Array, model: Array) -> float:
    ratios = np.sqrt(np.maximum(eigh(found, model, eigvals_only=True), 0.0))
    return float(max(ratios.max(), 1.0 / ratios.min())) if ratios.min() > 0.0 else float("inf")


def merge_summaries(summaries: Sequence[RowSummary]) -> RowSummary:
    """Return the summary of all rows, merged in order."""
    out = summaries[0]
    for summary in summaries[1:]:
        out = out.merge(summary)
    return out
