"""The candidates of one pass, stacked in groups that share a kernel, and their stacked statistics.

What many candidates share is computed once: the features of a block of rows, one matrix product for the log-densities
of all components, one for the sums. Statistics stay stacked along the components until those of all rows are merged,
so that merging and sending them costs no more calls for a hundred candidates than for one.

A group has C candidates with M components together; F is the number of features.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.estep import kernels
from stream_gmm.core.estep.active.loops import active_pass
from stream_gmm.core.estep.active.screen import Screen, choose_screen
from stream_gmm.core.estep.kernel_choice import ANY_KERNEL, KernelPreference, choose_kernel
from stream_gmm.core.estep.marginal.density import MarginalDensity, have_close_means
from stream_gmm.core.estep.marginal.patterns import SortedRows
from stream_gmm.core.estep.whitening import sum_diagonal, sum_full
from stream_gmm.core.model.density import Density, compile_density
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.features import LINEAR_ORDER, Features
from stream_gmm.core.model.moments import DIAGONAL, FULL, Array, Moments
from stream_gmm.core.model.params import NO_BACKGROUND, MixtureParams
from stream_gmm.core.rows.moments import UNWEIGHTED, total_weight
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.stats import SuffStats

_COPIED_BYTES = 1 << 16


def as_writeable(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array with the writeable flag set, although nothing writes to it; a large one without a copy.

    Arrays that were mapped from a file or received over a network are read-only. Numba compiles other code for
    those, in which sums may round differently: results would depend on where the rows come from.
    """
    if values.flags.writeable:
        return values
    if values.nbytes <= _COPIED_BYTES:
        return np.array(values)
    memory: Any = (ctypes.c_byte * values.nbytes).from_address(values.ctypes.data)
    return np.frombuffer(memory, values.dtype).reshape(values.shape)


@dataclass(frozen=True)
class StackedStats:
    """Statistics of the candidates of a group: ``stats`` has the components of all of them, one after the other.

    ``sums (C, 3)`` holds for each candidate the sums over the rows of the log-density, of the entropy of the
    responsibilities and of the logarithm of the largest responsibility, in nats.
    """

    stats: SuffStats
    sums: Array

    @classmethod
    def zero(cls, n_features: int) -> StackedStats:
        """Return the statistics of no rows, for any number of candidates."""
        return cls(SuffStats.zero(0, n_features, FULL), np.zeros((0, 3)))

    def merge(self, other: StackedStats) -> StackedStats:
        """Return the statistics of both sets of rows."""
        if self.stats.rows == 0.0:
            return other
        if other.stats.rows == 0.0:
            return self
        return StackedStats(self.stats.merge(other.stats), self.sums + other.sums)


@dataclass(frozen=True)
class StackLayout:
    """Which candidates a group holds, and where their components are."""

    index: tuple[int, ...]
    """Numbers of the candidates within the batch."""
    offsets: tuple[int, ...]
    """First component of each candidate, and M at the end."""
    families: tuple[CovarianceFamily, ...]
    backgrounds: tuple[float, ...]
    """Weighted log-density of the noise of each candidate, nats."""

    def assemble(
        self, n: float, sums: Array, expected: Array, weight: Array, mean: Array, scatter: Array, moments: Moments,
        of_noise: Array | None = None,
    ) -> StackedStats:  # fmt: skip
        """Return the statistics of the group from what a kernel gives for ``n`` rows.

        ``sums (C, 2)`` holds the log-likelihood and the log of the largest responsibility; ``expected (M,)`` the sum
        over the rows of responsibility times log-density, and ``of_noise (C,)`` that of the noise, unless it is the
        same for all rows; ``weight``, ``mean`` and ``scatter`` are per component.
        """
        starts = np.array(self.offsets[:-1])
        # sum of -r log r, since log r = log-density of the component - log-density of the mixture.
        background, noisy = np.array(self.backgrounds), np.array(self.backgrounds) > NO_BACKGROUND
        if of_noise is None:
            of_noise = np.where(noisy, background * (n - np.add.reduceat(weight, starts)), 0.0)
        entropy = np.maximum(sums[:, 0] - np.add.reduceat(expected, starts) - of_noise, 0.0)
        entropy[(np.diff(self.offsets) == 1) & ~noisy] = 0.0
        stats = SuffStats(float(n), 0.0, 0.0, 0.0, weight, mean, scatter, moments)
        return StackedStats(stats, np.column_stack([sums[:, 0], entropy, sums[:, 1]]))

    def split(self, stacked: StackedStats) -> dict[int, SuffStats]:
        """Return the statistics of each candidate, by its number within the batch."""
        stats, by_number = stacked.stats, {}
        members = zip(self.index, pairwise(self.offsets), self.families, stacked.sums.tolist(), strict=True)
        for i, (lo, hi), family, (loglik, entropy, log_max) in members:
            if not len(stats.scatter):
                scatter = family.moments.empty(stats.mean.shape[1])
            else:
                scatter = stats.scatter[lo:hi]
                if stats.moments is not family.moments:
                    scatter = family.moments.condense(scatter)
                if family.shared:
                    scatter = scatter.sum(axis=0, keepdims=True)
            weight, mean = stats.weight[lo:hi], stats.mean[lo:hi]
            by_number[i] = SuffStats(stats.rows, loglik, entropy, log_max, weight, mean, scatter, family.moments)
        return by_number


@dataclass(frozen=True)
class FeatureGroup:
    """Candidates that share features in the same coordinates; ``weights (M, F)`` are their packed densities."""

    layout: StackLayout
    features: Features
    coordinates: Scaling
    weights: NDArray[np.floating]
    screen: Screen | None = None
    """If given, what tells which components are negligible for a row; then the group has one candidate."""

    def accumulate_stats(self, rows_t: Array, weights: Array = UNWEIGHTED) -> StackedStats:
        """Return the statistics for ``rows_t (D, N)`` with ``weights (N,)``, or none."""
        d = len(rows_t)
        c, totals, sums = self.coordinates, np.zeros(self.weights.shape), np.zeros((len(self.layout.index), 2))
        rows = as_writeable(rows_t), as_writeable(weights), c.shift, 1.0 / c.scale, c.inverse_root
        if self.screen is None:
            kernels.feature_pass(
                *rows, self.features.order, as_writeable(self.weights), np.array(self.layout.offsets),
                np.array(self.layout.backgrounds), totals, sums,
            )  # fmt: skip
        else:
            tables = self.weights, self.screen.log_norm, self.screen.label_weights, self.screen.directions
            active_pass(*rows, *map(as_writeable, tables), self.layout.backgrounds[0], totals, sums)
        weight, mean, scatter = self.features.unpack(totals, d)
        scatter = c.restore_scatter(scatter) if len(scatter) else scatter
        expected = np.einsum("mf,mf->m", self.weights.astype(np.float64), totals)
        n, moments = total_weight(rows_t, weights), self.layout.families[0].moments
        return self.layout.assemble(n, sums, expected, weight, c.restore_mean(mean), scatter, moments)


@dataclass(frozen=True)
class WhitenedGroup:
    """Candidates of the whitened kernel: every component whitens the rows with its own factor."""

    layout: StackLayout
    density: Density

    def accumulate_stats(self, rows_t: Array, weights: Array = UNWEIGHTED) -> StackedStats:
        """Return the statistics for ``rows_t (D, N)`` with ``weights (N,)``, or none."""
        d = self.density
        density = Density(as_writeable(d.log_norm), as_writeable(d.means), as_writeable(d.whitener))
        sum_rows, moments = (sum_full, FULL) if d.whitener.ndim == 3 else (sum_diagonal, DIAGONAL)
        places = np.array(self.layout.offsets), np.array(self.layout.backgrounds)
        results = sum_rows(density, as_writeable(rows_t), as_writeable(weights), *places)
        return self.layout.assemble(total_weight(rows_t, weights), *results, moments)


@dataclass(frozen=True)
class MarginalGroup:
    """Candidates for rows with missing values: those with matrices, with one matrix, or with variances."""

    layout: StackLayout
    density: MarginalDensity

    def accumulate_stats(self, rows: SortedRows) -> StackedStats:
        """Return the statistics for rows with missing values."""
        if not rows.rows_t.shape[1]:
            return StackedStats.zero(1)
        sums, expected, of_noise, weight, mean, scatter = self.density.sum_rows(rows, np.array(self.layout.offsets))
        moments = FULL if scatter.ndim == 3 else DIAGONAL
        n = total_weight(rows.rows_t, rows.weights)
        return self.layout.assemble(n, sums, expected, weight, mean, scatter, moments, of_noise)


Group = FeatureGroup | WhitenedGroup


def _has_linear_features(group: Group) -> bool:
    return isinstance(group, FeatureGroup) and group.features.order == LINEAR_ORDER


@dataclass(frozen=True)
class Batch:
    """All candidates of one pass, compiled: what is sent to the workers."""

    groups: tuple[Group, ...]
    choices: tuple[tuple[str, str], ...]
    """Name of the kernel and floating-point type of each candidate, in order."""
    marginal: tuple[MarginalGroup, ...] = ()
    """The candidates once more, for rows with missing values; none if there are no such rows."""

    @property
    def no_stats(self) -> tuple[StackedStats, ...]:
        """The statistics of no rows."""
        return tuple(StackedStats.zero(1) for _ in (*self.groups, *self.marginal))

    @property
    def kernels_used(self) -> tuple[str, ...]:
        """Name of the kernel of each candidate, in order."""
        return tuple(kernel for kernel, _ in self.choices)

    @property
    def needs_row_moments(self) -> bool:
        """True if some statistics must be completed from the second moments of all rows."""
        return any(_has_linear_features(g) for g in self.groups)

    def uses_linear_features(self, candidate: int) -> bool:
        """Return True if this candidate is evaluated by linear features."""
        return any(candidate in g.layout.index for g in self.groups if _has_linear_features(g))

    def order_values(self, values: Sequence[Array]) -> list[float]:
        """Return one value for each candidate, in order, from the values ``(C,)`` of each group."""
        by_number: dict[int, float] = {}
        for group, group_values in zip((*self.groups, *self.marginal), values, strict=True):
            for i, value in zip(group.layout.index, group_values.tolist(), strict=True):
                by_number[i] = by_number[i] + value if i in by_number else value
        return [by_number[i] for i in range(len(self.choices))]

    def split(self, stacked: Sequence[StackedStats]) -> list[SuffStats]:
        """Return the statistics of each candidate, in order, from those of each group."""
        by_number: dict[int, SuffStats] = {}
        for group, group_stats in zip((*self.groups, *self.marginal), stacked, strict=True):
            if not group_stats.stats.rows:
                continue
            for i, stats in group.layout.split(group_stats).items():
                by_number[i] = by_number[i].merge(stats) if i in by_number else stats
        return [by_number[i] for i in range(len(self.choices))]


def compile_batch(
    candidates: Sequence[MixtureParams],
    scaling: Scaling,
    preference: KernelPreference = ANY_KERNEL,
    incomplete: bool = False,
    n_rows: float = 0.0,
) -> Batch:
    """Compile candidates for one shared pass: choose a kernel for each, and stack those that share one.

    ``n_rows`` is the number of rows of the pass: with enough of them, preparing to skip components can pay.

    ``incomplete`` says that rows may have missing values. Then no features are linear: the part of the log-density
    that they leave out is the same for all components only in complete rows.

    Raises
    ------
    SingularCovarianceError
        If a covariance is not positive definite.
    """
    densities = [compile_density(p) for p in candidates]
    features = [p.complete_features if incomplete else p.features for p in candidates]
    choices = [
        choose_kernel(p, d, scaling, preference, f) for p, d, f in zip(candidates, densities, features, strict=True)
    ]
    screens = [
        choose_screen(p.weights, d, f, c.coordinates, c.dtype, n_rows) if c.coordinates else None
        for p, d, f, c in zip(candidates, densities, features, choices, strict=True)
    ]
    keys = [
        (c.kernel, c.dtype, -d.whitener.ndim if c.coordinates is None else f.order, i if screens[i] else -1)
        for i, (c, f, d) in enumerate(zip(choices, features, densities, strict=True))
    ]
    groups: list[Group] = []
    for key in sorted(set(keys)):
        index = [i for i, k in enumerate(keys) if k == key]
        members, stacked = [candidates[i] for i in index], [densities[i] for i in index]
        layout, first = _make_layout(index, members), choices[index[0]]
        if first.coordinates is None:
            log_norm, means, whitener = (
                np.concatenate([getattr(d, name) for d in stacked]) for name in ("log_norm", "means", "whitener")
            )
            groups.append(WhitenedGroup(layout, Density(log_norm, means, whitener)))
        else:
            own = features[index[0]]
            weights = _pack_features(stacked, own, first.coordinates, first.dtype)
            groups.append(FeatureGroup(layout, own, first.coordinates, weights, screens[index[0]]))
    marginal = []
    kinds = [
        (d.whitener.ndim, p.family.shared and d.whitener.ndim == 3 and have_close_means(d))
        for p, d in zip(candidates, densities, strict=True)
    ]
    for kind in sorted(set(kinds) if incomplete else ()):
        index = [i for i, own in enumerate(kinds) if own == kind]
        layout = _make_layout(index, [candidates[i] for i in index])
        marginal.append(MarginalGroup(layout, MarginalDensity.of([densities[i] for i in index], kind[1])))
    return Batch(tuple(groups), tuple((c.kernel, c.dtype) for c in choices), tuple(marginal))


def _make_layout(index: Sequence[int], members: Sequence[MixtureParams]) -> StackLayout:
    offsets = tuple(int(v) for v in np.concatenate([[0], np.cumsum([p.n_components for p in members])]))
    families, backgrounds = zip(*((p.family, p.background) for p in members), strict=True)
    return StackLayout(tuple(index), offsets, families, backgrounds)


def _pack_features(
    densities: Sequence[Density], features: Features, coordinates: Scaling, dtype: str
) -> NDArray[np.floating]:
    """Return the weights ``(M, F)`` of the features for all components of these densities."""
    packed = [
        features.pack(d.log_norm, coordinates.apply(d.means), coordinates.transform_whitener(d.whitener))
        for d in densities
    ]
    # The constant of a component of weight zero is out of the range of float32.
    low = -0.1 * float(np.finfo(dtype).max)
    return np.ascontiguousarray(np.maximum(np.concatenate(packed), low), dtype=dtype)
