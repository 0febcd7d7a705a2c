"""Which component of one mixture is which of another: an optimal assignment, and what became of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.model.split_merge import merge_components

MAX_DISTANCE = 0.5
"""Components at a larger Bhattacharyya distance are not the same: their densities overlap by less than exp(-0.5)."""

Pair = tuple[int, int, float]


def bhattacharyya_distances(a: MixtureParams, b: MixtureParams) -> Array:
    """Return the distances ``(K_a, K_b)`` between components, as Gaussians (Bhattacharyya 1943)."""
    ca, cb = a.dense_covariances[:, None], b.dense_covariances[None]
    mid = 0.5 * (ca + cb)
    delta = a.means[:, None] - b.means[None]
    solved = np.linalg.solve(mid, delta[..., None])[..., 0]
    log_dets = [np.linalg.slogdet(c)[1] for c in (mid, ca, cb)]
    spread = log_dets[0] - 0.5 * (log_dets[1] + log_dets[2])
    return np.asarray(0.125 * np.einsum("abj,abj->ab", delta, solved) + 0.5 * spread)


def match_components(new: MixtureParams, reference: MixtureParams) -> list[Pair]:
    """Return pairs ``(component of new, component of reference, distance)`` of least total distance."""
    distance = bhattacharyya_distances(new, reference)
    rows, columns = linear_sum_assignment(distance)
    return [(int(i), int(j), float(distance[i, j])) for i, j in zip(rows, columns, strict=True)]


@dataclass(frozen=True)
class ComponentHistory:
    """What became of the components of an earlier mixture.

    Attributes
    ----------
    order
        The new components in the order in which they keep their numbers, as far as there are so many.
    kept
        Pairs ``(number now, number before, distance)``.
    new, lost
        Numbers of components that the other mixture does not have: now, and before.
    splits
        ``(number before, (numbers now), distance)``: two components whose union is the one before.
    merges
        ``(number now, (numbers before), distance)``: a component that is the union of two before.
    """

    order: tuple[int, ...]
    kept: tuple[Pair, ...]
    new: tuple[int, ...]
    lost: tuple[int, ...]
    splits: tuple[tuple[int, tuple[int, int], float], ...] = ()
    merges: tuple[tuple[int, tuple[int, int], float], ...] = ()

    def describe(self) -> tuple[str, ...]:
        """Return what is worth telling, in sentences; nothing if every component was kept under its number."""
        out = [f"component {i} was {j} (distance {d:.3g})" for i, j, d in self.kept if i != j]
        out += [f"component {j} has split into {a} and {b} (distance {d:.3g})" for j, (a, b), d in self.splits]
        out += [f"components {a} and {b} have merged into {i} (distance {d:.3g})" for i, (a, b), d in self.merges]
        out += [f"component {i} is new" for i in self.new]
        return (*out, *(f"component {j} of the earlier model is lost" for j in self.lost))


def trace_components(new: MixtureParams, reference: MixtureParams) -> ComponentHistory:
    """Return which components of ``new`` are which of ``reference``.

    Pairs of least total Bhattacharyya distance; those farther apart than ``MAX_DISTANCE`` are not the same
    component. A number that the new mixture is too small for goes to a free place, as does a component that was
    not there.
    """
    pairs = [(i, j, d) for i, j, d in match_components(new, reference) if d <= MAX_DISTANCE]
    numbers = _assign_numbers(pairs, new.n_components)
    order = tuple(int(i) for i in np.argsort(numbers))
    kept = tuple(sorted((numbers[i], j, d) for i, j, d in pairs))
    turned = new.reorder(list(order))
    fresh = [n for n in range(new.n_components) if n not in {i for i, _, _ in kept}]
    gone = [j for j in range(reference.n_components) if j not in {j for _, j, _ in kept}]
    splits = _find_unions(turned, fresh, reference, {j: (i, d) for i, j, d in kept}, gone)
    merges = _find_unions(reference, gone, turned, {i: (j, d) for i, j, d in kept}, fresh)
    split_up = {i for _, parts, _ in splits for i in parts}
    merged = {j for _, parts, _ in merges for j in parts}
    whole, parts = {j for j, _, _ in splits}, {i for i, _, _ in merges}
    return ComponentHistory(
        order, tuple(p for p in kept if p[1] not in whole and p[0] not in parts),
        tuple(i for i in fresh if i not in split_up | parts), tuple(j for j in gone if j not in merged | whole),
        splits, merges,
    )  # fmt: skip


def _assign_numbers(pairs: Sequence[Pair], k: int) -> list[int]:
    """Return the number of every new component: that of its pair, or a free one, in order."""
    numbers = {i: j for i, j, _ in pairs if j < k}
    free = iter(sorted(set(range(k)) - set(numbers.values())))
    return [numbers[i] if i in numbers else next(free) for i in range(k)]


def _find_unions(
    parts: MixtureParams, single: Sequence[int], whole: MixtureParams,
    partners: dict[int, tuple[int, float]], alone: Sequence[int],
) -> tuple[tuple[int, tuple[int, int], float], ...]:  # fmt: skip
    """Return which components of ``whole`` are the union of two of ``parts``, at least one of them ``single``.

    The union is to be nearer than the partner that the component has by itself.
    """
    found: dict[int, tuple[tuple[int, int], float]] = {}
    for a in single:
        rivals = [(j, b, d) for j, (b, d) in partners.items()]
        rivals += [(j, b, MAX_DISTANCE) for j in alone for b in single if b > a]
        for j, b, d in rivals:
            distance = _union_distance(parts, a, b, whole, j)
            if distance <= MAX_DISTANCE and distance < d and distance < found.get(j, ((0, 0), np.inf))[1]:
                found[j] = ((min(a, b), max(a, b)), distance)
    return tuple((j, pair, d) for j, (pair, d) in sorted(found.items()))


def _union_distance(parts: MixtureParams, a: int, b: int, whole: MixtureParams, j: int) -> float:
    full = family_named("full")
    weights = parts.weights[[a, b]] / parts.weights[[a, b]].sum()
    both = MixtureParams(weights, parts.means[[a, b]], parts.dense_covariances[[a, b]], full)
    one = MixtureParams([1.0], whole.means[[j]], whole.dense_covariances[[j]], full)
    return float(bhattacharyya_distances(merge_components(both, 0, 1), one)[0, 0])
