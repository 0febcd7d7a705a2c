"""The model file: a fitted mixture and where it comes from, in a :mod:`.container`."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.constants import Constant
from stream_gmm.core.rows.histogram import LogDensityHistogram
from stream_gmm.core.rows.transforms import KINDS, ColumnTransform
from stream_gmm.errors import ModelFileError
from stream_gmm.io.store.container import pack, read, unpack, write_atomically

MAGIC = b"STREAM-GMM MODEL\n"
FORMAT = 3
"""Format 2 has constant columns, format 3 transforms. A model without them is written in format 1 (with constant
columns alone in format 2), which older versions read."""


def save_model(result: FitResult, path: str | os.PathLike[str]) -> Path:
    """Write a model file, replacing an older one atomically; equal models give equal bytes.

    Parameters
    ----------
    result
        The model.
    path
        The file to write; its folder must exist.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    return write_atomically(Path(path), to_bytes(result))


def to_bytes(result: FitResult) -> bytes:
    """Return the content of the model file."""
    return pack(MAGIC, *describe_model(result))


def describe_model(result: FitResult) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Return what a model file holds: the lowest format that can hold it, the header and the arrays."""
    arrays = {**params_to_arrays(result.params), "history": np.array(result.history, dtype=np.float64)}
    if result.training is not None:
        arrays |= {"training_edges": result.training.edges, "training_shares": result.training.shares}
        if len(result.training.levels):
            arrays |= {"training_levels": result.training.levels, "training_values": result.training.values}
    version_needed = 3 if result.transforms else 2 if result.constants else 1
    return version_needed, _make_header(result), arrays


def params_to_arrays(params: MixtureParams) -> dict[str, Any]:
    """Return the arrays of a mixture, by name."""
    noise = {} if params.noise is None else {"noise": params.noise}
    return {"weights": params.weights, "means": params.means, "covariances": params.covariances, **noise}


def params_from_arrays(arrays: dict[str, Any], covariance_type: str) -> MixtureParams:
    """Return the mixture of such arrays; refuses covariances that are not positive definite."""
    family = family_named(covariance_type)
    covariances = arrays["covariances"].reshape(family.shape(*arrays["means"].shape))
    params = MixtureParams(arrays["weights"], arrays["means"], covariances, family, arrays.get("noise"))
    _ = params.precisions_cholesky
    return params


def _make_header(result: FitResult) -> dict[str, Any]:
    c = result.criteria
    constants = [[k.name, k.value, k.position] for k in result.constants]
    transforms = [[t.name, t.kind, list(t.parameters)] for t in result.transforms]
    return {
        **({"constants": constants} if constants else {}),
        **({"transforms": transforms} if transforms else {}),
        "written_by": version("stream-gmm"),
        "covariance_type": result.covariance_type,
        "columns": list(result.columns),
        "outcome": result.outcome.name,
        "reason": result.reason,
        "n_iter": result.n_iter,
        "passes": result.passes,
        "rejected": list(result.rejected),
        "threshold": repr(result.threshold),
        "outlier_quantile": result.outlier_quantile,
        "criteria": [
            c.loglik,
            c.n_parameters,
            c.n_rows,
            c.entropy,
            c.log_max,
            c.heldout_loglik,
            c.heldout_rows,
        ],
        **({} if result.training is None else {"training_rows": result.training.rows}),
        "warnings": list(result.warnings),
        "events": list(result.events),
        "provenance": dict(result.provenance),
    }


def load_model(path: str | os.PathLike[str]) -> FitResult:
    """Return the model of a file on this machine.

    Raises
    ------
    ModelFileError
        If it is missing, damaged, not a model file, from a newer version, or not a mixture.
    """
    return read(path, "model", from_bytes)


def from_bytes(content: bytes) -> FitResult:
    """Return the model in the content of a model file."""
    return unpack(content, MAGIC, FORMAT, "model", build_result)


def _read_transform(name: str, kind: str, parameters: list[float]) -> ColumnTransform:
    if kind not in KINDS or len(KINDS[kind].parameters) != len(parameters):
        raise ModelFileError(f"column '{name}' has the transform '{kind}', which this version does not know.")
    return ColumnTransform(name, kind, tuple(float(p) for p in parameters))


def build_result(header: dict[str, Any], arrays: dict[str, Any]) -> FitResult:
    """Return the model of a header and arrays."""
    params = params_from_arrays(arrays, header["covariance_type"])
    if header["columns"] and len(header["columns"]) != params.n_features:
        raise ModelFileError(f"{len(header['columns'])} column names for {params.n_features} features.")
    training = None
    if "training_edges" in arrays:
        quantiles = [arrays[name] for name in ("training_levels", "training_values") if name in arrays]
        training = LogDensityHistogram(
            arrays["training_edges"], arrays["training_shares"], header["training_rows"], *quantiles
        )
    return FitResult(
        params=params,
        outcome=Outcome[header["outcome"]],
        criteria=Criteria(*header["criteria"]),
        history=tuple(float(v) for v in arrays["history"]),
        n_iter=header["n_iter"],
        passes=header.get("passes", len(arrays["history"])),
        rejected=tuple(header.get("rejected", ())),
        columns=tuple(header["columns"]),
        reason=header["reason"],
        threshold=float(header["threshold"]),
        outlier_quantile=header["outlier_quantile"],
        training=training,
        warnings=tuple(header["warnings"]),
        events=tuple(header.get("events", ())),
        provenance=header["provenance"],
        constants=tuple(Constant(*values) for values in header.get("constants", ())),
        transforms=tuple(_read_transform(*values) for values in header.get("transforms", ())),
    )
