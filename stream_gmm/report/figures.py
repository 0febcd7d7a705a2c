"""The pictures that explain a mixture. Each function takes plain values and returns a figure."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

from stream_gmm.core.estep.scores import Scores
from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#8C8C8C",
           "#3969AC", "#A5AA99", "#11A579", "#F2B701")  # fmt: skip
NOISE_COLOUR = "#bbbbbb"
MARKERS = "osD^vP"
# Squared radii of the ellipses that hold 50 % and 95 % of a two-dimensional Gaussian.
RADII = (1.386, 5.991)
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
}


def component_colour(k: int) -> str:
    """Return the colour of a component, the same in every picture."""
    return COLOURS[k % len(COLOURS)]


def _make_figure(columns: int, rows: int = 1, width: float = 4.0, height: float = 3.2) -> tuple[Figure, Any]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, squeeze=False)


def encode_png(figure: Figure, dpi: int = 110) -> str:
    """Return a figure as a ``data:`` URL."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw_criteria(table: Sequence[Mapping[str, Any]], names: Sequence[str] = ("bic", "aic", "icl")) -> Figure:
    """Draw each criterion against K, one line for each covariance structure; lower is better."""
    figure, axes = _make_figure(len(names), width=3.8)
    for axis, name in zip(axes[0], names, strict=True):
        _draw_criterion(axis, table, name)
    axes[0][0].legend(title="covariance", fontsize=8)
    return figure


def _criterion_value(row: Mapping[str, Any], name: str) -> float | None:
    """Return a criterion of all rows; of a candidate that was beaten on the sample, its estimate."""
    value: float | None = row[name] if row[name] is not None else row.get(f"{name}_estimate")
    return value


def _draw_criterion(axis: Axes, table: Sequence[Mapping[str, Any]], name: str) -> None:
    families = list(dict.fromkeys(r["covariance_type"] for r in table))
    for i, family in enumerate(families):
        points = [r for r in table if r["covariance_type"] == family]
        curve = [(r["n_components"], value) for r in points if (value := _criterion_value(r, name)) is not None]
        marker = MARKERS[i % len(MARKERS)]
        look: Any = {"color": component_colour(i), "marker": marker, "ms": 4}
        axis.plot([k for k, _ in curve], [v for _, v in curve], lw=1.2, label=family, mfc="white", **look)
        exact = [r for r in points if r[name] is not None]
        axis.plot([r["n_components"] for r in exact], [r[name] for r in exact], lw=0, **look)
        poor = [r for r in exact if r["outcome"] in ("DEGENERATE", "FAILED")]
        axis.plot([r["n_components"] for r in poor], [r[name] for r in poor], "x", ms=9, color="black")
    chosen = [r for r in table if r["chosen"]]
    axis.plot(
        [r["n_components"] for r in chosen], [r[name] for r in chosen],
        "o", ms=13, mfc="none", mec="black", mew=1.4, zorder=5,
    )  # fmt: skip
    axis.set(title=name.upper(), xlabel="number of components K")
    _whole_numbers(axis)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))


def draw_gains(table: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw what every component gains over one less, nats per row, with two standard errors."""
    figure, ((axis,),) = _make_figure(1, width=7.0)
    families = list(dict.fromkeys(r["covariance_type"] for r in table))
    for i, family in enumerate(families):
        points = [r for r in table if r["covariance_type"] == family and r["gain"] is not None]
        axis.errorbar(
            [r["n_components"] for r in points], [r["gain"] for r in points], [2.0 * r["gain_se"] for r in points],
            marker=MARKERS[i % len(MARKERS)], ms=4, lw=1.2, capsize=2, color=component_colour(i), label=family,
        )  # fmt: skip
    axis.axhline(0.0, color="black", lw=0.8)
    axis.set_yscale("symlog", linthresh=1e-3)
    axis.set(xlabel="number of components K", ylabel="gain, nats per row")
    _whole_numbers(axis)
    if len(families) > 1:
        axis.legend(title="covariance", fontsize=8, ncols=2)
    return figure


def _whole_numbers(axis: Axes) -> None:
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def find_best_pairs(model: FitResult, most: int = 6) -> list[tuple[int, int]]:
    """Return the pairs of columns in which the components lie farthest apart."""
    d = model.n_features_in_
    centre = model.weights_ @ model.means_
    between = model.weights_ @ (model.means_ - centre) ** 2
    within = np.einsum("k,kjj->j", model.weights_, model.params.dense_covariances)
    order = np.argsort(-between / np.maximum(within, 1e-300), kind="stable")
    size = 2
    while size < d and (size + 1) * size // 2 <= most:
        size += 1
    return list(combinations(sorted(int(j) for j in order[: min(size, d)]), 2))


def _axis_limits(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [0.002, 0.998])
    pad = 0.06 * (high - low) or 1.0
    return float(low - pad), float(high + pad)


def _draw_ellipses(axis: Axes, model: FitResult, i: int, j: int) -> None:
    for k in range(model.n_components):
        covariance = model.params.dense_covariances[k][np.ix_([i, j], [i, j])]
        values, vectors = np.linalg.eigh(covariance)
        angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
        for radius in RADII:
            width, height = 2.0 * np.sqrt(radius * values[::-1])
            axis.add_patch(
                Ellipse(
                    tuple(model.means_[k, [i, j]]),
                    width,
                    height,
                    angle=angle,
                    fill=False,
                    ec=component_colour(k),
                    lw=1.8 if radius == RADII[0] else 1.0,
                )
            )
        axis.plot(*model.means_[k, [i, j]], "+", color=component_colour(k), ms=8, mew=2)


def _column_name(model: FitResult, j: int) -> str:
    return model.columns[j] if model.columns else f"x{j}"


def draw_ellipses(model: FitResult, rows: Array) -> Figure:
    """Draw the components over the density of sample rows, for pairs of columns."""
    if model.n_features_in_ == 1:
        return _draw_one_column(model, rows)
    pairs = find_best_pairs(model)
    columns = min(3, len(pairs))
    figure, axes = _make_figure(columns, -(-len(pairs) // columns))
    for axis in axes.flat[len(pairs) :]:
        axis.set_visible(False)
    for axis, (i, j) in zip(axes.flat, pairs, strict=False):
        extent = (*_axis_limits(rows[:, i]), *_axis_limits(rows[:, j]))
        axis.hexbin(rows[:, i], rows[:, j], gridsize=55, extent=extent, bins="log", cmap="Greys", mincnt=1, lw=0.1)
        _draw_ellipses(axis, model, i, j)
        axis.set(xlim=extent[:2], ylim=extent[2:], xlabel=_column_name(model, i), ylabel=_column_name(model, j))
    return figure


def _normal_density(x: Array, mean: float, variance: float) -> Array:
    return np.asarray(np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance))


def _draw_one_column(model: FitResult, rows: Array) -> Figure:
    figure, ((axis,),) = _make_figure(1, width=7.0)
    limits = _axis_limits(rows[:, 0])
    axis.hist(rows[:, 0], bins=80, range=limits, density=True, color="#d0d0d0")
    grid = np.linspace(*limits, 400)
    total = np.zeros_like(grid)
    for k, weight in enumerate(model.weights_):
        variance = float(model.params.dense_covariances[k, 0, 0])
        part = weight * _normal_density(grid, float(model.means_[k, 0]), variance)
        total += part
        axis.plot(grid, part, color=component_colour(k), lw=1.5)
    axis.plot(grid, total, color="black", lw=1.2)
    axis.set(xlabel=_column_name(model, 0), ylabel="density")
    return figure


def draw_assignments(model: FitResult, rows: Array, scores: Scores, most: int = 6000) -> Figure:
    """Draw hard assignment beside soft assignment, in the pair of columns that shows most."""
    rows, component = rows[:most], scores.component[:most]
    proba = scores.shares[:most]
    figure, axes = _make_figure(2, width=4.8, height=4.0)
    if model.n_features_in_ == 1:
        across, up = rows[:, 0], np.linspace(0, 1, len(rows))
        labels = (_column_name(model, 0), "row (spread out)")
    else:
        i, j = find_best_pairs(model, most=1)[0]
        across, up, labels = rows[:, i], rows[:, j], (_column_name(model, i), _column_name(model, j))
    # The last one is that of noise, which is component -1.
    names = [
        *(component_colour(k) for k in range(model.n_components)),
        *([NOISE_COLOUR] if len(scores.noise) else []),
    ]
    palette = np.array([matplotlib.colors.to_rgb(name) for name in names])
    certainty = (proba.max(axis=1) - 1.0 / proba.shape[1]) / max(1.0 - 1.0 / proba.shape[1], 1e-9)
    blended = proba @ palette
    pale = 1.0 - (1.0 - blended) * (0.15 + 0.85 * certainty[:, None])
    for axis, colours, title in (
        (axes[0][0], palette[component], "hard: the component of highest responsibility"),
        (axes[0][1], np.clip(pale, 0, 1), "soft: colours mix, pale where uncertain"),
    ):
        axis.scatter(across, up, c=colours, s=5, lw=0)
        axis.set(xlim=_axis_limits(across), ylim=_axis_limits(up), xlabel=labels[0], ylabel=labels[1], title=title)
    return figure


def draw_convergence(histories: Mapping[str, Sequence[float]], chosen: str) -> Figure:
    """Draw what was still to be gained after every pass, for every candidate."""
    figure, axes = _make_figure(2, width=4.8)
    for name, history in histories.items():
        mine = name == chosen
        gap = np.maximum(history[-1] - np.array(history[:-1]), 1e-12)
        style = {"color": "#D55E00" if mine else "#b0b0b0", "lw": 2.2 if mine else 0.9, "zorder": 3 if mine else 1}
        if len(gap):
            axes[0][0].semilogy(range(1, len(gap) + 1), gap, marker="." if mine else None, **style)
    axes[0][0].set(title="every candidate: still to be gained", xlabel="pass", ylabel="nats per row")
    own = histories.get(chosen, ())
    axes[0][1].plot(range(1, len(own) + 1), own, "o-", ms=4, color="#D55E00")
    axes[0][1].set(title=f"{chosen}: mean log-likelihood", xlabel="pass", ylabel="nats per row")
    for axis in axes[0]:
        _whole_numbers(axis)
    return figure


def draw_weights(model: FitResult) -> Figure:
    """Draw the mixing weights."""
    figure, ((axis,),) = _make_figure(1, width=max(4.0, 0.55 * model.n_components))
    bars = axis.bar(
        range(model.n_components), model.weights_, color=[component_colour(k) for k in range(model.n_components)]
    )
    axis.bar_label(bars, fmt="%.3f", fontsize=8)
    axis.set(xlabel="component", ylabel="mixing weight", xticks=range(model.n_components))
    return figure


def draw_log_densities(model: FitResult, scores: Scores) -> Figure:
    """Draw the log-density of the sample rows, with the outlier threshold."""
    figure, ((axis,),) = _make_figure(1, width=5.5)
    values = scores.log_density
    low = max(values.min(), np.quantile(values, 0.001) - 0.3 * np.ptp(np.quantile(values, [0.01, 1])))
    axis.hist(np.maximum(values, low), bins=90, color="#9ab8d0")
    if np.isfinite(model.threshold):
        axis.axvline(model.threshold, color="#D55E00", lw=1.8)
        axis.annotate(
            f" outliers below {model.threshold:.2f}\n ({model.outlier_quantile:.2%} of rows)",
            (model.threshold, axis.get_ylim()[1] * 0.93), color="#D55E00", va="top", ha="left",
            fontsize=8,
        )  # fmt: skip
    axis.set(xlabel="log-density, nats", ylabel="sample rows")
    return figure
