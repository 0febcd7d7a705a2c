"""A published scored table, for readers: where its files are, and what its manifest says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stream_gmm.errors import StorageError, explain
from stream_gmm.io.sink.places import open_place
from stream_gmm.io.sink.targets import open_target
from stream_gmm.io.source.files import is_uri, locate, redact

if TYPE_CHECKING:
    import pyarrow.dataset as pads


@dataclass(frozen=True)
class ScoredTable:
    """The current version of a scored table; it stays readable until two more have been published.

    Attributes
    ----------
    folder
        Folder or URI of its files.
    files
        Path or URI of each Parquet file, in the order of the input's parts.
    manifest
        Counts of rows, the digests of model and data, and for each file its rows and SHA-256.
    """

    folder: str
    files: tuple[str, ...]
    manifest: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """Rows in all files."""
        return int(self.manifest["rows_out"])

    def to_dataset(self) -> pads.Dataset:
        """Return it as a pyarrow dataset: ``to_table()``, ``to_batches()``, ``count_rows()``."""
        import pyarrow.dataset as pads

        if not is_uri(self.folder):
            return pads.dataset(list(self.files), format="parquet")
        places = [locate(file) for file in self.files]
        return pads.dataset([p.path for p in places], format="parquet", filesystem=places[0].filesystem)


def open_scored(folder: str | os.PathLike[str]) -> ScoredTable:
    """Open the current version of a scored table.

    Parameters
    ----------
    folder
        What was given as output: a folder, or the URI of a prefix in an object store.

    Returns
    -------
    ScoredTable
        ``files``, ``manifest``, ``rows``, and ``to_dataset()`` for pyarrow.

    Raises
    ------
    StorageError
        If there is no scored table, its manifest is damaged, or the store does not answer.
    ConfigError
        If the URI is none of an object store.
    """
    target = open_target(os.fspath(folder))
    while True:
        where = target.locate()
        manifest = target.read_manifest()
        if manifest is None:
            raise StorageError(
                explain(
                    f"{redact(os.fspath(folder))} holds no scored table",
                    remedy="give the folder or prefix that scores were written to",
                )
            )
        if target.locate() == where:  # nothing was published in between
            place = open_place(where)
            return ScoredTable(where, tuple(place.locate(part["path"]) for part in manifest["parts"]), manifest)
