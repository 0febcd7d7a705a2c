"""Each component in words: how large it is, what sets it apart, what is typical of it, what it overlaps with.

The words follow from numbers by fixed rules. The *rest* of a component are all the others together. A *shift* is the
mean of a component minus that of the rest, in standard deviations of all rows under the model. *Separation* is 1
minus the Bhattacharyya coefficient of component and rest in one column, both taken as normal distributions: 0 where
they are alike, 1 where they do not overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stream_gmm.core.display import count_noun
from stream_gmm.core.model.matching import bhattacharyya_distances
from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.oddities import find_atoms
from stream_gmm.core.rows.transforms import restore_rows
from stream_gmm.plot.inputs import column_name
from stream_gmm.plot.style import component_colour

SHIFTS = ((2.0, "far"), (1.0, "clearly"), (0.5, "somewhat"))
"""From which shift on, in standard deviations, a component is far, clearly or somewhat above or below the rest."""
_MARKS = ((2.0, "very "), (1.0, ""), (0.5, "rather "))
SPREADS = ((3.0, "much "), (2.0, ""))
"""From which ratio of standard deviations on a column varies (much) more or less than in the rest."""
TOLD_COLUMNS, TYPICAL_ROWS = 3, 3
LEAST_OVERLAP, LEAST_SHARED = 0.05, 0.02
ATOM_SHARE, FEW_VALUES = 0.2, 12
STRONG_CORRELATION = 0.5
NARROW = 1e6
"""Condition of the correlation matrix from which a component is nearly flat."""
_INNER = 1.6449
"""So many standard deviations on both sides of the mean hold 90 % of a normal distribution."""


@dataclass(frozen=True)
class ColumnContrast:
    """One column of a component beside the rest.

    Attributes
    ----------
    name, fitted
        The column, and what of it was fitted: its own name, or that of a transform such as ``log1p(x)``.
    place
        Position among the columns of the model.
    mean, low, high, rest_mean
        Mean of the component, the values below which 5 % and 95 % of it lie, and mean of the rest, in units of the
        column; with a transform the means are medians.
    sd, rest_sd
        Standard deviations of what was fitted.
    shift, separation
        As the module says.
    """

    name: str
    fitted: str
    place: int
    mean: float
    low: float
    high: float
    rest_mean: float
    sd: float
    rest_sd: float
    shift: float
    separation: float

    @property
    def level(self) -> str:
        """Where it lies, such as ``far above``; empty where it lies as the rest."""
        side = "above" if self.shift > 0.0 else "below"
        return next((f"{word} {side}" for least, word in SHIFTS if abs(self.shift) >= least), "")

    @property
    def spread(self) -> str:
        """How it varies, such as ``much less``; empty where it varies as the rest."""
        ratio = self.sd / self.rest_sd if self.rest_sd > 0.0 else 1.0
        side, size = ("more", ratio) if ratio >= 1.0 else ("less", 1.0 / max(ratio, 1e-300))
        return next((f"{word}{side}" for least, word in SPREADS if size >= least), "")

    @property
    def mark(self) -> str:
        """The column in a few words, such as ``very high x2``; empty where nothing marks it."""
        if self.level:
            word = next(word for least, word in _MARKS if abs(self.shift) >= least)
            return f"{word}{'high' if self.shift > 0.0 else 'low'} {self.name}"
        return f"{'steady' if 'less' in self.spread else 'scattered'} {self.name}" if self.spread else ""

    def describe(self) -> str:
        """Return the column in a phrase, in the units of the data."""
        of = "" if self.fitted == self.name else f" of {self.fitted}"
        mean, low, high, rest, sd, rest_sd = map(
            format_value, (self.mean, self.low, self.high, self.rest_mean, self.sd, self.rest_sd)
        )
        place = f"{'median' if of else 'mean'} {mean}, 90 % between {low} and {high}"
        varies = f"varies {self.spread} than the rest (sd{of} {sd} against {rest_sd})"
        if not self.level:
            return f"{self.name} {varies}" if self.spread else f"{self.name} is as in the rest ({place})"
        text = f"{self.name} is {self.level} the rest: {place}; the rest {rest}"
        return f"{text}; it {varies}" if self.spread else text


@dataclass(frozen=True)
class Portrait:
    """What is to be said about a component.

    Attributes
    ----------
    number, colour, weight, rows
        Number, colour in the pictures, mixing weight, and rows scored into it; None if they are not scored.
    headline
        What marks it, in a few words.
    sentences
        What is to be known about it.
    contrasts
        Its columns beside the rest, the most separate first.
    typical
        Sample rows nearest to its centre, in the columns of ``contrasts``.
    neighbour
        The component it overlaps with most, in words; empty if there is none.
    """

    number: int
    colour: str
    weight: float
    rows: int | None
    headline: str
    sentences: tuple[str, ...]
    contrasts: tuple[ColumnContrast, ...]
    typical: Array
    neighbour: str


def describe_components(model: FitResult, rows: Array, counts: list[int] | None = None) -> list[Portrait]:
    """Return a portrait of every component; ``rows (n, D)`` are a sample, ``counts`` the rows scored into each."""
    scores = model.scores(rows)
    overlaps = np.exp(-np.maximum(bhattacharyya_distances(model.params, model.params), 0.0))
    strange = scores.log_density < model.threshold
    out = []
    for k in range(model.n_components):
        contrasts = contrast_columns(model, k)
        at = np.flatnonzero(scores.component == k)
        own, order = rows[at], [c.place for c in contrasts]
        nearest = at[np.argsort(scores.mahalanobis_sq[at], kind="stable")[:TYPICAL_ROWS]]
        near = [int(i) for i in np.argsort(-overlaps[k], kind="stable") if i != k and overlaps[k, i] >= LEAST_OVERLAP]
        neighbours = [(i, float(overlaps[k, i])) for i in near[:TOLD_COLUMNS]]
        sentences = [
            *_describe_marks(contrasts),
            *_describe_correlation(model, k),
            _describe_neighbours(neighbours, scores.proba[at], k),
            *_describe_values(contrasts, own),
            *_describe_shape(model, k),
            f"{strange[at].mean():.1%} of its sample rows are outliers." if len(at) else "",
        ]
        out.append(Portrait(
            k, component_colour(k), float(model.weights_[k]), None if counts is None else int(counts[k]),
            summarise_marks(contrasts), tuple(s for s in sentences if s), tuple(contrasts), rows[nearest][:, order],
            f"{neighbours[0][0]} (overlap {neighbours[0][1]:.2f})" if neighbours else "",
        ))  # fmt: skip
    told = [p.headline for p in out]
    return [replace(p, headline=p.headline + _tell_apart(p) * (told.count(p.headline) > 1)) for p in out]


def _tell_apart(portrait: Portrait) -> str:
    """Return what is added to a headline that another component has, too: the mean of its most separate column."""
    first = portrait.contrasts[0]
    return f" ({first.name} {format_value(first.mean)})"


def format_value(value: float) -> str:
    """Return a value with four digits; one of up to a million without an exponent."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def contrast_columns(model: FitResult, k: int) -> list[ColumnContrast]:
    """Return every column of a component beside the other components together, the most separate first."""
    means, variances = model.means_, np.einsum("kjj->kj", model.params.dense_covariances)
    share = model.weights_ / model.weights_.sum()
    total = share @ (variances + means**2) - (share @ means) ** 2
    others = np.delete(share, k) / max(1.0 - share[k], 1e-300)
    if len(others):
        centre = others @ np.delete(means, k, axis=0)
        offset = np.delete(means, k, axis=0) - centre
        rest = others @ (np.delete(variances, k, axis=0) + offset**2)
    else:
        centre, rest = means[k], variances[k]
    shift = (means[k] - centre) / np.sqrt(np.maximum(total, 1e-300))
    both = np.maximum(variances[k] + rest, 1e-300)
    distance = 0.25 * (means[k] - centre) ** 2 / both
    distance += 0.5 * np.log(np.maximum(both / (2.0 * np.sqrt(np.maximum(variances[k] * rest, 1e-300))), 1.0))
    separation = 1.0 - np.exp(-distance)
    own, spread = means[k], np.sqrt(variances[k])
    places = np.array([own, own - _INNER * spread, own + _INNER * spread, centre])
    places = restore_rows(places, model.columns, model.transforms)
    out = []
    for j in map(int, np.argsort(-separation, kind="stable")):
        name, (mean, low, high, rest_mean) = column_name(model, j), map(float, places[:, j])
        out.append(ColumnContrast(
            model.columns[j] if model.columns else name, name, j, mean, low, high, rest_mean,
            float(spread[j]), float(rest[j] ** 0.5), float(shift[j]), float(separation[j]),
        ))  # fmt: skip
    return out


def summarise_marks(contrasts: list[ColumnContrast]) -> str:
    """Return what marks a component, in a few words."""
    marks = [c.mark for c in contrasts if c.mark]
    return ", ".join(marks[:TOLD_COLUMNS]) or "near the middle of all rows"


def _describe_marks(contrasts: list[ColumnContrast]) -> list[str]:
    told = [c for c in contrasts if c.mark][:TOLD_COLUMNS]
    marked = sum(bool(c.mark) for c in contrasts)
    if not told:
        return ["No single column sets it apart: it lies near the middle of all rows, and is told apart by several "
                "columns together."]  # fmt: skip
    out = [f"{c.describe()}." for c in told]
    if marked > len(told):
        out.append(f"{count_noun(marked - len(told), 'other column')} set{'s' * (marked - len(told) == 1)} it apart, "
                   "too, less clearly.")  # fmt: skip
    return out


def _describe_correlation(model: FitResult, k: int) -> list[str]:
    """Return the two columns whose correlation within the component differs most from that of all rows."""
    if model.n_features_in_ < 2:
        return []
    share = model.weights_ / model.weights_.sum()
    offset = model.means_ - share @ model.means_
    covariances = model.params.dense_covariances
    whole = np.einsum("k,kij->ij", share, covariances) + np.einsum("k,ki,kj->ij", share, offset, offset)
    own, all_rows = _correlate(covariances[k]), _correlate(whole)
    change = np.triu(np.abs(own - all_rows) * (np.abs(own) >= STRONG_CORRELATION), 1)
    i, j = np.unravel_index(int(change.argmax()), change.shape)
    if change[i, j] < STRONG_CORRELATION:
        return []
    how = "rise together" if own[i, j] > 0.0 else "go in opposite directions"
    return [f"Within it, {column_name(model, int(i))} and {column_name(model, int(j))} {how} (correlation "
            f"{own[i, j]:+.2f}; over all rows {all_rows[i, j]:+.2f})."]  # fmt: skip


def _correlate(covariance: Array) -> Array:
    scale = np.sqrt(np.maximum(np.diagonal(covariance), 1e-300))
    return np.asarray(covariance / np.outer(scale, scale))


def _describe_neighbours(neighbours: list[tuple[int, float]], proba: Array, k: int) -> str:
    if proba.shape[1] == 1:
        return ""
    shared = proba.mean(axis=0) if len(proba) else np.eye(proba.shape[1])[k]
    if not neighbours and shared[k] > 1.0 - LEAST_SHARED:
        return "It overlaps with no other component."
    belong = f"of a row assigned to it, {1.0 - shared[k]:.1%} belong to others on average" if len(proba) else ""
    if not neighbours:
        other = max((i for i in range(len(shared)) if i != k), key=lambda i: float(shared[i]))
        return f"Its shape is like no other, but it shares rows with component {other}: {belong}."
    named = ", ".join(f"component {i} ({value:.2f})" for i, value in neighbours)
    return f"It overlaps with {named}{'; ' * bool(belong)}{belong}."


def _describe_values(contrasts: list[ColumnContrast], rows: Array) -> list[str]:
    """Return columns in which the component's rows share one value, or take only a few."""
    if len(rows) < 20:
        return []
    out = []
    atoms = find_atoms(rows)
    for name, j in ((c.name, c.place) for c in contrasts):
        atom, distinct = atoms[j], len(np.unique(rows[:, j]))
        if atom.share >= ATOM_SHARE:
            out.append(f"{name} = {atom.value:.6g} in {atom.share:.0%} of its rows")
        elif distinct <= FEW_VALUES:
            out.append(f"{name} takes only {distinct} values")
    more = f" and {len(out) - TOLD_COLUMNS} more such columns" if len(out) > TOLD_COLUMNS else ""
    return [f"Repeated values: {'; '.join(out[:TOLD_COLUMNS])}{more}."] if out else []


def _describe_shape(model: FitResult, k: int) -> list[str]:
    condition = float(np.linalg.cond(_correlate(model.params.dense_covariances[k])))
    return [f"It is nearly flat: its columns almost follow from each other (condition {condition:.1e})."] * (
        condition >= NARROW
    )
