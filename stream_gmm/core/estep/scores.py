"""Scores rows by one mixture: log-densities, responsibilities and assigned components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, gammaincc

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.estep import score_kernels, whitening
from stream_gmm.core.estep.batch import as_writeable
from stream_gmm.core.estep.marginal.density import MarginalDensity
from stream_gmm.core.estep.marginal.patterns import Patterns, find_complete
from stream_gmm.core.estep.marginal.scores import score_marginal_rows
from stream_gmm.core.model.density import Density
from stream_gmm.core.model.moments import FULL, Array, divide_by_weight
from stream_gmm.core.model.params import NO_BACKGROUND
from stream_gmm.core.rows.transforms import Transforms, log_jacobians
from stream_gmm.core.stats import SuffStats

NO_NOISE = np.empty(0)
"""Probabilities of being noise, of a mixture without a noise component."""
_TAIL_POINTS, _LARGEST_DISTANCE = 4096, 37.0
"""The tail probability is tabulated for so many distances in standard deviations; beyond, it is less than 1e-280."""


@dataclass(frozen=True)
class IncompleteRows:
    """Which of the scored rows have missing values, and what their log-densities are to be compared with."""

    places: NDArray[np.intp]
    """Numbers ``(m,)`` of these rows."""
    pattern: NDArray[np.intp]
    """Which columns each has: its pattern ``(m,)``."""
    log_norms: Array
    """Constants ``(P, K)`` of the weighted log-densities of the components, for each pattern."""
    columns: NDArray[np.intp]
    """Number of columns ``(P,)`` of each pattern."""
    density: Density
    log_density: Array
    """Log-densities ``(m,)`` of the columns that they have, under ``density``, nats."""
    jacobian: Array | float = 0.0
    """What transforms of columns add to the log-density ``(m,)`` of a complete row, nats."""

    def compare(self) -> Array:
        """Return the log-densities ``(m,)`` of complete rows that are as unusual as these rows, nats.

        Equally unusual rows have the same tail probability, the one that a row of the model (with the same columns)
        has a lower log-density. It is taken as that of separate components, a chi-square distribution for each.
        """
        whole = self.density
        weights = MarginalDensity.of([whole]).log_weights
        weights = np.exp(weights - weights.max())
        weights /= weights.sum()
        top = float(whole.log_norm.max())
        at = top - 0.5 * np.linspace(_LARGEST_DISTANCE, 0.0, _TAIL_POINTS) ** 2
        of_complete = _tail_probability(whole.log_norm[None, :], at, np.array([whole.means.shape[1]]), weights)
        columns = self.columns[self.pattern]
        own = _tail_probability(self.log_norms[self.pattern], self.log_density, columns, weights)
        with np.errstate(divide="ignore"):
            known = of_complete > 0.0
            out = np.interp(np.log(own), np.log(of_complete[known]), at[known], left=-np.inf)
        out[columns == 0] = np.nan
        return np.asarray(out + self.jacobian)


def _tail_probability(log_norm: Array, log_density: Array, columns: NDArray[np.intp], weights: Array) -> Array:
    squared = np.maximum(log_norm - log_density[:, None], 0.0)  # half the squared distance of each component
    return np.asarray(gammaincc(0.5 * np.maximum(columns, 1)[:, None], squared) @ weights)


@dataclass(frozen=True)
class Scores:
    """The scores of N rows, in the order of the rows."""

    component: np.ndarray[tuple[int], np.dtype[np.int32]]
    """Component of highest responsibility ``(N,)``; -1 for noise."""
    proba: Array
    """Responsibilities ``(N, K)``."""
    log_density: Array
    """Log-density of the mixture ``(N,)``, nats; of a row with missing values, that of the columns that it has."""
    mahalanobis_sq: Array
    """Squared Mahalanobis distance ``(N,)`` to the assigned component; for noise, to the most likely component."""
    noise: Array = field(default_factory=lambda: NO_NOISE)
    """Probability ``(N,)`` of being noise; empty if the mixture has no noise component."""
    incomplete: IncompleteRows | None = None
    """The rows with missing values; None: there are none."""
    imputed: tuple[Array, Array] = (NO_NOISE, NO_NOISE)
    """If they are wanted: the rows ``(N, D)`` of :func:`impute_rows`, and their standard deviations."""
    known_entropy: Array | None = None
    known_max: Array | None = None
    """Entropy and largest responsibility ``(N,)``, if they were computed with the responsibilities."""

    @cached_property
    def comparable(self) -> Array:
        """Log-density ``(N,)`` of a complete row that is as unusual, nats: to be compared with the outlier threshold.

        Of complete rows it is their own; NaN for a row without any value.
        """
        if self.incomplete is None:
            return self.log_density
        out = self.log_density.copy()
        out[self.incomplete.places] = self.incomplete.compare()
        return out

    @property
    def shares(self) -> Array:
        """Responsibilities ``(N, K)``, or ``(N, K + 1)`` with the noise in the last column."""
        return np.column_stack([self.proba, self.noise]) if len(self.noise) else self.proba

    @cached_property
    def ranking(self) -> NDArray[np.intp]:
        """Components of each row, the likeliest first ``(N, K)``; of equal ones that of the smaller number."""
        return np.argsort(-self.proba, axis=1, kind="stable")

    @property
    def entropy(self) -> Array:
        """Entropy of the responsibilities ``(N,)``, that of the noise included, in nats: 0 if there is no doubt."""
        if self.known_entropy is not None:
            return self.known_entropy
        return np.asarray(entr(self.shares).sum(axis=1))

    @cached_property
    def max_proba(self) -> Array:
        """Largest responsibility of each row ``(N,)``, that of the noise included."""
        if self.known_max is not None:
            return self.known_max
        columns = [*self.proba.T, *([self.noise] if len(self.noise) else [])]
        return reduce(np.maximum, columns, np.zeros(len(self.proba)))  # faster than along short rows


def component_log_densities(density: Density, rows_t: Array) -> Array:
    """Return ``log(weight_k) + log N(x | k)`` as ``(K, N)`` in nats, of contiguous ``rows_t (D, N)``."""
    out = np.empty((len(density.log_norm), rows_t.shape[1]))
    full = density.whitener.ndim == 3
    fill = whitening.full_log_densities if full else whitening.diagonal_log_densities
    fill(as_writeable(rows_t), *_prepare_factors(density), out)
    return out


def _prepare_factors(density: Density) -> tuple[Array, Array, Array]:
    """Return means, ``U'`` and constants, as the compiled loops take them."""
    factors = density.lower if density.whitener.ndim == 3 else as_writeable(density.whitener)
    return as_writeable(density.means), factors, as_writeable(density.log_norm)


def weighted_log_densities(density: Density, rows: Array) -> Array:
    """Return ``log(weight_k) + log N(x | k)`` as ``(N, K)`` in nats, of ``rows (N, D)``."""
    rows_t = np.ascontiguousarray(rows.T, dtype=np.float64)
    return component_log_densities(density, rows_t).T


def score_rows(density: Density, rows: Array) -> Scores:
    """Return the scores of ``rows (N, D)``: of each row the same bits, whatever rows are beside it.

    NaN is a missing value: the scores of such a row are those of the columns that it has. Without any value its
    responsibilities are the weights, and its log-density and distance are NaN.

    Responsibilities below 1e-100 are 0; they are column-major if the rows are. Where even the log-density of every
    component underflows (a squared distance above 1.8e308), it is ``-inf``, and the row belongs to the component of
    smallest Mahalanobis distance (to rounding), with responsibility 1, or to the noise.
    """
    rows = np.asarray(rows, dtype=np.float64)
    by_column = rows.flags.f_contiguous
    rows = rows if by_column else np.ascontiguousarray(rows)
    (n, d), k = rows.shape, len(density.log_norm)
    proba = np.empty((k, n)).T if by_column else np.empty((n, k))
    component, noise = np.empty(n, np.int32), np.empty(n) if density.noisy else NO_NOISE
    log_density, distance, entropy, highest = (np.empty(n) for _ in range(4))
    out = Scores(component, proba, log_density, distance, noise, known_entropy=entropy, known_max=highest)
    fill = score_kernels.score_full if density.whitener.ndim == 3 else score_kernels.score_diagonal
    fill(
        as_writeable(rows.ravel("K")), (1, n, 1, n) if by_column else (d, 1, k, 1), n,
        *_prepare_factors(density), density.background, density.noisy,
        component, proba.ravel("K"), log_density, distance, entropy, highest, noise,
    )  # fmt: skip
    remote = np.isinf(distance)
    if not remote.any():
        return out
    complete = find_complete(rows)
    if complete is not None:
        out = _score_incomplete(density, rows, np.flatnonzero(~complete), out)
        remote &= complete
    if not density.noisy:
        component[remote] = _nearest_components(density, rows[remote])
        proba[remote, component[remote]] = highest[remote] = 1.0
    return out


def score_transformed(
    density: Density, rows: Array, columns: Sequence[str], transforms: Transforms, impute: bool = False
) -> Scores:
    """Return the scores of transformed ``rows (N, D)``; log-densities are those of the values themselves.

    With ``impute`` the scores also have the rows without their missing values. Where outliers are looked for, missing
    values have the slopes of their conditional means.
    """
    scores = score_rows(density, rows)
    if impute:
        scores = replace(scores, imputed=impute_rows(density, rows, scores))
    if not transforms:
        return scores
    incomplete = scores.incomplete
    if incomplete is not None:
        some = rows[incomplete.places]
        shares = _share_out(density, some, scores.proba[incomplete.places])
        whole, _ = MarginalDensity.of([density]).impute(some, shares)
        incomplete = replace(incomplete, jacobian=log_jacobians(whole, columns, transforms))
    log_density = scores.log_density + log_jacobians(rows, columns, transforms)
    return replace(scores, log_density=log_density, incomplete=incomplete)


def _score_incomplete(density: Density, rows: Array, places: NDArray[np.intp], out: Scores) -> Scores:
    """Return the scores of rows, of which those at ``places (m,)`` have missing values: theirs are filled in."""
    k, m, marginal = len(density.log_norm), len(places), MarginalDensity.of([density])
    patterns = Patterns.of(rows[places])
    component, proba = np.empty(m, np.int32), np.empty((m, k))
    log_density, distance, entropy, highest = (np.empty(m) for _ in range(4))
    noise, log_norms = np.empty(m) if density.noisy else NO_NOISE, np.empty((len(patterns.observed), k))
    score_marginal_rows(
        patterns.sort(rows[places]), patterns.starts, patterns.observed, np.array(marginal.means), marginal.matrices,
        np.array(marginal.log_weights), density.background, marginal.log_widths, density.noisy,
        component, proba.ravel(), log_density, distance, entropy, highest, noise, log_norms,
    )  # fmt: skip
    pattern = np.repeat(np.arange(len(patterns.observed)), np.diff(patterns.starts))
    columns = patterns.observed.sum(axis=1)
    empty = columns[pattern] == 0
    log_density[empty] = distance[empty] = np.nan
    order = places[patterns.order]
    for name, own in (
        ("component", component), ("proba", proba), ("log_density", log_density), ("mahalanobis_sq", distance),
        ("known_entropy", entropy), ("known_max", highest), *([("noise", noise)] if density.noisy else []),
    ):  # fmt: skip
        getattr(out, name)[order] = own
    return replace(out, incomplete=IncompleteRows(order, pattern, log_norms, columns, density, log_density))


def impute_rows(density: Density, rows: Array, scores: Scores) -> tuple[Array, Array]:
    """Return ``rows (N, D)`` with the conditional means of their missing values (NaN), and standard deviations.

    Mean and deviation are those of the mixture, given the observed values of the row; ``scores`` are those of the
    rows. Values that are there have deviation 0. The noise component, which says nothing about other columns, is
    left out.
    """
    mean, variance = MarginalDensity.of([density]).impute(rows, _share_out(density, rows, scores.proba))
    return mean, np.sqrt(variance)


def _share_out(density: Density, rows: Array, proba: Array) -> Array:
    """Return responsibilities ``(N, K)`` that add up to 1, without the noise; ``proba (N, K)`` are those with it."""
    if density.noisy:  # where noise is all but certain, what it leaves underflows
        proba = score_rows(replace(density, background=NO_BACKGROUND, log_widths=None), rows).proba
    total = proba.sum(axis=1, keepdims=True)
    even = np.full_like(proba, 1.0 / proba.shape[1])
    return np.asarray(np.divide(proba, total, out=even, where=total > 0.0))


def _nearest_components(density: Density, rows: Array) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return the component of smallest Mahalanobis distance for rows at which every squared distance overflows."""
    whitener = density.whitener / np.abs(density.whitener).max()
    size = np.maximum(np.abs(rows).max(axis=1), np.abs(density.means).max())[:, None, None]
    offset = rows[:, None, :] / size - density.means / size
    if whitener.ndim == 2:
        whitened = offset * whitener
    else:
        whitened = np.einsum("nkd,kde->nke", offset, whitener)
    return np.asarray(np.linalg.norm(whitened, axis=2).argmin(axis=1))


def collect_scored_stats(rows: Array, weights: Array, scores: Scores) -> SuffStats:
    """Return the statistics, with full second moments, of ``rows (N, D)`` with positive ``weights (N,)``.

    The scatter is symmetric to the last bit.
    """
    (n, d), k = rows.shape, scores.proba.shape[1]
    if not n:
        return SuffStats.zero(k, d, FULL)
    shares = scores.proba * weights[:, None]
    weight = shares.sum(axis=0)
    mean = divide_by_weight(shares.T @ rows, weight)
    scatter = np.empty((k, d, d))
    for i in range(k):
        centred = rows - mean[i]
        product = (shares[:, i, None] * centred).T @ centred
        scatter[i] = 0.5 * (product + product.T)
    entropy = float(weights @ scores.entropy)
    log_max = float(weights @ np.log(scores.max_proba))
    loglik = float(weights @ scores.log_density)
    return SuffStats(float(weights.sum()), loglik, entropy, log_max, weight, mean, scatter, FULL)


def summarise_scores(scores: Scores, n_parameters: int, weights: Array | None = None) -> Criteria:
    """Return the criteria of a model by the scores of rows; ``weights (N,)``: how often each row counts."""
    loglik, entropy, log_max = scores.log_density, scores.entropy, np.log(scores.max_proba)
    n_rows = float(len(loglik))
    if weights is not None or scores.incomplete is not None:
        weights = np.ones(len(loglik)) if weights is None else weights
        some = (weights > 0.0) & ~np.isnan(loglik)  # a row of weight 0 is none, even where its density is 0
        loglik, entropy, log_max = (values[some] * weights[some] for values in (loglik, entropy, log_max))
        n_rows = float(weights[some].sum())
    return Criteria(float(loglik.sum()), n_parameters, n_rows, float(entropy.sum()), float(log_max.sum()))
