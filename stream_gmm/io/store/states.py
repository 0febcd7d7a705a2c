"""The state of a stream on disk: saved atomically, resumed to the same bits."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.moments import FULL, Moments
from stream_gmm.core.mstep.mstep import MStepReport
from stream_gmm.core.online import OnlineState
from stream_gmm.core.online_rule import OnlineRule
from stream_gmm.core.reservoir import Reservoir
from stream_gmm.core.stats import SuffStats
from stream_gmm.io.store.container import pack, read, unpack, write_atomically
from stream_gmm.io.store.models import params_from_arrays, params_to_arrays

MAGIC = b"STREAM-GMM STATE\n"
FORMAT = 3
"""Format 1 had no reservoir; its streams go on without one. In format 2 all rows were equally important."""


@dataclass(frozen=True)
class SavedStream:
    """The state of an online fit, its rule and its columns."""

    state: OnlineState
    rule: OnlineRule
    columns: tuple[str, ...]
    batches: int = 0
    """Batches of the input that the state includes."""


def save_state(saved: SavedStream, path: str | os.PathLike[str]) -> Path:
    """Write a state file, replacing an older one atomically.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    state, rule = saved.state, saved.rule
    header = {
        "written_by": version("stream-gmm"),
        "columns": list(saved.columns),
        "batches": saved.batches,
        "rule": {**asdict(rule), "family": rule.family.name},
        "counts": {name: getattr(state, name) for name in _COUNTS},
        # JSON keeps no infinities; hexadecimal keeps every bit.
        "numbers": {key: float(getattr(state, name)).hex() for key, name in _NUMBERS.items()},
        "report": asdict(state.report),
    }
    arrays: dict[str, Any] = {"pending": np.ascontiguousarray(state.pending_rows)}
    if state.params is not None:
        assert state.stats is not None
        assert state.moments is not None
        arrays |= (
            params_to_arrays(state.params) | _encode_stats("stats", state.stats) | _encode_stats("all", state.moments)
        )
    if state.reservoir is not None:
        header["reservoir_rows"] = state.reservoir.capacity
        arrays |= {"reservoir": state.reservoir.rows, "reservoir_hashes": state.reservoir.hashes}
        arrays |= {"reservoir_importance": state.reservoir.importance}
        if state.reservoir.shares is not None:
            arrays["reservoir_shares"] = state.reservoir.shares
    if state.seen is not None:
        arrays |= _encode_stats("seen", state.seen)
    return write_atomically(Path(path), pack(MAGIC, FORMAT, header, arrays))


_COUNTS = ("step", "rows_seen", "relocations", "reviewed_rows", "badly_fitted_rows", "reviews")
_NUMBERS = {
    "rows_behind": "effective_rows", "loglik": "loglik", "scored_rows": "scored_rows", "threshold": "threshold",
}  # fmt: skip
"""Keys of the file, and the attributes of the state that they hold; keys keep the names that older files have."""
_SCALARS = ("rows", "loglik", "entropy", "log_max")


def load_state(path: str | os.PathLike[str]) -> SavedStream:
    """Read a state file.

    Raises
    ------
    ModelFileError
        If it is missing, damaged, not a state file, or from a newer version.
    """
    return read(path, "state", lambda content: unpack(content, MAGIC, FORMAT, "state", _build_state))


def _encode_stats(name: str, stats: SuffStats) -> dict[str, Any]:
    scalars = np.array([getattr(stats, s) for s in _SCALARS])
    parts = {"scalars": scalars, "weight": stats.weight, "mean": stats.mean, "scatter": stats.scatter}
    return {f"{name}.{k}": v for k, v in parts.items()}


def _decode_stats(name: str, arrays: dict[str, Any], moments: Moments) -> SuffStats:
    rows, loglik, entropy, log_max = (float(v) for v in arrays[f"{name}.scalars"])
    weight, mean, scatter = (arrays[f"{name}.{k}"] for k in ("weight", "mean", "scatter"))
    return SuffStats(rows, loglik, entropy, log_max, weight, mean, scatter, moments)


def _build_state(header: dict[str, Any], arrays: dict[str, Any]) -> SavedStream:
    family = family_named(header["rule"]["family"])
    rule = OnlineRule(**{"reservoir_rows": 0, **header["rule"], "family": family})
    numbers: dict[str, Any] = {_NUMBERS[key]: float.fromhex(value) for key, value in header["numbers"].items()}
    report = MStepReport(**{k: tuple(v) for k, v in header["report"].items()})
    fitted: dict[str, Any] = {}
    if "weights" in arrays:
        fitted = {
            "params": params_from_arrays(arrays, family.name),
            "stats": _decode_stats("stats", arrays, family.moments),
            "moments": _decode_stats("all", arrays, FULL),
        }
    if "reservoir" in arrays:
        rows, hashes = arrays["reservoir"], arrays["reservoir_hashes"]
        importance = arrays.get("reservoir_importance", np.ones(len(rows)))
        shares = arrays.get("reservoir_shares")
        fitted["reservoir"] = Reservoir(rows, hashes, importance, header["reservoir_rows"], shares)
    if "seen.weight" in arrays:
        fitted["seen"] = _decode_stats("seen", arrays, family.moments)
    pending = arrays["pending"]
    kept = (pending,) if len(pending) else ()
    state = OnlineState(pending.shape[1], kept, **fitted, **header["counts"], **numbers, report=report)
    return SavedStream(state, rule, tuple(header["columns"]), header["batches"])
