"""Steps that follow one exact E-step, without another read: where they lead, what they gain, how wrong that may be.

The statistics of all rows at the *anchor* are exact; a sample of the rows tells how they change beside it, with the
frozen correction of :mod:`.surrogate`. With the responsibilities of the anchor, every M-step raises the free energy
of Neal & Hinton (1998), so that what :func:`.guaranteed_gain` returns is a lower bound of the gain of all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.surrogate import MomentsAbout, guaranteed_gain, run_inner_steps
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.mstep.penalty import Penalty
from stream_gmm.core.rows.sampling import Sample
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import SingularCovarianceError

STEPS = 60
"""Most steps on the sample."""
NEGLIGIBLE = 1e-3
"""Steps end where they gain, in nats per row, this part of the tolerance; run_inner_steps wants a millionth."""
_TOL_OF_INNER_STEPS = 1e6


@dataclass(frozen=True)
class AnchoredLikelihood:
    """The log-likelihood of all rows near the anchor, nats per row: exact at the anchor, from a sample beside it.

    Parameters
    ----------
    anchor
        Parameters at which ``stats`` were taken.
    stats
        Statistics of all rows there, with the second moments that the structure needs.
    sample
        Uniform sample of the rows.
    """

    anchor: MixtureParams
    stats: SuffStats
    sample: Sample

    @cached_property
    def estep(self) -> Callable[[MixtureParams], SuffStats]:
        """The E-step over the sample."""
        rows, weights = self.sample.rows, self.sample.weights
        return InMemoryEStep(rows, Scaling.of_rows(rows), weights=weights).evaluate

    @cached_property
    def _at_anchor(self) -> SuffStats:
        return self.estep(self.anchor)

    @cached_property
    def _correction(self) -> MomentsAbout:
        origins = self.anchor.means
        return MomentsAbout.of(self.stats, origins).add(MomentsAbout.of(self._at_anchor, origins), -1.0)

    def predict(self, params: MixtureParams) -> float:
        """Return the log-likelihood of all rows that is predicted, nats per row."""
        moved = self.estep(params).mean_loglik - self._at_anchor.mean_loglik
        bent = self._correction.expected(params, self.stats) - self._correction.expected(self.anchor, self.stats)
        return self.stats.mean_loglik + moved + bent

    def predict_stats(self, params: MixtureParams) -> SuffStats:
        """Return the predicted statistics of all rows; those of the sample where a correction is too large."""
        own, n = self.estep(params), self.stats.rows
        plain = own.scale(n / own.rows)
        corrected = MomentsAbout.of(own, self.anchor.means).add(self._correction).stats(self.stats) or plain
        entropy = n * (own.entropy - self._at_anchor.entropy * own.rows / self._at_anchor.rows) / own.rows
        log_max = n * (own.log_max - self._at_anchor.log_max * own.rows / self._at_anchor.rows) / own.rows
        return replace(
            corrected, loglik=n * self.predict(params), entropy=max(self.stats.entropy + entropy, 0.0),
            log_max=min(self.stats.log_max + log_max, 0.0),
        )  # fmt: skip

    def guarantee(self, params: MixtureParams) -> float:
        """Return what the log-likelihood of all rows gains at least from the anchor to ``params``, nats per row."""
        return guaranteed_gain(self.stats, self.anchor, params)


@dataclass(frozen=True)
class AnchoredMove:
    """Where steps from the anchor lead.

    Attributes
    ----------
    params
        The parameters there.
    gain
        Predicted gain of the log-likelihood of all rows, from the anchor on, nats per row.
    guaranteed
        What is gained in any case, by the exact statistics; it may be negative.
    error
        Estimate of what an exact fit would gain on top, nats per row: what steps on halves of the sample differ by,
        and what is left to gain after the last step.
    """

    params: MixtureParams
    gain: float
    guaranteed: float
    error: float


def move_from_anchor(likelihood: AnchoredLikelihood, penalty: Penalty, tol: float) -> AnchoredMove:
    """Return where EM leads from the anchor: one step from the statistics of all rows, and more on the sample.

    The halves of the sample are two smaller samples. The loss of each of their ends, by the likelihood of the other,
    is four times that of the whole sample, on average: half of it for each end, and half because they are halves.

    Raises
    ------
    SingularCovarianceError
        If not even one step can be made.
    """
    full, tail = _run(likelihood, penalty, tol)
    predicted = likelihood.predict(full)
    gain = predicted - likelihood.stats.mean_loglik
    spread = _compare_halves(likelihood, penalty, tol)
    if not np.isfinite(gain) or gain < 0.0:  # the sample misleads: the plain EM step cannot
        full, _ = mstep(likelihood.stats, likelihood.anchor.family, penalty, likelihood.anchor)
        gain, spread = likelihood.guarantee(full), float("inf")
    return AnchoredMove(full, gain, likelihood.guarantee(full), 0.25 * spread + tail)


def _run(likelihood: AnchoredLikelihood, penalty: Penalty, tol: float) -> tuple[MixtureParams, float]:
    """Return the end of the steps, and what is predicted to be left to gain there."""
    point = run_inner_steps(
        likelihood.anchor, likelihood.stats, likelihood.estep, penalty, STEPS, tol * NEGLIGIBLE * _TOL_OF_INNER_STEPS
    )
    values = point.values
    return point.params, max(point.predicted_gain - (values[-1] - values[0]), 0.0) if values else 0.0


def _compare_halves(likelihood: AnchoredLikelihood, penalty: Penalty, tol: float) -> float:
    sample, halves = likelihood.sample, []
    for first in (0, 1):
        weights = sample.weights[first::2] if len(sample.weights) else sample.weights
        part = Sample(sample.rows[first::2], sample.hashes[first::2], len(sample.rows[first::2]), weights)
        halves.append(replace(likelihood, sample=part))
    try:
        (a, _), (b, _) = (_run(half, penalty, tol) for half in halves)
        losses = halves[0].predict(a) - halves[0].predict(b) + halves[1].predict(b) - halves[1].predict(a)
    except (SingularCovarianceError, np.linalg.LinAlgError):
        return float("inf")
    return max(0.5 * losses, 0.0)
