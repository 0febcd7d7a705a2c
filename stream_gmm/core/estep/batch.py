"""The candidates of one pass, stacked in groups that share a kernel, and the statistics they get.

What many candidates share is done once: the features of a block, one matrix product for the log-densities of
all components, one for their sums. Statistics stay stacked until all rows are in, so that merging and sending
them costs the same for one candidate as for a hundred.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.estep import kernels, whitening
from stream_gmm.core.estep.kernel_choice import ANY_KERNEL, KernelChoice, KernelPreference, choose_kernel
from stream_gmm.core.model.density import Density, compile_density
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.features import LINEAR_ORDER, Features
from stream_gmm.core.model.moments import DIAGONAL, FULL, Array, Moments
from stream_gmm.core.model.params import NO_BACKGROUND, MixtureParams
from stream_gmm.core.rows.moments import UNWEIGHTED, total_weight
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.core.stats import SuffStats

_SMALL = 1 << 16


def as_writeable(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array as one that may be written to, which nobody does; a large one without a copy.

    What was mapped from a file, or came over a network, is read-only. For that the compiler makes other code, in
    which sums may round differently: the bits would depend on the way the rows took.
    """
    if values.flags.writeable:
        return values
    if values.nbytes <= _SMALL:
        return np.array(values)
    memory: Any = (ctypes.c_byte * values.nbytes).from_address(values.ctypes.data)
    return np.frombuffer(memory, values.dtype).reshape(values.shape)


@dataclass(frozen=True)
class StackedStats:
    """Statistics of the candidates of a group, one after the other along the components.

    ``sums (C, 3)`` holds log-likelihood, entropy and log of the largest responsibility of each.
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
    offsets: tuple[int, ...]
    families: tuple[CovarianceFamily, ...]
    backgrounds: tuple[float, ...]
    """Log-density of each candidate's noise."""

    def assemble(
        self, n: float, sums: Array, expected: Array, weight: Array, mean: Array, scatter: Array, moments: Moments
    ) -> StackedStats:
        """Put statistics together; ``expected`` holds the sums of ``r log-density`` of each component."""
        starts = np.array(self.offsets[:-1])
        # sum of -r log r, since log r = log-density of the component - log-density of the mixture.
        background, noisy = np.array(self.backgrounds), np.array(self.backgrounds) > NO_BACKGROUND
        of_noise = np.where(noisy, background * (n - np.add.reduceat(weight, starts)), 0.0)
        entropy = np.maximum(sums[:, 0] - np.add.reduceat(expected, starts) - of_noise, 0.0)
        entropy[(np.diff(self.offsets) == 1) & ~noisy] = 0.0
        stats = SuffStats(float(n), 0.0, 0.0, 0.0, weight, mean, scatter, moments)
        return StackedStats(stats, np.column_stack([sums[:, 0], entropy, sums[:, 1]]))

    def split(self, assemble: StackedStats) -> dict[int, SuffStats]:
        """Return the statistics of each candidate, by its number."""
        s, out = assemble.stats, {}
        places = zip(self.index, pairwise(self.offsets), self.families, assemble.sums.tolist(), strict=True)
        for i, (lo, hi), family, sums in places:
            own = _condense_scatter(s, slice(lo, hi), family)
            loglik, entropy, log_max = sums
            out[i] = SuffStats(s.rows, loglik, entropy, log_max, s.weight[lo:hi], s.mean[lo:hi], own, family.moments)
        return out


def _condense_scatter(stats: SuffStats, place: slice, family: CovarianceFamily) -> Array:
    if not len(stats.scatter):
        return family.moments.empty(stats.mean.shape[1])
    own = (
        family.moments.condense(stats.scatter[place]) if stats.moments is not family.moments else stats.scatter[place]
    )
    return own.sum(axis=0, keepdims=True) if family.shared else own


@dataclass(frozen=True)
class FeatureGroup:
    """Candidates that share features in the same coordinates; ``weights (M, F)``."""

    layout: StackLayout
    features: Features
    coordinates: Scaling
    weights: NDArray[np.floating]

    def accumulate_stats(self, rows_t: Array, weights: Array = UNWEIGHTED) -> StackedStats:
        """Return the statistics for ``rows_t (D, N)`` of these weights."""
        d = len(rows_t)
        c, totals, sums = self.coordinates, np.zeros(self.weights.shape), np.zeros((len(self.layout.index), 2))
        kernels.feature_pass(
            as_writeable(rows_t), as_writeable(weights), c.shift, 1.0 / c.scale, c.inverse_root, self.features.order,
            as_writeable(self.weights), np.array(self.layout.offsets), np.array(self.layout.backgrounds),
            totals, sums,
        )  # fmt: skip
        weight, mean, scatter = self.features.unpack(totals, d)
        scatter = c.restore_scatter(scatter) if len(scatter) else scatter
        expected = np.einsum("mf,mf->m", self.weights.astype(np.float64), totals)
        n, moments = total_weight(rows_t, weights), self.layout.families[0].moments
        return self.layout.assemble(n, sums, expected, weight, c.restore_mean(mean), scatter, moments)


@dataclass(frozen=True)
class WhitenedGroup:
    """Candidates whose components whiten the rows themselves."""

    layout: StackLayout
    density: Density

    def accumulate_stats(self, rows_t: Array, weights: Array = UNWEIGHTED) -> StackedStats:
        """Return the statistics for ``rows_t (D, N)`` of these weights."""
        matrices = self.density.whitener.ndim == 3
        run = _run_full_kernel if matrices else _run_diagonal_kernel
        found = run(self._density(), as_writeable(rows_t), as_writeable(weights), self.layout)
        return self.layout.assemble(total_weight(rows_t, weights), *found, FULL if matrices else DIAGONAL)

    def _density(self) -> Density:
        d = self.density
        return Density(as_writeable(d.log_norm), as_writeable(d.means), as_writeable(d.whitener))


Group = FeatureGroup | WhitenedGroup
Sums = tuple[Array, Array, Array, Array, Array]
"""Log-likelihood and log of the largest responsibility; expected log-density; weight; mean; scatter."""


def _nonzero(weight: Array) -> Array:
    return np.where(weight > 0.0, weight, 1.0)


def _run_full_kernel(density: Density, rows_t: Array, weights: Array, layout: StackLayout) -> Sums:
    (m, d), sums, lower = density.means.shape, np.zeros((len(layout.index), 2)), density.lower
    moments = np.zeros((m, d + 1, d + 1))
    places = np.array(layout.offsets), np.array(layout.backgrounds)
    whitening.full_pass(rows_t, weights, density.means, lower, density.log_norm, *places, moments, sums)
    weight, second = moments[:, d, d], moments[:, :d, :d]
    a = moments[:, :d, d] / _nonzero(weight)[:, None]
    expected = density.log_norm * weight - 0.5 * np.einsum("kjj->k", second)
    colour = np.linalg.inv(lower)
    about_mean = second - weight[:, None, None] * (a[:, :, None] * a[:, None, :])
    scatter = colour @ about_mean @ np.swapaxes(colour, 1, 2)
    return sums, expected, weight, density.means + np.einsum("kij,kj->ki", colour, a), scatter


def _run_diagonal_kernel(density: Density, rows_t: Array, weights: Array, layout: StackLayout) -> Sums:
    (m, d), sums = density.means.shape, np.zeros((len(layout.index), 2))
    moments = np.zeros((m, 1 + 2 * d))
    places = np.array(layout.offsets), np.array(layout.backgrounds)
    whitening.diagonal_pass(
        rows_t, weights, density.means, density.whitener, density.log_norm, *places, moments, sums
    )
    weight, second = moments[:, 0], moments[:, 1 + d :]
    a = moments[:, 1 : 1 + d] / _nonzero(weight)[:, None]
    expected = density.log_norm * weight - 0.5 * second.sum(axis=1)
    scatter = (second - weight[:, None] * a**2) / density.whitener**2
    return sums, expected, weight, density.means + a / density.whitener, scatter


def _has_linear_features(group: Group) -> bool:
    return isinstance(group, FeatureGroup) and group.features.order == LINEAR_ORDER


@dataclass(frozen=True)
class Batch:
    """All the candidates of one pass. The only thing about them that travels to the workers."""

    groups: tuple[Group, ...]
    choices: tuple[tuple[str, str], ...]
    """Kernel and type of each candidate, in order."""

    @property
    def kernels_used(self) -> tuple[str, ...]:
        """Kernel of each candidate, in order."""
        return tuple(kernel for kernel, _ in self.choices)

    @property
    def needs_row_moments(self) -> bool:
        """True if some statistics are to be completed from the second moment of all rows."""
        return any(_has_linear_features(g) for g in self.groups)

    def uses_linear_features(self, candidate: int) -> bool:
        """Return True if a candidate takes linear features."""
        return any(candidate in g.layout.index for g in self.groups if _has_linear_features(g))

    def order_values(self, values: Sequence[Array]) -> list[float]:
        """Return values of the candidates of each group ``(C,)`` in the order of the candidates."""
        out: dict[int, float] = {}
        for group, own in zip(self.groups, values, strict=True):
            out.update(zip(group.layout.index, own.tolist(), strict=True))
        return [out[i] for i in range(len(self.choices))]

    def split(self, assemble: Sequence[StackedStats]) -> list[SuffStats]:
        """Return the statistics of each candidate, in order."""
        out: dict[int, SuffStats] = {}
        for group, own in zip(self.groups, assemble, strict=True):
            out |= group.layout.split(own)
        return [out[i] for i in range(len(self.choices))]


def compile_batch(
    candidates: Sequence[MixtureParams], scaling: Scaling, preference: KernelPreference = ANY_KERNEL
) -> Batch:
    """Compile candidates for one shared pass."""
    densities = [compile_density(p) for p in candidates]
    choices = [choose_kernel(p, d, scaling, preference) for p, d in zip(candidates, densities, strict=True)]
    keys = [
        (c.kernel, c.dtype, -d.whitener.ndim if c.coordinates is None else p.features.order)
        for c, p, d in zip(choices, candidates, densities, strict=True)
    ]
    groups: list[Group] = []
    for key in sorted(set(keys)):
        index = [i for i, k in enumerate(keys) if k == key]
        layout = _stack_whitened if key[2] < 0 else _stack_features
        groups.append(layout(index, candidates, densities, choices))
    return Batch(tuple(groups), tuple((c.kernel, c.dtype) for c in choices))


def _make_layout(index: list[int], candidates: Sequence[MixtureParams]) -> StackLayout:
    sizes = [candidates[i].n_components for i in index]
    offsets = tuple(int(v) for v in np.concatenate([[0], np.cumsum(sizes)]))
    families, backgrounds = zip(*((candidates[i].family, candidates[i].background) for i in index), strict=True)
    return StackLayout(tuple(index), offsets, families, backgrounds)


def _stack_features(
    index: list[int],
    candidates: Sequence[MixtureParams],
    densities: Sequence[Density],
    choices: Sequence[KernelChoice],
) -> FeatureGroup:
    first, features = choices[index[0]], candidates[index[0]].features
    coordinates = first.coordinates
    assert coordinates is not None
    packed = [
        features.pack(d.log_norm, coordinates.apply(d.means), coordinates.whitener(d.whitener))
        for d in (densities[i] for i in index)
    ]
    # The constant of a component of weight zero is out of float32's range.
    low = -0.1 * float(np.finfo(first.dtype).max)
    weights = np.ascontiguousarray(np.maximum(np.concatenate(packed), low), dtype=first.dtype)
    return FeatureGroup(_make_layout(index, candidates), features, coordinates, weights)


def _stack_whitened(
    index: list[int],
    candidates: Sequence[MixtureParams],
    densities: Sequence[Density],
    choices: Sequence[KernelChoice],
) -> WhitenedGroup:
    del choices
    chosen = [densities[i] for i in index]
    assemble = Density(
        np.concatenate([d.log_norm for d in chosen]),
        np.concatenate([d.means for d in chosen]),
        np.concatenate([d.whitener for d in chosen]),
    )
    return WhitenedGroup(_make_layout(index, candidates), assemble)
