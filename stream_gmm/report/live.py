"""A page about a run that goes on: made of its ledger again and again, and reloaded by the browser."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stream_gmm.core.fit.em import Outcome
from stream_gmm.errors import InputDataError, ModelFileError, explain
from stream_gmm.extras import is_installed
from stream_gmm.io.store.container import write_atomically
from stream_gmm.io.store.lease import LEASE, is_lease_held, read_owner
from stream_gmm.pipeline.fit.grid import CandidateSpec
from stream_gmm.pipeline.job.run_folder import LEDGER, REPORT
from stream_gmm.pipeline.sweep.ledger import Entries, Ledger
from stream_gmm.pipeline.sweep.nested import choose_start
from stream_gmm.report.html import render_page, write_report
from stream_gmm.report.tables import Cell, Column, Row, Table

LIVE = "live.html"
EVERY_SECONDS = 5.0
_HEADS = ("candidate", "where it is", "steps", "log-likelihood per row", "BIC above the best", "still to be gained")


def follow_run(
    folder: Path,
    every: float = EVERY_SECONDS,
    on_page: Callable[[Path], object] = lambda _: None,
    sleep: Callable[[float], object] = time.sleep,
) -> Path:
    """Write ``live.html`` every few seconds until the run that writes to the folder ends, and then the report.

    Parameters
    ----------
    folder
        Folder of a run that goes on.
    every
        Seconds between two pages; the browser reloads as often.
    on_page
        Called with the path of the first page.
    sleep
        How to wait.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputDataError
        If no run writes to the folder, or the run has ended without results.
    StorageError
        If a page cannot be written.
    """
    if not is_lease_held(folder / LEASE):
        raise InputDataError(
            explain(
                f"no run is writing to {folder}",
                remedy="start one first, in another terminal; of a run that has ended, 'stream-gmm report' without "
                "--live writes the report",
            )
        )
    owner = read_owner(folder / LEASE)
    name, told = (owner.run or folder.name, owner.describe()) if owner else (folder.name, "")
    first = True
    while is_lease_held(folder / LEASE):
        page = render_live(read_newest_entries(folder), name=name, owner=told, every=every)
        write_atomically(folder / LIVE, page.encode())
        if first:
            on_page(folder / LIVE)
            first = False
        sleep(every)
    report = write_report(folder)
    page = render_live(read_newest_entries(folder), name=name, owner=told, report=REPORT)
    write_atomically(folder / LIVE, page.encode())
    return report


def read_newest_entries(folder: Path) -> Entries:
    """Return what the newest ledger of a run folder holds; nothing where none can be read yet."""
    ledgers = sorted((folder / LEDGER).glob("*.gmm"), key=lambda path: path.stat().st_mtime)
    try:
        return Ledger(ledgers[-1]).read() if ledgers else Entries()
    except ModelFileError:  # of another release, which this run will replace
        return Entries()


def render_live(entries: Entries, *, name: str, owner: str = "", every: float = 0.0, report: str = "") -> str:
    """Return the page of a sweep as far as it has come; with ``every`` it reloads, with ``report`` it has ended."""
    tracks = {c: (state, *entries.restarts.get(c, ())) for c, state in entries.states.items()}
    entries = replace(entries, states={c: choose_start(own) for c, own in tracks.items()})
    rows = list(_list_candidates(entries))
    known = [row["bic"] for row in rows if row["bic"] is not None]
    best = min(known, default=None)
    for row in rows:
        row["chosen"] = best is not None and row["bic"] == best
        row["delta"] = None if row["bic"] is None or best is None else row["bic"] - best
    charts = []
    if any(row["bic"] is not None for row in rows) and len(rows) > 1 and is_installed("matplotlib"):
        from stream_gmm import plot
        from stream_gmm.report.svg import make_axes, make_chart

        charts.append(make_chart(
            plot.differences(rows, "bic", ax=make_axes(6.4, 3.8)), "so-far", "BIC so far",
            "BIC of every candidate at its last point, as difference from the best so far, against K.",
            "BIC at the last point of every candidate, above the best so far (ringed). Hollow marks are candidates "
            "that have not gone beyond the sample: their values are those of the sample, and a little too good.",
        ))  # fmt: skip
    return render_page(
        "live.html", name=name, owner=owner, every=every, report=report, stage=_describe_stage(entries, rows),
        charts=charts, table=_tabulate(rows),
    )  # fmt: skip


def _list_candidates(entries: Entries) -> Iterator[dict[str, Any]]:
    """Yield a row for each candidate, as the sweep table has it, with what the ledger knows by now."""
    n = entries.profile.moments.rows if entries.profile is not None else 0.0
    for spec in entries.grid or tuple(entries.outcomes):
        state, outcome = entries.states.get(spec), entries.outcomes.get(spec)
        row: dict[str, Any] = {
            "candidate": spec.name, "n_components": spec.n_components, "covariance_type": spec.covariance_type,
            "outcome": "", "place": "waiting", "steps": None, "loglik": None, "gain_left": None, "bic": None,
            "bic_estimate": None, "delta_se": None,
        }  # fmt: skip
        if state is not None and state.history:
            loglik = state.history[-1]
            row |= {
                "loglik": loglik, "steps": state.n_iter, "bic": _compute_bic(loglik, state.params, n),
                "gain_left": next((g for g in reversed(state.predicted_gains) if np.isfinite(g)), None),
            }  # fmt: skip
        elif outcome is not None and outcome.fit.history:
            row |= {"loglik": outcome.fit.history[-1], "steps": 0}
            row["bic_estimate"] = _compute_bic(outcome.fit.history[-1], outcome.fit.params, n)
        row["place"], row["outcome"] = _describe_place(entries, spec)
        yield row


def _compute_bic(loglik: float, params: Any, n: float) -> float | None:
    return None if params is None or not n else float(params.n_parameters * np.log(n) - 2.0 * n * loglik)


def _describe_place(entries: Entries, spec: CandidateSpec) -> tuple[str, str]:
    """Return where a candidate is, in words, and its outcome, empty while it has none."""
    state, outcome = entries.states.get(spec), entries.outcomes.get(spec)
    if state is not None and state.outcome is not None:
        return state.reason or state.outcome.value, state.outcome.name
    if state is not None and state.history:
        return "in the full passes", ""
    if outcome is not None and outcome.pruned_reason:
        return outcome.pruned_reason, Outcome.PRUNED.name
    return ("fitted on the sample", "") if outcome is not None else ("waiting", "")


def _describe_stage(entries: Entries, rows: list[dict[str, Any]]) -> str:
    if entries.profile is None:
        return "The data are being read for the first time."
    data = f"{entries.profile.fit_rows:,} rows of {len(entries.profile.columns)} columns; "
    if not entries.outcomes:
        return f"{data}{len(rows)} candidates are being fitted on the sample; this page says more when all are."
    if not entries.states:
        return f"{data}{len(entries.outcomes)} of {len(rows)} candidates are fitted on the sample."
    passes = max(state.passes for state in entries.states.values())
    live = sum(not row["outcome"] for row in rows)
    return f"{data}{passes} full passes so far; {live} of {len(rows)} candidates are still in the race."


def _tabulate(rows: list[dict[str, Any]]) -> Table:
    def order(row: Mapping[str, Any]) -> tuple[bool, float]:
        value = row["bic"] if row["bic"] is not None else row["bic_estimate"]
        return row["bic"] is None, float("inf") if value is None else float(value)

    out = []
    for row in sorted(rows, key=order):
        number = [
            Cell("") if row[key] is None else Cell(text.format(row[key]), row[key])
            for key, text in (("steps", "{}"), ("loglik", "{:.6f}"), ("delta", "{:+,.1f}"), ("gain_left", "{:.2g}"))
        ]
        cells = (Cell(row["candidate"], row["candidate"]), Cell(row["place"], row["place"]), *number)
        out.append(Row(cells, "out" if row["outcome"] == Outcome.PRUNED.name else ""))
    heads = tuple(Column(head, i > 1, i == 1) for i, head in enumerate(_HEADS))
    return Table("race", "The candidates, best first", heads, tuple(out))
