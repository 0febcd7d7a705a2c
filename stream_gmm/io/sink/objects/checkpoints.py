"""Checkpoints of a run in an object store, so that another machine can go on with it.

::

    run/_ledger/3f6c....gmm, 3f6c....profile     the newest checkpoint of a sweep, as in the ledger of the machine
    run/_ledger/job.json                         the job that was begun last

Each is one object, which a store replaces as a whole. They are a help, not a condition: a checkpoint that cannot be
sent is told, and the run goes on with those on its machine.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path, PurePosixPath

from stream_gmm.errors import StorageError
from stream_gmm.io.sink.places import ObjectPlace
from stream_gmm.io.source.files import redact
from stream_gmm.io.store.container import write_atomically

log = logging.getLogger(__name__)

LEDGER_PREFIX = "_ledger"
SHARE_OF_TIME = 0.1
"""Sending takes at most about this share of the time of a run; a checkpoint that comes too soon is left out."""


class Checkpoints:
    """Files of a ledger in an object store, by their names."""

    def __init__(self, place: ObjectPlace) -> None:
        self.place = place
        self._next_time = 0.0
        self._waiting: tuple[Path, ...] = ()
        self._failure = ""

    def send(self, *paths: Path, at_once: bool = True) -> str:
        """Send files; return why it failed, once, or nothing.

        Parameters
        ----------
        at_once
            Whether they are sent however soon they come after the last ones; if not, :meth:`flush` sends them.
        """
        started = time.monotonic()
        self._waiting = () if at_once or started >= self._next_time else paths
        if self._failure or self._waiting:
            return ""
        try:
            for path in paths:
                self.place.write(path.name, path.read_bytes())
        except (OSError, StorageError) as error:
            self._failure = (
                f"checkpoints are no longer sent to {redact(self.place.uri)}: {str(error).rstrip('.')}. They stay "
                "on this machine alone, and another one goes on from those that were sent before."
            )
            log.warning(self._failure)
            return self._failure
        ended = time.monotonic()
        self._next_time = ended + (ended - started) * (1.0 / SHARE_OF_TIME - 1.0)
        return ""

    def flush(self) -> None:
        """Send the files that came too soon, if no others came after them."""
        self.send(*self._waiting)

    def has(self, path: Path) -> bool:
        """Return True if a file of this name and size is there; False, too, if the store does not answer."""
        try:
            return self.place.find_size(path.name) == path.stat().st_size
        except (OSError, StorageError):
            return False

    def fetch(self, name: str, target: Path) -> bool:
        """Write a file that is there to ``target``; return False if there is none.

        Raises
        ------
        StorageError
            If the store does not answer.
        """
        try:
            content = self.place.read(name)
        except FileNotFoundError:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content)
        return True

    def fetch_all(self, folder: Path) -> None:
        """Write all files that are there into a folder.

        Raises
        ------
        StorageError
            If the store does not answer.
        """
        for name in self.place.list():
            self.fetch(name, folder / PurePosixPath(name).name)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises
        ------
        StorageError
            If the store does not answer.
        """
        self.place.remove(name)

    def list_newest(self, suffix: str) -> list[str]:
        """Return the names with this ending, the newest first.

        Raises
        ------
        StorageError
            If the store does not answer.
        """
        found = {n: info for n, info in self.place.list().items() if n.endswith(suffix)}
        return sorted(found, key=lambda n: -(found[n].mtime_ns or 0))
