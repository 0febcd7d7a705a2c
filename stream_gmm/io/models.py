"""The model file: JSON header, safetensors body, SHA-256 over everything. No pickle.

Layout: magic line, 4-byte version, 8-byte header length, header, body, 32-byte digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from stream_gmm.core.covariance import family_named
from stream_gmm.core.criteria import Criteria
from stream_gmm.core.em import Outcome
from stream_gmm.core.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.errors import ModelFileError, StorageError, StreamGMMError, explain

MAGIC = b"STREAM-GMM MODEL\n"
FORMAT = 1
_LENGTHS = struct.Struct("<IQ")
_DIGEST = 32


def save_model(result: FitResult, path: str | os.PathLike[str]) -> Path:
    """Write a model file, replacing an older one atomically; equal models give equal bytes.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    return write_atomically(Path(path), to_bytes(result))


def to_bytes(result: FitResult) -> bytes:
    """Return the content of the model file."""
    header = json.dumps(_header(result), sort_keys=True, allow_nan=False).encode()
    arrays = {
        "weights": np.ascontiguousarray(result.weights_),
        "means": np.ascontiguousarray(result.means_),
        # safetensors has no scalars
        "covariances": np.atleast_1d(np.ascontiguousarray(result.covariances_)),
        "history": np.array(result.history, dtype=np.float64),
    }
    content = MAGIC + _LENGTHS.pack(FORMAT, len(header)) + header + save(arrays)
    return content + hashlib.sha256(content).digest()


def _header(result: FitResult) -> dict[str, Any]:
    c = result.criteria
    return {
        "written_by": version("stream-gmm"),
        "covariance_type": result.covariance_type,
        "columns": list(result.columns),
        "outcome": result.outcome.name,
        "reason": result.reason,
        "n_iter": result.n_iter,
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
        "warnings": list(result.warnings),
        "provenance": dict(result.provenance),
    }


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a file so that a reader finds the old content or the new, and never a part.

    Raises
    ------
    StorageError
        If it cannot be written; an older file is untouched.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise StorageError(
            explain(f"cannot write {path}", why=str(error), remedy="check the folder and the space left")
        ) from error
    return path


def load_model(path: str | os.PathLike[str]) -> FitResult:
    """Read a model file.

    Raises
    ------
    ModelFileError
        If it is missing, damaged, not a model file, from a newer version, or not a mixture.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read the model file {path}: {error.strerror}.") from error
    try:
        return from_bytes(content)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def from_bytes(content: bytes) -> FitResult:
    """Return the model in the content of a model file."""
    start = len(MAGIC) + _LENGTHS.size
    if not content.startswith(MAGIC):
        raise ModelFileError("this is not a stream-gmm model file.")
    if len(content) < start + _DIGEST:
        raise ModelFileError("the model file is truncated.")
    form, header_size = _LENGTHS.unpack(content[len(MAGIC) : start])
    if form > FORMAT:
        raise ModelFileError(
            explain(
                f"the model file has format {form}, and this version reads up to {FORMAT}",
                remedy="upgrade stream-gmm",
            )
        )
    if hashlib.sha256(content[:-_DIGEST]).digest() != content[-_DIGEST:]:
        raise ModelFileError("the model file is damaged or truncated: its digest does not match.")
    try:
        header = json.loads(content[start : start + header_size])
        arrays = load(content[start + header_size : -_DIGEST])
        return _result(header, arrays)
    except (StreamGMMError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"the model file does not hold a mixture: {error}") from error


def _result(header: dict[str, Any], arrays: dict[str, Any]) -> FitResult:
    family = family_named(header["covariance_type"])
    k, d = arrays["means"].shape
    covariances = arrays["covariances"].reshape(family.shape(k, d))
    params = MixtureParams(arrays["weights"], arrays["means"], covariances, family)
    _ = params.precisions_cholesky  # refuses what is not positive definite
    if header["columns"] and len(header["columns"]) != d:
        raise ModelFileError(f"{len(header['columns'])} column names for {d} features.")
    return FitResult(
        params=params,
        outcome=Outcome[header["outcome"]],
        criteria=Criteria(*header["criteria"]),
        history=tuple(float(v) for v in arrays["history"]),
        n_iter=header["n_iter"],
        columns=tuple(header["columns"]),
        reason=header["reason"],
        threshold=float(header["threshold"]),
        outlier_quantile=header["outlier_quantile"],
        warnings=tuple(header["warnings"]),
        provenance=header["provenance"],
    )
