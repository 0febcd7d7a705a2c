"""Where files of a result are put: a folder of a file system, or a prefix in an object store.

A file appears under its name complete or not at all. In an object store all requests are repeated after failures that
may go away, and whether only the answer was lost is found out by reading back.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from stream_gmm.errors import ConfigError, StorageError, explain, redact_text
from stream_gmm.io.source.files import is_uri, locate, redact

log = logging.getLogger(__name__)

T = TypeVar("T")

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
"""Schemes of object stores to which results can be written."""
ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.2
PATIENCE_SECONDS = 60.0
"""After so long no further attempt is made; each of them is repeated by pyarrow, too."""
_BLOCK_BYTES = 8 << 20
# What no repetition helps against.
_LASTING = re.compile(
    r"ACCESS_?DENIED|NO_?SUCH_?BUCKET|INVALID_?ACCESS_?KEY|SIGNATURE|resolve host|HTTP status 40[0135]", re.IGNORECASE
)


class Place(Protocol):
    """A folder or prefix; names are relative to it, with slashes."""

    def locate(self, name: str) -> str:
        """Return the path or URI of a file."""

    def read(self, name: str) -> bytes:
        """Return the content of a file; raises FileNotFoundError if there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, replacing an older one."""

    def scratch(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Return a context with the path of a local file to write, which is removed at the end unless it was put."""

    def put(self, path: Path, name: str) -> None:
        """Make a local file from ``scratch`` the file of that name."""

    def find_size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if there is none."""

    def compute_sha256(self, name: str) -> str:
        """Return the SHA-256 of a file as hexadecimal digits; reads all of it."""


def open_place(where: str) -> Place:
    """Return the place that a path or URI names."""
    return ObjectPlace(where) if is_uri(where) else LocalPlace(Path(where))


def check_scheme(uri: str) -> None:
    """Refuse a URI to which no result can be written.

    Raises
    ------
    ConfigError
        Names the schemes that there are.
    """
    scheme = uri.partition("://")[0]
    if scheme not in SCHEMES:
        raise ConfigError(
            explain(
                f"cannot write to {redact(uri)}",
                why=f"results go to a folder or to an object store ({', '.join(s + '://' for s in SCHEMES)}), "
                f"not to {scheme}://",
            )
        )
    if redact_text(uri) != uri:
        raise ConfigError(
            explain(
                f"the output {redact_text(uri)} holds credentials",
                why="the address of an output is kept in the record of a run",
                remedy="set them in the environment of all workers (AWS_ACCESS_KEY_ID, ...)",
            )
        )


def is_intact(place: Place, name: str, size: int, sha256: str) -> bool:
    """Return True if a file has this size and this content."""
    try:
        return place.find_size(name) == size and place.compute_sha256(name) == sha256
    except (OSError, StorageError):
        return False


@dataclass(frozen=True)
class LocalPlace:
    """A folder of a file system."""

    folder: Path

    def locate(self, name: str) -> str:
        return str(self.folder / name)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        target = self.folder / name
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        aside.write_bytes(content)
        os.replace(aside, target)

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            yield aside
        finally:
            aside.unlink(missing_ok=True)

    def put(self, path: Path, name: str) -> None:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(path, self.folder / name)

    def find_size(self, name: str) -> int | None:
        try:
            return (self.folder / name).stat().st_size
        except OSError:
            return None

    def compute_sha256(self, name: str) -> str:
        return compute_sha256(self.folder / name)


def compute_sha256(path: Path) -> str:
    """Return the SHA-256 of a local file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class ObjectPlace:
    """A prefix in an object store; credentials come from their usual places."""

    uri: str

    def locate(self, name: str) -> str:
        place = locate(self.uri)
        return place.uri_of(f"{place.path.rstrip('/')}/{name}")

    def below(self, name: str) -> ObjectPlace:
        """Return the place of a folder below this one."""
        return ObjectPlace(self.locate(name))

    def _find(self, name: str) -> tuple[pafs.FileSystem, str]:
        place = locate(self.uri)
        return place.filesystem, f"{place.path.rstrip('/')}/{name}" if name else place.path.rstrip("/")

    def read(self, name: str) -> bytes:
        def act() -> bytes:
            fs, path = self._find(name)
            with fs.open_input_stream(path) as stream:
                return bytes(stream.read())

        return self._repeat("read", name, act)

    def write(self, name: str, content: bytes) -> None:
        def act() -> None:
            fs, path = self._find(name)
            with fs.open_output_stream(path) as stream:
                stream.write(content)

        def is_there() -> bool:
            fs, path = self._find(name)
            with fs.open_input_stream(path) as stream:
                return bytes(stream.read()) == content

        self._repeat("write", name, act, is_there)

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        handle, path = tempfile.mkstemp(prefix="stream-gmm-", suffix=f"-{os.path.basename(name)}")
        os.close(handle)
        try:
            yield Path(path)
        finally:
            Path(path).unlink(missing_ok=True)

    def put(self, path: Path, name: str) -> None:
        def act() -> None:
            fs, target = self._find(name)
            with open(path, "rb") as file, fs.open_output_stream(target) as stream:
                while block := file.read(_BLOCK_BYTES):
                    stream.write(block)
            # The stream also ends well, with a part of the file, if it was left by an error.
            if fs.get_file_info(target).size != path.stat().st_size:
                raise OSError(f"{name} has not arrived completely")

        self._repeat("write", name, act)

    def find_size(self, name: str) -> int | None:
        def act() -> int | None:
            fs, path = self._find(name)
            return fs.get_file_info(path).size

        return self._repeat("look for", name, act)

    def compute_sha256(self, name: str) -> str:
        def act() -> str:
            digest = hashlib.sha256()
            fs, path = self._find(name)
            with fs.open_input_stream(path) as stream:
                while block := stream.read(_BLOCK_BYTES):
                    digest.update(block)
            return digest.hexdigest()

        return self._repeat("read", name, act)

    def list_top(self) -> list[str]:
        """Return the names of the files and folders directly below."""

        def act() -> list[str]:
            fs, path = self._find("")
            return sorted(i.base_name for i in fs.get_file_info(pafs.FileSelector(path, allow_not_found=True)))

        return self._repeat("list", "", act)

    def list(self, name: str = "") -> dict[str, pafs.FileInfo]:
        """Return all files below, by their names relative to this place."""

        def act() -> dict[str, pafs.FileInfo]:
            fs, path = self._find(name)
            found = fs.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
            skip = len(self._find("")[1]) + 1
            return {i.path[skip:]: i for i in found if i.type == pafs.FileType.File}

        return self._repeat("list", name, act)

    def copy(self, name: str, target: ObjectPlace) -> None:
        """Copy a file to another place in the same store, which does it by itself."""

        def act() -> None:
            fs, path = self._find(name)
            fs.copy_file(path, target._find(name)[1])

        self._repeat("copy", name, act)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

        def act() -> None:
            fs, path = self._find(name)
            with contextlib.suppress(FileNotFoundError):
                fs.delete_file(path)

        self._repeat("remove", name, act)

    def remove_folder(self, name: str) -> None:
        """Remove a folder with everything in it, if it is there."""

        def act() -> None:
            fs, path = self._find(name)
            with contextlib.suppress(FileNotFoundError):
                fs.delete_dir(path)

        self._repeat("remove", name, act)

    def _repeat(self, verb: str, name: str, act: Callable[[], T], is_done: Callable[[], T | bool] | None = None) -> T:
        """Return what ``act`` returns; after a failure that may go away, call it again.

        ``is_done`` finds out whether an act was done that has failed: its answer may have been lost.
        """
        started = time.monotonic()
        for attempt in range(ATTEMPTS):
            try:
                return act()
            except FileNotFoundError:
                raise
            except (OSError, pa.ArrowException) as error:
                if is_done is not None:
                    with contextlib.suppress(OSError, pa.ArrowException):
                        if is_done():
                            return None  # type: ignore[return-value]
                over = attempt == ATTEMPTS - 1 or time.monotonic() - started > PATIENCE_SECONDS
                if over or _LASTING.search(str(error)):
                    where = f"{redact(self.uri).rstrip('/')}/{name}".rstrip("/")
                    raise StorageError(
                        explain(
                            f"cannot {verb} {where}",
                            why=str(error),
                            remedy="check the address, the credentials and the rights; started again, a run resumes",
                        )
                    ) from error
                log.warning("%s %s: %s; trying again", verb, name, error)
            time.sleep(FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")
