"""Paths, globs, folders and object-store URIs -> an ordered list of files; opening them.

File systems are never pickled: a pickled S3 file system holds the secret key in clear text. A
worker makes its own from the URI and its own environment.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stream_gmm.errors import InputDataError, explain

_MAGIC = re.compile(r"[*?\[]")
_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")
LOCAL_BUFFER = 1 << 20
REMOTE_BUFFER = 8 << 20


@dataclass(frozen=True)
class SourceFile:
    """One input file, as it was when the data set was opened."""

    path: str
    size: int
    modified: str
    relative: str
    """Path below the common root; outputs mirror it."""


def is_uri(path: str) -> bool:
    """Return True for ``scheme://...`` of an object store."""
    return "://" in path


@functools.lru_cache(maxsize=32)
def _open_filesystem(scheme: str, netloc: str, query: str) -> pafs.FileSystem:
    if scheme not in _SCHEMES:
        raise InputDataError(
            explain(
                f"cannot read from {scheme}://",
                remedy=f"use a local path or one of {', '.join(_SCHEMES)}",
            )
        )
    suffix = f"?{query}" if query else ""
    fs, _ = pafs.FileSystem.from_uri(f"{scheme}://{netloc}/{suffix}")
    return fs


def _split_uri(uri: str) -> tuple[pafs.FileSystem, str, str]:
    """Return the file system, the path in it, and the query to put behind other paths."""
    parts = urlsplit(uri)
    fs = _open_filesystem(parts.scheme, parts.netloc, parts.query)
    bucket = parts.netloc.rsplit("@", 1)[-1]
    return fs, f"{bucket}{parts.path}", parts.query


def _is_visible(relative: str) -> bool:
    return not any(piece.startswith(("_", ".")) for piece in PurePosixPath(relative).parts)


def _walk_folder(root: str) -> Iterable[str]:
    # Folder links are not followed: a link to itself would repeat every row.
    for folder, folders, names in os.walk(root, followlinks=False):
        folders.sort()
        yield from (os.path.join(folder, n) for n in names if n.endswith(".parquet"))


def _fixed_root(pattern: str) -> str:
    """Return the folder in front of the first wild card."""
    small_leaves = Path(pattern).parts
    fixed = next(i for i, p in enumerate(small_leaves) if _MAGIC.search(p))
    return str(Path(*small_leaves[:fixed])) if fixed else "."


def _match_pattern(pattern: str, names: Iterable[str]) -> list[str]:
    """Select names by a pattern in which ``**`` crosses folders and ``*`` does not."""
    regex = re.escape(pattern)
    regex = regex.replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*")
    regex = regex.replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    regex = re.sub(r"\\\[(.*?)\\\]", r"[\1]", regex)
    compiled = re.compile(regex)
    return [n for n in names if compiled.fullmatch(n)]


def _find_local(path: str) -> list[tuple[str, str]]:
    """Return (path, relative path) of the files that one local path or pattern stands for."""
    path = os.path.normpath(os.path.expanduser(path))
    if os.path.isfile(path):
        return [(path, os.path.basename(path))]
    if os.path.isdir(path):
        root, found = path, list(_walk_folder(path))
    elif _MAGIC.search(path):
        root = _fixed_root(path)
        candidates = (os.path.join(f, n) for f, _, ns in os.walk(root) for n in ns)
        found = _match_pattern(path, (os.path.normpath(c) for c in candidates))
    else:
        raise InputDataError(explain(f"there is no file or folder {path}", remedy="check data.paths"))
    pairs = [(f, os.path.relpath(f, root)) for f in found]
    return sorted(p for p in pairs if _is_visible(p[1]))


def _find_remote(uri: str) -> list[tuple[str, str, int, str]]:
    """Return (URI, relative path, size, version) of the files below an object-store URI."""
    fs, path, query = _split_uri(uri)
    scheme, suffix = urlsplit(uri).scheme, f"?{query}" if query else ""
    try:
        info = fs.get_file_info(path)
        if info.type == pafs.FileType.File:
            infos, root = [info], str(PurePosixPath(path).parent)
        else:
            root = _fixed_root(path) if _MAGIC.search(path) else path.rstrip("/")
            infos = fs.get_file_info(pafs.FileSelector(root, recursive=True))
    except OSError as error:
        raise InputDataError(
            explain(f"cannot list {redact(uri)}", why=str(error), remedy="check the address and credentials")
        ) from error
    files = {i.path: i for i in infos if i.type == pafs.FileType.File}
    names = _match_pattern(path, files) if _MAGIC.search(path) else [n for n in files if n.endswith(".parquet")]
    credentials = urlsplit(uri).netloc.rsplit("@", 1)[0] + "@" if "@" in urlsplit(uri).netloc else ""
    out = []
    for name in sorted(names):
        relative = os.path.relpath(name, root)
        if _is_visible(relative):
            full = f"{scheme}://{credentials}{name}{suffix}"
            out.append((full, relative, files[name].size, str(files[name].mtime_ns)))
    return out


def redact(path: str) -> str:
    """Return a path fit to be shown: without the credentials and options of a URI."""
    return re.sub(r"//[^/@]*@", "//", path.split("?", 1)[0]) if is_uri(path) else path


def find_files(paths: Iterable[str]) -> list[SourceFile]:
    """Return the files that paths, folders, patterns and URIs stand for, each once, in order.

    Names that begin with ``_`` or ``.`` are skipped below folders and patterns.

    Raises
    ------
    InputDataError
        If a path does not exist, or no file is found.
    """
    paths = [os.fspath(p) for p in paths]
    out: list[SourceFile] = []
    seen: set[Any] = set()
    for path in paths:
        for file, identity in _find_each(path):
            if identity not in seen:
                seen.add(identity)
                out.append(file)
    if not out:
        raise InputDataError(
            explain(
                f"no Parquet file matches {', '.join(redact(p) for p in paths) or 'an empty list'}",
                remedy="check data.paths; '**' crosses folders, '*' does not",
            )
        )
    return _make_distinct(out)


def _find_each(path: str) -> Iterable[tuple[SourceFile, Any]]:
    if is_uri(path):
        for uri, relative, size, version in _find_remote(path):
            yield SourceFile(uri, size, version, relative), uri
    else:
        for name, relative in _find_local(path):
            stat = os.stat(name)
            file = SourceFile(os.path.abspath(name), stat.st_size, str(stat.st_mtime_ns), relative)
            yield file, (stat.st_dev, stat.st_ino)


def _make_distinct(files: list[SourceFile]) -> list[SourceFile]:
    """Give files from different roots different relative paths."""
    if len({f.relative for f in files}) == len(files):
        return files
    return [
        SourceFile(f.path, f.size, f.modified, f"{i:05d}-{os.path.basename(f.relative)}") for i, f in enumerate(files)
    ]


def check_unchanged(file: SourceFile) -> None:
    """Refuse a local file that is not the one that was opened.

    Raises
    ------
    InputDataError
        If it is gone, or its size or time of change differs.
    """
    if is_uri(file.path):
        return
    try:
        stat = os.stat(file.path)
    except FileNotFoundError as error:
        raise InputDataError(
            explain(f"{file.path} has vanished since the data set was opened", remedy="run again")
        ) from error
    if (stat.st_size, str(stat.st_mtime_ns)) != (file.size, file.modified):
        raise InputDataError(
            explain(
                f"{file.path} has changed since the data set was opened",
                remedy="let the writer finish, then run again",
            )
        )


def open_parquet(path: str) -> pq.ParquetFile:
    """Open a Parquet file for reading in bounded memory, with page checksums verified.

    Raises
    ------
    InputDataError
        If it is not a Parquet file, or cannot be opened.
    """
    # pre_buffer would hold every compressed byte of the row group; a memory map of a file that
    # shrinks would kill the process.
    options: dict[str, Any] = {"pre_buffer": False, "page_checksum_verification": True}
    try:
        if is_uri(path):
            fs, name, _ = _split_uri(path)
            return pq.ParquetFile(fs.open_input_file(name), buffer_size=REMOTE_BUFFER, **options)
        return pq.ParquetFile(path, buffer_size=LOCAL_BUFFER, memory_map=False, **options)
    except (OSError, ValueError) as error:
        if isinstance(error, InputDataError):
            raise
        raise InputDataError(
            explain(
                f"cannot open {redact(path)} as Parquet",
                why=str(error),
                remedy="remove or rewrite the file, or leave it out of data.paths",
            )
        ) from error


def drop_excluded(files: list[SourceFile], patterns: Iterable[str]) -> list[SourceFile]:
    """Return the files whose relative path matches none of the shell patterns."""
    patterns = list(patterns)
    return [f for f in files if not any(fnmatch.fnmatch(f.relative, p) for p in patterns)]
