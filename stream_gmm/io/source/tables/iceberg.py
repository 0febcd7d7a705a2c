"""An Iceberg table as the list of its files at one snapshot, with the values of its partition columns."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from stream_gmm.errors import InputDataError, explain
from stream_gmm.extras import import_extra
from stream_gmm.io.source.files import SourceFile, is_uri, locate, redact, refuse_unanswered
from stream_gmm.io.source.tables.delta import find_store_options
from stream_gmm.io.source.tables.versions import TableVersion

METADATA_FOLDER, METADATA_ENDING = "metadata", ".metadata.json"
CATALOG_SCHEME = "iceberg://"
_NUMBER = re.compile(r"v?(\d+)(?:-[^/]*)?(?:\.gz)?\.metadata\.json")
_SAME_STORE = {"s3a": "s3", "s3n": "s3", "wasb": "abfs", "wasbs": "abfss"}
"""Schemes that Iceberg's writers use for stores that go by another one here."""


def is_iceberg_table(path: str) -> bool:
    """Return True for a table of a catalog, a metadata file, and the root folder or URI of a table."""
    if path.startswith(CATALOG_SCHEME) or path.endswith(METADATA_ENDING):
        return True
    return bool(_list_metadata(path))


def open_iceberg(path: str, snapshot: int | None) -> tuple[TableVersion, list[SourceFile]]:
    """Return a table at a snapshot (None: the current one), and the files with its rows, in the order of their names.

    Raises
    ------
    MissingPackageError
        If ``pyiceberg`` is not installed.
    InputDataError
        If there is no such table or snapshot, or its metadata cannot be read; if rows are deleted by delete files; if
        a file is not Parquet, or is missing.
    """
    import_extra("pyiceberg", f"the Iceberg table {redact(path)}")
    from pyiceberg.catalog import load_catalog
    from pyiceberg.io.pyarrow import schema_to_pyarrow
    from pyiceberg.table import StaticTable

    try:
        if path.startswith(CATALOG_SCHEME):
            catalog, _, name = path.removeprefix(CATALOG_SCHEME).strip("/").partition("/")
            table: Any = load_catalog(catalog).load_table(name.replace("/", "."))
        else:
            table = StaticTable.from_metadata(_find_metadata(path), _find_properties(path))
        seen = table.current_snapshot() if snapshot is None else table.snapshot_by_id(snapshot)
        if seen is None and snapshot is not None:
            known = ", ".join(str(s.snapshot_id) for s in table.snapshots()[-5:])
            raise ValueError(f"there is no such snapshot; the last ones are {known}")
        scan = table.scan(snapshot_id=None if seen is None else seen.snapshot_id)
        tasks = list(scan.plan_files())
        # A column may have been renamed since the current snapshot was made.
        schema, specs = table.schema() if snapshot is None else scan.projection(), table.specs()
        types = schema_to_pyarrow(schema, include_field_ids=False)
        root = str(table.location())
    except InputDataError:
        raise
    except Exception as error:  # pyiceberg raises what it likes, NoSuchTableError, OSError and ValueError among it
        refuse_unanswered(path, error)
        raise InputDataError(
            explain(
                f"cannot read the Iceberg table {redact(path)}"
                + ("" if snapshot is None else f" at snapshot {snapshot}"),
                why=str(error) or repr(error),
                remedy="check the address and data.table_version, and for a catalog the configuration of pyiceberg",
            )
        ) from error
    names = tuple((item.field_id, item.name) for item in schema.fields)
    files = []
    for task in tasks:
        _refuse_task(path, task)
        spec = specs[task.file.spec_id]
        partition = tuple(
            (types.field(dict(names)[item.source_id]), value)
            for item, value in zip(
                spec.fields, map(task.file.partition.__getitem__, range(len(spec.fields))), strict=True
            )
            if str(item.transform) == "identity" and item.source_id in dict(names)
        )
        partition = tuple((field, _to_python(value, field.type)) for field, value in partition)
        files.append(_describe_file(path, root, task.file, partition, names))
    version = 0 if seen is None else int(seen.snapshot_id)
    return TableVersion("Iceberg", path, version), sorted(files, key=lambda f: f.relative)


def _refuse_task(path: str, task: Any) -> None:
    deletes, form = len(task.delete_files), str(getattr(task.file.file_format, "value", task.file.file_format))
    if deletes or form.upper() != "PARQUET":
        what = f"{deletes} delete files hide rows of" if deletes else f"its file is {form}, not Parquet:"
        raise InputDataError(
            explain(
                f"the Iceberg table {redact(path)} cannot be read as Parquet: {what} {redact(task.file.file_path)}",
                why="its files do not hold the rows of the table as they are",
                remedy="write its rows anew, with Spark: CALL catalog.system.rewrite_data_files(table => ..., "
                "options => map('delete-file-threshold', '1')); else as Parquet",
            )
        )


def _to_python(value: Any, kind: pa.DataType) -> Any:
    """Return the value of a partition column; dates and times are numbers in the metadata."""
    if value is None:
        return None
    if isinstance(value, int) and pa.types.is_date(kind):
        return pa.scalar(value, pa.int32()).cast(kind).as_py()
    if isinstance(value, int) and pa.types.is_temporal(kind):
        return pa.scalar(value, pa.int64()).cast(kind).as_py()
    return value


def _describe_file(
    path: str, root: str, file: Any, partition: tuple[tuple[pa.Field, Any], ...], names: tuple[tuple[int, str], ...]
) -> SourceFile:
    address = str(file.file_path)
    below = address.removeprefix(root.rstrip("/") + "/")
    relative = below if below != address else PurePosixPath(unquote(urlsplit(address).path)).name
    if is_uri(address) and not address.startswith("file:"):
        scheme, _, rest = address.partition("://")
        scheme = _SAME_STORE.get(scheme, scheme)
        given = locate(path) if is_uri(path) and not path.startswith(CATALOG_SCHEME) else None
        uri = given.uri_of(rest) if given and given.prefix.startswith(f"{scheme}://") else f"{scheme}://{rest}"
        return SourceFile(uri, file.file_size_in_bytes, "", relative, partition=partition, field_names=names)
    full = os.path.abspath(re.sub(r"^file:(//)?", "", address))
    try:
        stat = os.stat(full)
    except OSError as error:
        raise InputDataError(
            explain(
                f"{full} belongs to the Iceberg table {redact(path)}, and is not there",
                why="the files of expired snapshots are removed, and a table cannot be moved to another folder",
                remedy="read a newer snapshot (data.table_version), or restore the file",
            )
        ) from error
    return SourceFile(
        full, stat.st_size, str(stat.st_mtime_ns), relative, partition=partition, field_names=names
    )  # fmt: skip


def _list_metadata(path: str) -> dict[str, str]:
    """Return the metadata files of the table whose root is at ``path``, by name, and the hint of the newest one."""
    if not is_uri(path):
        folder = Path(os.path.expanduser(path)) / METADATA_FOLDER
        found = {p.name: str(p) for p in folder.iterdir()} if folder.is_dir() else {}
    else:
        place = locate(path)
        selector = pafs.FileSelector(f"{place.path.rstrip('/')}/{METADATA_FOLDER}", allow_not_found=True)
        try:
            found = {i.base_name: i.path for i in place.filesystem.get_file_info(selector)}
        except OSError as error:
            refuse_unanswered(path, error)
            return {}  # the listing says what is wrong
    return {name: where for name, where in found.items() if _NUMBER.fullmatch(name)}


def _find_metadata(path: str) -> str:
    """Return the address of the newest metadata file of a table.

    Raises
    ------
    InputDataError
        If two writers have left one with the same number: only a catalog knows which of them counts.
    """
    if path.endswith(METADATA_ENDING):
        return path if is_uri(path) else os.path.abspath(os.path.expanduser(path))
    found = _list_metadata(path)
    numbers = {name: int(_NUMBER.fullmatch(name)[1]) for name in found}  # type: ignore[index]
    newest = sorted(name for name, number in numbers.items() if number == max(numbers.values()))
    if len(newest) > 1:
        raise InputDataError(
            explain(
                f"the Iceberg table {redact(path)} has {len(newest)} newest metadata files: {', '.join(newest)}",
                why="only its catalog knows which of them counts",
                remedy=f"give one of them, or {CATALOG_SCHEME}catalog/namespace.table",
            )
        )
    where = found[newest[0]]
    return f"{urlsplit(path).scheme}://{where}" if is_uri(path) else os.path.abspath(where)


def _find_properties(path: str) -> dict[str, str]:
    """Return what a URI and the environment say about the store, as pyiceberg has it."""
    options = find_store_options(path)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):  # else pyiceberg asks Amazon where the bucket is
        if os.environ.get(name):
            options.setdefault("AWS_REGION", os.environ[name])
    names = {
        "AWS_ENDPOINT_URL": "s3.endpoint", "AWS_REGION": "s3.region",
        "AWS_ACCESS_KEY_ID": "s3.access-key-id", "AWS_SECRET_ACCESS_KEY": "s3.secret-access-key",
    }  # fmt: skip
    return {names[key]: value for key, value in options.items() if key in names}
