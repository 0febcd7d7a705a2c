"""Models as JSON: the header and the arrays of a model file as text, for programs in any language."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from stream_gmm.core.result import FitResult
from stream_gmm.errors import ModelFileError, StreamGMMError, explain
from stream_gmm.io.store.models import FORMAT, build_result, describe_model

KIND = "stream-gmm model"
_ARRAYS = (
    "weights", "means", "covariances", "noise", "history",
    "training_edges", "training_shares", "training_levels", "training_values",
)  # fmt: skip


def to_json(model: FitResult) -> str:
    """Return a model as JSON; :func:`from_json` gives back the same bits. The keys: ``docs/reference/formats.md``."""
    form, header, arrays = describe_model(model)
    content = {
        "kind": KIND,
        "format": form,
        "digest": model.digest,
        **header,
        **{name: _to_lists(np.asarray(values, np.float64).tolist()) for name, values in arrays.items()},
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _to_lists(value: Any) -> Any:
    """Return nested lists of numbers; JSON has no infinities, which become text."""
    if isinstance(value, list):
        return [_to_lists(v) for v in value]
    return value if math.isfinite(value) else str(value)


def from_json(text: str | bytes) -> FitResult:
    """Return the model of a JSON text.

    Parameters
    ----------
    text
        The document.

    Returns
    -------
    FitResult
        The model with the digest that the document names.

    Raises
    ------
    ModelFileError
        If it is not one, comes from a newer version, or its digest does not match its parameters.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise ModelFileError("this is not the JSON of a stream-gmm model.")
        if content["format"] > FORMAT:
            raise ModelFileError(
                explain(
                    f"the model has format {content['format']}, and this version reads up to {FORMAT}",
                    remedy="upgrade stream-gmm",
                )
            )
        arrays = {n: np.array(content[n], dtype=np.float64) for n in _ARRAYS if n in content}
        model = build_result(content, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, StreamGMMError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"the JSON does not hold a mixture: {error}") from error
    if model.digest != content.get("digest"):
        raise ModelFileError("the JSON is damaged or was edited: the digest does not match the parameters.")
    return model
