"""Whether a published scored table is as it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stream_gmm.errors import InputDataError, StorageError
from stream_gmm.io.sink.places import Place, is_intact, open_place
from stream_gmm.io.sink.reports import PartReport, report_from_json
from stream_gmm.io.sink.targets import Target
from stream_gmm.io.source.files import open_parquet


@dataclass(frozen=True)
class Problem:
    """What is wrong, and in which file."""

    path: str
    what: str


@dataclass(frozen=True)
class CheckedScores:
    """What was looked at, and what is wrong."""

    files: int
    rows: int
    bytes: int
    problems: tuple[Problem, ...]


_SUMS = ("rows_in", "rows_out", "rows_scored", "outliers")


def check_scores(target: Target) -> CheckedScores | None:
    """Compare every file of a scored table with its manifest; None if nothing is published there.

    Size and SHA-256 of each file, its rows by the footer, its schema and the digest of the model in it; and the
    totals of the manifest with the sums over its files.
    """
    try:
        manifest = target.read_manifest()
        where = target.locate()
    except StorageError as error:
        return CheckedScores(0, 0, 0, (Problem(str(target.shown), str(error)),))
    if manifest is None:
        return None
    place, problems = open_place(where), []
    try:
        reports = [report_from_json(part) for part in manifest["parts"]]
        totals = {name: sum(getattr(r, name) for r in reports) for name in _SUMS}
        wrong = [
            f"{name} is {manifest[name]:,}, and {n:,} in its files"
            for name, n in totals.items()
            if n != manifest[name]
        ]
    except (KeyError, TypeError) as error:
        return CheckedScores(0, 0, 0, (Problem(place.locate("_manifest.json"), f"is damaged: {error!r}"),))
    problems += [Problem(place.locate("_manifest.json"), what) for what in wrong]
    schema: pa.Schema | None = None
    for report in reports:
        what, found = _check_part(place, report, manifest, schema)
        schema = schema or found
        problems += [Problem(place.locate(report.path), w) for w in what]
    return CheckedScores(len(reports), totals["rows_out"], sum(r.bytes for r in reports), tuple(problems))


def _check_part(
    place: Place, report: PartReport, manifest: Mapping[str, Any], schema: pa.Schema | None
) -> tuple[list[str], pa.Schema | None]:
    """Return what is wrong with a file, and its schema."""
    try:
        size = place.find_size(report.path)
        if size is None:
            return ["is missing"], None
        if size != report.bytes:
            return [f"has {size:,} bytes, and {report.bytes:,} were written"], None
        if not is_intact(place, report.path, report.bytes, report.sha256):
            return ["its SHA-256 does not match"], None
        with open_parquet(place.locate(report.path)) as parquet:
            footer, found = parquet.metadata, parquet.schema_arrow
    except (StorageError, InputDataError) as error:
        return [str(error)], None
    out = []
    groups = sum(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
    if not footer.num_rows == groups == report.rows_out:
        out.append(
            f"has {footer.num_rows:,} rows, {groups:,} in its row groups, and {report.rows_out:,} were written"
        )
    if schema is not None and not found.equals(schema):
        out.append("has another schema than the first file")
    digest = (found.metadata or {}).get(b"stream_gmm.model_digest", b"").decode()
    named = report.model or manifest["model_digest"]  # files of earlier models may have been kept
    if digest != named:
        out.append(f"was scored by the model {digest[:12]}, and the manifest names {named[:12]}")
    return out, found
