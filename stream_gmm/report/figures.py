"""The pictures of the report: figures whose axes :mod:`stream_gmm.plot` draws on."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stream_gmm import plot
from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult
from stream_gmm.plot.components import find_best_pairs
from stream_gmm.plot.inputs import TableRows
from stream_gmm.plot.passes import draw_history, draw_remaining_gains

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
}


def make_figure(columns: int, rows: int = 1, width: float = 4.0, height: float = 3.2) -> tuple[Figure, Any]:
    """Return a figure that no window shows, and its axes ``(rows, columns)``."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, squeeze=False)


def encode_png(figure: Figure, dpi: int = 110) -> str:
    """Return a figure as a ``data:`` URL."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw_criteria(table: TableRows, names: Sequence[str] = ("bic", "aic", "icl")) -> Figure:
    """Draw each criterion against K, one line for each covariance structure; lower is better."""
    figure, axes = make_figure(len(names), width=3.9)
    for i, (ax, name) in enumerate(zip(axes[0], names, strict=True)):
        plot.criteria(table, name, ax=ax)
        if i:
            ax.get_legend().remove()
    return figure


def draw_figures(
    record: Mapping[str, Any], model: FitResult, table: TableRows, rows: Array, criterion: str
) -> dict[str, str]:
    """Return the pictures of a run as ``data:`` URLs, by the names that the template has for them."""
    histories, chosen = record["histories"], record["chosen"]
    gained = any(row["gain"] is not None for row in table)
    drawn: dict[str, Figure] = {"criteria": draw_criteria(table)}
    drawn["differences"], axes = make_figure(1 + gained, width=5.2, height=3.6)
    plot.differences(table, criterion, ax=axes[0, 0])
    if gained:
        plot.gains(table, ax=axes[0, 1])
    shown = len(find_best_pairs(model)) if model.n_features_in_ > 1 else 1
    columns = min(3, shown)
    drawn["ellipses"], axes = make_figure(columns, -(-shown // columns), 7.0 if model.n_features_in_ == 1 else 4.0)
    plot.pairs(model, rows, axes=axes)
    drawn["components"], axes = make_figure(2, width=5.6, height=max(2.6, 1.2 + 0.4 * model.n_components))
    plot.profiles(model, ax=axes[0, 0])
    plot.overlap(model, ax=axes[0, 1])
    drawn["assignments"], axes = make_figure(2, width=4.8, height=4.0)
    plot.assignments(model, rows, axes=axes)
    drawn["uncertainty"], axes = make_figure(2, width=4.8, height=3.6)
    plot.uncertainty(model, rows, ax=axes[0, 0])
    plot.weights(model, ax=axes[0, 1])
    drawn["density"], axes = make_figure(1, width=5.5)
    plot.log_density(model, rows, ax=axes[0, 0])
    drawn["convergence"], axes = make_figure(2, width=4.8)
    draw_remaining_gains(histories, chosen, axes[0, 0])
    draw_history(histories[chosen], axes[0, 1]).set_title(chosen)
    axes[0, 0].set_title("every candidate")
    return {name: encode_png(figure) for name, figure in drawn.items()}
