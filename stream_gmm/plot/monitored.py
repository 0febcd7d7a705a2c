"""Plots of what the monitor found, period by period."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from stream_gmm.errors import ConfigError
from stream_gmm.pipeline.drift_rule import CHANGED, DRIFTED, SAME, TOO_FEW, DriftRule
from stream_gmm.pipeline.monitor import ALL_FILES, MonitorResult
from stream_gmm.plot.inputs import TableRows
from stream_gmm.plot.style import COLOURS, EMPHASIS, take_axes

_LOOKS = {SAME: (COLOURS[2], "o"), CHANGED: (COLOURS[4], "s"), DRIFTED: (EMPHASIS, "X"), TOO_FEW: ("#8C8C8C", "v")}
_DEFAULT_RULE = DriftRule()


def drift(monitored: Any, rule: DriftRule = _DEFAULT_RULE, *, ax: Axes | None = None) -> Axes:
    """Draw what a refit would gain on new rows, nats per row, beside what chance alone would gain.

    Parameters
    ----------
    monitored
        A :class:`MonitorResult` (one point for each file), or the table ``monitor.parquet`` of a run folder (one
        point for each period).
    rule
        Its ``max_gain`` is drawn as threshold.
    ax
        Axes to draw on; None: those of a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ConfigError
        If ``monitored`` is neither, or has no rows.

    Examples
    --------
    >>> ax = sg.plot.drift(pq.read_table("runs/events/monitor.parquet"))  # doctest: +SKIP
    """
    names, rows = _take_periods(monitored)
    ax = take_axes(ax, max(4.6, 2.0 + 0.35 * len(rows)), 3.4)
    places = range(len(rows))
    ax.plot(places, [r["refit_gain"] for r in rows], color="#9a9a9a", lw=1.0, zorder=1)
    for status, (colour, marker) in _LOOKS.items():
        mine = [i for i in places if rows[i]["status"] == status]
        if mine:
            ax.plot(mine, [rows[i]["refit_gain"] for i in mine], marker, color=colour, ms=7, lw=0, label=status)
    ax.plot(places, [r["chance_gain"] for r in rows], "_", color="black", ms=12, label="by chance")
    ax.axhline(rule.max_gain, color=EMPHASIS, lw=1.2, ls="--", label=f"threshold {rule.max_gain:g}")
    ax.set_xticks(places, names, rotation=45 if len(names) > 4 else 0, ha="right" if len(names) > 4 else "center")
    ax.set(ylabel="gain of a refit, nats per row", xlim=(-0.5, len(rows) - 0.5))
    ax.set_ylim(bottom=min(0.0, *ax.get_ylim()))
    ax.legend(fontsize=8)
    return ax


def _take_periods(monitored: Any) -> tuple[list[str], TableRows]:
    if isinstance(monitored, MonitorResult):
        rows: TableRows = [r for r in monitored.rows if r["file"] != ALL_FILES]
        return [str(r["file"]) for r in rows], rows
    table = monitored.to_pylist() if hasattr(monitored, "to_pylist") else monitored
    rows = [r for r in table if r["file"] == ALL_FILES] if isinstance(table, list | tuple) else []
    if not rows:
        raise ConfigError("drift takes a MonitorResult or the rows of monitor.parquet, and there must be some.")
    return [str(r["period"]) for r in rows], rows
