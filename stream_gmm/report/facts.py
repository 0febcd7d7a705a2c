"""What a manager reads: one sentence, and the figures that it rests on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from stream_gmm.core.criteria import RULES, base_criterion, difference_format, display_name, value_format
from stream_gmm.core.display import count_noun
from stream_gmm.pipeline.drift_rule import CHANGED, DRIFTED, TOO_FEW
from stream_gmm.pipeline.job.monitor_stage import MONITOR
from stream_gmm.pipeline.job.run_folder import CANDIDATES, MODEL, RECORD, SCORED, TABLE
from stream_gmm.report.advice import find_near_ties
from stream_gmm.report.contents import RunContents

_DRIFT_WORDS = {
    DRIFTED: ("drifted", "the rows are no longer those that the model describes"),
    CHANGED: ("changed", "more than chance explains, but less than the threshold"),
    TOO_FEW: ("too few rows to tell", "fewer than 20 rows a parameter"),
}
_FILES = (
    (SCORED, "scored rows, as Parquet"),
    (MODEL, "the model"),
    (TABLE, "the sweep table"),
    (CANDIDATES, "the models of all candidates"),
    (MONITOR, "what the monitor found"),
    (RECORD, "the record of the run"),
)


@dataclass(frozen=True)
class Fact:
    """A figure: what it is, its value, and what it means; ``tone`` is ``warn``, ``good`` or nothing."""

    label: str
    value: str
    note: str = ""
    tone: str = ""


def find_runner_up(run: RunContents) -> Mapping[str, Any] | None:
    """Return the row of the best of the other candidates that were compared on the full data."""
    others = [
        row for row in run.table
        if not row["chosen"] and row["delta"] is not None and row["outcome"] in ("CONVERGED", "MAX_PASSES", "PRUNED")
    ]  # fmt: skip
    return min(others, key=lambda row: float(row["delta"]), default=None)


def write_sentence(run: RunContents) -> str:
    """Return the result in one sentence."""
    data, k, criterion = run.record["data"], run.model.n_components, run.record["criterion"]
    start = (
        f"{count_noun(k, 'component')} with {run.model.covariance_type} covariances "
        f"{'describes' if k == 1 else 'describe'} {count_noun(round(data['used']), 'row')} of "
        f"{count_noun(len(data['columns']), 'column')}"
    )
    if len(run.table) == 1:
        return f"{start}; no other candidate was tried."
    by = display_name(criterion)
    runner_up, near = find_runner_up(run), find_near_ties(run)
    if near:
        name = near[0]["candidate"]
        return f"{start} best by {by} of {len(run.table)} candidates, but {name} is as good within chance."
    if runner_up is None or criterion in RULES:
        return f"{start}, chosen by {by} among {len(run.table)} candidates."
    name = runner_up["candidate"]
    return f"{start} best by {by} of {len(run.table)} candidates; the next best, {name}, is clearly worse."


def collect_facts(run: RunContents) -> list[Fact]:
    """Return the figures behind the sentence: K, evidence, rows, outliers, drift, date, data, version."""
    data, config = run.record["data"], run.config["data"]
    used, read = round(data["used"]), data["rows"]
    facts = [
        Fact("components (K)", str(run.model.n_components), f"{run.model.covariance_type} covariances"),
        _describe_evidence(run),
        Fact("rows used", f"{used:,}", f"of {read:,}" if read != used else "all of them"),
        _describe_outliers(run),
        _describe_drift(run),
    ]
    if run.version is not None:
        date, _, time = run.version.created.partition("T")
        facts.append(Fact("fitted on", date, f"at {time[:5]} UTC"))
    names = [os.path.basename(p.rstrip("/")) or p for p in config["paths"]]
    columns = count_noun(len(data["columns"]), "column")
    facts.append(Fact("data", names[0] if len(names) == 1 else count_noun(len(names), "path"), columns))
    if (workers := run.record.get("workers", {})).get("place"):
        facts.append(Fact("computed by", count_noun(workers["count"], "worker"), workers["place"]))
    number = f"{run.version.name} of {run.versions}" if run.version is not None else "unnumbered"
    facts.append(Fact("version", number, f"model {run.model.digest[:12]}, stream-gmm {version('stream-gmm')}"))
    return facts


def _describe_evidence(run: RunContents) -> Fact:
    criterion, row = run.record["criterion"], find_runner_up(run)
    if row is None:
        return Fact("evidence", "none", "no other candidate was compared on all rows", "warn")
    size = difference_format(criterion).format(row["delta"])
    error = f" ± {value_format(criterion).format(row['delta_se'])}" if row["delta_se"] else ""
    name, near = display_name(base_criterion(criterion)), bool(find_near_ties(run))
    note = f"difference in {name} of the next best, {row['candidate']}{', ± standard error' if error else ''}"
    return Fact("evidence", size + error, f"a draw: {note}" if near else note, "warn" if near else "good")


def _describe_outliers(run: RunContents) -> Fact:
    if run.scored is None:
        return Fact("outliers", "not scored", f"threshold: log-density {run.model.threshold:.4g}")
    count, scored = run.scored["outliers"], max(run.scored["rows_scored"], 1)
    missing = run.scored["rows_not_scored"]
    note = f"{count / scored:.2%} of the rows; {run.model.outlier_quantile:.2%} were expected"
    return Fact("outliers", f"{count:,}", note + (f"; {missing:,} rows not scored" if missing else ""))


def _describe_drift(run: RunContents) -> Fact:
    if not run.monitored:
        return Fact("drift", "not monitored", "'stream-gmm monitor' compares new rows with the model")
    last = run.monitored[-1]
    value, meaning = _DRIFT_WORDS.get(last["status"], ("none", "new rows are as those of the fit"))
    note = f"{last['period']}: {meaning}; a refit would gain {last['refit_gain']:.2g} nats per row"
    return Fact("drift", value, note, "warn" if last["status"] == DRIFTED else "good" if value == "none" else "")


def list_outputs(run: RunContents) -> list[tuple[str, str]]:
    """Return the files that lie beside the report, as relative addresses, and what each holds."""
    return [(name, what) for name, what in _FILES if (run.folder / name).exists()]
