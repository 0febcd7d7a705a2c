"""The folder of a run: the names of its files, and its record.

``model.gmm``, ``sweep.parquet``, ``candidates/``, ``sample.parquet``, ``run.json``, ``bootstrap.parquet``,
``truth.gmm`` and ``report.html`` belong together and are replaced together (:mod:`stream_gmm.io.store.generations`);
those of earlier runs are kept as versions (:mod:`stream_gmm.io.store.versions`). Beside them lie ``scored/``
(published atomically by itself) and ``ledger/``, from which a later sweep resumes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stream_gmm.core.file_stats import FileId
from stream_gmm.core.result import FitResult
from stream_gmm.errors import InputDataError, StreamGMMError, explain, redact_value
from stream_gmm.io.store.container import seal, unseal, write_atomically
from stream_gmm.io.store.folders import sync_folder
from stream_gmm.io.store.generations import (
    STATES,
    current_state,
    link_tree,
    make_state,
    publish_state,
    write_checksums,
)
from stream_gmm.io.store.models import load_model
from stream_gmm.io.store.tables import read_table, table_of, write_table
from stream_gmm.io.store.versions import CATALOG, Catalog, Version, list_states, load_catalog, write_catalog

log = logging.getLogger(__name__)

MODEL, TABLE, SAMPLE, RECORD, TRUTH = "model.gmm", "sweep.parquet", "sample.parquet", "run.json", "truth.gmm"
CANDIDATES, BOOTSTRAP = "candidates", "bootstrap.parquet"
SCORED, REPORT, LEDGER = "scored", "report.html", "ledger"
PREVIOUS = "previous"
"""Instead of a model file: the model that is in the output folder before the run."""
FILES = "files.parquet"
RESULTS = (MODEL, TABLE, SAMPLE, RECORD, TRUTH, CANDIDATES, BOOTSTRAP, REPORT, FILES)
KEEP_VERSIONS = 10
"""Versions of a folder that are kept, unless the configuration says otherwise."""
_REQUIRED = frozenset(
    ("name", "config", "criterion", "chosen", "passes", "reused", "why", "warnings", "seconds", "histories", "data")
)


def publish_results(
    folder: Path,
    write: Callable[[Path], object],
    *,
    keep: int = KEEP_VERSIONS,
    challenger: bool = False,
    note: str = "",
) -> Version:
    """Publish the results of a run as a new version: ``write`` puts them into the folder it is called with.

    The version is the new champion: the results in ``folder`` are replaced together by its own. As challenger it is
    only kept, and those in ``folder`` stay, unless there are none. Champion and challenger with the same model,
    data and configuration as before are the same version, whose tables are replaced.

    Parameters
    ----------
    keep
        Versions that are kept, the newest ones; champion and challenger in any case.
    note
        Why it is champion or challenger, in words.

    Raises
    ------
    StorageError
        If they cannot be written; the previous results are untouched.
    """
    published: list[Version] = []

    def write_all(staged: Path) -> None:
        catalog = _read_usable_catalog(folder)
        aside = challenger and catalog.champion is not None
        place = make_state(staged.parent) if aside else staged
        write(place)
        if aside:
            write_checksums(place)
            sync_folder(place)
            link_tree(current_state(folder), staged, RESULTS)
        alias = catalog.challenger if aside else catalog.champion
        if alias is not None and _is_same_run(place, locate_version(folder, catalog.find(alias))):
            new = replace(catalog.find(alias), state=place.name)
            catalog = catalog.place(new.name, place.name)
        else:
            new = replace(_describe_version(place, f"v{catalog.made + 1}", catalog.champion), note=note)
            catalog = catalog.add(new, challenger=aside, keep=keep)
        if aside:
            catalog = catalog.place(str(catalog.champion), staged.name)
        write_catalog(staged, catalog)
        published.append(new)

    publish_state(folder, RESULTS, write_all, keep=list_states)
    return published[-1]


def set_champion(folder: Path, change: Callable[[Catalog], Catalog]) -> Version:
    """Put the files of another version in place, in one atomic step; ``change`` returns the catalog with it.

    Raises
    ------
    ConfigError
        As ``change``.
    StorageError
        If the folder cannot be written; the previous results are untouched.
    """
    chosen: list[Version] = []

    def write(staged: Path) -> None:
        catalog = change(read_catalog(folder))
        version = catalog.find(str(catalog.champion))
        link_tree(locate_version(folder, version), staged, RESULTS)
        write_catalog(staged, catalog.place(version.name, staged.name))
        chosen.append(version)

    publish_state(folder, RESULTS, write, keep=list_states)
    return chosen[-1]


def read_catalog(folder: Path) -> Catalog:
    """Return the versions of a run folder; what an earlier release left there is version ``v1``.

    Raises
    ------
    InputDataError, ModelFileError
        If the folder holds a damaged catalog or run.
    """
    state = current_state(folder)
    catalog = load_catalog(state)
    if catalog is not None:
        return catalog
    if not ((state / RECORD).exists() and (state / MODEL).exists()):
        return Catalog()
    first = _describe_version(state, "v1", None)
    if state == folder:
        first = replace(first, state="")
    return Catalog("v1", versions=(first,), made=1)


def locate_version(folder: Path, version: Version) -> Path:
    """Return the folder that holds the files of a version."""
    return folder / STATES / version.state if version.state else folder


def _describe_version(place: Path, name: str, origin: str | None) -> Version:
    record, model = read_record(place), load_model(place / MODEL)
    written = datetime.fromtimestamp((place / MODEL).stat().st_mtime, UTC)
    return Version(
        name, written.isoformat(timespec="seconds"), record["chosen"], int(record["data"]["rows"]), model.digest,
        str(model.provenance.get("data_fingerprint", "")), origin, place.name,
    )  # fmt: skip


def _read_usable_catalog(folder: Path) -> Catalog:
    """Return the versions of a folder; none where the results there cannot be read, which are then replaced."""
    state = current_state(folder)
    try:
        return load_catalog(state) or read_catalog(folder)
    except StreamGMMError as error:
        if (state / CATALOG).exists():
            raise
        log.warning("the results in %s are not kept as a version: %s", folder, error)
        return Catalog()


def _is_same_run(new: Path, old: Path) -> bool:
    try:
        configs = [read_record(p)["config"] for p in (new, old)]
        models = [load_model(p / MODEL) for p in (new, old)]
    except StreamGMMError:
        return False
    identities = {(m.digest, m.provenance.get("data_fingerprint")) for m in models}
    return len(identities) == 1 and configs[0] == configs[1]


def write_files(folder: Path, files: Iterable[FileId]) -> None:
    """Write which files a model was fitted to."""
    write_table(table_of([asdict(f) for f in files]), folder / FILES)


def read_files(folder: Path) -> frozenset[FileId] | None:
    """Return the files that the model of a version was fitted to; None if that was not recorded.

    Raises
    ------
    InputDataError
        If the table is damaged.
    """
    if not (folder / FILES).exists():
        return None
    return frozenset(FileId(**row) for row in read_table(folder / FILES).to_pylist())


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``run.json``; credentials in it are replaced."""
    write_atomically(folder / RECORD, seal(redact_value(record)))


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``run.json``.

    Raises
    ------
    InputDataError
        If the folder is not that of a run.
    """
    try:
        record = unseal((current_state(folder) / RECORD).read_bytes())
        if missing := sorted(_REQUIRED - record.keys()):
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (OSError, ValueError) as error:
        raise InputDataError(
            explain(
                f"{folder} is not the folder of a run",
                why=f"{RECORD}: {error}",
                remedy="give the folder that 'stream-gmm run' or 'sweep' has written",
            )
        ) from error
    return record


def read_run(folder: Path) -> tuple[Path, dict[str, Any], FitResult]:
    """Return where the results of a run are, its record and its model; all of one run.

    Raises
    ------
    InputDataError
        If the folder is not that of a run, or its record is about another model than is there.
    ModelFileError
        If the model file is damaged.
    """
    state = current_state(folder)
    record, model = read_record(state), load_model(state / MODEL)
    if record.get("model_digest", model.digest) != model.digest:  # older versions recorded none
        raise InputDataError(
            explain(
                f"{folder}: {RECORD} was written for another model than {MODEL}",
                why="one of the two was replaced",
                remedy="run 'stream-gmm sweep' again; finished candidates are not fitted again",
            )
        )
    return state, record, model


def locate_scores(folder: Path, record: Mapping[str, Any] | None = None) -> str:
    """Return the folder or URI of the scored table of a run."""
    output = (record or read_record(folder))["config"].get("output", {})
    where = str(output.get("folder", ""))
    return str(output.get("scored") or (f"{where.rstrip('/')}/{SCORED}" if "://" in where else folder / SCORED))


def update_record(
    folder: Path,
    model_digest: str,
    change: Callable[[dict[str, Any]], None],
    write: Callable[[Path], object] = lambda _: None,
) -> bool:
    """Add to the record of the run whose model has this digest, together with the files that ``write`` writes.

    Returns False, and changes nothing, if the folder holds the results of another model by now, or of none.

    Raises
    ------
    InputDataError, ModelFileError
        If the folder holds a damaged run.
    StorageError
        If it cannot be written; the previous results are untouched.
    """
    while True:
        base = current_state(folder)
        if not (base / RECORD).exists() or load_model(base / MODEL).digest != model_digest:
            log.warning("%s holds the results of another run by now: its record stays as it is", folder)
            return False
        record = read_record(base)
        change(record)

        def write_all(staged: Path, record: dict[str, Any] = record, base: Path = base) -> None:
            write(staged)
            write_record(staged, record)
            _keep_report(folder, base, staged)
            catalog = read_catalog(folder)
            write_catalog(staged, catalog.place(str(catalog.champion), staged.name))

        if publish_state(folder, RESULTS, write_all, base, keep=list_states):
            return True


def _keep_report(folder: Path, base: Path, staged: Path) -> None:
    """Take over the report that an earlier release wrote beside the results."""
    plain = folder / REPORT
    if plain.is_file() and not plain.is_symlink() and not any((p / REPORT).exists() for p in (base, staged)):
        link_tree(folder, staged, [REPORT])
