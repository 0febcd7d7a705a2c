"""Decoded rows kept for later passes: in a worker's memory, or as raw column blocks in its scratch folder.

A cached leaf yields the same chunks as the leaf it was made from, bit for bit. If a scratch file cannot be written,
has vanished, or lies on another machine, the rows are decoded again.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stream_gmm.io.source.chunks import Chunk
from stream_gmm.io.source.protocols import Leaf

log = logging.getLogger(__name__)

NONE, MEMORY, DISK = "none", "memory", "disk"
# Bytes left free on the scratch disk for other programs.
RESERVE = 1 << 30
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)


@dataclass(frozen=True)
class MemoryLeaf:
    """Decoded chunks."""

    cached: tuple[Chunk, ...]
    rows: int
    kind: str = MEMORY

    def chunks(self) -> Iterator[Chunk]:
        """Return the chunks."""
        return iter(self.cached)

    def __sizeof__(self) -> int:
        masks = [m for c in self.cached for m in (c.keep, c.matching) if m is not None]
        return 512 + sum(c.rows.nbytes for c in self.cached) + sum(m.nbytes for m in masks)


@dataclass(frozen=True)
class DiskLeaf:
    """Chunks whose values lie in a scratch file; without it they are decoded again."""

    path: str
    size: int
    headers: tuple[Chunk, ...]
    """The chunks, without their rows: ``rows`` is ``(0, D)``."""
    counts: tuple[int, ...]
    """Rows of each chunk in the file."""
    source: Leaf
    kind: str = DISK

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.source.rows

    def chunks(self) -> Iterator[Chunk]:
        """Return the chunks, each mapped while it is used and no longer."""
        try:
            usable = os.stat(self.path).st_size == self.size
        except OSError:
            usable = False
        return self._map_chunks() if usable else self.source.chunks()

    def _map_chunks(self) -> Iterator[Chunk]:
        start = 0
        with open(self.path, "rb") as file:
            for header, n in zip(self.headers, self.counts, strict=True):
                d = header.rows.shape[1]
                size = _align_size(8 * n * d)
                if not size:
                    yield header
                    continue
                block = mmap.mmap(
                    file.fileno(), size, flags=mmap.MAP_SHARED | _POPULATE, prot=mmap.PROT_READ, offset=start
                )
                start += size
                # No reference to the array is kept here: the map ends with the caller's.
                yield replace(header, rows=np.frombuffer(block, np.float64, n * d).reshape(d, n).T)


def _align_size(size: int) -> int:
    return -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY


def cache_leaf(item: tuple[Leaf, str], shared: Any, scratch: str | os.PathLike[str]) -> Leaf:
    """Decode a leaf and keep its rows: in ``"memory"``, on ``"disk"`` (below ``scratch``), or not (``"none"``)."""
    del shared
    leaf, mode = item
    return _CACHERS[mode](leaf, scratch)


def _cache_in_memory(leaf: Leaf, scratch: str | os.PathLike[str]) -> Leaf:
    del scratch
    # Undecoded columns are of no use to a pass.
    chunks = tuple(replace(c, batch=None) for c in leaf.chunks())
    return MemoryLeaf(chunks, leaf.rows)


def _cache_on_disk(leaf: Leaf, scratch: str | os.PathLike[str]) -> Leaf:
    path = ""
    try:
        try:
            scratch = os.fspath(scratch)  # which makes the folder
            handle, path = tempfile.mkstemp(prefix="stream-gmm-", suffix=".rows", dir=scratch)
        except OSError as error:
            raise _NoSpace(str(error)) from error
        # A buffer would be written when the file is closed, and fail there.
        with open(handle, "wb", buffering=0) as file:
            put = [_write_block(c, file, scratch) for c in leaf.chunks()]
            size = file.tell()
    except _NoSpace as error:
        log.warning("the scratch folder %s has no room, rows will be decoded in every pass: %s", scratch, error)
        with contextlib.suppress(OSError):
            os.unlink(path)
        return leaf
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    kept = DiskLeaf(path, size, tuple(f for f, _ in put), tuple(n for _, n in put), leaf)
    weakref.finalize(kept, _remove_file, path, os.getpid())
    return kept


class _NoSpace(Exception):
    """The scratch folder is full, or cannot be written."""


def _write_block(chunk: Chunk, file: Any, scratch: str) -> tuple[Chunk, int]:
    values = np.ascontiguousarray(chunk.rows.T)
    try:
        if shutil.disk_usage(scratch).free < values.nbytes + RESERVE:
            raise OSError(f"less than {RESERVE >> 20} MiB would be left free")
        for part in (values.reshape(-1).view(np.uint8).data, bytes(_align_size(values.nbytes) - values.nbytes)):
            left = memoryview(part)
            while left:
                left = left[file.write(left) :]
    except OSError as error:
        raise _NoSpace(str(error)) from error
    return replace(chunk, rows=np.empty((0, chunk.rows.shape[1])), batch=None), len(chunk.rows)


def _remove_file(path: str, owner: int) -> None:
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _keep_uncached(leaf: Leaf, scratch: str | os.PathLike[str]) -> Leaf:
    del scratch
    return leaf


_CACHERS = {MEMORY: _cache_in_memory, DISK: _cache_on_disk, NONE: _keep_uncached}


def cache_mode_of(leaf: Leaf) -> str:
    """Return how a leaf is cached: ``"none"``, ``"memory"`` or ``"disk"``."""
    return str(getattr(leaf, "kind", NONE))
