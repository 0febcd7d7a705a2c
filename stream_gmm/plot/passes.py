"""Plots of the passes over the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from stream_gmm.errors import ConfigError
from stream_gmm.pipeline.sweep.result import SweepResult
from stream_gmm.plot.inputs import take_model
from stream_gmm.plot.style import EMPHASIS, show_whole_numbers, take_axes

LEAST_GAP = 1e-12
"""Gains below are drawn as this one: they are rounding errors."""


def convergence(result: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the convergence of a fit, or of all candidates of a sweep.

    Of a fit: the mean log-likelihood at every accepted point. Of a sweep: what every candidate still had to gain
    until its last pass, on a logarithmic axis, with the chosen one in colour; a candidate of one pass has no line.

    Parameters
    ----------
    result
        A :class:`FitResult`, :class:`SweepResult` or fitted estimator.
    ax
        Axes to draw on; None: those of a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ConfigError
        If the result has no history.

    Examples
    --------
    >>> ax = sg.plot.convergence(sweep.best)  # doctest: +SKIP
    """
    if isinstance(result, SweepResult):
        histories = {c.name: c.result.history for c in result.candidates if c.result and c.on_full_data}
        return draw_remaining_gains(histories, result.candidates[result.chosen].name, take_axes(ax))
    history = take_model(result).history
    if not history:
        raise ConfigError("this fit has no history to draw.")
    return draw_history(history, take_axes(ax))


def draw_history(history: Sequence[float], ax: Axes) -> Axes:
    """Draw the mean log-likelihood at every accepted point."""
    ax.plot(range(1, len(history) + 1), history, "o-", ms=4, color=EMPHASIS)
    ax.set(xlabel="accepted point", ylabel="mean log-likelihood, nats per row")
    ax.ticklabel_format(axis="y", useOffset=False)
    show_whole_numbers(ax)
    return ax


def draw_remaining_gains(histories: Mapping[str, Sequence[float]], chosen: str, ax: Axes) -> Axes:
    """Draw what was still to be gained after every accepted point, for every candidate; the chosen one in colour."""
    lines = {name: history for name, history in histories.items() if len(history) > 1}
    for name, history in lines.items():
        mine = name == chosen
        gap = np.maximum(history[-1] - np.array(history[:-1]), LEAST_GAP)
        look: Any = {"color": EMPHASIS if mine else "#9a9a9a", "lw": 2.2 if mine else 0.9, "zorder": 3 if mine else 1}
        ax.plot(range(1, len(gap) + 1), gap, marker="o" if mine else ".", ms=5 if mine else 3,
                label=name if mine else "_", **look)  # fmt: skip
    if lines:
        ax.set_yscale("log")
    else:
        ax.text(0.5, 0.5, "every candidate ended with its first pass", ha="center", transform=ax.transAxes)
        ax.tick_params(left=False, labelleft=False, bottom=False, labelbottom=False)
    if chosen in lines:
        ax.legend(title="chosen", fontsize=8)
    ax.set(xlabel="accepted point", ylabel="still to be gained, nats per row")
    show_whole_numbers(ax)
    return ax
