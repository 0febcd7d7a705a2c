"""Where scores are published: a folder that is replaced in one atomic step, an object store, a Delta table."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from stream_gmm.errors import StorageError, explain
from stream_gmm.io.sink import publish as folders
from stream_gmm.io.sink.columns import Layout, ScoreColumn
from stream_gmm.io.sink.delta.target import REPLACE, DeltaTarget
from stream_gmm.io.sink.objects.commits import (
    COMMITS,
    commit_version,
    find_current,
    read_version,
    remove_superseded,
    show_latest,
)
from stream_gmm.io.sink.objects.lease import PROBE, hold_prefix
from stream_gmm.io.sink.places import LocalPlace, ObjectPlace, check_scheme
from stream_gmm.io.sink.reports import PartReport, link_part, write_note
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.source.files import is_uri, redact
from stream_gmm.io.source.tables.delta import is_delta_table
from stream_gmm.io.store.lease import hold_folder

log = logging.getLogger(__name__)


DELTA = "delta"
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

    def prepare(self, dataset: Dataset, layout: Layout, columns: Sequence[ScoreColumn] | None) -> Dataset:
        """Return the data set with types that can be written; raises a ConfigError if there are other columns.

        ``columns`` are the columns of scores; None: they are not known yet.
        """

    def read_manifest(self) -> dict[str, Any] | None:
        """Return the manifest of the published table; None if there is none."""

    def find_job(self, job: str) -> dict[str, Any] | None:
        """Return the manifest of a job whose rows are published; None if they are not."""

    def locate(self) -> str:
        """Return the folder or URI with the files of the published table."""

    def open_staging(self, job: str) -> contextlib.AbstractContextManager[str]:
        """Return a context with the folder or URI into which a job writes its files."""

    def strip_folder(self, path: str) -> str:
        """Return the path of a published file without the folder of its job."""

    def reuse(self, reports: Sequence[PartReport], staging: str, *, required: bool = False) -> list[PartReport]:
        """Take intact files of the published table over; return those that need not be written again.

        Raises
        ------
        StorageError
            If a file cannot be taken over that is ``required``: another model has made it, so that it cannot be
            written again.
        """

    def publish(self, staging: str, manifest: Mapping[str, Any], model: bytes, schema: pa.Schema) -> None:
        """Make the staged files the published table; ``model`` is the file of the model that made it."""

    def tidy(self) -> None:
        """Remove what killed jobs have left."""


def open_target(output: str | Path, sink: str | None = None, write: str = REPLACE) -> Target:
    """Return the target that a path or URI names.

    Parameters
    ----------
    sink
        ``"parquet"`` or ``"delta"``; None: what is there decides.
    write
        What a job replaces in a Delta table.

    Raises
    ------
    ConfigError
        If nothing can be written to URIs of its scheme.
    """
    where = str(output)
    if is_uri(where):
        check_scheme(where)
        where = where.rstrip("/")
    else:
        where = str(Path(where).absolute())
    if sink == DELTA or (sink is None and is_delta_table(where)):
        return DeltaTarget(where, write)
    return ObjectTarget(ObjectPlace(where)) if is_uri(where) else FolderTarget(Path(where))


def _group_by_part(reports: Sequence[PartReport]) -> list[list[PartReport]]:
    return [list(files) for _, files in itertools.groupby(reports, lambda report: report.index)]


@contextlib.contextmanager
def _take_over(part: Sequence[PartReport], required: bool) -> Iterator[None]:
    """Let files that cannot be taken over be scored again; not those that would get other scores then."""
    try:
        yield
    except (OSError, StorageError) as error:
        if required:
            raise StorageError(
                explain(
                    f"the scores of {redact(part[0].source)} cannot be kept",
                    why=str(error),
                    remedy="the published scores are as they were; run again as soon as the storage answers and has "
                    "room",
                )
            ) from error


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

    def prepare(self, dataset: Dataset, layout: Layout, columns: Sequence[ScoreColumn] | None) -> Dataset:
        return dataset

    def find_job(self, job: str) -> dict[str, Any] | None:
        manifest = self.read_manifest()
        return manifest if manifest and manifest.get("job") == job else None

    def strip_folder(self, path: str) -> str:
        return path

    def locate(self) -> str:
        return str(self.folder)

    @contextlib.contextmanager
    def open_staging(self, job: str) -> Iterator[str]:
        with folders.open_staging(self.folder, job) as staging:
            folders.remove_dead_staging(self.folder)
            yield str(staging)

    def reuse(self, reports: Sequence[PartReport], staging: str, *, required: bool = False) -> list[PartReport]:
        for part in _group_by_part(reports):
            with _take_over(part, required):
                link_part(part, self.folder, Path(staging))
        return [r for r in reports if LocalPlace(Path(staging)).find_size(r.path) == r.bytes]

    def publish(self, staging: str, manifest: Mapping[str, Any], model: bytes, schema: pa.Schema) -> None:
        del model, schema  # it lies beside the folder, or wherever it came from
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

    def prepare(self, dataset: Dataset, layout: Layout, columns: Sequence[ScoreColumn] | None) -> Dataset:
        return dataset

    def find_job(self, job: str) -> dict[str, Any] | None:
        manifest = self.read_manifest()
        return manifest if manifest and manifest.get("job") == job else None

    def strip_folder(self, path: str) -> str:
        return path

    def locate(self) -> str:
        commit = find_current(self.place)
        return self.place.uri if commit is None else self.place.below(commit.folder).uri

    @contextlib.contextmanager
    def open_staging(self, job: str) -> Iterator[str]:
        # The name of the job: started again, it finds the files that it has finished.
        yield self.place.below(f"v-{job[:16]}").uri

    def reuse(self, reports: Sequence[PartReport], staging: str, *, required: bool = False) -> list[PartReport]:
        where = self.locate()
        source, target = ObjectPlace(where), ObjectPlace(staging)
        # The same job writes to the same version.
        for part in _group_by_part(reports) if where != staging else ():
            with _take_over(part, required):
                for report in part:
                    source.copy(report.path, target)
                write_note(target, part)
        return [r for r in reports if target.find_size(r.path) == r.bytes]

    def publish(self, staging: str, manifest: Mapping[str, Any], model: bytes, schema: pa.Schema) -> None:
        del schema
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
