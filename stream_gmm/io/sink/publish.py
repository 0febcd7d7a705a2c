"""Staging beside the target, and one atomic step that makes it the target.

A reader of the target sees the previous complete result or the new complete result. The staging folder is named after
the job, so that a killed job resumes where it stopped, and locked while its job lives, so that the staging folders of
dead jobs can be removed.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from stream_gmm.errors import StorageError, explain
from stream_gmm.faults import fault_site
from stream_gmm.io.sink.reports import REPORTS
from stream_gmm.io.store.container import seal, unseal, write_atomically
from stream_gmm.io.store.folders import LockState, exchange_paths, lock_folder, sync_folder
from stream_gmm.io.store.lease import LEASE

log = logging.getLogger(__name__)

MANIFEST = "_manifest.json"
_LOCK_ATTEMPTS = 10
_LOCK_PAUSE_SECONDS = 0.1


def read_manifest(target: Path) -> dict[str, Any] | None:
    """Return the manifest of a published folder, or None if there is none.

    Raises
    ------
    StorageError
        If it is damaged: then nobody knows whether the folder may be replaced.
    """
    try:
        return unseal((target / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StorageError(
            explain(
                f"the manifest of {target} cannot be read",
                why=str(error),
                remedy=f"if {target} holds nothing but scores, remove it and run again",
            )
        ) from error


def list_files(folder: Path) -> set[str]:
    """Return the relative paths of all files below a folder, without the manifest and the notes of a job."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return {p.as_posix() for p in found if p.parts[0] not in (MANIFEST, REPORTS)}


def check_target(target: Path, inputs: list[str]) -> None:
    """Refuse a target that is not ours to replace. ``inputs`` are local files.

    Raises
    ------
    StorageError
        If it holds anything but an earlier result, or an input file, or is a mount point.
    """
    resolved = target.resolve()
    for path in inputs:
        file = Path(path).resolve()
        if resolved in file.parents:
            raise StorageError(
                explain(
                    f"the output {target} holds the input file {file}",
                    why="publishing replaces the whole folder",
                    remedy="write to a folder of its own",
                )
            )
    if not target.exists():
        return
    if target.is_mount():
        raise StorageError(
            explain(
                f"the output {target} is a file system of its own",
                why="publishing replaces the whole folder in one step, and a mount point cannot be replaced",
                remedy=f"give a folder in it, such as {target / 'scored'}",
            )
        )
    manifest, foreign = _look_into(target) if target.is_dir() else (None, [target.name])
    if manifest is not None:
        listed = {part.get("path") for part in manifest.get("parts") or () if isinstance(part, dict)}
        foreign = [f for f in foreign if f not in listed and not f.rsplit("/", 1)[-1].startswith((".", "_"))]
    if foreign:
        raise StorageError(
            explain(
                f"{target} exists and is not an output of stream-gmm"
                if manifest is None
                else f"{target} also holds files that stream-gmm has not written: {', '.join(foreign[:5])}",
                why="publishing replaces the whole folder",
                remedy="give another folder, or move these files away",
            )
        )


def _look_into(target: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the manifest and the files of a folder, which another process may be replacing."""
    for _ in range(_LOCK_ATTEMPTS):
        manifest, files = read_manifest(target), []
        with contextlib.suppress(FileNotFoundError):
            files = sorted(list_files(target))
            if read_manifest(target) == manifest:
                break
        time.sleep(_LOCK_PAUSE_SECONDS)
    return manifest, files


def lease_path(target: Path) -> Path:
    """Return where the lease of a target lies: beside it, because publishing replaces the whole folder."""
    return target.parent / f"._{target.name}{LEASE}"


def _staging_path(target: Path, job: str) -> Path:
    # Both prefixes and no .parquet ending: hidden from pyarrow, Dask and Spark alike.
    return target.parent / f"._{target.name}.{job[:16]}.staging"


@contextlib.contextmanager
def open_staging(target: Path, job: str) -> Iterator[Path]:
    """Make the staging folder of a job on the target's file system, and hold its lock for the ``with`` block.

    Raises
    ------
    StorageError
        If it cannot be made, or a living process has the same job.
    """
    path = _staging_path(target, job)
    with contextlib.ExitStack() as stack:
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                (path / REPORTS).mkdir(parents=True, exist_ok=True)
                state = stack.enter_context(lock_folder(path, wait=False))
            except FileNotFoundError:
                state = LockState.UNKNOWN
            except OSError as error:
                raise StorageError(
                    explain(f"cannot write beside {target}", why=str(error), remedy="check the rights of the folder")
                ) from error
            # Another process that looks for dead jobs may hold the lock for a moment, or have removed the folder.
            if state is LockState.HELD or (state is LockState.UNKNOWN and path.exists()):
                break
            if attempt == _LOCK_ATTEMPTS - 1:
                raise StorageError(
                    explain(f"another process writes the same scores to {target}", remedy="wait until it has ended")
                )
            time.sleep(_LOCK_PAUSE_SECONDS)
        yield path


def remove_dead_staging(target: Path) -> None:
    """Remove what killed jobs left beside a target; never what belongs to a living one.

    A job is dead when the lock of its staging folder is free. Where the file system has no locks, nothing is removed.
    """
    aside = sorted(target.parent.glob(f"._{glob.escape(target.name)}.*.previous"))
    if aside and not target.exists():  # killed between the two renames of a file system without exchange
        os.rename(aside.pop(), target)
    for path in (*aside, *target.parent.glob(f"._{glob.escape(target.name)}.*.staging")):
        try:
            with lock_folder(path, wait=False) as state:
                if state is LockState.HELD:
                    log.warning("removing %s, which a killed job has left", path)
                    shutil.rmtree(path, ignore_errors=True)
        except OSError:  # gone meanwhile
            continue


def remove_unlisted(folder: Path, listed: Collection[str]) -> None:
    """Remove files of a staging folder that are not part of the result, such as those of killed tasks."""
    for name in list_files(folder) - set(listed):
        (folder / name).unlink(missing_ok=True)


def publish(staging: Path, target: Path, manifest: Mapping[str, Any]) -> None:
    """Make the staged folder the target in one atomic step, and remove the previous one.

    Raises
    ------
    StorageError
        If it cannot be published; the previous result is untouched.
    """
    try:
        remove_unlisted(staging, [part["path"] for part in manifest["parts"]])
        shutil.rmtree(staging / REPORTS, ignore_errors=True)
        write_atomically(staging / MANIFEST, seal(manifest))
        sync_folder(staging)
        fault_site("score")
        _swap_folders(staging, target)
    except OSError as error:
        raise StorageError(
            explain(
                f"cannot publish {target}",
                why=str(error),
                remedy=f"the complete result is in {staging}; run again to publish it",
            )
        ) from error
    try:
        fault_site("swap")
        sync_folder(target.parent)
    except OSError as error:
        log.warning("%s is published, but may be the previous one again after a power failure: %s", target, error)


def _swap_folders(staging: Path, target: Path) -> None:
    if not target.exists():
        os.rename(staging, target)
    elif exchange_paths(staging, target):
        shutil.rmtree(staging, ignore_errors=True)  # now the previous result
    else:
        log.warning("this file system cannot exchange folders: %s is absent for a moment", target)
        aside = staging.with_suffix(".previous")
        os.rename(target, aside)
        os.rename(staging, target)
        shutil.rmtree(aside, ignore_errors=True)
