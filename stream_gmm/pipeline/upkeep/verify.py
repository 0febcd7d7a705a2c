"""Whether the results in a folder or an object store are as they were written, and belong together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stream_gmm.errors import ConfigError, DamagedResultError, StorageError, StreamGMMError, explain
from stream_gmm.io.sink.check import Problem, check_scores
from stream_gmm.io.sink.objects.run_folders import is_run_prefix, open_run_prefix
from stream_gmm.io.sink.targets import open_target
from stream_gmm.io.source.files import is_uri
from stream_gmm.io.store.generations import CURRENT, STATES, current_state, find_damage
from stream_gmm.io.store.models import load_model
from stream_gmm.io.store.statistics import STATISTICS, load_statistics
from stream_gmm.io.store.tables import read_table
from stream_gmm.io.store.versions import Version
from stream_gmm.pipeline.job.monitor_stage import MONITOR
from stream_gmm.pipeline.job.run_folder import (
    CANDIDATES,
    LEDGER,
    MODEL,
    RECORD,
    locate_scores,
    locate_version,
    read_catalog,
    read_record,
    read_run,
)
from stream_gmm.pipeline.sweep.ledger import Ledger
from stream_gmm.pipeline.update.update import LINEAGE


@dataclass(frozen=True)
class Verification:
    """What was verified, and what is wrong.

    Attributes
    ----------
    folder
        Path or URI that was verified.
    versions, files, rows
        Versions of a run; files and rows of the scored table.
    problems
        What is wrong, and in which file; empty if all is well.
    notes
        What could not be verified.
    """

    folder: str
    versions: int
    files: int
    rows: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    def raise_if_damaged(self) -> None:
        """Raise an error if anything is wrong.

        Raises
        ------
        DamagedResultError
            Names the first problem, and counts them.
        """
        if self.problems:
            first = self.problems[0]
            raise DamagedResultError(
                explain(
                    f"{len(self.problems)} of the published files are not as they were written: "
                    f"{first.path}: {first.what}",
                    remedy="'stream-gmm score' writes damaged scores again, 'stream-gmm sweep' a damaged version",
                )
            )


def verify(folder: str | os.PathLike[str]) -> Verification:
    """Verify the folder of a run, or a scored table in a folder or an object store.

    Of a run: every version that is kept (checksums, record, model, candidates), the catalog of versions, the links in
    the folder, and the ledgers; and its scored table. Of a scored table: size and SHA-256 of every file, rows, schema
    and the model's digest.

    Parameters
    ----------
    folder
        Folder or URI of a run, or of a scored table.

    Returns
    -------
    Verification
        ``problems``, empty if all is well, and what was looked at.

    Raises
    ------
    ConfigError
        If there is neither a run nor a scored table.
    """
    if is_uri(os.fspath(folder)) and is_run_prefix(os.fspath(folder)):
        return _verify_prefix(os.fspath(folder))
    shown, path = os.fspath(folder), Path(folder)
    is_run = not is_uri(shown) and any((path / name).exists() for name in (STATES, RECORD, MODEL))
    problems: list[Problem] = []
    notes: list[str] = []
    versions, target = 0, open_target(shown)
    if is_run:
        versions = _verify_run(path, problems, notes)
        try:
            target = open_target(locate_scores(path))
        except StreamGMMError:
            target = open_target(locate_scores(path, {"config": {}}))
    scores = check_scores(target)
    if scores is None and not is_run:
        raise ConfigError(
            explain(
                f"there is neither a run nor a scored table in {target.shown}",
                remedy="give the folder that 'stream-gmm run' has written, or the folder or URI of a scored table",
            )
        )
    if scores is None:
        notes.append("there is no scored table")
        return Verification(shown, versions, 0, 0, tuple(problems), tuple(notes))
    return Verification(
        str(path if is_run else target.shown), versions, scores.files, scores.rows,
        (*problems, *scores.problems), tuple(notes),
    )  # fmt: skip


def _verify_prefix(uri: str) -> Verification:
    """Verify the folder of a run in an object store, in a copy of its own."""
    with tempfile.TemporaryDirectory(prefix="stream-gmm-") as work:
        prefix = open_run_prefix(uri, work)
        prefix.copy.mkdir()
        try:
            prefix.pull()
            prefix.open_checkpoints().fetch_all(prefix.copy / LEDGER)
        except StorageError as error:
            return Verification(prefix.shown, 0, 0, 0, (Problem(prefix.shown, str(error)),), ())
        found = verify(prefix.copy)
        copy = str(prefix.copy)
        problems = tuple(
            Problem(p.path.replace(copy, prefix.shown), p.what.replace(copy, uri)) for p in found.problems
        )
        return replace(found, folder=prefix.shown, problems=problems)


def _verify_run(folder: Path, problems: list[Problem], notes: list[str]) -> int:
    """Verify all versions; return their number."""
    pointer = folder / STATES / CURRENT
    if (folder / STATES).exists() and not (pointer.is_symlink() and current_state(folder).is_dir()):
        problems.append(Problem(str(pointer), "does not lead to the current results"))
        return 0
    try:
        catalog = read_catalog(folder)
        _, _, model = read_run(folder)
        champion = catalog.find(str(catalog.champion))
        if champion.model_digest != model.digest:
            problems.append(Problem(str(folder / MODEL), f"is not the model of {champion.name}, the champion"))
        if champion.state and champion.state != current_state(folder).name:
            problems.append(Problem(str(pointer), f"does not lead to {champion.name}, the champion"))
    except StreamGMMError as error:
        problems.append(Problem(str(folder), str(error)))
        return 0
    for version in catalog.versions:
        problems += _verify_version(locate_version(folder, version), version, notes)
    for path in sorted((folder / LEDGER).glob("*.gmm")):
        problems += [Problem(str(damaged), what) for damaged, what in Ledger(path).find_damage()]
    readers: tuple[tuple[str, Callable[[Path], object]], ...] = ((STATISTICS, load_statistics), (MONITOR, read_table))
    for name, read in readers:
        try:
            if (folder / name).exists():
                read(folder / name)
        except StreamGMMError as error:
            problems.append(Problem(str(folder / name), str(error)))
    return len(catalog.versions)


def _verify_version(state: Path, version: Version, notes: list[str]) -> Iterator[Problem]:
    damage = find_damage(state)
    if damage is None:
        notes.append(f"{version.name} was written by an earlier release, without checksums")
    for name, what in (damage or {}).items():
        yield Problem(str(state / name), what)
    try:
        record: dict[str, Any] = read_record(state)
        model = load_model(state / MODEL)
        digests = {model.digest, version.model_digest}
        if len(digests | {record.get("model_digest", version.model_digest)}) > 1:
            yield Problem(str(state), f"model, record and catalog of {version.name} are not of one model")
        chosen = state / CANDIDATES / f"{version.chosen}.gmm"
        moved = LINEAGE in model.provenance  # by an update, and the candidates are still those of the sweep
        if chosen.exists() and not moved and load_model(chosen).digest != version.model_digest:
            yield Problem(str(chosen), f"is not the chosen model of {version.name}")
    except StreamGMMError as error:
        yield Problem(str(state), str(error))
