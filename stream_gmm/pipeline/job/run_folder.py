"""The folder of a run: the names of its files, and its record.

``model.gmm``, ``sweep.parquet``, ``candidates/``, ``sample.parquet``, ``run.json``, ``bootstrap.parquet`` and
``truth.gmm`` belong together and are replaced together (:mod:`stream_gmm.io.store.generations`). Beside them lie
``scored/`` (published atomically by itself), ``report.html`` and ``ledger/``, from which a later sweep resumes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stream_gmm.core.result import FitResult
from stream_gmm.errors import InputDataError, explain, redact_value
from stream_gmm.io.store.container import write_atomically
from stream_gmm.io.store.generations import current_state, publish_state
from stream_gmm.io.store.models import load_model

log = logging.getLogger(__name__)

MODEL, TABLE, SAMPLE, RECORD, TRUTH = "model.gmm", "sweep.parquet", "sample.parquet", "run.json", "truth.gmm"
CANDIDATES, BOOTSTRAP = "candidates", "bootstrap.parquet"
SCORED, REPORT, LEDGER = "scored", "report.html", "ledger"
PREVIOUS = "previous"
"""Instead of a model file: the model that is in the output folder before the run."""
RESULTS = (MODEL, TABLE, SAMPLE, RECORD, TRUTH, CANDIDATES, BOOTSTRAP)
_REQUIRED = frozenset(
    ("name", "config", "criterion", "chosen", "passes", "reused", "why", "warnings", "seconds", "histories", "data")
)


def publish_results(folder: Path, write: Callable[[Path], object]) -> None:
    """Replace all results of a run together: ``write`` puts the new files into the folder it is called with.

    Raises
    ------
    StorageError
        If they cannot be written; the previous results are untouched.
    """
    publish_state(folder, RESULTS, write)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``run.json``; credentials in it are replaced."""
    write_atomically(folder / RECORD, json.dumps(redact_value(record), indent=1).encode())


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``run.json``.

    Raises
    ------
    InputDataError
        If the folder is not that of a run.
    """
    try:
        record = json.loads((current_state(folder) / RECORD).read_text())
        if not isinstance(record, dict):
            raise ValueError(f"it holds a {type(record).__name__}, not the record of a run")
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

        def write_all(staged: Path, record: dict[str, Any] = record) -> None:
            write(staged)
            write_record(staged, record)

        if publish_state(folder, RESULTS, write_all, base):
            return True
