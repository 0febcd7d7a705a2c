"""The reports of scored files: what each holds, the notes from which a job resumes, and which are taken over."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stream_gmm.errors import StorageError
from stream_gmm.io.sink.places import Place, is_intact, open_place

REPORTS = "_reports"
NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system answers that has no links, or no more for this file."""


@dataclass(frozen=True)
class PartReport:
    """The scored file of one part: where it is, what it holds, and its checksum."""

    index: int
    source: str
    row_groups: tuple[int, int]
    path: str
    rows_in: int
    rows_out: int
    rows_scored: int
    outliers: int
    component_rows: tuple[int, ...]
    loglik: float
    bytes: int
    sha256: str
    file: str = ""
    model: str = ""
    statistics: str = ""
    """Identity of the file, digest of the model; and, in the notes of a job, the statistics of the rows as text."""
    row_group_counts: tuple[tuple[int, int, int, int], ...] = ()
    """For each row group of the input: its number, rows read, rows with scores and rows without. Rows that do not
    match a filter are only read. If the part has several files, those of the first one count for all."""


def find_finished_part(place: Place, index: int) -> tuple[PartReport, ...]:
    """Return the reports of a part that an earlier attempt finished and whose files are still intact; else none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, StorageError):
        reports = tuple(report_from_json(values) for values in json.loads(place.read(_note_name(index))))
        if all(is_intact(place, r.path, r.bytes, r.sha256) for r in reports):
            return reports
    return ()


def report_from_json(values: dict[str, Any]) -> PartReport:
    """Return the report of a part from a manifest or a note."""
    sequences = {name: tuple(values[name]) for name in ("row_groups", "component_rows")}
    counts = tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in values.get("row_group_counts", ()))
    return PartReport(**{**values, **sequences, "row_group_counts": counts})


def is_part_intact(report: PartReport, folder: str) -> bool:
    """Return True if the file of a part is in the folder, with the size and the SHA-256 of its report."""
    return is_intact(open_place(folder), report.path, report.bytes, report.sha256)


def link_part(reports: Sequence[PartReport], published: Path, staging: Path) -> None:
    """Take the files of a published part over into a staging folder: by a link, or as a copy where there are none.

    Raises
    ------
    OSError
        If a file can be neither linked nor copied.
    """
    for report in reports:
        target = staging / report.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(published / report.path, target)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            copy_file(published / report.path, target)
    with contextlib.suppress(OSError):  # the note only spares a resumed job the work
        write_note(open_place(str(staging)), reports)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, so that it stays after a power failure."""
    with source.open("rb") as read, target.open("wb") as written:
        shutil.copyfileobj(read, written)
        written.flush()
        os.fsync(written.fileno())


def write_note(place: Place, reports: Sequence[PartReport]) -> None:
    """Note that a part is finished: it is not scored again when the job resumes."""
    place.write(_note_name(reports[0].index), json.dumps([asdict(r) for r in reports]).encode())


def _note_name(index: int) -> str:
    return f"{REPORTS}/{index:08d}.json"
