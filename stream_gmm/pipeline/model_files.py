"""Model files wherever they are: a file, an object of a store, or the folder of a run, whose champion is meant."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path

from stream_gmm.core.result import FitResult
from stream_gmm.errors import ModelFileError, StorageError, explain
from stream_gmm.io.sink.objects.run_folders import is_run_prefix, locate_run_folder
from stream_gmm.io.sink.places import check_scheme, open_place
from stream_gmm.io.source.files import is_uri, locate, redact, refuse_unanswered
from stream_gmm.io.store.container import write_atomically
from stream_gmm.io.store.generations import current_state
from stream_gmm.io.store.models import from_bytes
from stream_gmm.io.store.models import load_model as read_file

MODEL, RECORD = "model.gmm", "run.json"
"""Files of the folder of a run."""
DEEPEST = 2
"""So many names may follow the URI of a run, such as candidates/full-3.gmm."""


def load_model(path: str | os.PathLike[str]) -> FitResult:
    """Read a model.

    Parameters
    ----------
    path
        What :func:`save_model` or a run has written: a model file, or the folder of a run, whose champion is read.
        Both may also be a URI, such as ``s3://bucket/runs/mine``.

    Returns
    -------
    FitResult
        Equal to the one that was saved, bit by bit.

    Raises
    ------
    ModelFileError
        If it is missing, damaged, not a model file, from a newer version, or not a mixture.
    StorageError
        If an object store does not answer.
    """
    if is_uri(str(path)):
        return _load_from_store(str(path))
    where = Path(path)
    if not where.is_dir():
        return read_file(where)
    state = current_state(where)
    if not (state / RECORD).exists() and not (state / MODEL).exists():
        raise ModelFileError(f"{path} is a folder, and neither a model file nor the folder of a run.")
    return read_file(state / MODEL)


def _load_from_store(uri: str) -> FitResult:
    """Read a model from an object; a name below a run is one of the files that the run shows there."""
    place = locate(uri)
    above = place.path.rstrip("/")
    below: list[str] = []
    while "/" in above and len(below) <= DEEPEST:
        if is_run_prefix(place.uri_of(above)):
            folder = current_state(locate_run_folder(place.uri_of(above)))
            return read_file(folder.joinpath(*(below or [MODEL])))
        above, name = posixpath.split(above)
        below.insert(0, name)
    try:
        with place.filesystem.open_input_file(place.path) as file:
            content = file.read()
    except OSError as error:
        refuse_unanswered(uri, error)
        raise ModelFileError(
            explain(f"cannot read the model file {redact(uri)}", why=str(error), remedy="check the URI")
        ) from error
    try:
        return from_bytes(content)
    except ModelFileError as error:
        raise ModelFileError(f"{redact(uri)}: {error}") from error


def name_beside(model: str, ending: str) -> str:
    """Return a name beside a model file, with another ending; of a model in a store, in the present folder."""
    if is_uri(model):
        return Path(posixpath.basename(locate(model).path.rstrip("/"))).with_suffix(ending).name
    path = Path(model)
    return str(path / f"model{ending}" if path.is_dir() else path.with_suffix(ending))


def write_file(where: str, content: bytes) -> str:
    """Write a file or an object, replacing an older one atomically; return where it is.

    Raises
    ------
    StorageError
        If it cannot be written.
    ConfigError
        If nothing can be written to URIs of its scheme.
    """
    if not is_uri(where):
        return str(write_atomically(Path(where), content))
    check_scheme(where)
    place = locate(where)
    folder, name = posixpath.split(place.path)
    if not name:
        raise StorageError(f"{redact(where)} is no name of a file.")
    open_place(place.uri_of(folder)).write(name, content)
    return redact(where)
