"""Scores rows by one mixture: log-densities, responsibilities and assigned components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, gammaincc

from stream_gmm.core.estep import whitening
from stream_gmm.core.estep.kernels import complete_scores
from stream_gmm.core.estep.marginal.density import MarginalDensity
from stream_gmm.core.estep.marginal.patterns import Patterns, find_complete
from stream_gmm.core.estep.marginal.scores import score_marginal_rows
from stream_gmm.core.model.density import Density
from stream_gmm.core.model.moments import FULL, Array, divide_by_weight
from stream_gmm.core.rows.transforms import Transforms, log_jacobians
from stream_gmm.core.stats import SuffStats

_BLOCK_ROWS = 8192
"""Rows whose log-densities are in the cache together."""
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
        return np.asarray(entr(self.shares).sum(axis=1))

    @cached_property
    def max_proba(self) -> Array:
        """Largest responsibility of each row ``(N,)``, that of the noise included."""
        columns = [*self.proba.T, *([self.noise] if len(self.noise) else [])]
        return reduce(np.maximum, columns, np.zeros(len(self.proba)))  # faster than along short rows


def component_log_densities(density: Density, rows_t: Array) -> Array:
    """Return ``log(weight_k) + log N(x | k)`` as ``(K, N)`` in nats, of contiguous ``rows_t (D, N)``."""
    out = np.empty((len(density.log_norm), rows_t.shape[1]))
    if density.whitener.ndim == 2:
        whitening.diagonal_log_densities(rows_t, density.means, density.whitener, density.log_norm, out)
    else:
        whitening.full_log_densities(rows_t, density.means, density.lower, density.log_norm, out)
    return out


def weighted_log_densities(density: Density, rows: Array) -> Array:
    """Return ``log(weight_k) + log N(x | k)`` as ``(N, K)`` in nats, of ``rows (N, D)``."""
    rows_t = np.ascontiguousarray(rows.T, dtype=np.float64)
    return component_log_densities(density, rows_t).T


def score_rows(density: Density, rows: Array) -> Scores:
    """Return the scores of ``rows (N, D)``, computed by the whitened kernel, which never cancels.

    NaN is a missing value: the scores of such a row are those of the columns that it has. Without any value its
    responsibilities are the weights, and its log-density and distance are NaN.

    Responsibilities below 1e-100 are 0. Where even the log-density of every component underflows (a squared distance
    above 1.8e308), it is ``-inf``, and the row belongs to the component of smallest Mahalanobis distance (to
    rounding), with responsibility 1, or to the noise.
    """
    complete = find_complete(rows)
    if complete is not None:
        return _score_incomplete(density, rows, complete)
    n, k = len(rows), len(density.log_norm)
    component, proba = np.empty(n, np.int32), np.empty((n, k))
    log_density, distance = np.empty(n), np.empty(n)
    noise = np.empty(n) if density.noisy else NO_NOISE
    for start in range(0, n, _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        logp = component_log_densities(density, np.ascontiguousarray(rows[block].T, dtype=np.float64))
        complete_scores(
            logp, density.log_norm, density.background, density.noisy,
            component[block], proba[block], log_density[block], distance[block], noise[block],
        )  # fmt: skip
    remote = np.isinf(distance)
    if remote.any() and not density.noisy:
        component[remote] = _nearest_components(density, rows[remote])
        proba[remote, component[remote]] = 1.0
    return Scores(component, proba, log_density, distance, noise)


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
        whole, _ = MarginalDensity.of([density]).impute(some, _share_out(scores.proba[incomplete.places]))
        incomplete = replace(incomplete, jacobian=log_jacobians(whole, columns, transforms))
    log_density = scores.log_density + log_jacobians(rows, columns, transforms)
    return replace(scores, log_density=log_density, incomplete=incomplete)


def _score_incomplete(density: Density, rows: Array, complete: NDArray[np.bool_]) -> Scores:
    """Return the scores of rows of which some have missing values."""
    k, places, marginal = len(density.log_norm), np.flatnonzero(~complete), MarginalDensity.of([density])
    patterns = Patterns.of(rows[places])
    n = len(places)
    component, proba = np.empty(n, np.int32), np.empty((n, k))
    log_density, distance = np.empty(n), np.empty(n)
    noise = np.empty(n) if density.noisy else NO_NOISE
    log_norms = np.empty((len(patterns.observed), k))
    score_marginal_rows(
        patterns.sort(rows[places]), patterns.starts, patterns.observed, np.array(marginal.means), marginal.matrices,
        np.array(marginal.log_weights), density.background, marginal.log_widths, density.noisy,
        component, proba, log_density, distance, noise, log_norms,
    )  # fmt: skip
    pattern = np.repeat(np.arange(len(patterns.observed)), np.diff(patterns.starts))
    columns = patterns.observed.sum(axis=1)
    empty = columns[pattern] == 0
    log_density[empty] = distance[empty] = np.nan
    whole, order = score_rows(density, rows[complete]), places[patterns.order]
    incomplete, n = IncompleteRows(order, pattern, log_norms, columns, density, log_density), len(rows)
    out = Scores(
        np.empty(n, np.int32), np.empty((n, k)), np.empty(n), np.empty(n),
        np.empty(n) if density.noisy else NO_NOISE, incomplete,
    )  # fmt: skip
    for name, own in (
        ("component", component), ("proba", proba), ("log_density", log_density), ("mahalanobis_sq", distance),
        *([("noise", noise)] if density.noisy else []),
    ):  # fmt: skip
        getattr(out, name)[complete] = getattr(whole, name)
        getattr(out, name)[order] = own
    return out


def impute_rows(density: Density, rows: Array, scores: Scores) -> tuple[Array, Array]:
    """Return ``rows (N, D)`` with the conditional means of their missing values (NaN), and standard deviations.

    Mean and deviation are those of the mixture, given the observed values of the row; ``scores`` are those of the
    rows. Values that are there have deviation 0. The noise component, which says nothing about other columns, is
    left out.
    """
    mean, variance = MarginalDensity.of([density]).impute(rows, _share_out(scores.proba))
    return mean, np.sqrt(variance)


def _share_out(proba: Array) -> Array:
    """Return responsibilities ``(N, K)`` that add up to 1, without the noise."""
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
    every = scores.shares
    entropy = -float(weights @ np.sum(every * np.log(np.maximum(every, 1e-300)), axis=1))
    log_max = float(weights @ np.log(scores.max_proba))
    loglik = float(weights @ scores.log_density)
    return SuffStats(float(weights.sum()), loglik, entropy, log_max, weight, mean, scatter, FULL)
