"""Paths, folders, patterns and object-store URIs -> an ordered list of files."""

from __future__ import annotations

import fnmatch
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.fs as pafs

from stream_gmm.errors import InputDataError, explain
from stream_gmm.io.source.files import (
    SourceFile,
    explain_conversion,
    is_uri,
    locate,
    name_some,
    redact,
    refuse_unanswered,
)
from stream_gmm.io.source.tables.formats import open_table, require_table
from stream_gmm.io.source.tables.versions import TableVersion

_MAGIC = re.compile(r"[*?\[]")
ENDINGS = (".parquet", ".parq", ".pq")
"""Endings of the files that are read from a folder, in any case."""
PUBLISHED = "_manifest.json"
TRIPWIRE = "READ-_latest.json-INSTEAD.parquet"
"""Lies in an object store beside the versions of an output, and is no Parquet."""
PEEKED_FILES = 200
"""How many files with other endings are looked into, for a warning."""


@dataclass(frozen=True)
class Listing:
    """The files to read, in order, and what a reader of the result should know about those left out."""

    files: tuple[SourceFile, ...]
    warnings: tuple[str, ...]
    tables: tuple[TableVersion, ...] = ()
    """Tables that were read through their log."""


@dataclass(frozen=True)
class _Folder:
    """All files below a root, by their path below it; and how to read one."""

    root: str
    files: dict[str, SourceFile]
    read: Callable[[str, int], bytes]
    """Returns the first bytes of a file, or none if it cannot be read; -1: all of it."""
    linked: tuple[str, ...] = ()
    """Links to folders, which are not followed."""
    local: bool = False


def find_files(
    paths: Iterable[str | os.PathLike[str]], exclude: Sequence[str] = (), table_version: int | None = None
) -> Listing:
    """Return the files that paths, folders, patterns and URIs stand for, each once, in order.

    A folder stands for the files below it with the endings ``.parquet``, ``.parq`` and ``.pq`` in any case. In a
    pattern, ``*``, ``?``, ``[a-z]`` and ``[!a-z]`` stay within a folder and ``**`` stands for any number of folders,
    as in ``pathlib``. Below folders and patterns, names that begin with ``_`` or ``.`` are skipped, and so are the
    outputs of earlier runs; ``warnings`` counts these, and names files that hold Parquet under another ending.

    Parameters
    ----------
    exclude
        Shell patterns of relative paths to leave out.
    table_version
        Version of a Delta table or snapshot of an Iceberg table to read; None: the latest.

    Raises
    ------
    InputDataError
        If a path does not exist, or no file is found.
    ConfigError
        If a version is given, and no path is a Delta table.
    """
    names = [os.fspath(p) for p in paths]
    files: list[SourceFile] = []
    warnings: list[str] = []
    tables: list[TableVersion] = []
    seen: set[Any] = set()
    for path in names:
        if (opened := open_table(path, table_version)) is not None:
            found = Listing(tuple(opened[1]), (), (opened[0],))
        else:
            found = _find_remote(path) if is_uri(path) else _find_local(path)
        tables += found.tables
        warnings += found.warnings
        for file in found.files:
            identity = file.path if is_uri(file.path) else _inode(file.path)
            if identity not in seen:
                seen.add(identity)
                files.append(file)
    if not files:
        raise InputDataError(
            explain(
                f"no Parquet file matches {', '.join(redact(p) for p in names) or 'an empty list'}",
                why=" ".join(warnings),
                remedy="check data.paths; '**' crosses folders, '*' does not",
            )
        )
    kept = [f for f in _make_distinct(files) if not any(fnmatch.fnmatch(f.relative, p) for p in exclude)]
    if not kept:
        raise InputDataError("every file is excluded by data.exclude.")
    require_table(tables, table_version)
    return Listing(tuple(kept), tuple(dict.fromkeys(warnings)), tuple(tables))


def _inode(path: str) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def _make_distinct(files: list[SourceFile]) -> list[SourceFile]:
    """Give files from different roots different relative paths."""
    if len({f.relative for f in files}) == len(files):
        return files
    return [replace(f, relative=f"{i:05d}-{os.path.basename(f.relative)}") for i, f in enumerate(files)]


def _find_local(path: str) -> Listing:
    path = os.path.normpath(os.path.expanduser(path))
    if os.path.isfile(path):
        return Listing((_describe_local(path, os.path.basename(path)),), ())
    if os.path.isdir(path):
        return _select(_walk_local(path), path, "")
    if _MAGIC.search(path):
        root, pattern = _split_pattern(path)
        return _select(_walk_local(root), path, pattern)
    raise InputDataError(explain(f"there is no file or folder {path}", remedy="check data.paths"))


def _describe_local(path: str, relative: str) -> SourceFile:
    stat = os.stat(path)
    return SourceFile(os.path.abspath(path), stat.st_size, str(stat.st_mtime_ns), relative)


def _walk_local(root: str) -> _Folder:
    files: dict[str, SourceFile] = {}
    linked: list[str] = []
    # Links to folders are not followed: a link to itself would repeat every row.
    for folder, folders, names in os.walk(root, followlinks=False):
        linked += [os.path.join(folder, f) for f in folders if os.path.islink(os.path.join(folder, f))]
        for name in names:
            full = os.path.join(folder, name)
            if os.path.isfile(full):
                relative = Path(os.path.relpath(full, root)).as_posix()
                files[relative] = _describe_local(full, relative)
    inside = os.path.realpath(root)
    outside = [f for f in linked if os.path.commonpath([inside, os.path.realpath(f)]) != inside]

    def read(relative: str, size: int) -> bytes:
        try:
            with open(files[relative].path, "rb") as file:
                return file.read(size)
        except OSError:
            return b""

    return _Folder(root, files, read, tuple(sorted(outside)), local=True)


def _find_remote(uri: str) -> Listing:
    place = locate(uri)
    path = place.path.rstrip("/")
    try:
        info = place.filesystem.get_file_info(path)
        if info.type == pafs.FileType.File:
            name = PurePosixPath(path).name
            return Listing((SourceFile(place.uri_of(path), info.size, str(info.mtime_ns), name),), ())
        is_pattern = _MAGIC.search(path) and info.type != pafs.FileType.Directory
        root, pattern = _split_pattern(path) if is_pattern else (path, "")
        infos = place.filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    except OSError as error:
        refuse_unanswered(uri, error)
        raise InputDataError(
            explain(f"cannot list {redact(uri)}", why=str(error), remedy="check the address and credentials")
        ) from error
    names = {os.path.relpath(i.path, root): i for i in infos if i.type == pafs.FileType.File}

    def read(relative: str, size: int) -> bytes:
        try:
            with place.filesystem.open_input_file(names[relative].path) as file:
                return bytes(file.read(None if size < 0 else size))
        except OSError:
            return b""

    files = {
        relative: SourceFile(place.uri_of(i.path), i.size, str(i.mtime_ns), relative) for relative, i in names.items()
    }
    return _select(_Folder(root, files, read), redact(uri), pattern)


def _split_pattern(path: str) -> tuple[str, str]:
    """Return the folder in front of the first wild card, and the pattern below it."""
    parts = PurePosixPath(path).parts
    fixed = next(i for i, p in enumerate(parts) if _MAGIC.search(p))
    if any("**" in p and p != "**" for p in parts):
        raise InputDataError(
            explain(
                f"the pattern {path} has '**' beside other characters",
                why="'**' stands for any number of folders and must be alone between slashes",
                remedy="write 'folder/**/*.parquet'",
            )
        )
    return str(PurePosixPath(*parts[:fixed])) if fixed else ".", "/".join(parts[fixed:])


def match_pattern(relative: str, pattern: str) -> bool:
    """Return True if a relative path matches a pattern in which ``**`` crosses folders and ``*`` does not."""
    return _match_parts(relative.split("/"), pattern.split("/"))


def _match_parts(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_match_parts(parts[i:], patterns[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], patterns[0]) and _match_parts(parts[1:], patterns[1:])


def _select(folder: _Folder, shown: str, pattern: str) -> Listing:
    """Return the files of a folder that a pattern selects; without one, those with a known ending."""
    outputs = _find_outputs(folder)
    visible = sorted(name for name in folder.files if not any(p.startswith(("_", ".")) for p in name.split("/")))
    wanted = [n for n in visible if (match_pattern(n, pattern) if pattern else n.lower().endswith(ENDINGS))]
    in_outputs = [n for n in wanted if any(str(p) in outputs for p in PurePosixPath(n).parents)]
    left_out = set(in_outputs)
    _refuse_tables(folder, [n for n in wanted if n not in left_out], shown)
    warnings = []
    if in_outputs:
        where = sorted({str(p) for n in in_outputs for p in PurePosixPath(n).parents if str(p) in outputs})
        warnings.append(
            f"{len(in_outputs)} files below {shown} were not read: they are the output of earlier runs "
            f"({name_some(where)}). To read them, name their folder."
        )
    if not pattern:
        others = [n for n in visible if not n.lower().endswith(ENDINGS)]
        data = [n for n in others[:PEEKED_FILES] if folder.read(n, 4) in (b"PAR1", b"PARE")]
        if data:
            warnings.append(
                f"{len(data)} files below {shown} were not read, though they begin as Parquet does "
                f"({name_some(data)}): files of a folder are read if they end in {', '.join(ENDINGS)}. "
                "To read them, rename them or name them in data.paths."
            )
        # JSON beside Parquet describes it; without Parquet it may be the data.
        foreign = [n for n in others if explain_conversion(n) and not (wanted and n.lower().endswith(".json"))]
        if foreign:
            how = "" if wanted else f": {explain_conversion(posixpath.join(folder.root, foreign[0]))}"
            warnings.append(
                f"{len(foreign)} files below {shown} are in another format and were not read "
                f"({name_some(foreign)}){how}."
            )
    if folder.linked:
        warnings.append(
            f"{len(folder.linked)} links to other folders below {shown} were not followed "
            f"({name_some(folder.linked)}). To read these folders, name them in data.paths."
        )
    return Listing(tuple(folder.files[n] for n in wanted if n not in left_out), tuple(warnings))


@dataclass(frozen=True)
class _TableFormat:
    """A format of tables whose log says which files are part of the table now."""

    name: str
    log: str
    """Pattern of the files of the log, below the folder of the table."""
    remedy: str


_TABLE_FORMATS = (
    _TableFormat(
        "Delta", "_delta_log/*",
        "give the folder of the table itself, {path}",
    ),
    _TableFormat(
        "Iceberg", "metadata/*.metadata.json",
        "give the folder of the table itself, {path}",
    ),
    _TableFormat(
        "Hudi", ".hoodie/*",
        "give the files of the latest commit, as a reader for Hudi lists them, or write the table out as Parquet",
    ),
)  # fmt: skip


def _refuse_tables(folder: _Folder, wanted: Sequence[str], shown: str) -> None:
    """Refuse files that belong to a table of another format: some may hold rows that were deleted or replaced.

    On a local disk, a folder inside of a table is recognised, too.
    """
    for form in _TABLE_FORMATS:
        log_folder = form.log.split("/")[0]
        tables = {
            posixpath.dirname(posixpath.dirname(n)) for n in folder.files if match_pattern(_last_two(n), form.log)
        }
        inside = [n for n in wanted if any(not t or n.startswith(f"{t}/") for t in tables)]
        places = [posixpath.join(folder.root, t).rstrip("/") for t in sorted(tables)]
        if folder.local:
            around = [p for p in Path(os.path.abspath(folder.root)).parents if any(p.glob(form.log))]
            places, inside = [*map(str, around), *places], list(wanted) if around else inside
        if inside:
            raise InputDataError(
                explain(
                    f"{shown} has {len(inside)} files of a {form.name} table: {places[0]} holds {log_folder}",
                    why="the log of the table says which files hold its rows; the others hold rows that were deleted "
                    "or replaced, which would count again",
                    remedy=form.remedy.format(path=places[0]),
                )
            )


def _last_two(path: str) -> str:
    return "/".join(path.split("/")[-2:])


def _find_outputs(folder: _Folder) -> set[str]:
    """Return the folders below the root that this program wrote: published scores, and folders of runs."""
    names: dict[str, set[str]] = {}
    for relative in folder.files:
        parent, _, name = relative.rpartition("/")
        names.setdefault(parent, set()).add(name)
    below_root = {parent: inside for parent, inside in names.items() if parent}
    runs = {p for p, inside in below_root.items() if "sweep.parquet" in inside and inside & {"model.gmm", "run.json"}}
    published = {p for p, inside in below_root.items() if PUBLISHED in inside and _is_manifest(folder, p)}
    versioned = {p for p, inside in below_root.items() if TRIPWIRE in inside}
    return runs | published | versioned


def _is_manifest(folder: _Folder, parent: str) -> bool:
    try:
        content = json.loads(folder.read(f"{parent}/{PUBLISHED}", -1))
    except ValueError:
        return False
    return isinstance(content, dict) and {"job", "model_digest", "parts"} <= content.keys()
