"""Plots of rows under a mixture: assignment, uncertainty, log-density."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from stream_gmm.core.estep.scores import Scores
from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.transforms import transform_rows
from stream_gmm.plot.components import find_best_pairs
from stream_gmm.plot.inputs import column_name, take_model, take_rows
from stream_gmm.plot.style import (
    EMPHASIS,
    MARKERS,
    NOISE_COLOUR,
    AxesArray,
    component_colour,
    find_limits,
    take_axes,
    take_many_axes,
)

MOST_ROWS = 6_000
"""Rows that a scatter plot shows; more hide each other."""
UNSURE = 0.9
"""Rows whose largest responsibility is lower are counted as unsure."""


def assignment(result: Any, rows: Any = None, *, soft: bool = False, ax: Axes | None = None) -> Axes:
    """Draw rows in the colour of their component, in the two columns that separate the components most.

    Parameters
    ----------
    result
        A :class:`FitResult`, :class:`SweepResult` (its chosen model) or fitted estimator.
    rows
        Array or data frame ``(N, D)``, of which the first 6,000 are drawn; None: the sample that a sweep keeps.
    soft
        False: colour and marker are those of the component of highest responsibility. True: the colours of the
        components are mixed in proportion to the responsibilities, and a row is the larger the less sure it is.
    ax
        Axes to draw on; None: those of a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ConfigError
        If rows are needed.

    Examples
    --------
    >>> ax = sg.plot.assignment(model, frame, soft=True)  # doctest: +SKIP
    """
    model, values = take_model(result), take_rows(result, rows)[:MOST_ROWS]
    ax, scores = take_axes(ax), model.scores(values)
    at = _place_rows(ax, model, values)
    (_draw_soft if soft else _draw_hard)(ax, model, at, scores)
    return ax


def assignments(result: Any, rows: Any = None, *, axes: Any = None) -> AxesArray:
    """Draw hard assignment beside soft assignment: :func:`assignment` twice.

    Parameters
    ----------
    result, rows
        As for :func:`assignment`.
    axes
        Two axes to draw on; None: those of a new figure.

    Returns
    -------
    ndarray of Axes

    Examples
    --------
    >>> hard, soft = sg.plot.assignments(model, frame)  # doctest: +SKIP
    """
    model, values = take_model(result), take_rows(result, rows)
    panels = take_many_axes(axes, 2, 2, 4.8, 4.0)
    for panel, soft in zip(panels, (False, True), strict=True):
        assignment(model, values, soft=soft, ax=panel)
    return panels


def _place_rows(ax: Axes, model: FitResult, values: Array) -> Array:
    """Label the axes, and return the positions ``(N, 2)`` of the rows; those of one column are spread out."""
    values = transform_rows(values, model.columns, model.transforms)
    if model.n_features_in_ == 1:
        at = np.column_stack([values[:, 0], np.linspace(0.0, 1.0, len(values))])
        ax.set(xlabel=column_name(model, 0), ylabel="row (spread out)")
    else:
        pair = find_best_pairs(model, 1)[0]
        at = values[:, pair]
        ax.set(xlabel=column_name(model, pair[0]), ylabel=column_name(model, pair[1]))
    ax.set(xlim=find_limits(at[:, 0]), ylim=find_limits(at[:, 1]))
    return np.asarray(at)


def _draw_hard(ax: Axes, model: FitResult, at: Array, scores: Scores) -> None:
    for k in range(-1 if len(scores.noise) else 0, model.n_components):
        mine = at[scores.component == k]
        ax.scatter(
            mine[:, 0], mine[:, 1], s=9, lw=0, marker=MARKERS[max(k, 0) % len(MARKERS)] if k >= 0 else ".",
            color=component_colour(k) if k >= 0 else NOISE_COLOUR, label=str(k) if k >= 0 else "noise",
        )  # fmt: skip
    ax.set_title("hard: one component each")
    if model.n_components <= 12:
        ax.legend(title="component", fontsize=8, markerscale=2.0, ncols=1 + (model.n_components > 6))


def _draw_soft(ax: Axes, model: FitResult, at: Array, scores: Scores) -> None:
    names = [component_colour(k) for k in range(model.n_components)]
    if len(scores.noise):
        names.append(NOISE_COLOUR)  # the noise is in the last column of the shares
    mixed = np.clip(scores.shares @ np.array([to_rgb(name) for name in names]), 0.0, 1.0)
    unsure = 1.0 - scores.max_proba
    order = np.argsort(unsure, kind="stable")
    rings: Any = np.where((scores.max_proba < UNSURE)[:, None], [0.0, 0.0, 0.0, 0.7], [0.0, 0.0, 0.0, 0.0])
    ax.scatter(
        at[order, 0], at[order, 1], c=mixed[order], s=5.0 + 35.0 * unsure[order], lw=0.4, edgecolors=rings[order]
    )
    share = float((scores.max_proba < UNSURE).mean())
    ax.set_title(f"soft: colours mixed; {share:.1%} below {UNSURE} ringed")


def uncertainty(result: Any, rows: Any = None, *, ax: Axes | None = None) -> Axes:
    """Draw how unsure the assignment of every row is: 1 minus its largest responsibility, as colour and size.

    Parameters
    ----------
    result
        A :class:`FitResult`, :class:`SweepResult` (its chosen model) or fitted estimator.
    rows
        Array or data frame ``(N, D)``, of which the first 6,000 are drawn; None: the sample that a sweep keeps.
    ax
        Axes to draw on; None: those of a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ConfigError
        If rows are needed.

    Examples
    --------
    >>> ax = sg.plot.uncertainty(model, frame)  # doctest: +SKIP
    """
    model, values = take_model(result), take_rows(result, rows)[:MOST_ROWS]
    ax, scores = take_axes(ax), model.scores(values)
    at, unsure = _place_rows(ax, model, values), 1.0 - scores.max_proba
    order = np.argsort(unsure, kind="stable")
    highest = 1.0 - 1.0 / max(scores.shares.shape[1], 2)
    points = ax.scatter(
        at[order, 0], at[order, 1], c=unsure[order], s=4.0 + 50.0 * unsure[order], lw=0,
        cmap="cividis_r", vmin=0.0, vmax=highest,
    )  # fmt: skip
    bar = ax.figure.colorbar(points, ax=ax, shrink=0.85, label="uncertainty (1 - largest responsibility)")
    bar.outline.set_visible(False)  # type: ignore[operator]
    return ax


def log_density(result: Any, rows: Any = None, *, ax: Axes | None = None) -> Axes:
    """Draw a histogram of the log-density of rows, with the threshold below which they are outliers.

    Values that are far below all others are counted at the left end.

    Parameters
    ----------
    result
        A :class:`FitResult`, :class:`SweepResult` (its chosen model) or fitted estimator.
    rows
        Array or data frame ``(N, D)``; None: the sample that a sweep keeps.
    ax
        Axes to draw on; None: those of a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ConfigError
        If rows are needed.

    Examples
    --------
    >>> ax = sg.plot.log_density(model, frame)  # doctest: +SKIP
    """
    model = take_model(result)
    values = model.score_samples(take_rows(result, rows))
    ax = take_axes(ax)
    low = max(values.min(), np.quantile(values, 0.001) - 0.3 * np.ptp(np.quantile(values, [0.01, 1.0])))
    ax.hist(np.maximum(values, low), bins=90, color="#9ab8d0")
    if np.isfinite(model.threshold):
        ax.axvline(model.threshold, color=EMPHASIS, lw=1.8)
        below = float((values < model.threshold).mean())
        title = f"{below:.2%} of these rows are outliers: below {model.threshold:.2f}"
        ax.set_title(title, fontsize=9, color=EMPHASIS)
    ax.set(xlabel="log-density, nats", ylabel="rows")
    return ax
