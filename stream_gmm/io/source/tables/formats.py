"""The formats of tables that are read through their log, whichever a path names."""

from __future__ import annotations

from collections.abc import Sequence

from stream_gmm.errors import ConfigError
from stream_gmm.io.source.files import SourceFile
from stream_gmm.io.source.tables.delta import is_delta_table, open_delta
from stream_gmm.io.source.tables.iceberg import is_iceberg_table, open_iceberg
from stream_gmm.io.source.tables.versions import TableVersion


def open_table(path: str, version: int | None) -> tuple[TableVersion, list[SourceFile]] | None:
    """Return the table that a path names, at a version (None: the latest), and its files; None if it names none.

    Raises
    ------
    InputDataError
        If it cannot be read, or its files do not hold its rows as they are.
    """
    if is_iceberg_table(path):
        return open_iceberg(path, version)
    return open_delta(path, version) if is_delta_table(path) else None


def require_table(tables: Sequence[TableVersion], version: int | None) -> None:
    """Refuse a version where there is no table.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if version is not None and not tables:
        raise ConfigError(f"data.table_version is {version}, and none of data.paths is a Delta or Iceberg table.")
