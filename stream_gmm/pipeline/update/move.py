"""Whether the parameters move, and where to: from the statistics at the anchor, or by passes over all files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_gmm.core.drift import reduce_moments
from stream_gmm.core.file_stats import FileStats, KeptStats, StatsTotal
from stream_gmm.core.fit.anchored import AnchoredLikelihood, AnchoredMove, move_from_anchor
from stream_gmm.core.fit.em import EMState, Outcome
from stream_gmm.core.fit.surrogate import guaranteed_gain
from stream_gmm.core.model.moments import FULL
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import mstep
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.sampling import Sample
from stream_gmm.core.stats import SuffStats
from stream_gmm.pipeline.fit.penalty import make_penalty
from stream_gmm.pipeline.fit.results import explain_collapse, make_result
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.update.files import weigh_files
from stream_gmm.pipeline.update.rule import EXACT, STEPWISE, UpdateRule

ReadAll = Callable[[MixtureParams], KeptStats]
"""Reads all files of the window, and returns their statistics at these parameters."""


@dataclass(frozen=True)
class Move:
    """Where the parameters of a model move to.

    Attributes
    ----------
    params
        The parameters; those of the model if they stay.
    stats
        Statistics of all rows there: measured after an exact update, else predicted.
    kept
        Statistics of the files, at their anchor.
    total
        Their sum.
    gain
        Predicted gain of the log-likelihood of all rows over that of the model, nats per row.
    guaranteed
        What a step from the anchor gains in any case; it may be negative.
    error
        Estimated loss against a full refit, nats per row.
    passes
        Passes over all files.
    measured
        True if the log-likelihood was measured in a pass.
    why_exact
        Why there were passes over all files, in words; empty if there were none.
    """

    params: MixtureParams
    stats: SuffStats
    kept: KeptStats
    total: StatsTotal
    gain: float
    guaranteed: float
    error: float
    passes: int = 0
    measured: bool = False
    why_exact: str = ""


@dataclass(frozen=True)
class Mover:
    """Finds where the parameters of ``model`` move to.

    Parameters
    ----------
    with_apart
        Whether the rows set apart are used, too.
    chance
        Gain that chance explains, nats per row.
    read_all
        Called for passes over all files.
    """

    model: FitResult
    settings: Settings
    rule: UpdateRule
    with_apart: bool
    chance: float
    read_all: ReadAll

    def is_worth_while(self, move: Move) -> bool:
        """Return True if a move gains enough beyond what chance explains."""
        return move.gain - self.chance >= self.rule.min_gain

    def propose(self, kept: KeptStats) -> Move:
        """Return where the statistics of the files lead, without a pass over all files.

        Raises
        ------
        SingularCovarianceError
            If no covariances can be estimated.
        """
        return self._step(kept) if self.rule.mode == STEPWISE else self._steps_from(kept, self.model.params)

    def complete(self, move: Move) -> Move:
        """Return the move after passes over all files, if the rule or the estimated error asks for them.

        Raises
        ------
        SingularCovarianceError
            If no covariances can be estimated.
        """
        if self.rule.mode == STEPWISE or (not self.is_worth_while(move) and move.error <= self.rule.max_error):
            return move
        if self.rule.mode == EXACT:
            return self._read_exactly(move, "update.mode is exact")
        if move.error > self.rule.max_error:
            why = f"without, an estimated {move.error:.2g} nats per row are lost, more than {self.rule.max_error:g}"
            return self._read_exactly(move, why)
        return move

    def sum_up(self, kept: KeptStats) -> StatsTotal:
        """Return the sum of the statistics, every file with its weight."""
        weights = weigh_files(kept.entries, self.rule.decay)
        return StatsTotal.of(kept.entries, weights, with_apart=self.with_apart)

    def _steps_from(self, kept: KeptStats, current: MixtureParams) -> Move:
        total = self.sum_up(kept)
        likelihood = AnchoredLikelihood(kept.anchor, reduce_moments(total.stats, kept.anchor), total.sample)
        profile = self.describe_rows(total)
        tol = self.settings.rule.tolerance(current.n_parameters, total.stats.rows)
        found: AnchoredMove = move_from_anchor(likelihood, make_penalty(profile, self.settings), tol)
        now = likelihood.stats.mean_loglik if current is kept.anchor else likelihood.predict(current)
        gain = likelihood.stats.mean_loglik + found.gain - now
        return Move(
            found.params, likelihood.predict_stats(found.params), kept, total, gain, found.guaranteed, found.error
        )

    def _step(self, kept: KeptStats) -> Move:
        """Make one EM step from statistics taken at different parameters: it raises the free energy."""
        total, params = self.sum_up(kept), self.model.params
        stats = reduce_moments(total.stats, params)
        new, _ = mstep(stats, params.family, make_penalty(self.describe_rows(total), self.settings), params)
        gain = guaranteed_gain(stats, params, new)
        return Move(new, stats, kept, total, gain, gain, float("nan"))

    def _read_exactly(self, move: Move, why: str) -> Move:
        """Make passes over all files: each measures a point, and anchors the steps to the next one."""
        start, best = move, move
        for number in range(1, self.rule.passes + 1):
            kept = self.read_all(move.params)
            total = self.sum_up(kept)
            measured = reduce_moments(total.stats, move.params)
            gain = measured.mean_loglik - (start.stats.mean_loglik - start.gain)
            if best.measured and measured.mean_loglik < best.stats.mean_loglik:
                return replace(best, passes=number)
            here = Move(move.params, measured, kept, total, gain, move.guaranteed, 0.0, number, True, why)
            move = self._steps_from(kept, here.params)
            best = replace(here, error=max(move.gain, 0.0))
            if move.gain <= self.rule.min_gain / 10.0:
                break
        return best

    def describe_rows(self, total: StatsTotal) -> Profile:
        """Return the profile of the rows that the statistics are of."""
        d, rows = len(self.model.columns), total.rows_complete
        none = Sample(np.empty((0, d)), np.empty(0, np.uint64), 0)
        return Profile(
            self.model.columns, total.rows_read, total.bad, total.low, total.high, total.moments,
            SuffStats.zero(1, d, FULL), total.sample, none,
            total_rows=total.rows_read, complete_rows=rows, fit_rows=rows, weight_squares=total.weight_squares,
            weighted=bool(len(total.sample.weights)), constants=self.model.constants,
            transforms=self.model.transforms, log_jacobian=total.log_jacobian,
        )  # fmt: skip

    def make_model(self, move: Move, provenance: dict[str, object]) -> FitResult:
        """Return the model at the parameters of a move; its components have the numbers that they had."""
        profile, model = self.describe_rows(move.total), self.model
        settled = move.error <= self.rule.max_error
        state = EMState(
            move.params, n_iter=1, history=(move.stats.mean_loglik - move.gain, move.stats.mean_loglik),
            accepted=move.params, stats=move.stats, outcome=Outcome.CONVERGED if settled else Outcome.MAX_PASSES,
            passes=move.passes,
        )  # fmt: skip
        state = explain_collapse(state, profile, self.settings)
        result = make_result(state, profile, self.settings, provenance)
        if not move.measured:
            predicted = (
                "log-likelihood and criteria are predicted from the statistics of the files, not measured in a pass."
            )
            result = replace(result, warnings=(*result.warnings, predicted))
        return result.match_to(model)


def join_evidence(entries: Sequence[FileStats]) -> Sample:
    """Return the rows that are set apart in some files, for comparisons."""
    samples = [e.evidence for e in entries]
    if not samples:
        return Sample(np.empty((0, 1)), np.empty(0, np.uint64), 0)
    rows = np.concatenate([s.rows for s in samples])
    hashes, weights = (np.concatenate([getattr(s, name) for s in samples]) for name in ("hashes", "weights"))
    return Sample.of(rows, hashes, len(rows), weights)
