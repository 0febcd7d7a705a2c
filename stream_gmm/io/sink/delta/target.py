"""A Delta table as the place of a scored table: one transaction makes the files of a job its rows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from stream_gmm.errors import ConfigError, StorageError, explain
from stream_gmm.extras import import_extra
from stream_gmm.faults import fault_site
from stream_gmm.io.sink.columns import Layout, ScoreColumn, make_table_schema
from stream_gmm.io.sink.delta.log import (
    MANIFESTS,
    RUN_FOLDER,
    TableState,
    commit,
    list_run_folders,
    parse_partition,
    read_manifests,
    read_state,
    was_applied,
    write_manifest,
)
from stream_gmm.io.sink.delta.types import conform_columns, find_delta_type
from stream_gmm.io.sink.objects.lease import CLAIMS, PROBE, hold_prefix
from stream_gmm.io.sink.places import ObjectPlace, Place, open_place
from stream_gmm.io.sink.publish import lease_path
from stream_gmm.io.sink.reports import REPORTS, PartReport
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.source.files import is_uri, redact
from stream_gmm.io.source.tables.delta import is_delta_table
from stream_gmm.io.store.lease import hold_folder

REPLACE, PARTITIONS, APPEND = "replace", "partitions", "append"
MODEL = "_model.gmm"
_SUMS = ("rows_in", "rows_out", "rows_scored", "outliers", "loglik")


@dataclass(frozen=True)
class DeltaTarget:
    """A Delta table in a folder or an object store, and what a job replaces there."""

    table: str
    write: str = REPLACE
    """``replace``: all rows; ``partitions``: those of the partitions that the job writes; ``append``: none."""

    @property
    def shown(self) -> str | Path:
        return redact(self.table) if is_uri(self.table) else Path(self.table)

    @property
    def _place(self) -> Place:
        return open_place(self.table)

    def hold(self, wait: float) -> contextlib.AbstractContextManager[None]:
        if is_uri(self.table):
            return hold_prefix(ObjectPlace(self.table), wait=wait)
        return hold_folder(Path(self.table), wait=wait, lease=lease_path(Path(self.table)))

    def check(self, inputs: Sequence[str]) -> None:
        import_extra("deltalake", f"a Delta table ({self.shown})")
        place = self._place
        if isinstance(place, ObjectPlace):
            root = redact(self.table) + "/"
            inside = [path for path in inputs if redact(path).startswith(root)]
            place.write(PROBE, b"")  # so that missing rights are found before all the work
            place.remove(PROBE)
            found = {name.partition("/")[0] for name in place.list()} - {CLAIMS}
        else:
            folder = Path(self.table)
            inside = [path for path in inputs if folder.resolve() in Path(path).resolve().parents]
            if folder.exists() and not folder.is_dir():
                raise StorageError(f"cannot write a Delta table to {folder}, which is a file.")
            found = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
        if inside:
            raise StorageError(
                explain(
                    f"the Delta table {self.shown} holds the input file {redact(inside[0])}",
                    why="the rows of a table would be replaced by their own scores",
                    remedy="write to a table of its own",
                )
            )
        foreign = sorted(n for n in found if n != MANIFESTS and not RUN_FOLDER.fullmatch(n))
        if read_state(self.table) is None and foreign:
            raise StorageError(
                explain(
                    f"{self.shown} exists and is no Delta table: it holds {', '.join(foreign[:3])}",
                    remedy="give another folder, or move these files away",
                )
            )

    def prepare(self, dataset: Dataset, layout: Layout, columns: Sequence[ScoreColumn] | None) -> Dataset:
        """Return the data set with types that the table has; None for ``columns``: they are not known yet.

        Raises
        ------
        ConfigError
            If the table has other columns or partitions than the scores.
        """
        import_extra("deltalake", f"a Delta table ({self.shown})")
        if self.write == PARTITIONS and not layout.partition_by:
            raise ConfigError(
                explain(
                    "score.write: partitions replaces the partitions that rows are written to, and there are none",
                    remedy="set score.partition_by, or score.write to replace or append",
                )
            )
        dataset = conform_columns(dataset, layout.passthrough, layout.partition_by)
        state = read_state(self.table)
        if state is None:
            return dataset
        if state.partition_by != tuple(layout.partition_by):
            raise ConfigError(
                explain(
                    f"the Delta table {self.shown} is partitioned by {', '.join(state.partition_by) or 'nothing'}, "
                    f"and the scores by {', '.join(layout.partition_by) or 'nothing'}",
                    remedy="set score.partition_by to that of the table, or give another table",
                )
            )
        there = {f.name: find_delta_type(f.type) for f in state.schema}
        ours = {f.name: find_delta_type(f.type) for f in make_table_schema(dataset, layout, columns or ())}
        if columns is None:  # the names of the score columns depend on the model
            there = {name: kind for name, kind in there.items() if name in ours}
        problems = [
            *(f"'{n}' is only in the table" for n in there if n not in ours),
            *(f"'{n}' is only in the scores" for n in ours if n not in there),
            *(
                f"'{n}' is {there[n]} there, and {kind} in the scores"
                for n, kind in ours.items()
                if there.get(n, kind) != kind
            ),
        ]  # fmt: skip
        if problems:
            raise ConfigError(
                explain(
                    f"the Delta table {self.shown} has other columns than the scores: {'; '.join(problems[:5])}",
                    why="the schema of a table is kept",
                    remedy="give another table, or choose the columns by score.passthrough; with score.proba: list "
                    "the columns do not depend on the number of components",
                )
            )
        return dataset

    def find_job(self, job: str) -> dict[str, Any] | None:
        """Return the manifest of a job whose rows are in the table; None if they are not, or not as it left them."""
        state = read_state(self.table)
        if state is None:
            return None
        folders = [f for f in list_run_folders(self._place, state) if f.startswith(f"run-{job[:16]}-")]
        applied = self.write == APPEND and was_applied(state, job)
        if applied and not folders:  # the table was compacted since
            folders = self._list_manifests(job)
        for manifest in read_manifests(self._place, folders):
            paths = {part["path"] for part in manifest["parts"]}
            if manifest.get("job") != job:
                continue
            if applied or (paths == set(state.files) if self.write == REPLACE else paths <= set(state.files)):
                return {**manifest, "applied": applied}
        return None

    def _list_manifests(self, job: str) -> list[str]:
        place = self._place
        if isinstance(place, ObjectPlace):
            names = [name.rsplit("/", 1)[-1] for name in place.list(MANIFESTS)]
        else:
            names = os.listdir(Path(self.table) / MANIFESTS)
        return [n.removesuffix(".json") for n in names if n.startswith(f"run-{job[:16]}-") and n.endswith(".json")]

    def read_manifest(self) -> dict[str, Any] | None:
        """Return the manifest of the rows in the table: of one job, or of all whose files it has, added up."""
        if not is_delta_table(self.table) or (state := read_state(self.table)) is None:
            return None
        manifests = read_manifests(self._place, list_run_folders(self._place, state))
        if not manifests:
            return None
        parts: dict[str, dict[str, Any]] = {}
        for manifest in manifests:
            for part in manifest["parts"]:
                if part["path"] in state.files:
                    parts.setdefault(part["path"], {"model": manifest["model_digest"], **part})
        newest = manifests[0]
        if len(parts) == len(newest["parts"]) and all(p["path"] in parts for p in newest["parts"]):
            return newest
        found = list(parts.values())
        sums = {name: sum(p[name] for p in found) for name in _SUMS}
        k = max((len(p["component_rows"]) for p in found), default=0)
        counts = [sum(p["component_rows"][i] for p in found if i < len(p["component_rows"])) for i in range(k)]
        sums |= {
            "rows_not_scored": sums["rows_out"] - sums["rows_scored"],
            "noise_rows": sums["rows_scored"] - sum(counts),
            "component_rows": counts,
        }
        return {**newest, **sums, "job": "", "data_fingerprint": "", "parts": found}

    def locate(self) -> str:
        return self.table

    @contextlib.contextmanager
    def open_staging(self, job: str) -> Iterator[str]:
        # The version is in the name, so that files of an earlier version are never written again.
        state = read_state(self.table)
        folder = f"run-{job[:16]}-v{state.version + 1 if state else 0}"
        place = self._place
        if isinstance(place, ObjectPlace):
            yield place.below(folder).uri
            return
        try:
            for name in (f"{folder}/{REPORTS}", MANIFESTS):
                (Path(self.table) / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                explain(f"cannot write to {self.table}", why=str(error), remedy="check the rights of the folder")
            ) from error
        yield str(Path(self.table) / folder)

    def strip_folder(self, path: str) -> str:
        folder, _, name = path.partition("/")
        return name if RUN_FOLDER.fullmatch(folder) else path

    def reuse(self, reports: Sequence[PartReport], staging: str, *, required: bool = False) -> list[PartReport]:
        """Return the files that stay as they are: those that hold rows of the table now."""
        del staging, required
        state = read_state(self.table)
        files = {} if state is None else state.files
        return [r for r in reports if r.path in files and files[r.path][0] == r.bytes]

    def publish(self, staging: str, manifest: Mapping[str, Any], model: bytes, schema: pa.Schema) -> None:
        place, folder = self._place, staging.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
        state = read_state(self.table)
        files: Mapping[str, Any] = {} if state is None else state.files
        parts = []
        for part in manifest["parts"]:
            is_kept = part["path"] in files and self.strip_folder(part["path"]) != part["path"]
            parts.append(part if is_kept else {**part, "path": f"{folder}/{part['path']}"})
        added = {p["path"]: (p["bytes"], p["rows_out"]) for p in parts if p["path"] not in files}
        names = tuple(manifest["layout"]["partition_by"])
        removed = self._choose_removed(state, parts, [parse_partition(path, names) for path in added])
        place.write(f"{folder}/{MODEL}", model)
        fault_site("score")
        write_manifest(place, folder, {**manifest, "parts": parts})
        fault_site("commit")
        if added or removed:
            commit(self.table, state, schema, names, added, removed, manifest["job"], folder)
        with contextlib.suppress(OSError, StorageError):  # notes of a job that is over
            _remove_notes(place, f"{folder}/{REPORTS}")

    def _choose_removed(
        self, state: TableState | None, parts: Sequence[Mapping[str, Any]], written: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        """Return the files whose rows are replaced."""
        if state is None or self.write == APPEND:
            return []
        kept = {part["path"] for part in parts}
        others = [path for path in state.files if path not in kept]
        if self.write == REPLACE:
            return others
        return [path for path in others if dict(state.files[path][1]) in [dict(w) for w in written]]

    def tidy(self) -> None:
        """Leave old files to a vacuum: readers of earlier versions may need them."""


def _remove_notes(place: Place, name: str) -> None:
    if isinstance(place, ObjectPlace):
        place.remove_folder(name)
    else:
        folder = Path(place.locate(name))
        for note in folder.iterdir():
            note.unlink()
        folder.rmdir()
