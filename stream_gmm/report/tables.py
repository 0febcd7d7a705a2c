"""Tables of the report: what is shown, what they are sorted by, and what a spreadsheet gets."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stream_gmm.core.criteria import difference_format, value_format
from stream_gmm.core.model.matching import match_components
from stream_gmm.pipeline.uncertainty.words import format_component
from stream_gmm.plot.style import NOISE_COLOUR, component_colour
from stream_gmm.report.contents import RunContents


@dataclass(frozen=True)
class Column:
    """A column of a table; ``wraps`` is for sentences, which take more than a line."""

    head: str
    numeric: bool = True
    wraps: bool = False


@dataclass(frozen=True)
class Cell:
    """What is shown, and the value behind it, by which the table is sorted and which the CSV has."""

    text: str
    value: str | float | int | None = None


@dataclass(frozen=True)
class Row:
    """A row; ``mark`` is ``chosen``, ``out`` or nothing, ``colour`` that of the component it is about."""

    cells: tuple[Cell, ...]
    mark: str = ""
    colour: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a name that is unique in the page."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def to_csv(self) -> str:
        """Return the table as CSV (RFC 4180), numbers with all their digits."""
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow([column.head for column in self.columns])
        for row in self.rows:
            writer.writerow([c.text if c.value is None and c.text else c.value for c in row.cells])
        return buffer.getvalue()

    @property
    def csv_url(self) -> str:
        """The CSV as a ``data:`` URL, which needs neither a server nor a script."""
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(self.to_csv().encode()).decode()


_COMPARISON = (
    ("candidate", "candidate", "{}"),
    ("K", "n_components", "{}"),
    ("difference", "delta", ""),
    ("standard error", "delta_se", ""),
    ("outcome", "outcome", "{}"),
    ("reason", "reason", "{}"),
    ("BIC", "bic", "{:,.1f}"),
    ("AIC", "aic", "{:,.1f}"),
    ("ICL", "icl", "{:,.1f}"),
    ("held-out per row", "heldout", "{:.6f}"),
)
_FITS = (
    ("candidate", "candidate", "{}"),
    ("parameters", "n_parameters", "{}"),
    ("log-likelihood per row", "mean_loglik", "{:.6f}"),
    ("behind, validation rows", "behind", "{:+.5f}"),
    ("its standard error", "behind_se", "{:.2g}"),
    ("gain over K - 1", "gain", "{:+.5f}"),
    ("standard error of the gain", "gain_se", "{:.2g}"),
    ("steps", "n_iter", "{}"),
    ("passes", "passes", "{}"),
    ("smallest weight", "smallest_weight", "{:.4f}"),
    ("largest condition", "largest_condition", "{:.3g}"),
    ("start", "restart", "{}"),
    ("kernel", "kernel", "{}"),
)
_TEXT = ("candidate", "outcome", "reason", "restart", "kernel")
_ADMISSIBLE = ("CONVERGED", "MAX_PASSES")


def tabulate_candidates(run: RunContents) -> list[Table]:
    """Return two tables, one row for each candidate, best first: how they compare, and how they were fitted."""
    criterion = run.record["criterion"]
    special = {"delta": difference_format(criterion), "delta_se": value_format(criterion)}
    ordered = sorted(run.table, key=_rank)
    out = []
    for name, caption, columns in (
        ("candidates", "The candidates, best first; ≈ marks estimates from the sample", _COMPARISON),
        ("fits", "How the candidates were fitted", _FITS),
    ):
        shown = [c for c in columns if any(row.get(c[1]) is not None for row in run.table)]
        rows = tuple(
            Row(
                tuple(_make_cell(row, key, special.get(key, text)) for _, key, text in shown),
                "chosen" if row["chosen"] else "" if row["outcome"] in _ADMISSIBLE else "out",
            )
            for row in ordered
        )
        heads = tuple(Column(head, key not in _TEXT, key == "reason") for head, key, _ in shown)
        out.append(Table(name, caption, heads, rows))
    return out


def _rank(row: Mapping[str, Any]) -> tuple[bool, bool, float]:
    """Return a key that puts the chosen candidate first, then by difference, and what was only estimated last."""
    delta = row["delta"] if row["delta"] is not None else row.get("bic_estimate")
    return not row["chosen"], row["delta"] is None, float("inf") if delta is None else float(delta)


def _make_cell(row: Mapping[str, Any], key: str, text: str) -> Cell:
    value = row.get(key)
    estimate = row.get(f"{key}_estimate")
    if value is None and estimate is not None:
        return Cell(f"≈ {estimate:,.0f}", float(estimate))
    return Cell("", None) if value is None else Cell(text.format(value), value)


def tabulate_means(run: RunContents) -> Table:
    """Return the means: one row for each column of the data, one column for each component."""
    model, bootstrap = run.model, run.record.get("bootstrap")
    words = [format_component(model, k, bootstrap)[1:] for k in range(model.n_components)]
    heads = (Column("column", numeric=False), *(Column(f"component {k}") for k in range(model.n_components)))
    rows = tuple(
        Row((Cell(name, name), *(Cell(words[k][j], float(mean)) for k, mean in enumerate(model.means_[:, j]))))
        for j, name in enumerate(model.labels)
    )
    return Table("means", "Means of the components, of the columns as they were fitted", heads, rows)


def tabulate_sizes(run: RunContents, headlines: Sequence[str], neighbours: Sequence[str]) -> Table:
    """Return the components: size, what marks each, and the one that it overlaps with most."""
    model, scored, bootstrap = run.model, run.scored, run.record.get("bootstrap")
    counts = [] if scored is None else [Column("rows")]
    heads = (
        Column("component", numeric=False), Column("weight"), *counts, Column("what marks it", False, True),
        Column("overlaps most with", False, True),
    )  # fmt: skip
    rows = []
    for k, weight in enumerate(model.weights_):
        size = [] if scored is None else [_count(scored["component_rows"][k])]
        cells = (
            Cell(str(k), k), Cell(format_component(model, k, bootstrap)[0], float(weight)), *size,
            Cell(headlines[k], headlines[k]), Cell(neighbours[k], neighbours[k]),
        )  # fmt: skip
        rows.append(Row(cells, colour=component_colour(k)))
    if model.params.noise is not None:
        size = [] if scored is None else [_count(scored["noise_rows"])]
        text = "uniform in the bounding box of the data: rows that no component explains"
        cells = (
            Cell("noise", "noise"), Cell(f"{model.noise_weight_:.4f}", model.noise_weight_), *size, Cell(text, text),
            Cell(""),
        )  # fmt: skip
        rows.append(Row(cells, colour=NOISE_COLOUR))
    return Table("components", "The components, by size", heads, tuple(rows))


def _count(number: int) -> Cell:
    return Cell(f"{number:,}", number)


def tabulate_truth(run: RunContents) -> Table | None:
    """Return the components beside those of a known truth; None without one."""
    if run.truth is None:
        return None
    heads = ("true component", "component", "true weight", "weight", "Bhattacharyya distance")
    rows = []
    for i, j, distance in match_components(run.model.params, run.truth.params):
        true, own = float(run.truth.weights_[j]), float(run.model.weights_[i])
        rows.append(Row((Cell(str(j), j), Cell(str(i), i), Cell(f"{true:.4f}", true), Cell(f"{own:.4f}", own),
                         Cell(f"{distance:.2e}", distance))))  # fmt: skip
    return Table("truth", "The components beside the truth", tuple(map(Column, heads)), tuple(rows))


def tabulate_data(run: RunContents) -> Table:
    """Return the columns of the data: moments, range, and values that cannot be used."""
    data = run.record["data"]
    heads = ("mean", "sd", "min", "max", "nulls", "NaN", "infinite", "too large")
    rows = []
    for j, name in enumerate(run.model.labels):
        numbers = [Cell(f"{data[key][j]:.6g}", data[key][j]) for key in ("mean", "sd", "low", "high")]
        rows.append(Row((Cell(name, name), *numbers, *map(_count, data["bad"][j]))))
    shown = (Column("column", numeric=False), *map(Column, heads))
    return Table("data", "The columns, over the rows used", shown, tuple(rows))


STRANGEST_ROWS, TOLD_COLUMNS = 10, 3


def tabulate_strangest(run: RunContents) -> Table:
    """Return the sample rows of lowest log-density, each with the columns in which its component is farthest."""
    model, scores, names = run.model, run.model.scores(run.rows), run.record["data"]["columns"]
    sd = np.sqrt(np.maximum(np.einsum("kjj->kj", model.params.dense_covariances), 1e-300))
    out = []
    for i in np.argsort(scores.log_density, kind="stable")[:STRANGEST_ROWS]:
        k, density = int(scores.component[i]), float(scores.log_density[i])
        nearest = k if k >= 0 else int(scores.proba[i].argmax())
        away = (run.fitted_rows[i] - model.means_[nearest]) / sd[nearest]
        told = np.argsort(-np.abs(away), kind="stable")[:TOLD_COLUMNS]
        words = ", ".join(f"{names[j]} = {run.rows[i, j]:.6g} ({away[j]:+.1f} sd)" for j in told)
        cells = (Cell(f"{density:.2f}", density), Cell(str(k) if k >= 0 else "noise", k), Cell(words, words))
        out.append(Row(cells, colour=component_colour(k) if k >= 0 else NOISE_COLOUR))
    heads = (Column("log-density"), Column("component"), Column("farthest from its component in", False, True))
    return Table("strangest", "The strangest rows of the sample", heads, tuple(out))


_DRIFT = (
    ("period", "period", "{}"),
    ("status", "status", "{}"),
    ("rows", "rows", "{:,}"),
    ("gain of a refit, nats per row", "refit_gain", "{:.3g}"),
    ("of it by chance", "chance_gain", "{:.3g}"),
    ("p-value", "p_value", "{:.3g}"),
    ("difference of log-density", "difference", "{:+.3g}"),
    ("standard error", "standard_error", "{:.2g}"),
    ("PSI", "psi", "{:.3g}"),
    ("KS", "ks", "{:.3g}"),
    ("outliers", "outlier_rate", "{:.2%}"),
)


def tabulate_drift(run: RunContents) -> Table | None:
    """Return what the monitor found, one row for each period; None where it has not run on this model."""
    if not run.monitored:
        return None
    rows = tuple(
        Row(tuple(_make_cell(r, key, text) for _, key, text in _DRIFT), "out" if r["status"] == "drifted" else "")
        for r in run.monitored
    )
    heads = tuple(Column(head, key not in ("period", "status")) for head, key, _ in _DRIFT)
    return Table("monitor", "New rows beside the model, all files of a period together", heads, rows)
