"""One input file or object: its identity, opening it, and noticing that it was replaced.

File systems are never pickled: a pickled S3 file system holds the secret key in clear text. A
worker makes its own from the URI and its own environment.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stream_gmm.errors import InputDataError, StorageError, explain

_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")
# The options behind a URI; any other question mark is a wild card.
_QUERY = re.compile(r"\w+=[^?&]*(&\w+=[^?&]*)*")
LOCAL_BUFFER = 1 << 20
REMOTE_BUFFER = 8 << 20
_UNANSWERED = re.compile(
    r"NETWORK_CONNECTION|curlCode|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|THROTTLING|REQUEST_TIMEOUT"
    r"|time(d|out)? ?out|(?i:connection (refused|reset|closed|aborted))|HTTP (status|response code):? 5\d\d"
)
"""How errors of object stores read that the store itself is to blame for, and not what was asked of it."""
NAMED_FILES = 3
CONTENT_BLOCKS = 16
CONTENT_BLOCK_BYTES = 4096


@dataclass(frozen=True)
class SourceFile:
    """One input file, as it was when the data set was opened."""

    path: str
    size: int
    modified: str
    relative: str
    """Path below the common root; outputs mirror it."""
    version: str = ""
    """Checked whenever the file is opened: SHA-256 of a local file's footer, the ETag of an object."""
    content: str = ""
    """SHA-256 over 16 blocks of 4 KiB of a local file (all of a small one); part of the fingerprint."""
    conform: tuple[pa.Field, ...] = ()
    """Columns that other files have with another type, or that this file lacks, as the scored output has them."""
    partition: tuple[tuple[pa.Field, Any], ...] = ()
    """Columns that are not in the file, and have one value in all of its rows: the partition columns of a table."""
    field_names: tuple[tuple[int, str], ...] = ()
    """Numbers and names of the columns of an Iceberg table, by which its files must have them."""

    @property
    def identity(self) -> str:
        """A digest of path, size, time of change, footer or ETag, and some content."""
        seen = (self.relative, self.size, self.modified, self.version, self.content)
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]

    @property
    def number(self) -> int:
        """A number for hashes of rows: the same for a copy of the file, whatever its time of change."""
        seen = (self.relative, self.size, self.version, self.content)
        return int(hashlib.sha256(repr(seen).encode()).hexdigest()[:15], 16)


FORMATS = {
    ".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".orc": "orc",
    ".feather": "feather", ".arrow": "feather", ".ipc": "feather",
}  # fmt: skip
"""Endings of files in other formats, and the name by which pyarrow reads them."""


def explain_conversion(path: str) -> str:
    """Return how to make Parquet of a file in another format, in one line; nothing if its ending is not known."""
    stem, ending = os.path.splitext(path)
    form = FORMATS.get(ending.lower())
    if form is None:
        return ""
    return (
        'only Parquet is read; convert it, in bounded memory: python -c "import pyarrow.dataset as d; '
        f"d.write_dataset(d.dataset({redact(path)!r}, format={form!r}), {redact(stem) + '-parquet'!r}, "
        "format='parquet')\""
    )


def refuse_unanswered(path: str, error: BaseException) -> None:
    """Refuse to go on if a store did not answer; the libraries of the stores have tried several times by then.

    Raises
    ------
    StorageError
        If that is what the error says.
    """
    if is_uri(path) and _UNANSWERED.search(str(error)):
        raise StorageError(
            explain(
                f"the store of {redact(path)} does not answer",
                why=str(error),
                remedy="check that it can be reached from here, and run again",
            )
        ) from error


def name_some(names: Sequence[str], most: int = NAMED_FILES) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def is_uri(path: str) -> bool:
    """Return True for ``scheme://...`` of an object store."""
    return "://" in path


def _cut_query(uri: str) -> tuple[str, str]:
    """Return a URI without its options, and the options."""
    head, mark, query = uri.rpartition("?")
    return (head, query) if mark and _QUERY.fullmatch(query) else (uri, "")


def redact(path: str) -> str:
    """Return a path fit to be shown: without the credentials and options of a URI."""
    return re.sub(r"//[^/@]*@", "//", _cut_query(path)[0]) if is_uri(path) else path


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


@dataclass(frozen=True)
class Location:
    """Where a URI points to: a file system, a path in it, and what stands around that path in the URI."""

    filesystem: pafs.FileSystem
    path: str
    prefix: str
    """Scheme and credentials."""
    suffix: str
    """Options, with their question mark."""

    def uri_of(self, path: str) -> str:
        """Return the URI of another path in the same file system."""
        return f"{self.prefix}{path}{self.suffix}"


def locate(uri: str) -> Location:
    """Return where a URI points to."""
    plain, query = _cut_query(uri)
    # A question mark that is a wild card, or a number sign in a key, must stay in the path.
    scheme, _, rest = plain.partition("://")
    netloc, slash, path = rest.partition("/")
    fs = _open_filesystem(scheme, netloc, query)
    credentials, at, bucket = netloc.rpartition("@")
    return Location(fs, f"{bucket}{slash}{path}", f"{scheme}://{credentials}{at}", f"?{query}" if query else "")


def _open_handle(path: str) -> Any:
    if not is_uri(path):
        return pa.OSFile(path)
    place = locate(path)
    return place.filesystem.open_input_file(place.path)


def _open_reader(handle: Any, path: str) -> pq.ParquetFile:
    # pre_buffer would hold every compressed byte of the row group; a memory map of a file that
    # shrinks would kill the process.
    return pq.ParquetFile(
        handle,
        buffer_size=REMOTE_BUFFER if is_uri(path) else LOCAL_BUFFER,
        pre_buffer=False,
        page_checksum_verification=True,
    )


class UnreadableFileError(InputDataError):
    """A file is no Parquet file, or a damaged one; ``__cause__`` says how."""


@contextlib.contextmanager
def _explain_unreadable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, InputDataError):
            raise
        if is_uri(path) and _UNANSWERED.search(str(error)):
            raise OSError(f"{redact(path)}: {error}") from error  # the executor tries again
        if isinstance(error, UnicodeDecodeError):
            name = error.object.decode(errors="backslashreplace")
            raise InputDataError(
                explain(
                    f"{redact(path)}: the name of column '{name}' is damaged",
                    why="its bytes are not UTF-8",
                    remedy="write the file again, or leave it out with data.exclude",
                )
            ) from error
        foreign = explain_conversion(path)
        raise UnreadableFileError(
            explain(
                f"cannot open {redact(path)} as Parquet",
                why=str(error),
                remedy=foreign or "write the file again, or leave it out with data.exclude (--exclude PATTERN)",
            )
        ) from error


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file for reading in bounded memory, with page checksums verified.

    Raises
    ------
    InputDataError
        If it is not a Parquet file, or cannot be opened.
    """
    with _explain_unreadable(path):
        handle = _open_handle(path)
        reader = _open_reader(handle, path)
    with handle, reader:
        yield reader


@contextlib.contextmanager
def open_unchanged(file: SourceFile) -> Iterator[pq.ParquetFile]:
    """Open the file that was seen when the data set was opened, and make sure afterwards that it still is the same.

    Raises
    ------
    InputDataError
        If it is gone or was replaced, before or while it was read; or cannot be opened.
    """
    with _open_checked(file) as handle:
        with _explain_unreadable(file.path):
            reader = _open_reader(handle, file.path)
        with reader:
            yield reader
    check_unchanged(file)


def check_unchanged(file: SourceFile) -> None:
    """Refuse a file or object that is not the one that was seen when the data set was opened.

    Raises
    ------
    InputDataError
        If it is gone, or its size, time of change, footer or ETag differs.
    """
    with _open_checked(file):
        pass


@contextlib.contextmanager
def _open_checked(file: SourceFile) -> Iterator[Any]:
    with _explain_unreadable(file.path):
        try:
            handle = _open_handle(file.path)
            size, modified, version = _identify(handle, file.path)
        except FileNotFoundError as error:
            raise InputDataError(
                explain(
                    f"{redact(file.path)} has vanished since the data set was opened",
                    why="all passes over the data must read the same rows",
                    remedy="run again",
                )
            ) from error
    with handle:
        if (size, modified or file.modified, version) != (file.size, file.modified, file.version):
            raise InputDataError(
                explain(
                    f"{redact(file.path)} has changed since the data set was opened",
                    why="all passes over the data must read the same rows",
                    remedy="let the writer finish, then run again",
                )
            )
        yield handle


def _identify(handle: Any, path: str) -> tuple[int, str, str]:
    """Return size, time of change and version of an open file."""
    if not is_uri(path):
        stat = os.fstat(handle.fileno())
        return stat.st_size, str(stat.st_mtime_ns), _hash_footer(handle, stat.st_size)
    described = handle.metadata() or {}
    tag = next((described[key] for key in ("ETag", "VersionId") if described.get(key)), None)
    place = locate(path)
    # A store without tags: its time of change has to do.
    modified = "" if tag else str(place.filesystem.get_file_info(place.path).mtime_ns)
    return handle.size(), modified, tag.decode() if isinstance(tag, bytes) else str(tag or modified)


def _hash_footer(handle: Any, size: int) -> str:
    tail = handle.read_at(min(size, 8), max(size - 8, 0))
    length = int.from_bytes(tail[:4], "little")
    start = max(size - 8 - length, 0)
    return hashlib.sha256(handle.read_at(size - start, start)).hexdigest()


def _hash_content(handle: Any, size: int) -> str:
    """Return a digest of evenly spaced blocks: the footer alone may be the same for other values."""
    sha = hashlib.sha256()
    step = max(size // CONTENT_BLOCKS, CONTENT_BLOCK_BYTES)
    for start in range(0, size, step):
        sha.update(handle.read_at(min(CONTENT_BLOCK_BYTES, size - start), start))
    return sha.hexdigest()


def inspect_file(file: SourceFile) -> tuple[SourceFile, pq.FileMetaData, pa.Schema]:
    """Return a listed file with its identity, and its footer.

    Raises
    ------
    InputDataError
        If it is not a Parquet file, or cannot be opened.
    StorageError
        If its store does not answer.
    """
    try:
        return _inspect(file)
    except OSError as error:
        refuse_unanswered(file.path, error)
        raise


def _inspect(file: SourceFile) -> tuple[SourceFile, pq.FileMetaData, pa.Schema]:
    with _explain_unreadable(file.path):
        handle = _open_handle(file.path)
        with handle:
            size, modified, version = _identify(handle, file.path)
            reader = _open_reader(handle, file.path)
            content = "" if is_uri(file.path) else _hash_content(handle, size)
            seen = replace(file, size=size, modified=modified or file.modified, version=version, content=content)
            return seen, reader.metadata, reader.schema_arrow
