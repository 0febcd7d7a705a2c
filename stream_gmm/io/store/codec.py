"""Values of the core as JSON and arrays, and back: frozen dataclasses of known types, every bit kept. No pickle."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np

from stream_gmm.core.model.covariance import FAMILIES, family_named
from stream_gmm.core.model.moments import DIAGONAL, FULL, ISOTROPIC
from stream_gmm.errors import ModelFileError

Arrays = dict[str, Any]
_MOMENTS = {type(m).__name__: m for m in (FULL, DIAGONAL, ISOTROPIC)}
_FAMILIES = tuple(type(f) for f in FAMILIES)


def encode(value: Any, arrays: Arrays) -> Any:
    """Return a value as JSON; its arrays are put into ``arrays``.

    Raises
    ------
    TypeError
        If a value is of a type that has no encoding.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    if isinstance(value, float):
        return {"float": float(value).hex()}  # JSON keeps no infinities
    if isinstance(value, np.ndarray):
        return _encode_array(value, arrays)
    if isinstance(value, tuple | list):
        return [encode(v, arrays) for v in value]
    if isinstance(value, enum.Enum):
        return {"enum": type(value).__name__, "name": value.name}
    if type(value).__name__ in _MOMENTS:
        return {"moments": type(value).__name__}
    if isinstance(value, _FAMILIES):
        return {"family": value.name}
    if dataclasses.is_dataclass(value):
        fields = {f.name: encode(getattr(value, f.name), arrays) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, "fields": fields}
    raise TypeError(f"cannot keep a {type(value).__name__}")


def _encode_array(value: np.ndarray[Any, Any], arrays: Arrays) -> dict[str, Any]:
    # The order of the axes in memory decides what a matrix product rounds to.
    transposed = value.flags.f_contiguous and not value.flags.c_contiguous
    name = f"a{len(arrays)}"
    arrays[name] = np.ascontiguousarray(value.T if transposed else value)
    return {"array": name, "turned": bool(transposed), "shape": list(value.shape)}


def decode(tree: Any, arrays: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    """Return the value of :func:`encode`; ``known`` holds the types by name that there may be.

    Raises
    ------
    ModelFileError
        If there is another type.
    """
    if isinstance(tree, list):
        return tuple(decode(v, arrays, known) for v in tree)
    if not isinstance(tree, dict):
        return tree
    if "float" in tree:
        return float.fromhex(tree["float"])
    if "array" in tree:
        shape = tree["shape"]
        return (
            arrays[tree["array"]].reshape(shape[::-1]).T if tree["turned"] else arrays[tree["array"]].reshape(shape)
        )
    if "moments" in tree:
        return _MOMENTS[tree["moments"]]
    if "family" in tree:
        return family_named(tree["family"])
    name = str(tree.get("type") or tree.get("enum"))
    if name not in known:
        raise ModelFileError(f"there is a value of type {name!r}, which this version does not know.")
    if "enum" in tree:
        return known[name][tree["name"]]
    return known[name](**{k: decode(v, arrays, known) for k, v in tree["fields"].items()})
