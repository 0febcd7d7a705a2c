"""Matches the components of two mixtures, and recognises components that are new, lost, split or merged."""

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
"""A component of one mixture, one of another, and their Bhattacharyya distance."""


def bhattacharyya_distances(a: MixtureParams, b: MixtureParams) -> Array:
    """Return the Bhattacharyya distances ``(K_a, K_b)`` between components as Gaussians, without their weights.

    Zero for equal Gaussians; ``exp(-distance)`` is the overlap of two densities, at most 1 (Bhattacharyya 1943).
    """
    covariances_a, covariances_b = a.dense_covariances[:, None], b.dense_covariances[None]
    average = 0.5 * (covariances_a + covariances_b)
    delta = a.means[:, None] - b.means[None]
    solved = np.linalg.solve(average, delta[..., None])[..., 0]
    log_dets = [np.linalg.slogdet(c)[1] for c in (average, covariances_a, covariances_b)]
    log_det_ratio = log_dets[0] - 0.5 * (log_dets[1] + log_dets[2])
    return np.asarray(0.125 * np.einsum("abj,abj->ab", delta, solved) + 0.5 * log_det_ratio)


def match_components(new: MixtureParams, reference: MixtureParams) -> list[Pair]:
    """Return pairs ``(component of new, component of reference, distance)`` with the least total distance.

    There are as many pairs as the smaller mixture has components.
    """
    distances = bhattacharyya_distances(new, reference)
    rows, columns = linear_sum_assignment(distances)
    return [(int(i), int(j), float(distances[i, j])) for i, j in zip(rows, columns, strict=True)]


@dataclass(frozen=True)
class ComponentHistory:
    """What became of the components of an earlier mixture (the reference) in a new one.

    Attributes
    ----------
    order
        Argument for :meth:`MixtureParams.reorder` of the new mixture, after which a component that was kept has the
        number that it has in the reference, as far as the new mixture has so many components.
    kept
        Pairs ``(number now, number before, distance)``.
    new, lost
        Numbers of components that only the new mixture has, and that only the reference has.
    splits
        ``(number before, (numbers now), distance)``: two components whose union is one of the reference.
    merges
        ``(number now, (numbers before), distance)``: a component that is the union of two of the reference.
    """

    order: tuple[int, ...]
    kept: tuple[Pair, ...]
    new: tuple[int, ...]
    lost: tuple[int, ...]
    splits: tuple[tuple[int, tuple[int, int], float], ...] = ()
    merges: tuple[tuple[int, tuple[int, int], float], ...] = ()

    def describe(self) -> tuple[str, ...]:
        """Return the changes, one phrase each; empty if every component kept its number."""
        out = [f"component {i} was {j} (distance {d:.3g})" for i, j, d in self.kept if i != j]
        out += [f"component {j} has split into {a} and {b} (distance {d:.3g})" for j, (a, b), d in self.splits]
        out += [f"components {a} and {b} have merged into {i} (distance {d:.3g})" for i, (a, b), d in self.merges]
        out += [f"component {i} is new" for i in self.new]
        return (*out, *(f"component {j} of the earlier model is lost" for j in self.lost))


def trace_components(new: MixtureParams, reference: MixtureParams) -> ComponentHistory:
    """Return which components of ``new`` are which of ``reference``, and what became of the others.

    Components are paired so that the total Bhattacharyya distance is least; pairs farther apart than
    ``MAX_DISTANCE`` are not the same component. A component without a partner, or whose partner has a number that
    the new mixture is too small for, takes the lowest free number.
    """
    pairs = [(i, j, d) for i, j, d in match_components(new, reference) if d <= MAX_DISTANCE]
    partner_numbers = {i: j for i, j, _ in pairs if j < new.n_components}
    free_numbers = iter(sorted(set(range(new.n_components)) - set(partner_numbers.values())))
    numbers = [partner_numbers[i] if i in partner_numbers else next(free_numbers) for i in range(new.n_components)]
    order = tuple(int(i) for i in np.argsort(numbers))
    renumbered = new.reorder(list(order))
    kept = tuple(sorted((numbers[i], j, d) for i, j, d in pairs))
    only_new = [n for n in range(new.n_components) if n not in {i for i, _, _ in kept}]
    only_reference = [j for j in range(reference.n_components) if j not in {j for _, j, _ in kept}]
    splits = _find_unions(renumbered, only_new, reference, {j: (i, d) for i, j, d in kept}, only_reference)
    merges = _find_unions(reference, only_reference, renumbered, {i: (j, d) for i, j, d in kept}, only_new)
    split_before, split_now = {j for j, _, _ in splits}, {i for _, parts, _ in splits for i in parts}
    merged_now, merged_before = {i for i, _, _ in merges}, {j for _, parts, _ in merges for j in parts}
    return ComponentHistory(
        order,
        tuple(p for p in kept if p[1] not in split_before and p[0] not in merged_now),
        tuple(i for i in only_new if i not in split_now | merged_now),
        tuple(j for j in only_reference if j not in merged_before | split_before),
        splits,
        merges,
    )


def _find_unions(
    parts: MixtureParams, unmatched_parts: Sequence[int], wholes: MixtureParams,
    partners: dict[int, tuple[int, float]], unmatched_wholes: Sequence[int],
) -> tuple[tuple[int, tuple[int, int], float], ...]:  # fmt: skip
    """Return which components of ``wholes`` are the union of two of ``parts``, at least one of those unmatched.

    ``partners`` gives the part that a whole is paired with, and their distance; the union must be nearer than that.
    Each result is ``(whole, (part, part), distance)``.
    """
    full = family_named("full")
    best: dict[int, tuple[tuple[int, int], float]] = {}
    for a in unmatched_parts:
        rivals = [(whole, b, distance) for whole, (b, distance) in partners.items()]
        rivals += [(whole, b, MAX_DISTANCE) for whole in unmatched_wholes for b in unmatched_parts if b > a]
        for whole, b, limit in rivals:
            weights = parts.weights[[a, b]] / parts.weights[[a, b]].sum()
            pair = MixtureParams(weights, parts.means[[a, b]], parts.dense_covariances[[a, b]], full)
            single = MixtureParams([1.0], wholes.means[[whole]], wholes.dense_covariances[[whole]], full)
            distance = float(bhattacharyya_distances(merge_components(pair, 0, 1), single)[0, 0])
            if distance <= MAX_DISTANCE and distance < limit and distance < best.get(whole, ((0, 0), np.inf))[1]:
                best[whole] = ((min(a, b), max(a, b)), distance)
    return tuple((whole, pair_numbers, distance) for whole, (pair_numbers, distance) in sorted(best.items()))
