"""Where scores are published: a folder that is replaced in one atomic step, or a prefix in an object store."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stream_gmm.errors import StorageError, explain
from stream_gmm.io.sink import publish as folders
from stream_gmm.io.sink.objects.commits import (
    COMMITS,
    commit_version,
    find_current,
    read_version,
    remove_superseded,
    show_latest,
)
from stream_gmm.io.sink.objects.lease import PROBE, hold_prefix
from stream_gmm.io.sink.places import ObjectPlace, check_scheme
from stream_gmm.io.sink.reports import PartReport, link_part, write_note
from stream_gmm.io.source.files import is_uri, redact
from stream_gmm.io.store.lease import hold_folder

log = logging.getLogger(__name__)


MODEL = "_model.gmm"
"""The model beside the scores in an object store."""


class Target(Protocol):
    """A place for one scored table, which readers see complete: the old one or the new one."""

    @property
    def shown(self) -> str | Path:
        """Its path or URI, without credentials."""

    def hold(self, wait: float) -> contextlib.AbstractContextManager[None]:
        """Return a context in which no other process writes to it."""

    def check(self, inputs: Sequence[str]) -> None:
        """Raise a StorageError if it is not ours to write to, or holds one of the input files."""

    def read_manifest(self) -> dict[str, Any] | None:
        """Return the manifest of the published table; None if there is none."""

    def locate(self) -> str:
        """Return the folder or URI with the files of the published table."""

    def open_staging(self, job: str) -> contextlib.AbstractContextManager[str]:
        """Return a context with the folder or URI into which a job writes its files."""

    def reuse(self, reports: Sequence[PartReport], staging: str) -> None:
        """Take intact files of the published table over into a staging folder."""

    def publish(self, staging: str, manifest: Mapping[str, Any], model: bytes) -> None:
        """Make the staged files the published table; ``model`` is the file of the model that made it."""

    def tidy(self) -> None:
        """Remove what killed jobs have left."""


def open_target(output: str | Path) -> Target:
    """Return the target that a path or URI names.

    Raises
    ------
    ConfigError
        If nothing can be written to URIs of its scheme.
    """
    if not is_uri(str(output)):
        return FolderTarget(Path(output).absolute())
    check_scheme(str(output))
    return ObjectTarget(ObjectPlace(str(output).rstrip("/")))


@dataclass(frozen=True)
class FolderTarget:
    """A folder of a file system."""

    folder: Path

    @property
    def shown(self) -> Path:
        return self.folder

    def hold(self, wait: float) -> contextlib.AbstractContextManager[None]:
        return hold_folder(self.folder, wait=wait, lease=folders.lease_path(self.folder))

    def check(self, inputs: Sequence[str]) -> None:
        folders.check_target(self.folder, [path for path in inputs if not is_uri(path)])

    def read_manifest(self) -> dict[str, Any] | None:
        return folders.read_manifest(self.folder)

    def locate(self) -> str:
        return str(self.folder)

    @contextlib.contextmanager
    def open_staging(self, job: str) -> Iterator[str]:
        with folders.open_staging(self.folder, job) as staging:
            folders.remove_dead_staging(self.folder)
            yield str(staging)

    def reuse(self, reports: Sequence[PartReport], staging: str) -> None:
        for _, files in itertools.groupby(reports, lambda report: report.index):
            link_part(list(files), self.folder, Path(staging))

    def publish(self, staging: str, manifest: Mapping[str, Any], model: bytes) -> None:
        del model  # it lies beside the folder, or wherever it came from
        folders.publish(Path(staging), self.folder, manifest)

    def tidy(self) -> None:
        folders.remove_dead_staging(self.folder)


@dataclass(frozen=True)
class ObjectTarget:
    """A prefix in an object store; what lies there is described in :mod:`.objects.commits`."""

    place: ObjectPlace

    @property
    def shown(self) -> str:
        return redact(self.place.uri)

    def hold(self, wait: float) -> contextlib.AbstractContextManager[None]:
        return hold_prefix(self.place, wait=wait)

    def check(self, inputs: Sequence[str]) -> None:
        root = redact(self.place.uri) + "/"
        inside = [path for path in inputs if redact(path).startswith(root)]
        if inside:
            raise StorageError(
                explain(
                    f"the output {self.shown} holds the input file {redact(inside[0])}",
                    why="old versions of an output are removed",
                    remedy="write to a prefix of its own",
                )
            )
        self.place.write(PROBE, b"")  # so that missing rights are found before all the work
        self.place.remove(PROBE)
        found = [name for name in self.place.list() if not name.startswith("_lease/")]
        if found and not any(name.startswith((f"{COMMITS}/", "v-")) for name in found):
            raise StorageError(
                explain(
                    f"{self.shown} exists and is not an output of stream-gmm: it holds {', '.join(found[:3])}",
                    remedy="give another prefix, or move these objects away",
                )
            )

    def read_manifest(self) -> dict[str, Any] | None:
        commit = find_current(self.place)
        return None if commit is None else read_version(self.place, commit)

    def locate(self) -> str:
        commit = find_current(self.place)
        return self.place.uri if commit is None else self.place.below(commit.folder).uri

    @contextlib.contextmanager
    def open_staging(self, job: str) -> Iterator[str]:
        # The name of the job: started again, it finds the files that it has finished.
        yield self.place.below(f"v-{job[:16]}").uri

    def reuse(self, reports: Sequence[PartReport], staging: str) -> None:
        where = self.locate()
        if where == staging:  # the same job writes to the same version
            return
        source, target = ObjectPlace(where), ObjectPlace(staging)
        for _, files in itertools.groupby(reports, lambda report: report.index):
            with contextlib.suppress(FileNotFoundError, StorageError):  # else the part is scored again
                part = list(files)
                for report in part:
                    source.copy(report.path, target)
                write_note(target, part)

    def publish(self, staging: str, manifest: Mapping[str, Any], model: bytes) -> None:
        ObjectPlace(staging).write(MODEL, model)
        folder = staging.partition("?")[0].rsplit("/", 1)[-1]
        commit_version(self.place, folder, folders.MANIFEST, manifest)
        self.tidy()

    def tidy(self) -> None:
        try:
            show_latest(self.place)
            remove_superseded(self.place)
        except StorageError as error:  # what was published is published
            log.warning("%s is published, and _latest.json or old versions are as before: %s", self.shown, error)
