"""The Executor: what it promises, and the one wrapper through which every task runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from threadpoolctl import ThreadpoolController

from stream_gmm.errors import StreamGMMError
from stream_gmm.faults import fault_site

I = TypeVar("I")  # noqa: E741
S = TypeVar("S")
R = TypeVar("R")

OnDone = Callable[[int], None]
ScratchPath = str | os.PathLike[str]
RETRIES = 2
RETRY_PAUSE_SECONDS = 0.2


class Executor(Protocol):
    """Runs pure functions over items.

    The contract, clause by clause (``tests/execute/test_conformance.py``):

    1. No items is an error.
    2. ``fn`` and ``merge`` are pure and picklable, and may be called more than once for an item.
    3. ``map_reduce`` is the fold over :func:`~stream_gmm.execute.tree.levels`, bit for bit, for
       any number of workers, order of completion, retry or death of a worker.
    4. ``map`` returns results in the order of the items.
    5. An ``OSError`` in a task is retried; every other error is raised at once, as it is.
    6. BLAS runs on one thread inside tasks.
    7. ``shared`` reaches every call of ``fn``, and is sent once, not once per item.
    8. ``on_done`` is called with the index of every item that is done, on the caller's machine.
    9. ``keep`` leaves values where they were made; its handles are items of this executor, and stand
       for the values. A value that is lost is made again. It ends with its last handle.
    """

    @property
    def n_workers(self) -> int:
        """Tasks that can run at the same time."""

    @property
    def memory_bytes(self) -> int:
        """Memory of all workers together."""

    @property
    def place(self) -> str:
        """Where the work is done, in words."""

    def keep(
        self, fn: Callable[[I, Any, ScratchPath], R], items: Sequence[I], *, shared: Any = None, label: str = "keep"
    ) -> Sequence[Any]:
        """Return handles to ``fn(item, shared, scratch)``; ``scratch`` is a folder of the worker's own."""

    def map(
        self,
        fn: Callable[[I, Any], R],
        items: Sequence[I],
        *,
        shared: Any = None,
        label: str = "map",
        on_done: OnDone | None = None,
    ) -> list[R]:
        """Return ``[fn(item, shared) for item in items]``."""

    def map_reduce(
        self,
        fn: Callable[[I, Any], S],
        merge: Callable[[S, S], S],
        items: Sequence[I],
        *,
        shared: Any = None,
        label: str = "map",
        on_done: OnDone | None = None,
    ) -> S:
        """Return the fold of ``fn(item, shared)`` by ``merge`` over the fixed tree."""


def _set_threads(library: Any, n: int) -> None:
    """Let a BLAS library use ``n`` threads, whichever thread asks.

    threadpoolctl obeys only the first thread that sets OpenBLAS; here the task that ends last may be in another.
    """
    release = getattr(library, "clear_controlling_thread", lambda **_: None)  # not in every release
    release(force=True)
    library.set_num_threads(n)
    release(force=True)


class _OneBlasThread:
    """Pins BLAS to one thread while any task of this process runs; re-entrant across threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._libraries: list[Any] = []
        self._modules = 0
        self._before: list[tuple[Any, int]] = []

    def __enter__(self) -> None:
        with self._lock:
            self._running += 1
            if self._running == 1:
                if self._modules != len(sys.modules):  # a module that came since may have brought a library
                    self._modules = len(sys.modules)
                    self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
                # threadpoolctl's own limit asks all libraries for more, which takes longer than a step on few rows.
                self._before = [(library, n) for library in self._libraries if (n := library.get_num_threads()) != 1]
                for library, _ in self._before:
                    _set_threads(library, 1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0:
                for library, n in self._before:
                    _set_threads(library, n)


one_blas_thread = _OneBlasThread()


def run_task(fn: Callable[[I, Any], R], item: I, shared: Any, retries: int = RETRIES) -> R:
    """Run one task: BLAS on one thread, and again after an ``OSError``."""
    with one_blas_thread:
        for left in range(retries, -1, -1):
            try:
                fault_site("task")
                return fn(item, shared)
            except StreamGMMError:
                raise
            except OSError:
                if not left:
                    raise
                time.sleep(RETRY_PAUSE_SECONDS)
    raise AssertionError("unreachable")  # pragma: no cover


def call_with_scratch(call: tuple[Callable[[I, Any, ScratchPath], R], I, ScratchPath], shared: Any) -> R:
    """Call ``(fn, item, scratch)``: what ``keep`` runs for each item."""
    fn, item, scratch = call
    return fn(item, shared, scratch)


@cache
def machine_memory() -> int:
    """Return the memory of this machine, or of the container it is, in bytes."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return min(physical, int(Path(path).read_text()))
    return physical


class Scratch(os.PathLike[str]):
    """A temporary folder of this process, made when its path is first asked for and removed at the end."""

    def __init__(self) -> None:
        self._folder = ""
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """Path of the folder."""
        with self._lock:
            if not self._folder:
                self._folder = tempfile.mkdtemp(prefix="stream-gmm-")
                # A TemporaryDirectory would warn when it is collected.
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            return self._folder

    def __fspath__(self) -> str:
        return self.path


def require_items(items: Sequence[Any]) -> None:
    """Refuse an empty map.

    Raises
    ------
    ValueError
        If there are no items.
    """
    if not len(items):
        raise ValueError("nothing to map over: the sequence of items is empty")
