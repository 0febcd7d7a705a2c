"""Staging beside the target, and one atomic step that makes it the target.

A reader of the target finds the previous complete result or the new complete result. The staging
folder is named after the job, so that a killed run is taken up again where it stopped.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_gmm.errors import StorageError, explain
from stream_gmm.io.store.container import write_atomically

log = logging.getLogger(__name__)

MANIFEST = "_manifest.json"
REPORTS = "_reports"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def read_manifest(target: Path) -> dict[str, Any] | None:
    """Return the manifest of a published folder, or None if there is none."""
    try:
        out: dict[str, Any] = json.loads((target / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"the manifest of {target} cannot be read: {error}.") from error
    return out


def check_target(target: Path, inputs: list[str]) -> None:
    """Refuse a target that is not ours to replace. ``inputs`` are local files.

    Raises
    ------
    StorageError
        If it holds anything but an earlier result, or an input file.
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
    ours = target.is_dir() and (read_manifest(target) is not None or not any(target.iterdir()))
    if not ours:
        raise StorageError(
            explain(
                f"{target} exists and is not an output of stream-gmm",
                why="publishing replaces the whole folder",
                remedy="give another folder, or remove this one yourself",
            )
        )


def staging_folder(target: Path, job: str) -> Path:
    """Return (and make) the staging folder of a job, on the target's file system.

    Raises
    ------
    StorageError
        If it cannot be made.
    """
    # Both prefixes and no .parquet ending: hidden from pyarrow, Dask and Spark alike.
    path = target.parent / f"._{target.name}.{job[:16]}.staging"
    try:
        (path / REPORTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            explain(f"cannot write beside {target}", why=str(error), remedy="check the folder's rights")
        ) from error
    return path


def publish(staging: Path, target: Path, manifest: Mapping[str, Any]) -> None:
    """Make the staged folder the target in one atomic step, and remove the previous one.

    Raises
    ------
    StorageError
        If it cannot be published; the previous result is untouched.
    """
    shutil.rmtree(staging / REPORTS, ignore_errors=True)
    write_atomically(staging / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    try:
        _sync_folder(staging)
        _swap_folders(staging, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise StorageError(
            explain(
                f"cannot publish {target}",
                why=str(error),
                remedy=f"the complete result lies in {staging}; run again to publish it",
            )
        ) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _rename_at2(source: Path, target: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    code = libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags)
    if code:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def _swap_folders(staging: Path, target: Path) -> None:
    if not target.exists():
        os.rename(staging, target)
        return
    try:
        _rename_at2(staging, target, _RENAME_EXCHANGE)
    except (AttributeError, OSError) as error:
        unsupported = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
        if isinstance(error, OSError) and error.errno not in unsupported:
            raise
        log.warning("this file system cannot exchange folders: %s is away for a moment", target)
        aside = staging.with_suffix(".previous")
        os.rename(target, aside)
        os.rename(staging, target)
        shutil.rmtree(aside)
        return
    shutil.rmtree(staging)  # now the previous result
