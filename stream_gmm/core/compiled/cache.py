"""Compiled code on disk, as numba keeps it; while one process compiles a function, the others wait for it."""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path
from typing import Any, ClassVar

from numba.core.caching import FunctionCache

try:
    import fcntl
except ImportError:  # not on Windows: processes compile what they need, each for itself
    fcntl = None  # type: ignore[assignment]

LONGEST_WAIT = 300.0
"""Seconds after which a process compiles for itself: the other one may have been stopped, or was interrupted."""
_POLL = 0.05
_LOCK_FILE = "stream_gmm.lock"


class SharedCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function, which one process at a time fills.

    A process that does not find what it needs takes the lock, and looks again: by then another one may have compiled
    it. The lock goes when the result is saved, when it cannot be compiled, or with the process.
    """

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._lock = FileLock(Path(self.cache_path, _LOCK_FILE), self._impl.filename_base)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function, or None for the process that shall compile it."""
        found = super().load_overload(sig, target_context)
        if found is None and self._enabled and self._lock.wait(LONGEST_WAIT):
            found = super().load_overload(sig, target_context)
            if found is not None:
                self._lock.release()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled."""
        try:
            super().save_overload(sig, data)
        finally:
            self.release()

    def release(self) -> None:
        """Let another process compile the function."""
        self._lock.release()


class FileLock:
    """A lock between processes: one byte of a file, by the name of what is locked."""

    _open: ClassVar[dict[tuple[int, Path], int]] = {}
    """Descriptors by process and file; they stay open, since closing one would release all locks of the process."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.byte = path, zlib.crc32(name.encode())

    def wait(self, seconds: float) -> bool:
        """Return True as soon as this process has the lock; False after so many seconds, or without locks."""
        end = time.monotonic() + seconds
        try:
            descriptor = self._open_file()
            while not _try_lock(descriptor, self.byte):
                if time.monotonic() > end:
                    return False
                time.sleep(_POLL)
        except OSError:  # the file cannot be written, or its file system has no locks
            return False
        return fcntl is not None

    def release(self) -> None:
        """Let the next process take the lock."""
        if fcntl is not None and (os.getpid(), self.path) in self._open:
            fcntl.lockf(self._open_file(), fcntl.LOCK_UN, 1, self.byte)

    def _open_file(self) -> int:
        key = os.getpid(), self.path
        if key not in self._open:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open[key] = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        return self._open[key]


def _try_lock(descriptor: int, byte: int) -> bool:
    """Return False if another process has the lock."""
    try:
        if fcntl is not None:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        return True
    except (BlockingIOError, PermissionError):  # which of them depends on the system
        return False
