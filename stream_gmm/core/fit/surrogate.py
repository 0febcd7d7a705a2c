"""Steps on the sample that aim at the optimum of the full data.

After a pass at an anchor, the full data's statistics there are known exactly. The sample's statistics at the
anchor differ by a correction, ``c = s_N(anchor) - s_n(anchor)`` per row; it is frozen, and EM goes on with
``M(s_n(t) + c)``. That is EM for ``l_n(t) + <c, eta(t)>``, whose gradient at the anchor is the full data's and
whose curvature is the sample's; its fixed points at the anchor are those of the full data. It is the control
variate of Chen et al. (2018, sEM-vr), used as Jordan, Lee & Yang (2019) use their surrogate likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stream_gmm.core.fit.coordinates import Chart
from stream_gmm.core.fit.stopping import ROUNDING, extrapolate_gains
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.mstep.penalty import Penalty, compute_precisions
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import SingularCovarianceError

_HARDLY = 1e-6
"""Inner steps go on to this part of the tolerance: only several of them tell how slowly the rest will come."""
_SMALLEST_RATIO = 0.1
"""A corrected variance below this part of the anchor's is more likely noise than truth."""


@dataclass(frozen=True)
class MomentsAbout:
    """Statistics per row about fixed origins: unlike centred ones, they can be added and subtracted."""

    origins: Array
    weight: Array
    first: Array
    second: Array
    total: float = 1.0
    """Weight of all rows, those of noise included: 1, or 0 for a difference."""

    @classmethod
    def of(cls, stats: SuffStats, origins: Array) -> MomentsAbout:
        """Return the statistics about origins ``(K, D)``."""
        weight, delta = stats.weight / stats.rows, stats.mean - origins
        second = stats.scatter / stats.rows + _pooled(stats.moments.outer(weight, delta), stats.scatter)
        return cls(origins, weight, weight[:, None] * delta, second)

    def add(self, other: MomentsAbout, sign: float = 1.0) -> MomentsAbout:
        """Return the sum with (or the difference to) statistics about the same origins."""
        return MomentsAbout(
            self.origins, self.weight + sign * other.weight,
            self.first + sign * other.first, self.second + sign * other.second, self.total + sign * other.total,
        )  # fmt: skip

    def stats(self, like: SuffStats) -> SuffStats | None:
        """Return them as statistics of ``like.rows`` rows, or None if a component has nothing left."""
        if not np.all(self.weight * like.rows > 1e-3):
            return None
        delta = self.first / self.weight[:, None]
        scatter = self.second - _pooled(like.moments.outer(self.weight, delta), self.second)
        n = like.rows
        return SuffStats(n, 0.0, 0.0, 0.0, self.weight * n, self.origins + delta, scatter * n, like.moments)

    def expected(self, params: MixtureParams, like: SuffStats) -> float:
        """Return ``<s, eta(params)>``: the expected log-density per complete row."""
        density, outer = compile_density(params), like.moments.outer
        delta, one = density.means - self.origins, np.ones(len(self.weight))
        # first delta' + delta first', by polarisation.
        mixed = outer(one, self.first + delta) - outer(one, self.first) - outer(one, delta)
        second = self.second + _pooled(outer(self.weight, delta) - mixed, self.second)
        precision = compute_precisions(density.whitener)
        if len(second) < len(precision):
            precision = precision[:1]
        # What the components leave is noise.
        of_noise = (self.total - self.weight.sum()) * density.background if density.noisy else 0.0
        return float(self.weight @ density.log_norm - 0.5 * np.sum(precision * second) + of_noise)


def _pooled(values: Array, like: Array) -> Array:
    return values if len(values) == len(like) else values.sum(axis=0, keepdims=True)


def guaranteed_gain(stats: SuffStats, params: MixtureParams, new: MixtureParams) -> float:
    """Return what an EM step to ``new`` gains at least, nats per row (Dempster, Laird & Rubin 1977)."""
    s = MomentsAbout.of(stats, params.means)
    return s.expected(new, stats) - s.expected(params, stats)


@dataclass(frozen=True)
class SurrogatePoint:
    """Where the inner steps lead, and the log-likelihood (nats per row) predicted to be gained in all.

    With a ridge there is no such prediction: ``lengths`` are those of the inner steps, which tell how they shrink.
    """

    params: MixtureParams
    steps: int
    predicted_gain: float
    lengths: tuple[float, ...] = ()
    slope: float = 0.0
    """With a ridge: change of the sample's log-likelihood per unit of length in the first inner step."""
    values: tuple[float, ...] = ()
    """Without a ridge: the objective, nats per row, at the anchor and after every step."""


def run_inner_steps(
    anchor: MixtureParams,
    stats: SuffStats,
    estep: Callable[[MixtureParams], SuffStats],
    penalty: Penalty,
    most: int,
    tol: float = 0.0,
) -> SurrogatePoint:
    """Return the point after the EM step from ``anchor`` and up to ``most`` corrected steps on the sample.

    ``stats`` are the full data's at ``anchor``; ``estep`` gives the sample's. It ends early when a step
    gains much less than ``tol`` nats per row, or the correction outweighs the sample's own statistics. With a ridge,
    which has no objective, it ends when steps grow longer or hardly move; no gain is predicted then.
    """
    full, at_anchor = MomentsAbout.of(stats, anchor.means), estep(anchor)
    correction = full.add(MomentsAbout.of(at_anchor, anchor.means), -1.0)

    def value(params: MixtureParams, own: SuffStats) -> float:
        mean_value = own.mean_loglik + penalty.value(params) / stats.rows
        return mean_value + correction.expected(params, stats)

    def step(own: SuffStats) -> MixtureParams | None:
        corrected = MomentsAbout.of(own, anchor.means).add(correction).stats(stats)
        if corrected is None or not _keeps_variances(corrected, stats):
            return None
        try:
            return mstep(corrected, anchor.family, penalty, anchor)[0]
        except SingularCovarianceError:
            return None

    params, _ = mstep(stats, anchor.family, penalty, anchor)
    if not penalty.has_objective:
        return _run_inner_ridge_steps(params, at_anchor.mean_loglik, estep, step, Chart(anchor), most, tol)
    values = [value(anchor, at_anchor)]
    for _ in range(most):
        own = estep(params)
        values.append(value(params, own))
        new = step(own) if values[-1] >= values[-2] else None
        if new is None or values[-1] - values[-2] <= _HARDLY * tol:
            break
        params = new
    return SurrogatePoint(params, len(values) - 1, _predict_total_gain(values), values=tuple(values))


def _run_inner_ridge_steps(
    params: MixtureParams,
    loglik_at_anchor: float,
    estep: Callable[[MixtureParams], SuffStats],
    step: Callable[[SuffStats], MixtureParams | None],
    chart: Chart,
    most: int,
    tol: float,
) -> SurrogatePoint:
    at = chart.vector(params)
    lengths, slope = [float(np.linalg.norm(at))], 0.0
    for made in range(most):
        own = estep(params)
        if not made:
            slope = abs(own.mean_loglik - loglik_at_anchor) / max(lengths[0], 1e-300)
        new = step(own)
        if new is None:
            return SurrogatePoint(params, made, 0.0, tuple(lengths), slope)
        to = chart.vector(new)
        lengths.append(float(np.linalg.norm(to - at)))
        if lengths[-1] > lengths[-2] or 0.5 * lengths[-1] ** 2 <= _HARDLY * tol:
            return SurrogatePoint(params, made + 1, 0.0, tuple(lengths), slope)
        params, at = new, to
    return SurrogatePoint(params, most, 0.0, tuple(lengths), slope)


def _keeps_variances(corrected: SuffStats, stats: SuffStats) -> bool:
    """Return True if no component has lost most of a variance to the correction."""
    kind = corrected.moments
    new = kind.diagonal(corrected.scatter) / _rows_per_scatter(corrected)
    old = kind.diagonal(stats.scatter) / _rows_per_scatter(stats)
    return bool(np.all(new > _SMALLEST_RATIO * old))


def _rows_per_scatter(stats: SuffStats) -> Array:
    pooled = len(stats.scatter) < len(stats.weight)
    return np.array([[stats.rows]]) if pooled else np.maximum(stats.weight, 1e-300)[:, None]


def _predict_total_gain(values: list[float]) -> float:
    """Return the gain so far, and what is left of the last gains; inf if they do not shrink."""
    so_far, gains = values[-1] - values[0], np.diff(values[-4:])[::-1].tolist()
    if len(gains) < 2 or gains[0] <= ROUNDING * abs(values[-1]):
        return so_far
    return so_far + float(extrapolate_gains(gains[0], gains[1], gains[2] if len(gains) > 2 else 0.0))
