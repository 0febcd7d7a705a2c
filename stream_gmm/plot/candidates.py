"""Plots of a sweep: how its candidates compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from stream_gmm.core.criteria import CRITERIA, base_criterion, difference_format, display_name
from stream_gmm.errors import ConfigError
from stream_gmm.pipeline.sweep.result import SweepResult
from stream_gmm.plot.inputs import TableRows, take_table
from stream_gmm.plot.style import COLOURS, DASHES, MARKERS, component_colour, show_whole_numbers, take_axes

_POOR = ("DEGENERATE", "FAILED")
_REACH = 10.0
"""The axis of the rivals ends at so many times the difference of the nearest one."""


def criteria(sweep: Any, criterion: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw a criterion against K, one line for each covariance structure.

    A ring marks the chosen candidate, a cross a degenerate one. Hollow marks are estimates from the sample, of
    candidates that were beaten there. Lower is better, but for the held-out likelihood (``"heldout"``).

    Parameters
    ----------
    sweep
        A :class:`SweepResult`, or its table.
    criterion
        ``"bic"``, ``"aic"``, ``"icl"`` or ``"heldout"``; None: that of the sweep, of a table BIC.
    ax
        Axes to draw on; None: those of a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ConfigError
        If the criterion is unknown, or the sweep has no values of it.

    Examples
    --------
    >>> ax = sg.plot.criteria(sweep, "bic")  # doctest: +SKIP
    """
    table, name = take_table(sweep), _take_criterion(sweep, criterion)
    if all(_find_value(row, name) is None for row in table):
        raise ConfigError(f"the sweep has no values of {name!r}{'; set holdout=' * (name == 'heldout')}.")
    ax = take_axes(ax)
    for i, (family, rows) in enumerate(_group_by_structure(table).items()):
        points = [(r, value) for r in rows if (value := _find_value(r, name)) is not None]
        look = _choose_look(i)
        ax.plot(
            [r["n_components"] for r, _ in points], [v for _, v in points],
            lw=1.3, label=family, mfc="white", ls=DASHES[i // len(COLOURS) % len(DASHES)], **look,
        )  # fmt: skip
        exact = [(r, v) for r, v in points if r[name] is not None]
        ax.plot([r["n_components"] for r, _ in exact], [v for _, v in exact], lw=0, **look)
        poor = [(r["n_components"], v) for r, v in exact if r["outcome"] in _POOR]
        ax.plot([k for k, _ in poor], [v for _, v in poor], "x", ms=9, color="black")
    _ring_chosen(ax, [(r["n_components"], _find_value(r, name)) for r in table if r["chosen"]])
    better = "higher" if name == "heldout" else "lower"
    ax.set(xlabel="number of components K", ylabel=f"{display_name(name)} ({better} is better)")
    show_whole_numbers(ax)
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
    ax.legend(title="covariance", fontsize=8)
    return ax


def differences(sweep: Any, criterion: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw by how much the criterion of every candidate is above that of the chosen one, with two standard errors.

    The vertical axis is logarithmic but near zero, where the candidates that matter are. Standard errors are those
    of paired differences on the validation rows. Hollow marks are estimates from the sample, and have none.

    Parameters
    ----------
    sweep
        A :class:`SweepResult`, or its table.
    criterion
        For a table: the criterion by which the sweep chose; of a sweep it is known.
    ax
        Axes to draw on; None: those of a new figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = sg.plot.differences(sweep)  # doctest: +SKIP
    """
    table = take_table(sweep)
    name = _take_criterion(sweep, None if isinstance(sweep, SweepResult) else criterion)
    best = next((r[name] for r in table if r["chosen"]), None)
    ax = take_axes(ax)
    groups = _group_by_structure(table)
    smallest = [abs(r["delta"]) for r in table if r["delta"]]
    for i, (family, rows) in enumerate(groups.items()):
        look, shift = _choose_look(i), _shift(i, len(groups))
        exact = [r for r in rows if r["delta"] is not None]
        ax.errorbar(
            [r["n_components"] + shift for r in exact], [r["delta"] for r in exact],
            [2.0 * (r["delta_se"] or 0.0) for r in exact], lw=1.0, capsize=2.5, label=family, **look,
        )  # fmt: skip
        guessed = [(r["n_components"] + shift, r[f"{name}_estimate"] - best)
                   for r in rows if r["delta"] is None and r.get(f"{name}_estimate") is not None]  # fmt: skip
        ax.plot([k for k, _ in guessed], [v for _, v in guessed], lw=0, mfc="white", **look)
    shifts = {name: _shift(i, len(groups)) for i, name in enumerate(groups)}
    _ring_chosen(ax, [(r["n_components"] + shifts[r["covariance_type"]], 0.0) for r in table if r["chosen"]])
    ax.axhline(0.0, color="black", lw=0.8)
    _show_powers(ax, max(min(smallest, default=1.0), 1e-6))
    ax.set(xlabel="number of components K", ylabel=f"difference of {display_name(name)} from the chosen one")
    show_whole_numbers(ax)
    ax.legend(title="covariance", fontsize=8)
    return ax


def rivals(sweep: Any, criterion: str | None = None, *, most: int = 8, ax: Axes | None = None) -> Axes:
    """Draw the candidates that come closest to the chosen one: by how much, with two standard errors.

    The axis is linear and holds these candidates only, so that what decided can be read from it: the nearest one,
    and others as long as they are no more than ten times as far away. A candidate whose bar touches the line at zero
    cannot be distinguished from the chosen one.

    Parameters
    ----------
    sweep
        A :class:`SweepResult`, or its table.
    criterion
        For a table: the criterion by which the sweep chose; of a sweep it is known.
    most
        Largest number of candidates beside the chosen one.
    ax
        Axes to draw on; None: those of a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ConfigError
        If no other candidate was compared on the full data.

    Examples
    --------
    >>> ax = sg.plot.rivals(sweep)  # doctest: +SKIP
    """
    table = take_table(sweep)
    name = _take_criterion(sweep, None if isinstance(sweep, SweepResult) else criterion)
    others = [r for r in table if r["delta"] is not None and not r["chosen"] and r["outcome"] not in _POOR]
    if not others:
        raise ConfigError("no other candidate of this sweep was compared on the full data.")
    others = sorted(others, key=lambda r: float(r["delta"]))
    reach = _REACH * max(abs(others[0]["delta"]), 2.0 * (others[0]["delta_se"] or 0.0))
    near = [r for r in others if r["delta"] <= reach][:most]
    shown = [*(r for r in table if r["chosen"]), *near]
    ax = take_axes(ax, 5.5, 1.4 + 0.3 * len(shown))
    looks = {family: _choose_look(i) for i, family in enumerate(_group_by_structure(table))}
    for place, row in enumerate(shown):
        ax.errorbar(
            row["delta"], place, xerr=2.0 * (row["delta_se"] or 0.0), capsize=3.0, lw=1.4,
            **looks[row["covariance_type"]] | {"ms": 6},
        )  # fmt: skip
    ax.plot(0.0, 0, "o", ms=13, mfc="none", mec="black", mew=1.4, zorder=5)
    ax.axvline(0.0, color="black", lw=0.8, ls=":")
    ax.set_yticks(range(len(shown)), [r["candidate"] for r in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    if len(near) < len(others):
        following, text = others[len(near)], difference_format(name)
        ax.set_title(f"the next one, {following['candidate']}, is at {text.format(following['delta'])}", fontsize=9)
    ax.set(xlabel=f"{display_name(name)} above that of the chosen one (± 2 standard errors)")
    return ax


def gains(sweep: Any, *, ax: Axes | None = None) -> Axes:
    """Draw what every component gains over one less, in nats per row, with two standard errors.

    Parameters
    ----------
    sweep
        A :class:`SweepResult`, or its table.
    ax
        Axes to draw on; None: those of a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ConfigError
        If no two candidates of one structure can be compared.

    Examples
    --------
    >>> ax = sg.plot.gains(sweep)  # doctest: +SKIP
    """
    table = take_table(sweep)
    if all(row["gain"] is None for row in table):
        raise ConfigError("gains needs at least two values of K with the same covariance structure.")
    ax = take_axes(ax)
    groups = _group_by_structure(table)
    for i, (family, rows) in enumerate(groups.items()):
        points = [r for r in rows if r["gain"] is not None]
        ax.errorbar(
            [r["n_components"] + _shift(i, len(groups)) for r in points], [r["gain"] for r in points],
            [2.0 * r["gain_se"] for r in points], lw=1.2, capsize=2, label=family, **_choose_look(i),
        )  # fmt: skip
    ax.axhline(0.0, color="black", lw=0.8)
    _show_powers(ax, 1e-3)
    ax.set(xlabel="number of components K", ylabel="gain over K - 1, nats per row")
    show_whole_numbers(ax)
    ax.legend(title="covariance", fontsize=8, ncols=2)
    return ax


def _take_criterion(sweep: Any, criterion: str | None) -> str:
    given = criterion or str(getattr(sweep, "criterion", "bic"))
    name = base_criterion(given)
    if name not in CRITERIA:
        raise ConfigError(f"unknown criterion {given!r}. Known: {', '.join(CRITERIA)}.")
    return name


def _find_value(row: Mapping[str, Any], name: str) -> float | None:
    """Return a criterion of all rows; of a candidate that was beaten on the sample, its estimate."""
    value: float | None = row[name] if row[name] is not None else row.get(f"{name}_estimate")
    return value


def _group_by_structure(table: TableRows) -> dict[str, list[Mapping[str, Any]]]:
    """Return the candidates of every covariance structure by K, the structures in the order of the table."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(table, key=lambda r: r["n_components"]):
        groups.setdefault(row["covariance_type"], []).append(row)
    return {name: groups[name] for name in dict.fromkeys(r["covariance_type"] for r in table)}


def _choose_look(i: int) -> dict[str, Any]:
    return {"color": component_colour(i), "marker": MARKERS[i % len(MARKERS)], "ms": 4.5}


def _shift(i: int, number: int) -> float:
    """Return a shift along K, so that the error bars of the structures stand side by side."""
    return 0.06 * (i - 0.5 * (number - 1)) if number <= 6 else 0.0


def _show_powers(ax: Axes, threshold: float) -> None:
    """Make the vertical axis logarithmic beyond ``threshold`` on both sides, with room around what is drawn."""
    low, high = ax.dataLim.intervaly
    ax.set_yscale("symlog", linthresh=threshold)
    ax.set_ylim(min(-0.5 * threshold, 2.0 * low), max(threshold, 2.5 * high))


def _ring_chosen(ax: Axes, points: list[tuple[float, Any]]) -> None:
    ax.plot([k for k, _ in points], [v for _, v in points], "o", ms=13, mfc="none", mec="black", mew=1.4, zorder=5)
