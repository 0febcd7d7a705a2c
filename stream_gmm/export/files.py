"""Model files of other programs, by format."""

from __future__ import annotations

import io
from collections.abc import Callable

from stream_gmm.core.result import FitResult


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
