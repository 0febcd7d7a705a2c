"""The container of model and state files: JSON header, safetensors body, SHA-256 over everything. No pickle.

Layout: magic line, 4-byte version, 8-byte header length, header, body, 32-byte digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from stream_gmm.errors import ModelFileError, StorageError, StreamGMMError, explain

T = TypeVar("T")

_LENGTHS = struct.Struct("<IQ")
_DIGEST = 32


def pack(magic: bytes, form: int, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
    """Return the content of a file; equal values give equal bytes."""
    head = json.dumps(header, sort_keys=True, allow_nan=False).encode()
    # safetensors has no scalars
    body = save({name: np.atleast_1d(np.ascontiguousarray(a)) for name, a in arrays.items()})
    content = magic + _LENGTHS.pack(form, len(head)) + head + body
    return content + hashlib.sha256(content).digest()


def unpack(
    content: bytes, magic: bytes, form: int, what: str, build: Callable[[dict[str, Any], dict[str, Any]], T]
) -> T:
    """Return ``build(header, arrays)`` of the content of a file; ``what`` names the kind of file.

    Raises
    ------
    ModelFileError
        If it is damaged, not such a file, from a newer version, or does not hold what it should.
    """
    start = len(magic) + _LENGTHS.size
    if not content.startswith(magic):
        raise ModelFileError(f"this is not a stream-gmm {what} file.")
    if len(content) < start + _DIGEST:
        raise ModelFileError(f"the {what} file is truncated.")
    found, header_size = _LENGTHS.unpack(content[len(magic) : start])
    if found > form:
        raise ModelFileError(
            explain(
                f"the {what} file has format {found}, and this version reads up to {form}",
                remedy="upgrade stream-gmm",
            )
        )
    if hashlib.sha256(content[:-_DIGEST]).digest() != content[-_DIGEST:]:
        raise ModelFileError(f"the {what} file is damaged or truncated: its digest does not match.")
    try:
        header = json.loads(content[start : start + header_size])
        return build(header, load(content[start + header_size : -_DIGEST]))
    except (StreamGMMError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"the {what} file does not hold a mixture: {error}") from error


SEALED = {"sealed": "sha256 at the end"}


def seal(content: Mapping[str, Any]) -> bytes:
    """Return a mapping as JSON that holds the SHA-256 of its own bytes, so that any damage is noticed."""
    text = json.dumps({**SEALED, **content}, indent=1)[:-2].encode()
    return text + _SEAL + hashlib.sha256(text).hexdigest().encode() + _SEAL_END


def unseal(content: bytes) -> dict[str, Any]:
    """Return the mapping of :func:`seal`; JSON of earlier releases, which was not sealed, is returned as it is.

    Raises
    ------
    ValueError
        If it is damaged, or no mapping.
    """
    text, seal, end = content.rpartition(_SEAL)
    out = json.loads(content)
    if not isinstance(out, dict):
        raise ValueError(f"it holds a {type(out).__name__}")
    # Each of the two marks shows that there is a seal, if the other is damaged.
    if (seal or SEALED.keys() & out.keys()) and end != hashlib.sha256(text).hexdigest().encode() + _SEAL_END:
        raise ValueError("its SHA-256 does not match: it is damaged, or was edited")
    return {k: v for k, v in out.items() if k not in ("sealed", "sha256")}


_SEAL, _SEAL_END = b',\n "sha256": "', b'"\n}\n'


def read(path: str | os.PathLike[str], what: str, parse: Callable[[bytes], T]) -> T:
    """Read and parse a file; errors name its path.

    Raises
    ------
    ModelFileError
        If it cannot be read, or as ``parse``.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read the {what} file {path}: {error.strerror}.") from error
    try:
        return parse(content)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


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
