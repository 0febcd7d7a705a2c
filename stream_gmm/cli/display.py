"""What a person sees: a progress display on a terminal, plain lines in a log, tables at the end."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from stream_gmm.core.criteria import base_criterion, difference_format, display_name, value_format
from stream_gmm.core.display import count_noun
from stream_gmm.core.model.matching import match_components
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.oddities import find_atoms
from stream_gmm.errors import StorageError
from stream_gmm.io.sink.targets import open_target
from stream_gmm.io.store.models import load_model
from stream_gmm.io.store.tables import read_table
from stream_gmm.pipeline.job.plan import Plan
from stream_gmm.pipeline.job.run_folder import (
    CANDIDATES,
    MODEL,
    REPORT,
    TABLE,
    TRUTH,
    locate_scores,
    read_catalog,
    read_run,
)
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.passes.progress import Listener, Progress
from stream_gmm.pipeline.uncertainty.words import describe_bootstrap, format_component

LINE_SECONDS = 10.0
FINISHED_LINE_SECONDS = 1.0
MOST_ROWS = 25
"""Candidates that a terminal shows."""


def _format_quantity(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}" if value >= 1.0 else f"{value:.1g}"


def _describe_stage(p: Progress) -> str:
    return f"{p.stage} {p.number}" if p.stage in ("fit", "mini-batch") else p.stage


def _describe_progress(p: Progress) -> str:
    live = f"{p.live} live · " if p.live else ""
    note = f" · {p.note}" if p.note else ""
    known = not p.finished and math.isfinite(p.seconds_left)
    left = f" · {_format_duration(p.seconds_left)} left" if known else ""
    return f"{live}{_format_quantity(p.rows_per_second)} {p.unit}/s{left}{note}"


def _format_duration(seconds: float) -> str:
    if seconds < 90.0:
        return f"{max(seconds, 1.0):.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 5400.0 else f"{seconds / 3600.0:.1f} h"


class LogLines:
    """Plain lines for a log: one at the end of a pass (at most one a second), one every ten within.

    At the start of a stage there is nothing to tell, neither a speed nor a time left.
    """

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._stage = ""

    def __call__(self, p: Progress) -> None:
        """Print a line if it is time for one."""
        if not p.done and not p.finished:
            return
        now = time.monotonic()
        wait = FINISHED_LINE_SECONDS if p.finished else LINE_SECONDS
        if now - self._last < wait and not (p.finished and p.stage != self._stage):
            return
        self._last, self._stage = now, p.stage
        share = 100.0 * p.done / max(p.total, 1)
        print(
            f"{time.strftime('%H:%M:%S')} {_describe_stage(p):<14} {share:3.0f} % · {_describe_progress(p)}",
            flush=True,
        )


class LiveLine:
    """One line on a terminal that is redrawn."""

    def __init__(self, bar: RichProgress) -> None:
        self._bar = bar
        self._task = bar.add_task("", details="", total=1)

    def __call__(self, p: Progress) -> None:
        """Draw."""
        self._bar.update(
            self._task,
            description=_describe_stage(p),
            completed=p.done,
            total=max(p.total, 1),
            details=_describe_progress(p),
        )


@contextmanager
def progress_display(console: Console | None = None) -> Iterator[Listener]:
    """Return a listener for the output: a live line on a terminal, plain lines in a log."""
    console = console or Console()
    if not console.is_terminal:
        yield LogLines()
        return
    columns = (
        TextColumn("{task.description:<14}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[details]}"),
    )  # fmt: skip
    with RichProgress(*columns, console=console, transient=True) as bar:
        yield LiveLine(bar)


def make_console() -> Console:
    """Return the console for results; wide enough for the tables in a log."""
    width = None if sys.stdout.isatty() else 150
    # Names of columns and paths may look like markup: 'exclude_columns: [skin]' would lose what is in brackets.
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


def _warn(console: Console, warning: str) -> None:
    console.print(Text.assemble(("warning:", "yellow"), " ", warning), soft_wrap=True)


def show_plan(plan: Plan) -> None:
    """Print what a run will need."""
    for line in plan.describe():
        print(line, flush=True)


def show_run(folder: Path, console: Console | None = None) -> None:
    """Print the results of a run: sweep table, chosen model, sizes, truth, and the paths of its files."""
    console = console or make_console()
    state, record, model = read_run(folder)
    console.print(_sweep_table(record, read_table(state / TABLE).to_pylist()))
    console.print(" ".join(record["why"]), soft_wrap=True)
    show_model(model, console, record.get("scored"), record.get("bootstrap"))
    for sentence in describe_bootstrap(record["bootstrap"], record["chosen"]) if "bootstrap" in record else ():
        console.print(sentence, soft_wrap=True)
    reused = f"; {record['reused']} candidates were finished before" if record["reused"] else ""
    console.print(f"reads of the data for the whole sweep: {record['passes']}{reused}")
    if (state / TRUTH).exists():
        console.print(_truth_table(model, load_model(state / TRUTH)))
    for warning in dict.fromkeys(record["warnings"]):
        _warn(console, warning)
    _show_versions(folder, console)
    scored = open_target(locate_scores(folder, record))
    with contextlib.suppress(StorageError):  # results are shown, even if a store does not answer
        if (scored.read_manifest() or {}).get("model_digest") == model.digest:
            console.print(f"{'scored rows':<12} {scored.shown}", soft_wrap=True)
    for what, name in (("model", MODEL), ("report", REPORT), ("sweep table", TABLE),
                       ("candidates", CANDIDATES)):  # fmt: skip
        if (folder / name).exists():
            console.print(f"{what:<12} {folder / name}", soft_wrap=True)


def _show_versions(folder: Path, console: Console) -> None:
    catalog = read_catalog(folder)
    console.print(f"version      {catalog.champion}, the champion of {len(catalog.versions)}")
    if catalog.challenger is not None:
        challenger = catalog.find(catalog.challenger)
        console.print(
            f"challenger   {challenger.name}: {challenger.chosen}; 'stream-gmm diff {folder} champion challenger' "
            f"compares them, and 'stream-gmm promote {folder} challenger' puts it in use",
            soft_wrap=True,
        )


def _sweep_table(record: Mapping[str, Any], rows: list[dict[str, Any]]) -> Table:
    name = base_criterion(record["criterion"])
    table = Table(
        title=f"{record['name']}: sweep over {record['data']['used']:,} rows, best first by {display_name(name)}"
    )
    heads = (
        "candidate", "parameters", "log-lik / row", display_name(name), "difference", "std. error", "steps",
        "outcome", "reason",
    )  # fmt: skip
    for head in heads:
        table.add_column(head, justify="left" if head in ("candidate", "outcome", "reason") else "right")
    shown = sorted((r for r in rows if r["delta"] is not None or r["chosen"]), key=lambda r: r["delta"] or 0.0)
    for row in shown[:MOST_ROWS]:
        cells = (
            row["candidate"] + (" *" if row["chosen"] else ""),
            _format_cell(row["n_parameters"], "{}"),
            _format_cell(row["mean_loglik"], "{:.5f}"),
            _format_cell(row[name], value_format(name)),
            _format_cell(row["delta"], difference_format(name)),
            _format_cell(row["delta_se"], value_format(name)),
            _format_cell(row["n_iter"], "{}"),
            row["outcome"], row["reason"],
        )  # fmt: skip
        table.add_row(*cells, style="bold" if row["chosen"] else None)
    if len(rows) > len(shown[:MOST_ROWS]):
        table.caption = f"{len(rows) - len(shown[:MOST_ROWS])} more, most of them dropped on the sample: {TABLE}"
    return table


def _format_cell(value: Any, value_format: str) -> str:
    return "" if value is None else value_format.format(value)


def show_model(
    model: FitResult,
    console: Console,
    scored: Mapping[str, Any] | None = None,
    bootstrap: Mapping[str, Any] | None = None,
) -> None:
    """Print a model: structure, outcome, weights, sizes and means; with their standard errors, if there are any."""
    state = "converged" if model.converged_ else f"not converged ({model.outcome.name})"
    steps = f"{count_noun(model.n_iter_, 'step')} from the start" if model.n_iter_ else "no step from the start"
    passes = count_noun(model.passes, "pass", "passes")
    facts = (
        f": {state}, {steps}, {passes} over the data; log-likelihood {model.lower_bound_:.6f} per row; outliers "
        f"below log-density {model.threshold:.4f}"
    )
    name = f"{model.covariance_type}, K = {model.n_components}"
    console.print(Text.assemble((name, "bold"), facts), soft_wrap=True)
    table = Table()
    for head in ("component", "weight", *(["rows"] if scored else []), *(f"mean {c}" for c in model.labels)):
        table.add_column(head, justify="right")
    for k in range(model.n_components):
        size = [f"{scored['component_rows'][k]:,}"] if scored else []
        weight, *means = format_component(model, k, bootstrap)
        table.add_row(str(k), weight, *size, *means)
    if model.params.noise is not None:
        size = [f"{scored['noise_rows']:,}"] if scored else []
        table.add_row("noise", f"{model.noise_weight_:.4f}", *size, *("" for _ in model.columns))
    console.print(table)
    if model.transforms:
        for k, medians in enumerate(model.medians_):
            named = ", ".join(f"{c} = {m:.6g}" for c, m in zip(model.columns, medians, strict=True))
            console.print(f"medians of component {k}: {named}", soft_wrap=True)
    if model.constants:
        values = ", ".join(f"{c.name} = {c.value:.6g}" for c in model.constants)
        console.print(f"constant in the fit, and not among its columns: {values}", soft_wrap=True)
    if scored:
        console.print(
            f"{scored['rows_out']:,} rows scored into {len(scored['component_rows'])} components, "
            f"{scored['outliers']:,} outliers, {scored['rows_not_scored']:,} rows not scored"
        )
        for warning in scored.get("warnings", ()):
            console.print(f"warning about the scored data: {warning}", soft_wrap=True)


def _truth_table(model: FitResult, truth: FitResult) -> Table:
    table = Table(
        title=f"beside the truth: {truth.covariance_type}, K = {truth.n_components} "
        f"(chosen: {model.covariance_type}, K = {model.n_components})"
    )
    for head in (
        "true component",
        "component",
        "true weight",
        "weight",
        "largest mean error, sd",
        "Bhattacharyya distance",
    ):
        table.add_column(head, justify="right")
    sd = truth.params.dense_covariances.diagonal(axis1=1, axis2=2) ** 0.5
    for i, j, distance in match_components(model.params, truth.params):
        error = float((abs(model.means_[i] - truth.means_[j]) / sd[j]).max())
        table.add_row(
            str(j), str(i), f"{truth.weights_[j]:.4f}", f"{model.weights_[i]:.4f}", f"{error:.4f}", f"{distance:.2e}"
        )
    return table


def show_model_file(model: FitResult) -> None:
    """Print all that a model file holds."""
    console, c = make_console(), model.criteria
    show_model(model, console)
    console.print(
        f"BIC {c.bic:,.2f} · AIC {c.aic:,.2f} · ICL {c.icl:,.2f} · {c.n_parameters} parameters · {c.n_rows:,.0f} rows"
    )
    for name, value in model.provenance.items():
        console.print(f"{name:<18} {value}", soft_wrap=True)
    for kind, lines in (("warning", model.warnings), ("event", model.events)):
        for line in lines:
            console.print(f"{kind}: {line}", soft_wrap=True)
    console.print(f"{'digest':<18} {model.digest}", soft_wrap=True)


def show_profile(profile: Profile, console: Console) -> None:
    """Print the summary of a profile: counts, ranges, repeated values, warnings."""
    read = f" of {profile.total_rows:,}" if profile.is_partial else ""
    table = Table(title=f"{profile.rows:,}{read} rows read, {profile.fit_rows:,} can be used")
    bad, measured = ("null", "NaN", "infinite", "too large"), ("min", "mean", "sd", "max")
    heads = (*bad, *measured, "most frequent", "of the sample", "alike in a leaf")
    table.add_column("column")
    for head in heads:
        table.add_column(head, justify="right")
    alike = profile.row_order.correlations(profile.moments)
    for j, (name, atom) in enumerate(zip(profile.labels, find_atoms(profile.sample.rows), strict=True)):
        values = (profile.low[j], profile.mean[j], profile.variances[j] ** 0.5, profile.high[j])
        table.add_row(
            name, *(f"{c:,}" for c in profile.bad[j]), *(f"{v:.5g}" for v in values),
            f"{atom.value:.5g}", f"{100 * atom.share:.1f} %", f"{alike[j]:.3f}",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"sample: {len(profile.sample.rows):,} rows, {'from random leaves' if profile.is_partial else 'uniform'}"
    )
    for warning in profile.warnings:
        _warn(console, warning)
