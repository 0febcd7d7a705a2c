"""Data sets of Arrow and data frames of Dask, which hold no rows yet: the files that they stand for, or rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stream_gmm.errors import InputTypeError, explain

if TYPE_CHECKING:
    import pyarrow.dataset as pads


@dataclass(frozen=True)
class FilesOfFrame:
    """Parquet files, and the columns of them that a frame has chosen (empty: all)."""

    paths: tuple[str, ...]
    columns: tuple[str, ...] = ()


def resolve_lazy(data: Any) -> Any:
    """Return the files or the rows of an Arrow data set or a Dask data frame; anything else as it is.

    Raises
    ------
    InputTypeError
        If it stands for something else than Parquet files as they are; says what to pass instead.
    """
    if any(c.__module__ == "pyarrow._dataset" for c in type(data).__mro__):
        return _resolve_arrow(data)
    if type(data).__module__.partition(".")[0] in ("dask", "dask_expr") and hasattr(data, "expr"):
        return _resolve_dask(data)
    return data


def _resolve_arrow(data: pads.Dataset) -> Any:
    import pyarrow.dataset as pads  # late: it imports pandas where that is installed
    import pyarrow.fs as pafs

    if getattr(data, "_scan_options", None):
        raise _refuse(
            "an Arrow data set with a filter", "give its files and the filter as a text: open_dataset(filter=)"
        )
    if isinstance(data, pads.InMemoryDataset):
        return data.to_table()
    if not isinstance(data, pads.FileSystemDataset) or not isinstance(data.format, pads.ParquetFileFormat):
        raise _refuse(
            f"an Arrow data set ({type(data).__name__}) that is not one of Parquet files", "write it as Parquet"
        )
    if not isinstance(data.filesystem, pafs.LocalFileSystem):
        raise _refuse("an Arrow data set on an object store", "give its URI, such as s3://bucket/folder/")
    return FilesOfFrame(tuple(data.files))


def _resolve_dask(data: Any) -> Any:
    read = data.optimize(fuse=False).expr
    given = dict(zip(getattr(read, "_parameters", ()), getattr(read, "operands", ()), strict=False))
    as_they_are = not any(given.get(name) for name in ("filters", "storage_options", "_partitions", "_series"))
    if not (type(read).__name__.startswith("ReadParquet") and as_they_are):
        raise _refuse(
            "a Dask data frame that is computed",
            "write it with .to_parquet(folder) and pass the folder, or pass .compute() if it fits into memory",
        )
    paths = given["path"]
    return FilesOfFrame((paths,) if isinstance(paths, str) else tuple(paths), tuple(map(str, data.columns)))


def _refuse(what: str, remedy: str) -> InputTypeError:
    return InputTypeError(
        explain(f"the rows are {what}", why="every pass reads files, or rows in memory", remedy=remedy)
    )
