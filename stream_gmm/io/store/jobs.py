"""The job that was begun last in a run folder, as ``stream-gmm resume`` needs it: what, with what, and if it ended.

A small file beside the checkpoints, replaced when a job begins and when it ends well. Whatever ends a process, the
file of an unfinished job stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stream_gmm.errors import HIDDEN, ConfigError, InputDataError, ModelFileError, explain, redact_value
from stream_gmm.io.store.container import read, seal, unseal, write_atomically

JOB = os.path.join("ledger", "job.json")
SEARCHED = ("", "*/", "*/*/", "*/*/*/")
"""Where a job is looked for by its id, below the working folder."""


@dataclass(frozen=True)
class Job:
    """A job that was begun in a run folder.

    Attributes
    ----------
    id
        Eight hexadecimal digits, the same until the job has ended.
    command
        The command of the command line that does it.
    config
        Its configuration, as far as it was given, without credentials.
    options
        Options of the command that are no keys of the configuration.
    directory
        Working folder, which relative paths are relative to.
    fingerprint
        That of the data; empty for a command that follows its files.
    written_by
        Version of stream-gmm: checkpoints of another version are not used.
    begun, ended
        When, ISO 8601 in UTC; ``ended`` is empty for a job that was cut off.
    """

    id: str
    command: str
    config: dict[str, Any]
    options: dict[str, Any]
    directory: str
    fingerprint: str
    written_by: str
    begun: str
    ended: str = ""

    @property
    def is_complete(self) -> bool:
        """False if the configuration held credentials, which no file keeps: it can only be given again."""
        return HIDDEN not in json.dumps([self.config, self.options])


_OPEN: list[tuple[Path, Job]] = []


@contextlib.contextmanager
def record_job(
    folder: Path,
    command: str,
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    fingerprint: str = "",
    on_write: Callable[[Path], object] = lambda _: None,
) -> Iterator[Job]:
    """Record a job in its folder for the ``with`` block, and that it has ended if the block ends well.

    ``on_write`` is called with the path of the record whenever that has been written.

    Raises
    ------
    StorageError
        If the record cannot be written.
    """
    place = Path(os.path.abspath(folder))
    content = (command, redact_value(dict(config)), redact_value(dict(options)), os.getcwd(), fingerprint)
    now = _tell_time()
    text = json.dumps([str(place), *content, now], sort_keys=True)
    job = Job(hashlib.sha256(text.encode()).hexdigest()[:8], *content, version("stream-gmm"), now)
    with contextlib.suppress(InputDataError, ModelFileError):
        before = read_job(place)
        if not before.ended and replace(before, id=job.id, begun=job.begun) == job:
            job = before  # it goes on
    on_write(write_atomically(place / JOB, seal(asdict(job))))
    _OPEN.append((place, job))
    yield job
    with contextlib.suppress(ValueError):
        _OPEN.remove((place, job))
    on_write(write_atomically(place / JOB, seal(asdict(replace(job, ended=_tell_time())))))


def forget_open_jobs() -> None:
    """Begin a command: what earlier ones of this process have left open is not its own."""
    _OPEN.clear()


def open_job() -> tuple[Path, Job] | None:
    """Return the job that this process has begun last and not ended, with its folder."""
    return _OPEN[-1] if _OPEN else None


def read_job(folder: Path) -> Job:
    """Return the job that was begun last in a folder.

    Raises
    ------
    InputDataError
        If none was.
    ModelFileError
        If its record is damaged.
    """
    if not (folder / JOB).exists():
        raise InputDataError(
            explain(
                f"no job has been begun in {folder}",
                why=f"there is no {JOB}",
                remedy="give the folder (output.folder) of the run that was cut off, or its id",
            )
        )

    def parse(content: bytes) -> Job:
        try:
            return Job(**unseal(content))
        except (ValueError, TypeError) as error:
            raise ModelFileError(
                explain(str(error), remedy="start the command of the job again, which uses the same checkpoints")
            ) from error

    return read(folder / JOB, "job", parse)


def find_job(run: str) -> Path:
    """Return the folder of a job: ``run`` is the folder, or the id of a job in a folder below the working folder.

    Raises
    ------
    ConfigError
        If several have that id.
    InputDataError
        If there is none.
    """
    if Path(run).is_dir() or os.sep in run:
        return Path(run)
    found = []
    for pattern in SEARCHED:
        for path in Path().glob(f"{pattern}{JOB}"):
            with contextlib.suppress(ModelFileError):
                if read_job(path.parent.parent).id == run:
                    found.append(path.parent.parent)
    if len(found) > 1:
        raise ConfigError(f"{run} is in several folders: {', '.join(map(str, found))}. Give one of them.")
    if not found:
        raise InputDataError(
            explain(
                f"there is no run {run}",
                why="it is no folder, and no folder within three levels below this one holds a job with that id",
                remedy="give the folder of the run (output.folder)",
            )
        )
    return found[0]


def _tell_time() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
