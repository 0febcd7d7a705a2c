"""Results in an object store: a prefix for each version, and a log of commits that says which one is current.

::

    out/v-0123456789abcdef/part-000.parquet ...    a version: complete before it is named anywhere, never changed
    out/v-0123456789abcdef/_manifest.json
    out/_commits/000000007-4f1c....json            a commit names a version; the one with the highest number counts
    out/_latest.json                               a copy of the newest commit, for readers that know only the path
    out/READ-_latest.json-INSTEAD.parquet          no Parquet: reading all versions at once is an error

A commit is one object with a name of its own, so that writing it can be repeated until it is known to be there,
whatever became of earlier attempts, and no conditional requests are needed. Of two commits with the same number the
first one in the order of names counts; its rival finds that out from the list and commits again, after it. The
commits are therefore one sequence for all readers, and each of them names a complete version.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from stream_gmm.errors import StorageError, explain
from stream_gmm.io.sink.places import ObjectPlace
from stream_gmm.io.source.files import redact
from stream_gmm.io.source.listing import TRIPWIRE
from stream_gmm.io.store.container import seal, unseal

log = logging.getLogger(__name__)

COMMITS, LATEST = "_commits", "_latest.json"
KEPT_COMMITS = 2
"""Commits whose versions stay: the current one, and the one before, which readers may still be reading."""
_COMMIT_NAME = re.compile(rf"{COMMITS}/(\d{{9}})-([0-9a-f]{{32}})\.json")
VERSION_NAME = re.compile(r"v-[0-9a-f]{16}")
_TRIPWIRE_TEXT = (
    b"The current version is the folder that _latest.json names; this file keeps readers from all versions."
)


@dataclass(frozen=True)
class Commit:
    """A published version.

    Attributes
    ----------
    number, token
        Its place in the sequence, and what makes its name unique.
    folder
        The folder of the version, below the prefix.
    manifest
        Name of the manifest in it, and ``manifest_sha256`` its SHA-256.
    created
        When it was committed, ISO 8601 in UTC.
    """

    number: int
    token: str
    folder: str
    manifest: str
    manifest_sha256: str
    created: str

    @property
    def name(self) -> str:
        """Name of the commit's object below the prefix."""
        return f"{COMMITS}/{self.number:09d}-{self.token}.json"


def list_commits(place: ObjectPlace) -> list[str]:
    """Return the names of the commits that count, the newest first."""
    first: dict[int, str] = {}
    for name in sorted(place.list(COMMITS)):
        if match := _COMMIT_NAME.fullmatch(name):
            first.setdefault(int(match[1]), name)
    return [first[n] for n in sorted(first, reverse=True)]


def read_commit(place: ObjectPlace, name: str) -> Commit:
    """Return a commit.

    Raises
    ------
    StorageError
        If it is damaged or gone.
    """
    try:
        commit = Commit(**unseal(place.read(name)))
        if commit.name != name or not VERSION_NAME.fullmatch(commit.folder):
            raise ValueError("it is that of another name")
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise StorageError(
            explain(
                f"the commit {redact(place.uri)}/{name} cannot be read",
                why=str(error),
                remedy="remove it: then the version before is current again",
            )
        ) from error
    return commit


def find_current(place: ObjectPlace) -> Commit | None:
    """Return the newest commit of a prefix; None if there is none.

    Raises
    ------
    StorageError
        If it is damaged, or the store does not answer.
    """
    for _ in range(3):
        names = list_commits(place)
        if not names:
            return None
        try:
            return read_commit(place, names[0])
        except StorageError:
            if list_commits(place)[:1] == names[:1]:  # else it was removed, being old, while it was looked at
                raise
    raise StorageError(f"{redact(place.uri)} is changing all the time.")


def read_version(place: ObjectPlace, commit: Commit) -> dict[str, Any]:
    """Return the manifest of a version.

    Raises
    ------
    StorageError
        If it is damaged or gone.
    """
    name = f"{commit.folder}/{commit.manifest}"
    try:
        content = place.read(name)
        if hashlib.sha256(content).hexdigest() != commit.manifest_sha256:
            raise ValueError("it is not the one that was committed: its SHA-256 does not match")
        return unseal(content)
    except (FileNotFoundError, ValueError) as error:
        raise StorageError(
            explain(
                f"the manifest {redact(place.uri)}/{name} cannot be read",
                why=str(error),
                remedy=f"remove {redact(place.uri)}/{commit.name}, which names it, and run again",
            )
        ) from error


def commit_version(place: ObjectPlace, folder: str, name: str, manifest: Mapping[str, Any]) -> Commit:
    """Make a folder whose files are all there the current version: its manifest first, then the commit.

    Raises
    ------
    StorageError
        If the store does not answer. Then the version before is current, or already this one; another run of the same
        job finds out.
    """
    content = seal(manifest)
    place.write(f"{folder}/{name}", content)
    digest = hashlib.sha256(content).hexdigest()
    while True:
        before = list_commits(place)
        number = int(_COMMIT_NAME.fullmatch(before[0])[1]) + 1 if before else 1  # type: ignore[index]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        commit = Commit(number, uuid.uuid4().hex, folder, name, digest, now)
        place.write(commit.name, seal(asdict(commit)))
        if commit.name in list_commits(place):
            return commit
        log.warning("another run has published to %s at the same time", redact(place.uri))


def show_latest(place: ObjectPlace) -> None:
    """Let ``_latest.json`` name the current version, and keep readers from reading all versions at once.

    Who writes it last has seen the newest commit, whatever the others did meanwhile.

    Raises
    ------
    StorageError
        If the store does not answer.
    """
    shown = None
    while (names := list_commits(place)) and names[0] != shown:
        with contextlib.suppress(FileNotFoundError):  # superseded by others, and removed
            place.write(LATEST, place.read(names[0]))
            shown = names[0]
    if place.find_size(TRIPWIRE) is None:
        place.write(TRIPWIRE, _TRIPWIRE_TEXT)


def find_superseded(place: ObjectPlace, keep: int = KEPT_COMMITS) -> tuple[list[str], list[str]]:
    """Return the names of commits, and of folders of versions, that are neither current nor among the last ones."""
    found = place.list()
    valid = list_commits(place)[:keep]
    folders = {read_commit(place, name).folder for name in valid}
    commits = sorted(n for n in found if _COMMIT_NAME.fullmatch(n) and n not in valid)
    versions = {n.split("/")[0] for n in found if "/" in n and VERSION_NAME.fullmatch(n.split("/")[0])}
    return commits, sorted(versions - folders)


def remove_superseded(place: ObjectPlace) -> None:
    """Remove old versions, and what killed runs have left; only for the holder of the lease.

    Raises
    ------
    StorageError
        If the store does not answer.
    """
    commits, folders = find_superseded(place)
    for name in commits:
        place.remove(name)
    for folder in folders:
        place.remove_folder(folder)
