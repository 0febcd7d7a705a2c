"""The folder of a run in an object store: a working copy on this machine, and one commit for every change.

::

    run/v-0123456789abcdef/model.gmm, run.json, report.html ...    the champion's files, complete
    run/v-0123456789abcdef/_versions/000003/model.gmm ...          files of other versions, once each
    run/v-0123456789abcdef/_run.json                               the manifest: every file of the run folder
    run/_commits/000000007-4f1c....json, run/_latest.json          as for scored tables (:mod:`.commits`)

    run/_ledger/                                                   checkpoints (:mod:`.checkpoints`)

The working copy has the files of the run folder as on a disk, and the ledger. Whoever changes the folder holds the
lease of the prefix, brings the copy up to date, works there, and publishes what has changed. The manifest names the
object of each file, so that files of other versions are sent once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stream_gmm.errors import StorageError, explain
from stream_gmm.io.sink.objects.checkpoints import LEDGER_PREFIX, Checkpoints
from stream_gmm.io.sink.objects.commits import (
    COMMITS,
    KEPT_COMMITS,
    LATEST,
    VERSION_NAME,
    Commit,
    commit_version,
    find_current,
    list_commits,
    read_commit,
    read_version,
    show_latest,
)
from stream_gmm.io.sink.objects.lease import CLAIMS, PROBE, hold_prefix
from stream_gmm.io.sink.places import ObjectPlace, check_scheme
from stream_gmm.io.source.files import is_uri, redact
from stream_gmm.io.source.listing import TRIPWIRE
from stream_gmm.io.store.container import write_atomically
from stream_gmm.io.store.folders import sync_folder
from stream_gmm.io.store.generations import CURRENT, STATES, replace_by_link
from stream_gmm.io.store.lease import LEASE, hold_folder, is_held, is_lease_held

log = logging.getLogger(__name__)

RUN_MANIFEST = "_run.json"
_OTHERS = "_versions"
_SEEN = ".commit.json"
"""In the copy: the commit that it was made from."""
_FETCHED: set[str] = set()
"""Run folders whose copies were brought up to date in this process."""


@dataclass(frozen=True)
class RunPrefix:
    """The folder of a run in an object store, and its copy here."""

    place: ObjectPlace
    copy: Path

    @property
    def shown(self) -> str:
        """Its URI, without options."""
        return redact(self.place.uri)

    def open_checkpoints(self) -> Checkpoints:
        """Return the checkpoints of the run, for :meth:`.Ledger.open`."""
        return Checkpoints(self.place.below(LEDGER_PREFIX))

    def find_commit(self) -> Commit | None:
        """Return the commit of the current state; None if there is none.

        Raises
        ------
        StorageError
            If the prefix holds something else than a run, or the store does not answer.
        """
        commit = find_current(self.place)
        if commit is not None and commit.manifest != RUN_MANIFEST:
            raise StorageError(
                explain(f"{self.shown} holds a scored table, not a run", remedy="give the run a prefix of its own")
            )
        return commit

    def check(self) -> None:
        """Refuse a prefix that is not that of a run, or where nothing can be written.

        Raises
        ------
        StorageError
            Says what is there.
        """
        self.place.write(PROBE, b"")
        self.place.remove(PROBE)
        ours = {COMMITS, CLAIMS, LATEST, LEDGER_PREFIX, TRIPWIRE, "scored"}
        foreign = [n for n in self.place.list_top() if n not in ours and not VERSION_NAME.fullmatch(n)]
        if self.find_commit() is None and foreign:
            raise StorageError(
                explain(
                    f"{self.shown} exists and is not the folder of a run: it holds {', '.join(foreign[:3])}",
                    remedy="give another prefix, or move these objects away",
                )
            )

    def pull(self) -> None:
        """Bring the copy up to date; its ledger stays as it is.

        Raises
        ------
        StorageError
            If an object is damaged or gone, or the store does not answer.
        """
        commit = self.find_commit()
        manifest: dict[str, Any] = (
            {"files": {}, "current": "", "shown": []} if commit is None else read_version(self.place, commit)
        )
        states = self.copy / STATES
        try:
            for path, (name, size, sha256) in manifest["files"].items():
                if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                    raise StorageError(f"the manifest of {self.shown} names the file {path!r}, which is damaged.")
                target = self.copy / path
                if not target.is_file() or target.is_symlink() or _describe(target) != (size, sha256):
                    content = self._read(name, size, sha256)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if target.is_symlink():
                        target.unlink()
                    write_atomically(target, content)
            if manifest["current"]:
                sync_folder(states / manifest["current"])
                replace_by_link(states / CURRENT, manifest["current"])
                for name in manifest["shown"]:
                    replace_by_link(self.copy / name, os.path.join(STATES, CURRENT, name))
            self._remove_others(set(manifest["files"]), {*manifest["shown"]}, manifest["current"])
            if self.copy.is_dir():
                write_atomically(self.copy / _SEEN, json.dumps({"commit": commit.name if commit else ""}).encode())
        except OSError as error:
            raise StorageError(
                explain(
                    f"cannot write the copy {self.copy} of {self.shown}", why=str(error), remedy="check the space"
                )
            ) from error
        _FETCHED.add(self.place.uri)

    def _read(self, name: str, size: int, sha256: str) -> bytes:
        try:
            content = self.place.read(name)
        except FileNotFoundError:
            content = b""
        if (len(content), hashlib.sha256(content).hexdigest()) != (size, sha256):
            raise StorageError(
                explain(
                    f"{self.shown}/{name} is damaged or gone",
                    why="its size or SHA-256 is not what the manifest says",
                    remedy=f"remove the newest object below {self.shown}/{COMMITS}/: then the one before counts",
                )
            )
        return content

    def _remove_others(self, files: set[str], shown: set[str], current: str) -> None:
        """Remove from the copy what is not in the store, but for the ledger and hidden files."""
        for path in _list_files(self.copy):
            if path not in files:
                (self.copy / path).unlink(missing_ok=True)
        states = {path.split("/")[1] for path in files if path.startswith(f"{STATES}/")}
        if (self.copy / STATES).is_dir():
            for folder in (self.copy / STATES).iterdir():
                if folder.name.isdigit() and folder.name not in states:
                    shutil.rmtree(folder, ignore_errors=True)
            if not current:
                (self.copy / STATES / CURRENT).unlink(missing_ok=True)
        for link in _list_links(self.copy):
            if link not in shown:
                (self.copy / link).unlink(missing_ok=True)

    def push(self) -> bool:
        """Publish what has changed in the copy, in one commit; return False if nothing has.

        Raises
        ------
        StorageError
            If it cannot be published, or another run has published since: what was there is still current.
        """
        paths = _list_files(self.copy)
        pointer = self.copy / STATES / CURRENT
        current = os.readlink(pointer) if pointer.is_symlink() else ""
        described = {path: _describe(self.copy / path) for path in paths}
        before = self.find_commit()
        old: dict[str, Any] = {"files": {}, "current": "", "shown": []}
        if before is not None:
            old = read_version(self.place, before)
        shown = _list_links(self.copy)
        same = {path: tuple(entry[1:]) for path, entry in old["files"].items()} == described
        if same and (old["current"], sorted(old["shown"])) == (current, shown):
            return False
        seen = json.loads((self.copy / _SEEN).read_text())["commit"]
        if seen != (before.name if before else ""):
            raise StorageError(
                explain(
                    f"another run has published to {self.shown} meanwhile",
                    why="its lease was taken over, as this process did not renew it for a minute",
                    remedy="run again: what was fitted is in the ledger",
                )
            )
        known = {entry[2]: entry[0] for entry in old["files"].values()}
        folder, files = f"v-{uuid.uuid4().hex[:16]}", {}
        for path, (size, sha256) in described.items():
            own = path.removeprefix(f"{STATES}/{current}/")
            inside = path.startswith(f"{STATES}/") and own == path
            name = f"{folder}/{own}" if not inside else f"{folder}/{_OTHERS}/{path.removeprefix(STATES + '/')}"
            if inside and sha256 in known:
                name = known[sha256]
            else:
                self.place.write(name, (self.copy / path).read_bytes())
            files[path] = [name, size, sha256]
        commit = commit_version(
            self.place, folder, RUN_MANIFEST, {"files": files, "current": current, "shown": shown}
        )  # fmt: skip
        write_atomically(self.copy / _SEEN, json.dumps({"commit": commit.name}).encode())
        try:
            show_latest(self.place)
            for name, _ in self.find_unreferenced():
                self.place.remove(name)
        except StorageError as error:  # what was published is published
            log.warning("%s is published, and _latest.json or old files are as before: %s", self.shown, error)
        return True

    def find_unreferenced(self, keep: int = KEPT_COMMITS) -> list[tuple[str, int]]:
        """Return the objects, with their bytes, that neither the current state nor the last ones refer to."""
        commits = list_commits(self.place)
        kept = commits[:keep]
        used = set(kept)
        for name in kept:
            commit = read_commit(self.place, name)
            used |= {f"{commit.folder}/{commit.manifest}"}
            used |= {entry[0] for entry in read_version(self.place, commit)["files"].values()}
        found = {n: info.size for n, info in self.place.list(COMMITS).items()}
        for top in self.place.list_top():
            if VERSION_NAME.fullmatch(top):
                found |= {n: info.size for n, info in self.place.list(top).items()}
        return sorted((n, size) for n, size in found.items() if n not in used)


def open_run_prefix(uri: str, work: str | None = None) -> RunPrefix:
    """Return the run folder of a URI; ``work`` is the folder that holds working copies, None: the user's cache.

    Raises
    ------
    ConfigError
        If nothing can be written to URIs of its scheme.
    """
    check_scheme(uri)
    uri = uri.rstrip("/")
    base = Path(work or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "stream-gmm")).expanduser()
    digest = hashlib.sha256(redact(uri).encode()).hexdigest()[:12]
    return RunPrefix(ObjectPlace(uri), base.absolute() / f"{redact(uri).rsplit('/', 1)[-1]}-{digest}")


def is_run_prefix(uri: str) -> bool:
    """Return True if a prefix holds a run."""
    commit = find_current(ObjectPlace(uri.rstrip("/")))
    return commit is not None and commit.manifest == RUN_MANIFEST


def fetch_copy(prefix: RunPrefix, *, again: bool = False) -> Path:
    """Return the copy of a run folder, brought up to date once in a process; a copy that a run works in is as it is.

    Raises
    ------
    StorageError
        If the store does not answer, or the prefix holds something else.
    """
    known = prefix.place.uri in _FETCHED and not again
    if not (known or is_held(prefix.place.uri) or is_lease_held(prefix.copy / LEASE)):
        prefix.copy.mkdir(parents=True, exist_ok=True)
        prefix.pull()
    return prefix.copy


@contextlib.contextmanager
def hold_run(prefix: RunPrefix, *, run: str = "", wait: float = 0.0) -> Iterator[Path]:
    """Hold the lease of a run folder for the ``with`` block, with its copy; what has changed is published at the end.

    Blocks may be nested: each publishes what has changed in it. After an error nothing is.

    Raises
    ------
    FolderInUseError
        If another process holds it, and still does after ``wait`` seconds.
    StorageError
        If the store does not answer, or refuses.
    """
    nested = is_held(prefix.place.uri)
    with hold_prefix(prefix.place, run=run, wait=wait), hold_folder(prefix.copy, run=run, wait=wait):
        if not nested:
            prefix.pull()
        yield prefix.copy
        if prefix.push():
            log.info("published to %s", prefix.shown)


def locate_run_folder(folder: str | Path, work: str | None = None, *, again: bool = False) -> Path:
    """Return the folder of a run; of one in an object store the copy on this machine, as :func:`fetch_copy`."""
    return fetch_copy(open_run_prefix(str(folder), work), again=again) if is_uri(str(folder)) else Path(folder)


@contextlib.contextmanager
def hold_run_folder(
    folder: str | Path, work: str | None = None, *, run: str = "", wait: float = 0.0
) -> Iterator[Path]:
    """Hold the folder of a run for the ``with`` block, on a disk or as :func:`hold_run`."""
    if is_uri(str(folder)):
        with hold_run(open_run_prefix(str(folder), work), run=run, wait=wait) as copy:
            yield copy
    else:
        with hold_folder(Path(folder), run=run, wait=wait):
            yield Path(folder)


def _describe(path: Path) -> tuple[int, str]:
    content = path.read_bytes()
    return len(content), hashlib.sha256(content).hexdigest()


def _list_files(copy: Path) -> list[str]:
    """Return the files of a run folder that belong to its results: states, and plain files beside them."""
    plain = [p.name for p in copy.glob("*") if p.is_file() and not p.is_symlink() and not p.name.startswith(".")]
    states = [p for p in (copy / STATES).glob("[0-9]*") if p.is_dir() and not p.is_symlink()]
    inside = [p.relative_to(copy).as_posix() for state in states for p in state.rglob("*") if p.is_file()]
    return sorted(n for n in (*plain, *inside) if not n.endswith(".tmp") and n != "live.html")


def _list_links(copy: Path) -> list[str]:
    """Return the names in a run folder that show files of the current state."""
    return sorted(p.name for p in copy.glob("*") if p.is_symlink() and os.readlink(p).startswith(STATES))
