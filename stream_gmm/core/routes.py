"""Which kernel a candidate takes, and the batch of candidates that one pass serves.

*quadratic*: one matrix product with features of the standardised rows. *sphered*: the same in
coordinates in which the whole data is uncorrelated. *whitened*: every component whitens the rows.
The first two are fast and cancel when a component is small beside its distance from the centre;
the third never cancels. The choice is made here, centrally, for each candidate and step: of the
kernels whose rounding error is bounded by the contract, the one that should be fastest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core import kernels, whitening
from stream_gmm.core.cost import feature_cost, whitened_cost
from stream_gmm.core.density import Density, compile_density
from stream_gmm.core.features import Features
from stream_gmm.core.moments import Array, Moments
from stream_gmm.core.params import MixtureParams
from stream_gmm.core.scaling import Scaling
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError, did_you_mean

QUADRATIC, SPHERED, WHITENED, AUTO = "quadratic", "sphered", "whitened", "auto"
KERNELS = (AUTO, QUADRATIC, SPHERED, WHITENED)
DTYPES = ("float64", "float32")

# The error of a log-density that the contract allows; and the largest ratio of an error to
# ``magnitude * eps`` that was measured (5.3 over 200 rows each of 4,500 components, D to 30, condition
# numbers to 1e6, distances to 1e3 sd; tests/core/test_routes.py checks it).
ALLOWED = {"float64": 1e-8, "float32": 1e-3}
ERROR_RATIO = 6.0


@dataclass(frozen=True)
class Choice:
    """A kernel for one candidate: its name, the type it computes in, and the coordinates."""

    route: str
    dtype: str
    coordinates: Scaling | None
    cost: float


@dataclass(frozen=True)
class Preference:
    """What the user wants of the kernels: ``"auto"`` or one by name; float64, or float32 where it may be."""

    kernel: str = AUTO
    dtype: str = "float64"

    def __post_init__(self) -> None:
        for name, value, known in (("kernel", self.kernel, KERNELS), ("dtype", self.dtype, DTYPES)):
            if value not in known:
                raise ConfigError(f"unknown {name} {value!r}{did_you_mean(value, known)} Known: {', '.join(known)}.")


NO_PREFERENCE = Preference()


def _coordinates(params: MixtureParams, scaling: Scaling) -> Iterator[tuple[str, Scaling]]:
    """Return the coordinates in which the structure's features keep their form."""
    if params.family.features.order == kernels.ISOTROPIC:
        yield QUADRATIC, scaling.isotropic
        return
    yield QUADRATIC, scaling.scaled
    if params.family.matrices and scaling.root is not None:
        yield SPHERED, scaling


def rounding_error(params: MixtureParams, density: Density, coordinates: Scaling, dtype: str) -> float:
    """Bound the rounding error of the log-densities by features, in nats."""
    family, (k, d) = params.family, params.means.shape
    means = coordinates.apply(density.means)
    covariances = coordinates.covariances(np.array(family.expand(params.covariances, k, d)))
    magnitude = family.features.magnitude(means, covariances, coordinates.whitener(density.whitener))
    terms = magnitude + np.where(params.weights > 0.0, np.abs(density.log_norm), 0.0) + d
    return float(ERROR_RATIO * np.max(terms) * np.finfo(dtype).eps)


def choose_route(
    params: MixtureParams, density: Density, scaling: Scaling, preference: Preference = NO_PREFERENCE
) -> Choice:
    """Return the cheapest kernel among those that hold the contract, or the one that is forced."""
    k, d = params.means.shape
    n_features = params.family.features.count(d)
    choices = [Choice(WHITENED, "float64", None, whitened_cost(k, d, params.family.matrices))]
    for route, coordinates in _coordinates(params, scaling):
        for dtype in {"float64", preference.dtype}:
            cost = feature_cost(k, d, n_features, coordinates.root is not None, dtype)
            forced = preference.kernel == route and dtype == preference.dtype
            if forced or rounding_error(params, density, coordinates, dtype) <= ALLOWED[dtype]:
                choices.append(Choice(route, dtype, coordinates, cost))
    wanted = [c for c in choices if c.route == preference.kernel]
    return min(wanted or choices, key=lambda c: c.cost)


@dataclass(frozen=True)
class FeatureGroup:
    """Candidates that share features in the same coordinates, stacked; ``weights (M, F)``."""

    index: tuple[int, ...]
    offsets: tuple[int, ...]
    moments: tuple[Moments, ...]
    route: str
    features: Features
    coordinates: Scaling
    weights: NDArray[np.floating]

    def accumulate(self, rows_t: Array) -> list[SuffStats]:
        """Return the statistics of every candidate for ``rows_t (D, N)``."""
        d, n = rows_t.shape
        offsets, c = np.array(self.offsets), self.coordinates
        totals, sums = np.zeros(self.weights.shape), np.zeros((len(self.index), 2))
        kernels.feature_pass(
            rows_t, c.shift, 1.0 / c.scale, c.inverse_root, self.features.order, self.weights, offsets, totals, sums
        )
        weight, mean, scatter = self.features.unpack(totals, d)
        mean, scatter = c.mean_back(mean), c.scatter_back(scatter) if len(scatter) else scatter
        expected = np.einsum("mf,mf->m", self.weights.astype(np.float64), totals)
        return [
            _stats(n, s, expected[p], weight[p], mean[p], scatter[p] if len(scatter) else m.empty(d), m)
            for p, s, m in zip(_slices(self.offsets), sums, self.moments, strict=True)
        ]


@dataclass(frozen=True)
class WhitenedGroup:
    """Candidates whose components whiten the rows themselves, stacked."""

    index: tuple[int, ...]
    offsets: tuple[int, ...]
    moments: tuple[Moments, ...]
    shared: tuple[bool, ...]
    route: str
    density: Density

    def accumulate(self, rows_t: Array) -> list[SuffStats]:
        """Return the statistics of every candidate for ``rows_t (D, N)``."""
        run = _whitened_diagonal if self.density.whitener.ndim == 2 else _whitened_full
        sums, expected, weight, mean, scatter = run(self.density, rows_t, np.array(self.offsets))
        out = []
        for p, s, m, shared in zip(_slices(self.offsets), sums, self.moments, self.shared, strict=True):
            own = m.condense(scatter[p])
            own = own.sum(axis=0, keepdims=True) if shared else own
            out.append(_stats(rows_t.shape[1], s, expected[p], weight[p], mean[p], own, m))
        return out


Group = FeatureGroup | WhitenedGroup


def _slices(offsets: tuple[int, ...]) -> list[slice]:
    return [slice(a, b) for a, b in pairwise(offsets)]


def _stats(
    n: int, sums: Array, expected: Array, weight: Array, mean: Array, scatter: Array, moments: Moments
) -> SuffStats:
    """Put statistics together; ``expected`` holds the sums of ``r log-density`` of each component."""
    loglik, log_max = float(sums[0]), float(sums[1])
    # sum of -r log r, since log r = log-density of the component - log-density of the mixture.
    entropy = max(loglik - float(expected.sum()), 0.0) if len(weight) > 1 else 0.0
    return SuffStats(float(n), loglik, entropy, log_max, weight, mean, scatter, moments)


def _safe(weight: Array) -> Array:
    return np.where(weight > 0.0, weight, 1.0)


def _whitened_full(density: Density, rows_t: Array, offsets: NDArray[np.int64]) -> tuple[Array, ...]:
    (m, d), sums, lower = density.means.shape, np.zeros((len(offsets) - 1, 2)), density.lower
    moments = np.zeros((m, d + 1, d + 1))
    whitening.full_pass(rows_t, density.means, lower, density.log_norm, offsets, moments, sums)
    weight, second = moments[:, d, d], moments[:, :d, :d]
    a = moments[:, :d, d] / _safe(weight)[:, None]
    expected = density.log_norm * weight - 0.5 * np.einsum("kjj->k", second)
    colour = np.linalg.inv(lower)
    about_mean = second - weight[:, None, None] * (a[:, :, None] * a[:, None, :])
    scatter = colour @ about_mean @ np.swapaxes(colour, 1, 2)
    return sums, expected, weight, density.means + np.einsum("kij,kj->ki", colour, a), scatter


def _whitened_diagonal(density: Density, rows_t: Array, offsets: NDArray[np.int64]) -> tuple[Array, ...]:
    (m, d), sums = density.means.shape, np.zeros((len(offsets) - 1, 2))
    moments = np.zeros((m, 1 + 2 * d))
    whitening.diagonal_pass(rows_t, density.means, density.whitener, density.log_norm, offsets, moments, sums)
    weight, second = moments[:, 0], moments[:, 1 + d :]
    a = moments[:, 1 : 1 + d] / _safe(weight)[:, None]
    expected = density.log_norm * weight - 0.5 * second.sum(axis=1)
    scatter = (second - weight[:, None] * a**2) / density.whitener**2
    return sums, expected, weight, density.means + a / density.whitener, scatter


@dataclass(frozen=True)
class Batch:
    """All the candidates of one pass. The only thing about them that travels to the workers."""

    groups: tuple[Group, ...]
    choices: tuple[tuple[str, str], ...]
    """Kernel and type of each candidate, in order."""

    @property
    def n_candidates(self) -> int:
        """Number of candidates."""
        return len(self.choices)

    @property
    def routes(self) -> tuple[str, ...]:
        """Kernel of each candidate, in order."""
        return tuple(route for route, _ in self.choices)

    @property
    def incomplete(self) -> bool:
        """True if some statistics are to be completed from the second moment of all rows."""
        return any(isinstance(g, FeatureGroup) and g.features.order == kernels.LINEAR for g in self.groups)


def compile_batch(
    candidates: Sequence[MixtureParams], scaling: Scaling, preference: Preference = NO_PREFERENCE
) -> Batch:
    """Compile candidates for one shared pass."""
    densities = [compile_density(p) for p in candidates]
    choices = [choose_route(p, d, scaling, preference) for p, d in zip(candidates, densities, strict=True)]
    keys = [
        (c.route, c.dtype, -d.whitener.ndim if c.coordinates is None else p.family.features.order)
        for c, p, d in zip(choices, candidates, densities, strict=True)
    ]
    groups: list[Group] = []
    for key in sorted(set(keys)):
        index = [i for i, k in enumerate(keys) if k == key]
        stack = _stack_whitened if key[2] < 0 else _stack_features
        groups.append(stack(index, candidates, densities, choices))
    return Batch(tuple(groups), tuple((c.route, c.dtype) for c in choices))


def _offsets(densities: Sequence[Density]) -> tuple[int, ...]:
    return tuple(int(v) for v in np.concatenate([[0], np.cumsum([len(d.log_norm) for d in densities])]))


def _stack_features(
    index: list[int], candidates: Sequence[MixtureParams], densities: Sequence[Density], choices: Sequence[Choice]
) -> FeatureGroup:
    first, family = choices[index[0]], candidates[index[0]].family
    coordinates = first.coordinates
    assert coordinates is not None
    packed = [
        family.features.pack(d.log_norm, coordinates.apply(d.means), coordinates.whitener(d.whitener))
        for d in (densities[i] for i in index)
    ]
    # The constant of a component of weight zero is out of float32's range.
    low = -0.1 * float(np.finfo(first.dtype).max)
    weights = np.ascontiguousarray(np.maximum(np.concatenate(packed), low), dtype=first.dtype)
    return FeatureGroup(
        tuple(index), _offsets([densities[i] for i in index]),
        tuple(candidates[i].family.moments for i in index),
        first.route, family.features, coordinates, weights,
    )  # fmt: skip


def _stack_whitened(
    index: list[int], candidates: Sequence[MixtureParams], densities: Sequence[Density], choices: Sequence[Choice]
) -> WhitenedGroup:
    chosen = [densities[i] for i in index]
    stacked = Density(
        np.concatenate([d.log_norm for d in chosen]),
        np.concatenate([d.means for d in chosen]),
        np.concatenate([d.whitener for d in chosen]),
    )
    families = [candidates[i].family for i in index]
    return WhitenedGroup(
        tuple(index), _offsets(chosen), tuple(f.moments for f in families),
        tuple(f.shared for f in families), choices[index[0]].route, stacked,
    )  # fmt: skip
