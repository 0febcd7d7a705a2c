"""Steps with folders that either happen or do not: exchange, flush to disk, exclusive lock."""

from __future__ import annotations

import ctypes
import enum
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def exchange_paths(first: Path, second: Path) -> bool:
    """Exchange two files, folders or links in one atomic step; return False where the system cannot.

    Raises
    ------
    OSError
        If it fails for another reason.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(second))


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class LockState(enum.Enum):
    """What became of asking for a lock."""

    HELD = "this process holds it"
    TAKEN = "another process holds it"
    UNKNOWN = "the folder was replaced meanwhile, or its file system has no locks"


@contextmanager
def lock_folder(folder: Path, *, wait: bool) -> Iterator[LockState]:
    """Ask for the exclusive lock of a folder, for the ``with`` block; the system releases it when the process ends.

    Raises
    ------
    OSError
        If the folder cannot be opened.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _take_lock(handle, folder, wait)
    finally:
        os.close(handle)


def _take_lock(handle: int, folder: Path, wait: bool) -> LockState:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        same = os.path.samestat(os.fstat(handle), os.stat(folder))
    except BlockingIOError:
        return LockState.TAKEN
    except OSError:
        return LockState.UNKNOWN
    return LockState.HELD if same else LockState.UNKNOWN
