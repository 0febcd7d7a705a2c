"""Plots of the components of a mixture: where they lie, what marks them, how they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from stream_gmm.core.model.matching import bhattacharyya_distances
from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.transforms import transform_rows
from stream_gmm.errors import ConfigError
from stream_gmm.pipeline.sweep.result import Candidate
from stream_gmm.plot.inputs import column_name, column_number, take_model, take_rows, take_sweep
from stream_gmm.plot.style import AxesArray, component_colour, draw_heat_map, find_limits, take_axes, take_many_axes

DEVIATIONS = (1.0, 2.0)
"""Ellipses are drawn at so many standard deviations; they hold 39 % and 86 % of a Gaussian of two columns."""
_SEARCHED_COLUMNS = 40
_OUTLINE = [effects.withStroke(linewidth=2.5, foreground="white")]


def ellipses(
    result: Any, rows: Any = None, columns: Sequence[int | str] | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draw the components as ellipses of 1 and 2 standard deviations over the density of rows, in two columns.

    A model of one column is drawn as a histogram with the density of every component.

    Parameters
    ----------
    result
        A :class:`FitResult`, :class:`SweepResult` (its chosen model) or fitted estimator.
    rows
        Array or data frame ``(N, D)``; None: the sample that a sweep keeps.
    columns
        Two columns by name or position; None: those that separate the components most.
    ax
        Axes to draw on; None: those of a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ConfigError
        If rows are needed, or ``columns`` are not two columns of the model.

    Examples
    --------
    >>> ax = sg.plot.ellipses(sweep.best, frame, columns=["x0", "x2"])  # doctest: +SKIP
    """
    model = take_model(result)
    values = transform_rows(take_rows(result, rows), model.columns, model.transforms)
    if model.n_features_in_ == 1:
        return _draw_one_column(take_axes(ax), model, values[:, 0])
    if columns is None:
        i, j = find_best_pairs(model, 1)[0]
    elif len(columns) == 2 and not isinstance(columns, str):
        i, j = (column_number(model, c) for c in columns)
    else:
        raise ConfigError("columns must name two columns.")
    ax = take_axes(ax)
    extent = (*find_limits(values[:, i]), *find_limits(values[:, j]))
    ax.hexbin(
        values[:, i], values[:, j], gridsize=50, extent=extent, bins="log", cmap="Greys", mincnt=1, vmin=0.3, lw=0.1
    )
    _draw_ellipses(ax, model, i, j)
    ax.set(xlim=extent[:2], ylim=extent[2:], xlabel=column_name(model, i), ylabel=column_name(model, j))
    return ax


def pairs(result: Any, rows: Any = None, *, most: int = 6, axes: Any = None) -> AxesArray:
    """Draw :func:`ellipses` for several pairs of columns, the most telling one first.

    Parameters
    ----------
    result, rows
        As for :func:`ellipses`.
    most
        Largest number of pairs.
    axes
        Axes to draw on, at least as many as there are pairs; None: those of a new figure.

    Returns
    -------
    ndarray of Axes

    Examples
    --------
    >>> axes = sg.plot.pairs(sweep, most=3)  # doctest: +SKIP
    """
    model, values = take_model(result), take_rows(result, rows)
    found: list[tuple[int, int] | None] = [None]
    if model.n_features_in_ > 1:
        found = list(find_best_pairs(model, most))
    panels = take_many_axes(axes, len(found), 3)
    for panel, pair in zip(panels, found, strict=True):
        ellipses(model, values, pair, ax=panel)
    return panels


def find_best_pairs(model: FitResult, most: int = 6) -> list[tuple[int, int]]:
    """Return the pairs of columns that separate the components most, the best first.

    A pair is as good as the trace of the covariance of the means, relative to the mean covariance of a component.
    """
    offset = model.means_ - model.weights_ @ model.means_ / model.weights_.sum()
    between = np.einsum("k,ki,kj->ij", model.weights_, offset, offset)
    within = np.einsum("k,kij->ij", model.weights_, model.params.dense_covariances)
    alone = np.diag(between) / np.maximum(np.diag(within), 1e-300)
    searched = sorted(int(j) for j in np.argsort(-alone, kind="stable")[:_SEARCHED_COLUMNS])

    def separation(pair: tuple[int, int]) -> float:
        at = np.ix_(pair, pair)
        return float(np.trace(np.linalg.pinv(within[at], hermitian=True) @ between[at]))

    return sorted(combinations(searched, 2), key=separation, reverse=True)[:most]


def covariance_types(
    sweep: Any, rows: Any = None, n_components: int | None = None,
    types: Sequence[str] = ("spherical", "diag", "tied", "full"), *, axes: Any = None,
) -> AxesArray:  # fmt: skip
    """Draw the candidates of one K with different covariance structures side by side, each with its BIC.

    All are drawn in the columns that separate the components of the chosen model most. A BIC after ``≈`` is an
    estimate from the sample, of a candidate that was beaten there; the chosen candidate is marked.

    Parameters
    ----------
    sweep
        A :class:`SweepResult` or fitted selector.
    rows
        Array or data frame ``(N, D)``; None: the sample that the sweep keeps.
    n_components
        K; None: that of the chosen model.
    types
        Covariance structures; those that the sweep does not have are left out.
    axes
        Axes to draw on, at least as many as there are candidates; None: those of a new figure.

    Returns
    -------
    ndarray of Axes

    Raises
    ------
    ConfigError
        If the sweep has no such candidate.

    Examples
    --------
    >>> axes = sg.plot.covariance_types(sweep, n_components=3)  # doctest: +SKIP
    """
    found, values = take_sweep(sweep), take_rows(sweep, rows)
    k = found.best.n_components if n_components is None else n_components
    by_type = {c.family.name: (i, c) for i, c in enumerate(found.candidates) if c.n_components == k and c.result}
    shown = [by_type[name] for name in types if name in by_type]
    if not shown:
        raise ConfigError(f"the sweep has no candidate with K = {k} and a structure of {', '.join(types)}.")
    pair = find_best_pairs(found.best, 1)[0] if found.best.n_features_in_ > 1 else None
    panels = take_many_axes(axes, len(shown), 4, 3.4, 3.4)
    table = found.table.to_pylist()
    for panel, (i, candidate) in zip(panels, shown, strict=True):
        ellipses(candidate.result, values, pair, ax=panel)
        weight = "bold" if i == found.chosen else "normal"
        panel.set_title(_describe_candidate(candidate, table[i]), fontweight=weight)
    return panels


def _describe_candidate(candidate: Candidate, row: dict[str, Any]) -> str:
    value = f"BIC {row['bic']:,.1f}" if row["bic"] is not None else "no BIC"
    if row["bic"] is None and row["bic_estimate"] is not None:
        value = f"BIC ≈ {row['bic_estimate']:,.0f}"
    return f"{candidate.name}{' (chosen)' * row['chosen']}\n{value}"


def profiles(result: Any, *, ax: Axes | None = None) -> Axes:
    """Draw what marks every component: its means, standardised by mean and standard deviation of the mixture.

    Parameters
    ----------
    result
        A :class:`FitResult`, :class:`SweepResult` (its chosen model) or fitted estimator.
    ax
        Axes to draw on; None: those of a new figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = sg.plot.profiles(model)  # doctest: +SKIP
    """
    model = take_model(result)
    k, d = model.means_.shape
    ax = take_axes(ax, max(4.8, 2.2 + 0.7 * d), max(2.5, 1.0 + 0.4 * k))
    values = standardise_means(model)
    largest = max(float(np.abs(values).max()), 1e-9)
    label = "standard deviations\nfrom the overall mean"
    draw_heat_map(ax, values, "{:+.1f}", label, cmap="PuOr_r", vmin=-largest, vmax=largest)
    names = [column_name(model, j) for j in range(d)]
    long = d > 8 or max(map(len, names)) > 8
    ax.set_xticks(range(d), names, rotation=45 if long else 0, ha="right" if long else "center")
    ax.set_yticks(range(k), [f"{i} ({100 * w:.0f} %)" for i, w in enumerate(model.weights_)])
    ax.set(ylabel="component (weight)", title="standardised means")
    return ax


def standardise_means(model: FitResult) -> Array:
    """Return the means ``(K, D)`` minus that of the components together, in standard deviations of these."""
    share = model.weights_ / model.weights_.sum()
    offset = model.means_ - share @ model.means_
    variances = share @ (np.einsum("kjj->kj", model.params.dense_covariances) + offset**2)
    return np.asarray(offset / np.sqrt(np.maximum(variances, 1e-300)))


def overlap(result: Any, *, ax: Axes | None = None) -> Axes:
    """Draw how much every two components overlap: their Bhattacharyya coefficient, 1 for equal ones, 0 for distant.

    Parameters
    ----------
    result
        A :class:`FitResult`, :class:`SweepResult` (its chosen model) or fitted estimator.
    ax
        Axes to draw on; None: those of a new figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = sg.plot.overlap(model)  # doctest: +SKIP
    """
    model = take_model(result)
    k = model.n_components
    side = max(3.5, 1.5 + 0.5 * k)
    ax = take_axes(ax, side + 1.2, side)
    values = np.exp(-np.maximum(bhattacharyya_distances(model.params, model.params), 0.0))
    draw_heat_map(ax, values, "{:.2f}", "Bhattacharyya coefficient", cmap="cividis", vmin=0.0, vmax=1.0)
    ax.set_xticks(range(k))
    ax.set_yticks(range(k))
    ax.set(xlabel="component", ylabel="component", title="overlap")
    ax.set_aspect("equal")
    return ax


def weights(result: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the mixing weights.

    Parameters
    ----------
    result
        A :class:`FitResult`, :class:`SweepResult` (its chosen model) or fitted estimator.
    ax
        Axes to draw on; None: those of a new figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = sg.plot.weights(model)  # doctest: +SKIP
    """
    model = take_model(result)
    k = model.n_components
    ax = take_axes(ax, max(4.0, 0.6 * k), 3.2)
    bars = ax.bar(range(k), model.weights_, color=[component_colour(i) for i in range(k)])
    if k <= 20:
        ax.bar_label(bars, fmt="%.3f", fontsize=8)
        ax.margins(y=0.1)
    ax.set(xlabel="component", ylabel="mixing weight")
    ax.set_xticks(range(k) if k <= 20 else range(0, k, -(-k // 20)))
    return ax


def _draw_ellipses(ax: Axes, model: FitResult, i: int, j: int) -> None:
    for k in range(model.n_components):
        values, vectors = np.linalg.eigh(model.params.dense_covariances[k][np.ix_([i, j], [i, j])])
        angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
        lengths = 2.0 * np.sqrt(np.maximum(values[::-1], 0.0))
        centre = (float(model.means_[k, i]), float(model.means_[k, j]))
        for deviations in DEVIATIONS:
            ax.add_patch(
                Ellipse(
                    centre, *(deviations * lengths), angle=angle, fill=False, ec=component_colour(k),
                    lw=1.8 if deviations == DEVIATIONS[0] else 1.1, path_effects=_OUTLINE,
                )
            )  # fmt: skip
        # Numbers, as colours are not told apart by everyone and begin again after the twelfth.
        ax.annotate(str(k), centre, color=component_colour(k), ha="center", va="center", fontsize=9, weight="bold",
                    path_effects=_OUTLINE, annotation_clip=True)  # fmt: skip


def _draw_one_column(ax: Axes, model: FitResult, values: Array) -> Axes:
    limits = find_limits(values)
    ax.hist(values, bins=80, range=limits, density=True, color="#d0d0d0")
    grid = np.linspace(*limits, 400)
    total = np.zeros_like(grid)
    for k, weight in enumerate(model.weights_):
        mean, variance = float(model.means_[k, 0]), float(model.params.dense_covariances[k, 0, 0])
        part = weight * np.exp(-0.5 * (grid - mean) ** 2 / variance) / np.sqrt(2.0 * np.pi * variance)
        total += part
        ax.plot(grid, part, color=component_colour(k), lw=1.5, label=f"component {k}")
    ax.plot(grid, total, color="black", lw=1.2, ls="--", label="together")
    ax.set(xlabel=column_name(model, 0), ylabel="density")
    if model.n_components <= 12:
        ax.legend(fontsize=8)
    return ax
