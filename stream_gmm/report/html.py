"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, StrictUndefined

from stream_gmm.core.criteria import base_criterion, difference_format, display_name, value_format
from stream_gmm.core.model.matching import match_components
from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult
from stream_gmm.io.store.container import write_atomically
from stream_gmm.io.store.models import load_model
from stream_gmm.io.store.tables import read_table
from stream_gmm.pipeline.job.run_folder import REPORT, SAMPLE, TABLE, TRUTH, read_run, update_record
from stream_gmm.pipeline.uncertainty.words import describe_bootstrap, format_component
from stream_gmm.plot.style import NOISE_COLOUR, component_colour
from stream_gmm.report.figures import draw_figures

COLUMNS = (
    ("candidate", "candidate", "{}"),
    ("parameters", "n_parameters", "{}"),
    ("log-likelihood per row", "mean_loglik", "{:.6f}"),
    ("BIC", "bic", "{:,.1f}"),
    ("difference", "delta", "{:+,.1f}"),
    ("standard error", "delta_se", "{:,.1f}"),
    ("AIC", "aic", "{:,.1f}"),
    ("ICL", "icl", "{:,.1f}"),
    ("steps", "n_iter", "{}"),
    ("passes", "passes", "{}"),
    ("smallest weight", "smallest_weight", "{:.4f}"),
    ("largest condition", "largest_condition", "{:.3g}"),
    ("held-out per row", "heldout", "{:.6f}"),
    ("behind, validation rows", "behind", "{:+.5f}"),
    ("its standard error", "behind_se", "{:.2g}"),
    ("gain over K - 1", "gain", "{:+.5f}"),
    ("its standard error", "gain_se", "{:.2g}"),
    ("start", "restart", "{}"),
    ("kernel", "kernel", "{}"),
    ("outcome", "outcome", "{}"),
    ("reason", "reason", "{}"),
)


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from the results in the folder of a run.

    Raises
    ------
    InputDataError
        If the folder is not that of a run.
    StorageError
        If it cannot be written.
    """
    state, record, model = read_run(folder)
    table = read_table(state / TABLE).to_pylist()
    sample = read_table(state / SAMPLE)
    rows = np.column_stack([sample[c].to_numpy() for c in sample.column_names])
    truth = load_model(state / TRUTH) if (state / TRUTH).exists() else None
    content = render(record, model, table, rows, truth).encode()
    update_record(folder, model.digest, lambda _: None, lambda staged: write_atomically(staged / REPORT, content))
    return folder / REPORT


def render(
    record: Mapping[str, Any],
    model: FitResult,
    table: Sequence[Mapping[str, Any]],
    rows: Array,
    truth: FitResult | None = None,
) -> str:
    """Return the report as HTML. Names from the data are escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(files("stream_gmm.report").joinpath("template.html").read_text())
    scored, columns = record.get("scored"), _select_columns(table, record["criterion"])
    return template.render(
        name=record["name"],
        chosen=record["chosen"],
        criterion=display_name(record["criterion"]),
        n_components=model.n_components,
        covariance_type=model.covariance_type,
        data=record["data"],
        sample_rows=len(rows),
        facts=_collect_facts(record, model),
        warnings=record["warnings"],
        why=record["why"],
        sure=describe_bootstrap(record["bootstrap"], record["chosen"]) if "bootstrap" in record else (),
        columns=[head for head, _, _ in columns],
        table=[_format_row(r, columns) for r in table],
        components=_format_components(model, scored, record.get("bootstrap")),
        sizes=bool(scored),
        truth=_compare_with_truth(model, truth),
        data_rows=_format_data(record["data"], model.labels),
        labels=model.labels,
        config=yaml.safe_dump(record["config"], sort_keys=False),
        digest=model.digest[:16],
        version=version("stream-gmm"),
        figures=draw_figures(record, model, table, rows, record["criterion"]),
    )


def _collect_facts(record: Mapping[str, Any], model: FitResult) -> list[tuple[str, str]]:
    out = [
        ("rows used", f"{record['data']['used']:,}"),
        ("log-likelihood per row", f"{model.lower_bound_:.4f}"),
        (display_name(base_criterion(record["criterion"])), _criterion_value(record, model)),
        ("converged", "yes" if model.converged_ else "no"),
        ("steps on the full data", str(model.n_iter_)),
        ("reads of the data, whole sweep", str(record["passes"])),
    ]
    scored = record.get("scored")
    if scored:
        out.append(("outliers flagged", f"{scored['outliers']:,}"))
        out.append(("rows not scored", f"{scored['rows_not_scored']:,}"))
    return out


def _criterion_value(record: Mapping[str, Any], model: FitResult) -> str:
    return value_format(record["criterion"]).format(getattr(model.criteria, base_criterion(record["criterion"])))


def _format(value: Any, value_format: str) -> str:
    return "" if value is None else value_format.format(value)


def _select_columns(table: Sequence[Mapping[str, Any]], criterion: str) -> list[tuple[str, str, str]]:
    """Return the columns in which any candidate has a value."""
    special = {"delta": difference_format(criterion), "delta_se": value_format(criterion)}
    shown = [c for c in COLUMNS if any(row[c[1]] is not None for row in table)]
    return [(head, key, special.get(key, usual)) for head, key, usual in shown]


def _format_cell(row: Mapping[str, Any], key: str, value_format: str) -> str:
    estimate = row.get(f"{key}_estimate")
    return _format(row[key], value_format) if estimate is None else f"≈ {estimate:,.0f}"


def _format_row(row: Mapping[str, Any], columns: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    return {
        "chosen": row["chosen"],
        "out": row["outcome"] not in ("CONVERGED", "MAX_PASSES"),
        "cells": [_format_cell(row, key, value_format) for _, key, value_format in columns],
    }


def _format_components(
    model: FitResult, scored: Mapping[str, Any] | None, bootstrap: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    out = []
    for k in range(model.n_components):
        size = [f"{scored['component_rows'][k]:,}"] if scored else []
        weight, *means = format_component(model, k, bootstrap)
        out.append({"colour": component_colour(k), "name": "", "cells": [weight, *size, *means]})
    if model.params.noise is not None:
        size = [f"{scored['noise_rows']:,}"] if scored else []
        cells = [f"{model.noise_weight_:.4f}", *size, *("" for _ in model.columns)]
        out.append({"colour": NOISE_COLOUR, "name": "noise", "cells": cells})
    return out


def _compare_with_truth(model: FitResult, truth: FitResult | None) -> list[list[str]]:
    if truth is None:
        return []
    return [
        [str(j), str(i), f"{truth.weights_[j]:.4f}", f"{model.weights_[i]:.4f}", f"{distance:.2e}"]
        for i, j, distance in match_components(model.params, truth.params)
    ]


def _format_data(data: Mapping[str, Any], labels: Sequence[str]) -> list[list[str]]:
    return [
        [name, *(f"{data[key][j]:.6g}" for key in ("mean", "sd", "low", "high")),
         *(f"{count:,}" for count in data["bad"][j])]
        for j, name in enumerate(labels)
    ]  # fmt: skip
