"""Which transform of a column gains most: mixtures of its values and of transformed ones, compared on other rows.

For the column as it is and for each transform, mixtures of one to ``MOST_COMPONENTS`` normal distributions are fitted
to some rows, and the one of lowest BIC gives other rows their log-density, in the units of the column. The gain of a
transform is the mean of the paired differences, nats per row. Values that many rows share take no part: they are
points, whatever the transform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_gmm.core.estep.scores import score_transformed
from stream_gmm.core.fit.em import FIT_ERRORS
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.moments import UNWEIGHTED
from stream_gmm.core.rows.oddities import ATOM_SHARE, measure_skewness
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.rows.transform_requests import TransformRequest
from stream_gmm.core.rows.transforms import ColumnFacts, ColumnTransform, transform_rows
from stream_gmm.core.search.evidence import PairedDifference, compare_paired
from stream_gmm.core.search.sample_search import SampleSearch
from stream_gmm.errors import StreamGMMError

PROPOSED = ("log", "log1p", "asinh", "yeo_johnson")
"""What is tried, the simplest first."""
MOST_COMPONENTS = 3
FIT_ROWS = 4_000
FEW_ROWS = 100
"""With fewer rows, or fewer different values, nothing is proposed."""
SKEWED, HEAVY = 0.5, 1.0
"""A column is looked at from this skewness or this excess of kurtosis on."""
CLEAR_GAIN, CLEAR_ERRORS = 0.01, 3.0
"""A gain is clear from so many nats per row and so many standard errors on."""


@dataclass(frozen=True)
class ColumnTrial:
    """A column whose transform is to be chosen.

    Attributes
    ----------
    name, facts
        The column, and what is known of it; mixtures are fitted to ``facts.values``. Weights are not used.
    others
        Rows ``(m,)`` on which the fits are compared.
    limits
        The smallest and the largest value that there may be.
    """

    name: str
    facts: ColumnFacts
    others: Array
    limits: tuple[float, float]


@dataclass(frozen=True)
class TransformGain:
    """What a transform of a column gains over the column as it is, on rows that no fit has used: nats per row."""

    transform: ColumnTransform
    gain: float
    standard_error: float
    adopted: bool = False

    def __str__(self) -> str:
        verdict = "adopted" if self.adopted else "not adopted"
        return (
            f"{self.transform}: {self.gain:+.4f} nats per row, standard error {self.standard_error:.2g} ({verdict})"
        )


def propose_transform(trial: ColumnTrial, seed: int) -> TransformGain | None:
    """Return the best transform of a column and what it gains, adopted if that is clear; None if none is tried.

    Among transforms within a standard error of the best, the simplest is taken.
    """
    name, facts = trial.name, trial.facts
    values, held = facts.values[:FIT_ROWS], trial.others[:FIT_ROWS]
    distinct, counts = np.unique(values, return_counts=True)
    atoms = distinct[counts >= max(ATOM_SHARE * len(values), 2)]
    values, held = values[~np.isin(values, atoms)], held[~np.isin(held, atoms)]
    if min(len(np.unique(values)), len(np.unique(held))) < FEW_ROWS or not _is_far_from_normal(values):
        return None
    plain = _score_held(name, values, held, None, seed)
    if plain is None:
        return None
    own = ColumnFacts(facts.mean, facts.sd, values, UNWEIGHTED)
    gains: list[tuple[ColumnTransform, PairedDifference]] = []
    for kind in PROPOSED:
        transform = TransformRequest(kind).complete(name, own)
        if np.isnan(transform.apply(np.array(trial.limits))).any():
            continue
        scored = _score_held(name, values, held, transform, seed)
        if scored is not None:
            gains.append((transform, compare_paired(scored, plain, UNWEIGHTED)))
    if not gains:
        return None
    best = max((g for _, g in gains), key=lambda g: g.mean)
    transform, gain = next((t, g) for t, g in gains if g.mean >= best.mean - best.standard_error)
    clear = gain.mean >= max(CLEAR_GAIN, CLEAR_ERRORS * gain.standard_error)
    return TransformGain(transform, gain.mean, gain.standard_error, clear)


def _is_far_from_normal(values: Array) -> bool:
    """Return True if values are skewed or have heavy tails."""
    centred = values - values.mean()
    variance = float(np.mean(centred**2))
    if not 0.0 < variance < np.inf:
        return False
    kurtosis = float(np.mean((centred / np.sqrt(variance)) ** 4)) - 3.0
    return abs(measure_skewness(values)) >= SKEWED or kurtosis >= HEAVY


def _score_held(name: str, values: Array, held: Array, transform: ColumnTransform | None, seed: int) -> Array | None:
    """Return the log-densities ``(m,)`` that the mixture of lowest BIC of some values gives other ones."""
    transforms = () if transform is None else (transform,)
    rows, others = (transform_rows(v[:, None], (name,), transforms) for v in (values, held))
    search = SampleSearch(rows, Scaling.from_moments(rows.mean(axis=0), np.atleast_2d(np.var(rows))))
    family, found = family_named("full"), []
    for k in range(1, MOST_COMPONENTS + 1):
        try:
            fit = search.fit(k, family, seed=(seed, k))
            if fit.params is None or not fit.is_sound:
                continue
            density = compile_density(fit.params)
            loglik = score_transformed(density, rows, (name,), transforms).log_density.sum()
            bic = fit.params.n_parameters * np.log(len(rows)) - 2.0 * loglik
            found.append((float(bic), k, score_transformed(density, others, (name,), transforms).log_density))
        except (*FIT_ERRORS, StreamGMMError):
            continue
    return min(found, key=lambda f: f[:2])[2] if found else None
