"""Transactions of a Delta table, and the manifests of the jobs that wrote to it.

::

    table/_delta_log/00000000000000000007.json        a version: which files hold the rows
    table/run-0123456789abcdef-v7/part-000.parquet    files of a job, in a folder of its own, never changed
    table/_stream_gmm/run-0123456789abcdef-v7.json    the manifest of that job: rows, digests, SHA-256 of its files

Files and manifest are there before the transaction, and nobody sees them without it.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from stream_gmm.errors import StorageError, explain
from stream_gmm.io.sink.places import Place, open_place
from stream_gmm.io.source.files import is_uri, redact
from stream_gmm.io.source.tables.delta import find_store_options, make_plain_address
from stream_gmm.io.store.container import seal, unseal

MANIFESTS = "_stream_gmm"
RUN_FOLDER = re.compile(r"run-([0-9a-f]{16})-v(\d+)")
_TOKEN, _RUN, _APP = "stream_gmm.token", "stream_gmm.run", "stream-gmm/"
_COMMITS_BACK = 20
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class TableState:
    """A Delta table at its latest version."""

    version: int
    schema: pa.Schema
    partition_by: tuple[str, ...]
    files: Mapping[str, tuple[int, Mapping[str, str | None]]]
    """Size and partition values, as texts, of each file that holds rows, by its path below the table."""
    table: Any


def read_state(table: str) -> TableState | None:
    """Return the latest version of a table; None if there is none.

    Raises
    ------
    StorageError
        If its log cannot be read.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        found = DeltaTable(make_plain_address(table), storage_options=find_writer_options(table))
        actions = pa.table(found.get_add_actions(flatten=False)).to_pylist()
        names = tuple(found.metadata().partition_columns)
        files = {
            unquote(a["path"]): (
                int(a["size_bytes"]),
                {
                    n: None if value is None else str(value).lower() if isinstance(value, bool) else str(value)
                    for n in names
                    for value in [(a.get("partition") or a.get("partition_values") or {}).get(n)]
                },
            )
            for a in actions
        }
        return TableState(int(found.version()), pa.schema(found.schema().to_arrow()), names, files, found)
    except TableNotFoundError:
        return None
    except Exception as error:  # deltalake raises what it likes
        raise StorageError(
            explain(
                f"cannot read the log of the Delta table {redact(table)}",
                why=str(error),
                remedy="check the address, the credentials and that _delta_log is complete",
            )
        ) from error


def find_writer_options(table: str) -> dict[str, str]:
    """Return what the store must know to write a version only if no other writer has written it meanwhile."""
    options = find_store_options(table)
    return {**options, "conditional_put": "etag"} if is_uri(table) and table.startswith("s3") else options


def parse_partition(path: str, names: Sequence[str]) -> dict[str, str | None]:
    """Return the partition values that the folders of a file name.

    Raises
    ------
    StorageError
        If one is an empty text, which a Delta table cannot tell from a missing value.
    """
    found: dict[str, str | None] = {}
    for folder in path.split("/")[:-1]:
        name, mark, text = folder.partition("=")
        if mark and unquote(name) in names:
            found[unquote(name)] = None if text == _NULL_FOLDER else unquote(text)
    for name, value in found.items():
        if value == "":
            raise StorageError(
                explain(
                    f"rows with an empty text in '{name}' cannot be a partition of a Delta table",
                    why="there it is the same as a missing value",
                    remedy="take another column in score.partition_by",
                )
            )
    return {name: found.get(name) for name in names}


def commit(
    table: str, state: TableState | None, schema: pa.Schema, partition_by: Sequence[str],
    added: Mapping[str, tuple[int, int]], removed: Collection[str], job: str, folder: str,
) -> int:  # fmt: skip
    """Add files (path: bytes and rows) to a table and remove others, in one transaction; return the new version.

    Raises
    ------
    StorageError
        If it could not be committed: then the table is as it was. An answer that was lost is looked up in the log.
    """
    from deltalake import CommitProperties, Schema, Transaction
    from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

    place = open_place(table)
    token, now = uuid.uuid4().hex, int(time.time() * 1000)
    properties = CommitProperties(
        custom_metadata={_TOKEN: token, _RUN: folder},
        app_transactions=[Transaction(f"{_APP}{job}", 1)],
    )
    adds: list[Any] = [
        AddAction(path, size, parse_partition(path, partition_by), now, True, json.dumps({"numRecords": rows}))
        for path, (size, rows) in added.items()
    ]
    try:
        if state is None:
            create_table_with_add_actions(
                make_plain_address(table), Schema.from_arrow(schema), adds, mode="error",
                partition_by=list(partition_by), storage_options=find_writer_options(table),
                commit_properties=properties,
            )  # fmt: skip
        else:
            gone = [
                RemoveAction(
                    path=p, data_change=True, deletion_timestamp=now, size=state.files[p][0],
                    partition_values=dict(state.files[p][1]),
                )
                for p in removed
            ]  # fmt: skip
            state.table.create_write_transaction(
                [*adds, *gone], "append", state.table.schema(), list(state.partition_by), commit_properties=properties
            )
    except Exception as error:  # deltalake raises what it likes; also after a commit whose answer was lost
        seen = read_state(table)
        if seen is None or not any(e.get(_TOKEN) == token for e in _read_commits(place, seen.version)):
            raise StorageError(
                explain(
                    f"cannot commit to the Delta table {redact(table)}",
                    why=str(error),
                    remedy="the table is as it was; run again: files that are written are used",
                )
            ) from error
    seen = read_state(table)
    if seen is None or not set(added) <= set(seen.files):
        raise StorageError(
            f"the files committed to the Delta table {redact(table)} are gone: another writer has replaced them."
        )
    return seen.version


def list_run_folders(place: Place, state: TableState) -> set[str]:
    """Return the folders of the jobs whose files hold rows, and of the last job, which may only have removed some."""
    last = next((entry[_RUN] for entry in _read_commits(place, state.version) if _RUN in entry), "")
    found = {path.partition("/")[0] for path in state.files}
    return {folder for folder in (*found, last) if RUN_FOLDER.fullmatch(folder)}


def _read_commits(place: Place, version: int) -> Iterator[dict[str, Any]]:
    """Yield what was noted with the last versions, the newest first, as far back as the log goes.

    The package would keep Python's lock while it waits for a store.
    """
    for number in range(version, max(-1, version - _COMMITS_BACK), -1):
        try:
            lines = place.read(f"_delta_log/{number:020d}.json").splitlines()
        except FileNotFoundError:  # an old one, in a checkpoint by now
            return
        yield from (a["commitInfo"] for a in map(json.loads, lines) if "commitInfo" in a)


def was_applied(state: TableState | None, job: str) -> bool:
    """Return True if a job has committed to the table, whatever became of its files since."""
    return state is not None and state.table.transaction_version(f"{_APP}{job}") is not None


def write_manifest(place: Place, folder: str, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a job."""
    place.write(f"{MANIFESTS}/{folder}.json", seal(manifest))


def read_manifests(place: Place, folders: Collection[str]) -> list[dict[str, Any]]:
    """Return the manifests of these jobs, the newest first.

    Raises
    ------
    StorageError
        If one is damaged or gone.
    """
    out = []
    for folder in sorted(folders, key=lambda f: int(RUN_FOLDER.fullmatch(f)[2]), reverse=True):  # type: ignore[index]
        name = f"{MANIFESTS}/{folder}.json"
        try:
            out.append(unseal(place.read(name)))
        except (OSError, ValueError) as error:
            raise StorageError(
                explain(
                    f"the manifest {redact(place.locate(name))} cannot be read",
                    why=str(error),
                    remedy="the rows of the table are not affected; score again to write a new one",
                )
            ) from error
    return out
