"""Colours that colour-blind people can tell apart, and the axes to draw on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stream_gmm.core.model.moments import Array
from stream_gmm.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The first six are those of Okabe and Ito (2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#9B5FC0", "#8C8C8C",
           "#3969AC", "#A5AA99", "#11A579", "#F2B701")  # fmt: skip
NOISE_COLOUR = "#bbbbbb"
EMPHASIS = "#D55E00"
MARKERS = "osD^vPX*"
# Not quite white and black: on a coloured cell they stay as they are where a page turns black into white.
_LIGHT, _DARK = "#fdfdfb", "#121214"
DASHES = ("-", "--", "-.", ":")

AxesArray = np.ndarray[Any, Any]
"""An array of :class:`matplotlib.axes.Axes`."""


def component_colour(k: int) -> str:
    """Return the colour of a component, the same in every picture."""
    return COLOURS[k % len(COLOURS)]


def take_axes(ax: Axes | None, width: float = 5.5, height: float = 4.0) -> Axes:
    """Return the given axes, or those of a new figure of pyplot."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def take_many_axes(axes: Any, number: int, columns: int, width: float = 3.8, height: float = 3.2) -> AxesArray:
    """Return ``(number,)`` axes: the first of those given, or those of a new figure of pyplot; hide what is left.

    Raises
    ------
    ConfigError
        If fewer are given.
    """
    if axes is None:
        import matplotlib.pyplot as plt

        columns = min(columns, number)
        lines = -(-number // columns)
        size = (width * columns, height * lines)
        axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")[1]
    flat = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
    if len(flat) < number:
        raise ConfigError(f"axes: {number} are needed and {len(flat)} were given.")
    for unused in flat[number:]:
        unused.set_visible(False)
    return flat[:number]


def show_whole_numbers(ax: Axes) -> None:
    """Mark whole numbers only on the horizontal axis."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def find_limits(values: Array) -> tuple[float, float]:
    """Return where an axis begins and ends so that it shows all but a few remote values."""
    low, high = np.quantile(values, [0.002, 0.998])
    pad = 0.06 * (high - low) or 1.0
    return float(low - pad), float(high + pad)


def draw_heat_map(ax: Axes, values: Array, text: str, label: str, most_cells: int = 200, **look: Any) -> None:
    """Draw a matrix as colours with a labelled colour bar, and its numbers in the format ``text`` if they are few."""
    image = ax.imshow(values, aspect="auto", **look)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.85, label=label)
    bar.outline.set_visible(False)  # type: ignore[operator]
    if values.size > most_cells:
        return
    for (i, j), value in np.ndenumerate(values):
        red, green, blue, _ = image.to_rgba(np.array(value))
        dark = 0.30 * red + 0.59 * green + 0.11 * blue < 0.5
        ax.text(j, i, text.format(value), ha="center", va="center", fontsize=8, color=_LIGHT if dark else _DARK)
