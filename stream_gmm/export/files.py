"""Model files of other programs, by format."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from stream_gmm.core.result import FitResult
from stream_gmm.io.store.container import write_atomically


def _dump_sklearn(model: FitResult) -> bytes:
    import joblib

    buffer = io.BytesIO()
    joblib.dump(model.to_sklearn(), buffer)
    return buffer.getvalue()


FORMATS: dict[str, tuple[str, Callable[[FitResult], bytes]]] = {
    "json": (".json", lambda model: model.to_json().encode()),
    "onnx": (".onnx", FitResult.to_onnx),
    "sklearn": (".joblib", _dump_sklearn),
}
"""Ending and content of the file of each format."""


def export_model(model: FitResult, form: str, path: Path) -> Path:
    """Write a model in another format, replacing an older file atomically.

    Raises
    ------
    ConfigError
        If the format cannot express the model.
    StorageError
        If the file cannot be written.
    """
    return write_atomically(path, FORMATS[form][1](model))
