"""A Delta table as the list of its files at one version, with the values of its partition columns."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from stream_gmm.errors import InputDataError, explain
from stream_gmm.extras import import_extra
from stream_gmm.io.source.files import SourceFile, is_uri, locate, redact, refuse_unanswered
from stream_gmm.io.source.tables.versions import TableVersion

LOG_FOLDER = "_delta_log"
_HARMLESS = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "typeWidening", "typeWidening-preview"}
"""Features of a table that do not change which rows its files hold, nor under which names."""
_DELETED, _RENAMED = "deletionVectors", "columnMapping"


def is_delta_table(path: str) -> bool:
    """Return True if a folder or URI is the root of a Delta table."""
    if not is_uri(path):
        return os.path.isdir(os.path.join(path, LOG_FOLDER))
    place = locate(path)
    selector = pafs.FileSelector(f"{place.path.rstrip('/')}/{LOG_FOLDER}", allow_not_found=True)
    try:
        return bool(place.filesystem.get_file_info(selector))
    except OSError as error:
        refuse_unanswered(path, error)
        return False  # the listing says what is wrong


def open_delta(path: str, version: int | None) -> tuple[TableVersion, list[SourceFile]]:
    """Return a table at a version (None: the latest), and the files that hold its rows, in the order of their names.

    Raises
    ------
    MissingPackageError
        If ``deltalake`` is not installed.
    InputDataError
        If there is no such version, or its log cannot be read; if rows are deleted by deletion vectors or columns
        have other names in the files; if a file is missing.
    """
    DeltaTable = import_extra("deltalake", f"the Delta table {redact(path)}").DeltaTable
    try:
        table = DeltaTable(make_plain_address(path), version=version, storage_options=find_store_options(path))
        _refuse_features(path, table)
        actions = pa.table(table.get_add_actions(flatten=False)).to_pylist()
        types = pa.schema(table.schema().to_arrow())
        partitioned = list(table.metadata().partition_columns)
    except InputDataError:
        raise
    except Exception as error:  # deltalake raises what it likes, TableNotFoundError and OSError among it
        refuse_unanswered(path, error)
        raise InputDataError(
            explain(
                f"cannot read the Delta table {redact(path)}" + ("" if version is None else f" at version {version}"),
                why=str(error),
                remedy="check the version, and that the log in _delta_log is complete",
            )
        ) from error
    fields = [types.field(name) for name in partitioned]
    files = [_describe_file(path, action, fields) for action in actions]
    return TableVersion("Delta", path, int(table.version())), sorted(files, key=lambda f: f.relative)


def _refuse_features(path: str, table: Any) -> None:
    features = set(table.protocol().reader_features or ())
    renamed = table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
    deleted = False
    if _DELETED in features:
        try:
            deleted = pa.table(table.deletion_vectors()).num_rows > 0
        except Exception:  # there is one that cannot be read
            deleted = True
    unknown = features - _HARMLESS - {_DELETED, _RENAMED}
    if deleted or renamed or unknown:
        what = (
            "has rows that deletion vectors mark as deleted" if deleted
            else "maps its columns to other names in the files" if renamed
            else f"uses {', '.join(sorted(unknown))}, which this version does not know"
        )  # fmt: skip
        raise InputDataError(
            explain(
                f"the Delta table {redact(path)} {what}",
                why="its files do not hold the rows of the table as they are",
                remedy="write its rows out: with deletion vectors, REORG TABLE ... APPLY (PURGE); else as Parquet",
            )
        )


def _describe_file(path: str, action: dict[str, Any], fields: list[pa.Field]) -> SourceFile:
    relative = unquote(action["path"])
    values = action.get("partition") or action.get("partition_values") or {}
    partition = tuple((field, _read_value(values.get(field.name), field.type)) for field in fields)
    if is_uri(relative) or relative.startswith("/"):
        raise InputDataError(
            explain(
                f"the Delta table {redact(path)} holds files elsewhere: {redact(relative)}",
                remedy="read the table that it was cloned from, or make a deep clone",
            )
        )
    if is_uri(path):
        place = locate(path)
        uri = place.uri_of(f"{place.path.rstrip('/')}/{relative}")
        return SourceFile(uri, action["size_bytes"], str(action["modification_time"]), relative, partition=partition)
    full = os.path.join(os.path.abspath(path), relative)
    try:
        stat = os.stat(full)
    except OSError as error:
        raise InputDataError(
            explain(
                f"{full} belongs to the Delta table {path}, and is not there",
                why="a vacuum removes the files of old versions",
                remedy="read a newer version (data.table_version), or restore the file",
            )
        ) from error
    return SourceFile(full, stat.st_size, str(stat.st_mtime_ns), relative, partition=partition)


def _read_value(value: Any, kind: pa.DataType) -> Any:
    return pa.scalar(value).cast(kind).as_py() if isinstance(value, str) else value


def make_plain_address(path: str) -> str:
    """Return a path, or a URI without credentials and options."""
    if not is_uri(path):
        return os.path.abspath(path)
    place = locate(path)
    return f"{urlsplit(path).scheme}://{place.path.rstrip('/')}"


def find_store_options(path: str) -> dict[str, str]:
    """Return what a URI and the environment say about the store, as the log's reader has it."""
    if not is_uri(path):
        return {}
    parts = urlsplit(path)
    given = dict(parse_qsl(parts.query))
    endpoint = given.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL", "")
    if endpoint and "://" not in endpoint:
        endpoint = f"{given.get('scheme', 'https')}://{endpoint}"
    found = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": given.get("region", ""),
        "AWS_ACCESS_KEY_ID": unquote(parts.username or ""),
        "AWS_SECRET_ACCESS_KEY": unquote(parts.password or ""),
        "AWS_ALLOW_HTTP": "true" if endpoint.startswith("http://") else "",
    }
    return {name: value for name, value in found.items() if value}
