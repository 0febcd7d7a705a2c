"""The lease of a folder: one process at a time writes to it, and others can tell which one it is.

The lease is a small file with the name of its owner, under an exclusive lock of the system. The lock ends with its
process, however that ends, so that the lease of a dead process is taken over at once. Where several machines share a
file system, its owner also touches the file every few seconds: a lease that another machine has touched within the
last minute is alive, even if the file system keeps locks to one machine or has none.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import logging
import os
import platform
import random
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from stream_gmm.errors import FolderInUseError, StorageError, explain

log = logging.getLogger(__name__)

LEASE = ".lease.json"
HEARTBEAT_SECONDS = 10.0
EXPIRY_SECONDS = 60.0
"""A lease of another machine that was not touched for so long is that of a dead process."""
_POLL_SECONDS = 0.1
_TURMOIL_SECONDS = 15.0
_PATIENCE_SECONDS = 0.5  # one that ends just now, or only looks who holds the lease, is no reason to give up
_HELD: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())


@dataclass(frozen=True)
class Owner:
    """Who holds a lease.

    Attributes
    ----------
    run
        Name of the run; empty if it has none.
    user, host, pid
        Who runs it, where, and in which process.
    since
        When the lease was taken, ISO 8601 in UTC.
    machine
        Identity of the running system, which decides whether ``pid`` means anything here.
    started
        When the process started, in ticks of the system: process numbers are used again.
    token
        Unique for each time that a lease is taken.
    """

    run: str
    user: str
    host: str
    pid: int
    since: str
    machine: str
    started: str
    token: str

    def describe(self) -> str:
        """Return who it is in words."""
        run = f"run {self.run!r} of " if self.run else ""
        return f"{run}{self.user} on {self.host} (process {self.pid}), since {self.since}"

    @property
    def is_gone(self) -> bool:
        """True if the owner was a process of this machine and has ended; False also if nobody can tell from here."""
        return self.machine == _identify_machine() and self.started != _find_start(self.pid)


@contextlib.contextmanager
def hold_folder(folder: Path, *, run: str = "", wait: float = 0.0, lease: Path | None = None) -> Iterator[None]:
    """Hold the lease of a folder for the ``with`` block; the folder is created if it is not there.

    Blocks may be nested: inside of one, the same lease is held already. Threads that were not started by the holder
    (with its context) are others.

    Parameters
    ----------
    folder
        What is written to.
    run
        Name of the run, shown to others.
    wait
        Seconds to wait for another holder to end.
    lease
        Where the lease lies; None: ``.lease.json`` in the folder.

    Raises
    ------
    FolderInUseError
        If another process holds it, and still does after ``wait`` seconds; says who it is.
    StorageError
        If the lease cannot be written.
    """
    path = Path(os.path.abspath(lease or folder / LEASE))
    made = not path.parent.exists()

    def take(owner: Owner) -> LeaseHandle | Owner | None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _take(path, owner)
        except OSError as error:
            raise StorageError(
                explain(f"cannot take the lease of {folder}", why=str(error), remedy="check the rights of the folder")
            ) from error

    key = os.path.join(os.path.realpath(path.parent), path.name)
    try:
        with hold_lease(str(folder), key, take, run=run, wait=wait):
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # only if nothing was written


class LeaseHandle(Protocol):
    """A lease that this process holds."""

    def touch(self) -> None:
        """Show others that the holder is alive."""

    def release(self) -> None:
        """Give the lease up."""


@contextlib.contextmanager
def hold_lease(
    shown: str, key: str, take: Callable[[Owner], LeaseHandle | Owner | None], *, run: str, wait: float
) -> Iterator[None]:
    """Hold a lease of any kind for the ``with`` block; in nested blocks with the same key, it is held already.

    Parameters
    ----------
    shown
        What the lease is for, in messages.
    key
        Identity of the lease in this process.
    take
        Takes the lease for an owner, or returns who holds it; None if that is not known.
    run, wait
        As in :func:`hold_folder`.

    Raises
    ------
    FolderInUseError
        As :func:`hold_folder`.
    """
    if key in _HELD.get():
        yield
        return
    owner, started, told = make_owner(run), time.monotonic(), False
    seen: dict[str, float] = {}
    pause = _POLL_SECONDS
    while True:
        taken = take(owner)
        if taken is not None and not isinstance(taken, Owner):
            break
        who = taken.describe() if taken else "another run has just taken it"
        waited = time.monotonic() - started
        first = seen.setdefault(taken.token if taken else "", waited)
        # Several that try at once may keep each other from it: none of them holds it yet.
        settled = taken is not None and waited - first >= _PATIENCE_SECONDS / 2
        if waited >= max(wait, _PATIENCE_SECONDS) and (settled or waited >= max(wait, _TURMOIL_SECONDS)):
            raise FolderInUseError(
                explain(
                    f"{shown} is in use: {who}",
                    why="one run at a time writes to a folder",
                    remedy="start this one when the other has ended, or let it wait with --wait SECONDS",
                )
            )
        if not told and wait > 0.0:
            log.warning("waiting for %s: %s", shown, who)
            told = True
        time.sleep(pause * random.uniform(0.2, 1.8))
        pause = min(1.3 * pause, 1.0)
    token = _HELD.set(_HELD.get() | {key})
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError, StorageError):
                taken.touch()

    thread = threading.Thread(target=touch, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        _HELD.reset(token)
        ended.set()
        thread.join()
        taken.release()


def is_held(key: str) -> bool:
    """Return True inside of a block that holds the lease with this key."""
    return key in _HELD.get()


def read_owner(path: Path) -> Owner | None:
    """Return who holds the lease in a file, or held it last; None if nobody does or the file is damaged."""
    try:
        return Owner(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def is_lease_held(path: Path) -> bool:
    """Return True if a living process holds the lease in a file."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        locked = True
    except BlockingIOError:
        return True
    except OSError:
        locked = False
    finally:
        os.close(handle)
    owner = read_owner(path)
    return owner is not None and _is_alive(owner, path, locked)


@dataclass(frozen=True)
class _Handle:
    """A lease that this process holds."""

    path: Path
    number: int
    owner: Owner

    def touch(self) -> None:
        os.utime(self.number)

    def release(self) -> None:
        # The file first: once the lock is gone, it may be another's.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self.number), os.stat(self.path)):
                self.path.unlink()
        os.close(self.number)


def _take(path: Path, owner: Owner) -> _Handle | Owner | None:
    """Take a lease; or return who holds it, None if that is not written yet."""
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        locked = True
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(number)
            return read_owner(path)
        except OSError:  # the file system has no locks
            locked = False
        before = read_owner(path)
        # A lease that was released meanwhile is a file without a name.
        replaced = not os.path.exists(path) or not os.path.samestat(os.fstat(number), os.stat(path))
        if replaced or (before is not None and _is_alive(before, path, locked)):
            os.close(number)
            return before
        if before is not None:
            log.warning("taking over %s from %s, which has ended without releasing it", path, before.describe())
        os.ftruncate(number, 0)
        os.pwrite(number, json.dumps(asdict(owner), indent=1).encode(), 0)
        os.fsync(number)
        if not locked:
            time.sleep(2 * _POLL_SECONDS)  # of two that have written at once, one finds the other's name
        now = read_owner(path)
        if now is None or now.token != owner.token:
            os.close(number)
            return now
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(number)
        raise
    return _Handle(path, number, owner)


def _is_alive(owner: Owner, path: Path, locked: bool) -> bool:
    """Return True if the owner of a lease lives, where ``locked`` says that nobody has its lock on this machine."""
    if owner.machine.split(":")[0] == _identify_machine().split(":")[0] and locked:
        return False
    if owner.machine == _identify_machine():
        return not owner.is_gone
    # The clock of the file system, which need not be that of this machine.
    try:
        with tempfile.NamedTemporaryFile(prefix="._lease-", dir=path.parent) as probe:
            now = os.fstat(probe.fileno()).st_mtime
        return now - path.stat().st_mtime < EXPIRY_SECONDS
    except OSError:
        return False


def make_owner(run: str) -> Owner:
    """Return this process as the owner of a lease that it takes now."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name
        user = str(os.getuid())
    since = datetime.now(UTC).isoformat(timespec="seconds")
    pid = os.getpid()
    return Owner(run, user, platform.node(), pid, since, _identify_machine(), _find_start(pid), uuid.uuid4().hex)


def _identify_machine() -> str:
    """Return the identity of the running system, and behind a colon that of its numbering of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{platform.node()}:"


def _find_start(pid: int) -> str:
    """Return when a process started, in ticks since the start of the system; empty if there is no such process."""
    try:
        # The name of the program, in brackets, may hold spaces.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "unknown"
