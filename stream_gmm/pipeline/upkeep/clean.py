"""What killed processes have left in and beside results, and versions that nothing refers to any more."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stream_gmm.errors import ConfigError, explain
from stream_gmm.io.sink.objects.commits import find_superseded
from stream_gmm.io.sink.objects.run_folders import (
    RunPrefix,
    fetch_copy,
    hold_run,
    is_run_prefix,
    open_run_prefix,
)
from stream_gmm.io.sink.publish import lease_path
from stream_gmm.io.sink.targets import FolderTarget, ObjectTarget, Target, open_target
from stream_gmm.io.source.files import is_uri
from stream_gmm.io.store.folders import LockState, lock_folder
from stream_gmm.io.store.generations import CURRENT, STATES, current_state
from stream_gmm.io.store.lease import LEASE, hold_folder, is_lease_held
from stream_gmm.io.store.versions import list_states
from stream_gmm.pipeline.job.run_folder import LEDGER, MODEL, RECORD, locate_scores

_ASIDE = re.compile(r"\..+\.(\d+)\.tmp")
"""Name of a file that a process writes before it replaces another one; with the number of the process."""
_ASIDE_SECONDS = 3600.0


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can be removed.

    Attributes
    ----------
    path
        Where it is.
    what
        What it is.
    bytes
        Its size, with all that is in it.
    remove
        Removes it.
    """

    path: str
    what: str
    bytes: int
    remove: Callable[[], object]


def clean(folder: str | os.PathLike[str], *, remove: bool = False, wait: float = 0.0) -> tuple[Leftover, ...]:
    """Return what can be removed in and beside the folder of a run, or a scored table; and remove it if asked to.

    That is: staging folders, files and leases of dead processes, states of a run that no version refers to, and in an
    object store versions that are not current. Nothing else is touched.

    Parameters
    ----------
    folder
        Folder or URI of a run, or of a scored table.
    remove
        Remove it; no other run may use the folder meanwhile.
    wait
        Seconds to wait for such a run to end.

    Returns
    -------
    tuple of Leftover
        ``path``, ``what`` it is and its size in ``bytes``; removed if ``remove`` was given.

    Raises
    ------
    ConfigError
        If there is neither a run nor a scored table.
    FolderInUseError
        If a run uses the folder, and still does after ``wait`` seconds.
    StorageError
        If an object store does not answer.
    """
    if is_uri(os.fspath(folder)) and is_run_prefix(os.fspath(folder)):
        return _clean_prefix(open_run_prefix(os.fspath(folder)), remove, wait)
    shown, path = os.fspath(folder), Path(folder)
    target: Target = open_target(shown)
    is_run = not is_uri(shown) and any((path / name).exists() for name in (STATES, RECORD, MODEL, LEDGER))
    if is_run:
        target = open_target(locate_scores(path) if (path / RECORD).exists() else str(path / "scored"))
    elif isinstance(target, FolderTarget) and target.read_manifest() is None and not any(_find_beside(target.folder)):
        raise ConfigError(
            explain(
                f"there is neither a run nor a scored table in {target.shown}",
                remedy="give the folder that 'stream-gmm run' has written, or the folder or URI of a scored table",
            )
        )
    if not remove:
        return tuple(_find(path if is_run else None, target, held=False))
    if is_run:
        with hold_folder(path, run="clean", wait=wait), target.hold(wait):
            return _remove_all(tuple(_find(path, target, held=True)))
    with target.hold(wait):
        return _remove_all(tuple(_find(None, target, held=True)))


def _clean_prefix(prefix: RunPrefix, remove: bool, wait: float) -> tuple[Leftover, ...]:
    """Return what the run in an object store does not refer to, and remove it if asked to."""
    place = prefix.place
    with hold_run(prefix, run="clean", wait=wait) if remove else contextlib.nullcontext():
        found = tuple(
            Leftover(place.locate(name), "earlier or unfinished state", size, partial(place.remove, name))
            for name, size in prefix.find_unreferenced(keep=1)
        )
        scored = open_target(locate_scores(fetch_copy(prefix)))
        if not remove:
            return (*found, *_find(None, scored, held=False))
        with scored.hold(wait):
            return _remove_all((*found, *_find(None, scored, held=True)))


def _remove_all(found: tuple[Leftover, ...]) -> tuple[Leftover, ...]:
    for leftover in found:
        leftover.remove()
    return found


def _find(folder: Path | None, target: Target, held: bool) -> Iterator[Leftover]:
    if folder is not None:
        yield from _find_in_run(folder, held)
    if isinstance(target, FolderTarget):
        yield from _find_beside(target.folder, held)
    elif isinstance(target, ObjectTarget):
        yield from _find_objects(target)


def _find_in_run(folder: Path, held: bool) -> Iterator[Leftover]:
    states = folder / STATES
    if (states / CURRENT).is_symlink():
        current = current_state(folder)
        named = {current.name, *list_states(current)}
        for path in sorted(states.iterdir()):
            if path.name.isdigit() and path.name not in named:
                yield _describe(path, "results that no version refers to")
    for place in (folder, states, folder / LEDGER):
        for path in sorted(place.glob(".*.tmp")):
            match = _ASIDE.fullmatch(path.name)
            if match and (_is_gone(int(match[1])) or time.time() - path.stat().st_mtime > _ASIDE_SECONDS):
                yield _describe(path, "unfinished file of a dead process")
    if not held and (folder / LEASE).exists() and not is_lease_held(folder / LEASE):
        yield _describe(folder / LEASE, "lease of a dead process")


def _find_beside(target: Path, held: bool = False) -> Iterator[Leftover]:
    name = glob.escape(target.name)
    for path in sorted((*target.parent.glob(f"._{name}.*.previous"), *target.parent.glob(f"._{name}.*.staging"))):
        if path.suffix == ".previous" and not target.exists():
            continue  # the published table, of a process that was killed while it exchanged the folders
        try:
            with lock_folder(path, wait=False) as state:
                free = state is LockState.HELD
        except OSError:
            continue
        if free:
            yield _describe(path, "unfinished or replaced scores of a dead process")
    lease = lease_path(target)
    if not held and lease.exists() and not is_lease_held(lease):
        yield _describe(lease, "lease of a dead process")


def _find_objects(target: ObjectTarget) -> Iterator[Leftover]:
    place = target.place
    commits, folders = find_superseded(place, keep=1)
    found = place.list()
    for name in commits:
        yield Leftover(place.locate(name), "earlier commit", found[name].size, partial(place.remove, name))
    for name in folders:
        size = sum(info.size for n, info in found.items() if n.startswith(f"{name}/"))
        remove = partial(place.remove_folder, name)
        yield Leftover(place.locate(name), "earlier or unfinished version", size, remove)


def _describe(path: Path, what: str) -> Leftover:
    if path.is_dir():
        size = sum(p.lstat().st_size for p in path.rglob("*") if p.is_file())
        return Leftover(str(path), what, size, lambda: shutil.rmtree(path, ignore_errors=True))
    return Leftover(str(path), what, path.lstat().st_size, lambda: path.unlink(missing_ok=True))


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
