"""A data set: an ordered, frozen manifest of Parts, checked before the first row is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa

from stream_gmm.core.display import make_html_table, shorten_list
from stream_gmm.core.rows.frames import column_names
from stream_gmm.core.rows.transforms import Transforms
from stream_gmm.errors import ConfigError, InputDataError, InputTypeError, did_you_mean, explain, one_of
from stream_gmm.io.source.columns.choice import check_features, choose_columns
from stream_gmm.io.source.columns.names import NAMED_COLUMNS, refuse_unknown
from stream_gmm.io.source.columns.statistics import NO_FACTS, FooterFacts, collect_facts
from stream_gmm.io.source.decode import MARGINALISE, Sentinels, expand_sentinel
from stream_gmm.io.source.files import SourceFile
from stream_gmm.io.source.filters import check_filter, find_row_groups
from stream_gmm.io.source.leaf import ParquetLeaf, rows_per_leaf
from stream_gmm.io.source.listing import find_files
from stream_gmm.io.source.parts import Part, cut_parts, join_neighbours, read_footers
from stream_gmm.io.source.schema import (
    FileSchema,
    distinct_schemas,
    unite_schemas,
    with_conform,
)
from stream_gmm.io.source.tables.lazy import FilesOfFrame, resolve_lazy
from stream_gmm.io.source.tables.versions import TableVersion

MISSING = ("error", "drop", MARGINALISE)


@dataclass(frozen=True, repr=False)
class Dataset:
    """Parquet files with the columns to be used; made by :func:`open_dataset`."""

    files: tuple[SourceFile, ...]
    parts: tuple[Part, ...]
    columns: tuple[str, ...]
    missing: str
    schema: pa.Schema
    """All columns of all files, each with a type that holds the values of every file; they can be passed through."""
    weight: str | None = None
    """Column with the weights of the rows."""
    warnings: tuple[str, ...] = ()
    """What a reader of any result should know: files and columns left out, columns that some files lack."""
    clashes: tuple[tuple[str, str], ...] = ()
    """Columns that cannot be passed through, as their types differ from file to file; each with a message."""
    row_filter: str | None = None
    """Only rows that match are read; None: all."""
    transforms: Transforms = ()
    """Transforms of columns, applied wherever rows are read; the fingerprint does not depend on them."""
    tables: tuple[TableVersion, ...] = ()
    """Tables that are read through their log, each with its version."""
    sentinels: Sentinels = ()
    facts: FooterFacts = NO_FACTS
    """What the footers tell about the values; with a filter nothing."""

    resident: ClassVar[bool] = False

    def __repr__(self) -> str:
        files = f"{len(self.files)} file{'s' * (len(self.files) != 1)}"
        weight = f", weight {self.weight}" if self.weight else ""
        return (
            f"Dataset({files}, {self.num_rows:,} rows, {len(self.columns)} columns: {shorten_list(self.columns)}"
            f"{weight}, missing='{self.missing}')"
        )

    def _repr_html_(self) -> str:
        rows = [(name, str(self.schema.field(name).type)) for name in self.columns]
        return make_html_table(repr(self), ["column", "type"], rows)

    @property
    def num_rows(self) -> int:
        """Rows in all row groups that are read, before the filter or any policy drops some."""
        return sum(p.rows for p in self.parts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over files (paths, sizes, times, footers or ETags, some content), columns, policy and filter."""
        weight = (self.weight,) if self.weight else ()
        tables = [(t.form, t.version) for t in self.tables]
        named = (("filter", self.row_filter), ("sentinel", self.sentinels), ("tables", tables))
        others = [(k, v) for k, v in named if v]
        sha = hashlib.sha256(repr((self.columns, self.missing, *weight, *others)).encode())
        for part in self.parts:
            f = part.file
            identity = (f.relative, f.size, f.modified, f.version, f.content)
            sha.update(repr((*identity, part.row_groups, part.rows)).encode())
        return sha.hexdigest()

    def with_columns(self, columns: Sequence[str]) -> Dataset:
        """Return the data set with some of its columns, in the given order.

        Raises
        ------
        InputDataError
            If the data set was opened without one of them; names both lists.
        """
        absent = [c for c in columns if c not in self.columns]
        if absent:
            raise InputDataError(
                explain(
                    f"the model has the columns {list(columns)}, and the data set was opened with "
                    f"{list(self.columns)}; {absent} are missing",
                    remedy="open the data set with the model's columns",
                )
            )
        return replace(self, columns=tuple(columns))

    def with_transforms(self, transforms: Transforms) -> Dataset:
        """Return the data set with these transforms of its columns."""
        return replace(self, transforms=transforms)

    def check_passthrough(self, columns: Iterable[str]) -> None:
        """Refuse columns that cannot be passed through to a scored output.

        Raises
        ------
        ConfigError
            If no file has one of them; gives the nearest name.
        InputDataError
            If files have one with types that have nothing in common; names the files.
        """
        clashes, names = dict(self.clashes), dict.fromkeys(self.schema.names)
        for name in columns:
            if name not in names:
                raise ConfigError(
                    f"score.passthrough: no file has a column '{name}'{did_you_mean(name, names)} "
                    f"There are: {shorten_list(list(names), NAMED_COLUMNS)}."
                )
            if name in clashes:
                raise InputDataError(clashes[name])

    def refuse_unusable(self, not_yet: Collection[str] = ()) -> None:
        """Refuse values that no pass can use, as far as the footers tell of them; reads nothing.

        Parameters
        ----------
        not_yet
            Columns that will be transformed, and are not yet.

        Raises
        ------
        InputDataError
            Names files, row groups, columns and counts, of all that are of one kind.
        """
        marked = {name for name, _ in self.sentinels}
        ranges = tuple(r for r in self.facts.ranges if r.column not in not_yet and r.column not in marked)
        facts = replace(self.facts, ranges=ranges)
        facts.refuse_unusable(self.columns, self.missing, self.weight, self.transforms)

    def refuse_empty(self) -> None:
        """Refuse columns to fit that hold no value in any row, as far as the footers tell; reads nothing.

        Raises
        ------
        InputDataError
            Names them.
        """
        empty = [n.column for n in self.facts.nulls if n.nulls == n.rows and n.column in self.columns]
        if empty:
            raise InputDataError(
                explain(
                    f"columns {empty} have no value in any row, by the footers of the files",
                    why="all of them are missing",
                    remedy="leave the columns out (data.exclude_columns)",
                )
            )

    def leaves(self) -> list[ParquetLeaf]:
        """Return the tasks of a pass: row groups, collected in order up to a size in bytes.

        Raises
        ------
        InputDataError
            As :meth:`refuse_unusable`.
        """
        self.refuse_unusable()
        target = rows_per_leaf(self.num_rows, len(self.columns))
        runs: list[list[Part]] = [[]]
        rows = 0
        for piece in (g for p in self.parts for g in p.groups()):
            if rows and rows + piece.rows > target:
                runs.append([])
                rows = 0
            runs[-1].append(piece)
            rows += piece.rows
        return [self._make_leaf(join_neighbours(r)) for r in runs]

    def small_leaves(self) -> list[ParquetLeaf]:
        """Return one leaf for each row group; raises as :meth:`leaves`."""
        self.refuse_unusable()
        return [self._make_leaf((g,)) for p in self.parts for g in p.groups()]

    def _make_leaf(self, parts: tuple[Part, ...]) -> ParquetLeaf:
        options = (self.missing, self.weight, self.row_filter, self.transforms, self.sentinels)
        return ParquetLeaf(parts, self.columns, *options)


def open_dataset(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    columns: Sequence[str] | None = None,
    *,
    missing: str = "error",
    exclude: Sequence[str] = (),
    weight: str | None = None,
    exclude_columns: Sequence[str] = (),
    filter: str | None = None,
    table_version: int | None = None,
    sentinel: Mapping[str, float | Sequence[float]] | None = None,
) -> Dataset:
    """Open Parquet files as one data set; reads footers only.

    Parameters
    ----------
    paths
        A file, a folder (searched recursively for ``.parquet``, ``.parq`` and ``.pq``), a glob pattern
        (``part-[0-3].parquet``; ``**`` crosses folders), a URI such as ``s3://bucket/prefix/``, or several of them.
        Below folders and patterns, names that begin with ``_`` or ``.`` and the outputs of earlier runs are skipped.
    columns
        The numeric columns to be used, in this order: names, patterns (``"x*"``) and types (``"dtype:float64"``,
        ``"dtype:float"``, ``"dtype:int"``). None: all columns that are numeric in every file, except an index of
        pandas, identifiers, row numbers, parts of a date and labels; ``warnings`` names what was left out.
    missing
        What to do about rows with a null, NaN or infinity in ``columns``: ``"error"`` stops and names the place;
        ``"drop"`` leaves them out, and scores them as null; ``"marginalise"`` uses the values that they have (exact
        EM, if values are missing at random), and drops infinities. Values beyond 1e150 count as infinite.
    exclude
        Shell patterns of relative paths to leave out.
    weight
        Column with the weights of the rows: a row of weight 2 is two rows, one of weight 0 is none.
    exclude_columns
        Columns to leave out: names, patterns and types, as in ``columns``.
    filter
        Only rows for which this is true are read, such as ``"temperature > -200 and station == 'A'"``: comparisons
        of columns with numbers and texts, ``in [...]``, ``is null``, joined by ``and``, ``or``, ``not``. Row groups
        that cannot match by the statistics in their footer are not opened.
    table_version
        Version of a Delta table or id of a snapshot of an Iceberg table to read; None: the latest. The folder of such
        a table is read through its log (extras ``delta`` and ``iceberg``), with its partition columns; a path
        ``iceberg://catalog/namespace.table`` names a table of a catalog that pyiceberg's configuration knows.
    sentinel
        Values that stand for a missing one, by column or pattern: ``{"co": [-200], "t_*": -999}``.

    Returns
    -------
    Dataset
        What :func:`fit`, :func:`sweep` and :func:`score` take.

    Raises
    ------
    InputDataError
        If nothing is found, a file is not Parquet, or a column is missing or not numeric in a file; or, where
        ``columns`` is None, numeric in some files only, or a vector. The order of the files does not matter.
    ConfigError
        If ``missing`` is unknown, the filter cannot be read, or ``sentinel`` names no column.
    """
    one_of(missing, MISSING, "missing")
    listing = find_files(_list_paths(paths), exclude, table_version)
    footers = read_footers(listing.files)
    schemas = [FileSchema(f.schema, f.file, f.metadata.num_rows) for f in footers]
    known = list(dict.fromkeys(n for one in distinct_schemas(schemas) for n in one.schema.names))
    refuse_unknown(known, columns, exclude_columns, weight, filter, sentinel or {})
    features = choose_columns(footers, columns, exclude_columns, weight)
    names = features.columns
    check_features(schemas, names if weight is None else (*names, weight))
    common = unite_schemas(schemas)
    files = tuple(with_conform(f.file, common, f.schema) for f in footers)
    groups: list[set[int]] | None = None
    if filter is not None:
        check_filter(filter, distinct_schemas(schemas))
        with ThreadPoolExecutor(8) as pool:
            groups = list(pool.map(lambda f: find_row_groups(f.file, filter, f.schema), footers))
    parts = cut_parts(files, [f.metadata for f in footers], len(names), groups)
    if filter is not None and not parts:
        raise InputDataError(
            explain(f"no row matches the filter {filter!r}", why="the ranges in the footers exclude it")
        )
    warnings = (*listing.warnings, *features.warnings, *common.warnings)
    wanted = names if weight is None else (*names, weight)
    facts = NO_FACTS if filter is not None else collect_facts(footers, wanted)
    return Dataset(
        files, parts, names, missing, common.schema, weight, warnings, tuple(common.clashes.items()), filter,
        tables=listing.tables, sentinels=expand_sentinel(sentinel or {}, names), facts=facts,
    )  # fmt: skip


def _list_paths(paths: Any) -> list[str | os.PathLike[str]]:
    """Return one or several paths as a list; rows in memory are no paths, although they can be iterated over, too."""
    paths = resolve_lazy(paths)
    if isinstance(paths, FilesOfFrame):
        return list(paths.paths)
    if isinstance(paths, str | os.PathLike):
        return [paths]
    chosen: list[Any] = list(paths) if isinstance(paths, Iterable) and not column_names(paths) else [None]
    if not all(isinstance(p, str | os.PathLike) for p in chosen):
        raise InputTypeError(
            explain(
                f"open_dataset opens files, and was given a {type(paths).__name__}",
                remedy="pass rows in memory to fit, sweep or an estimator as they are",
            )
        )
    return chosen
