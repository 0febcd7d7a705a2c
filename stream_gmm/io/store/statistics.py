"""The file with the statistics of every file of a job: a :mod:`.container`, no pickle, bounded in size.

The header holds what the statistics are of, and for each entry its files. The arrays have a row for each entry:
``used`` and ``apart`` are flat, K (1 + D + D (D + 1) / 2) numbers behind four sums, since a scatter is symmetric.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stream_gmm.core.file_stats import FileId, FileStats, KeptStats, SampledRows
from stream_gmm.core.model.moments import FULL, Array
from stream_gmm.core.rows.sampling import Sample
from stream_gmm.core.stats import SuffStats
from stream_gmm.io.store.container import pack, read, unpack, write_atomically
from stream_gmm.io.store.models import params_from_arrays, params_to_arrays

MAGIC = b"STREAM-GMM STATISTICS\n"
FORMAT = 1
STATISTICS = "statistics.gmm"


def save_statistics(kept: KeptStats, path: str | os.PathLike[str]) -> Path:
    """Write the statistics, replacing older ones atomically; equal statistics give equal bytes.

    Raises
    ------
    StorageError
        If they cannot be written.
    """
    header = {
        "written_by": version("stream-gmm"),
        "source": kept.source,
        "columns": list(kept.columns),
        "covariance_type": kept.anchor.family.name,
        "share": kept.share,
        "stepwise": kept.stepwise,
        **_describe_entries(kept.entries),
    }
    arrays = params_to_arrays(kept.anchor) | _encode_entries(kept.entries)
    return write_atomically(Path(path), pack(MAGIC, FORMAT, header, arrays))


def load_statistics(path: str | os.PathLike[str]) -> KeptStats:
    """Read statistics.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, not a file of statistics, or from a newer version.
    """

    def build(header: dict[str, Any], arrays: dict[str, Any]) -> KeptStats:
        anchor = params_from_arrays(arrays, header["covariance_type"])
        return KeptStats(
            header["source"], tuple(header["columns"]), anchor, _decode_entries(header, arrays),
            header["share"], header["stepwise"],
        )  # fmt: skip

    return read(path, "statistics", lambda content: unpack(content, MAGIC, FORMAT, "statistics", build))


def to_text(pieces: Sequence[FileStats]) -> str:
    """Return the statistics of the pieces of a part, merged and with the rows set apart, as text; empty if none."""
    if not pieces:
        return ""
    stats = reduce(FileStats.merge, pieces)
    sample = stats.evidence
    evidence = {"evidence": sample.rows, "evidence_hashes": sample.hashes, "evidence_weights": sample.weights}
    header = _describe_entries([stats]) | {"capacity": sample.capacity}
    return base64.b64encode(pack(MAGIC, FORMAT, header, _encode_entries([stats]) | evidence)).decode()


def from_text(text: str) -> FileStats:
    """Return the statistics in a note.

    Raises
    ------
    ModelFileError
        If they are damaged.
    """

    def build(header: dict[str, Any], arrays: dict[str, Any]) -> FileStats:
        (stats,) = _decode_entries(header, arrays)
        d = stats.used.mean.shape[1]
        evidence = Sample(
            arrays["evidence"].reshape(-1, d),
            arrays["evidence_hashes"],
            header["capacity"],
            arrays["evidence_weights"],
        )
        return replace(stats, evidence=evidence)

    return unpack(base64.b64decode(text), MAGIC, FORMAT, "statistics", build)


def _describe_entries(entries: Sequence[FileStats]) -> dict[str, Any]:
    return {
        "files": [[[f.name, f.identity] for f in e.files] for e in entries],
        "counts": [[e.rows_read, e.rows_complete] for e in entries],
        "shape": list(entries[0].used.mean.shape) if entries else [0, 0],
    }


def _encode_entries(entries: Sequence[FileStats]) -> dict[str, Any]:
    sampled = [e.sample for e in entries]
    some = [i for i, e in enumerate(entries) if e.apart.rows]
    return {
        "used": np.array([_flatten(e.used) for e in entries]),
        "apart": np.array([_flatten(entries[i].apart) for i in some]),
        "apart_of": np.array(some, np.int64),
        "moments": np.array([_flatten(e.moments) for e in entries]),
        "low": np.array([e.low for e in entries]),
        "high": np.array([e.high for e in entries]),
        "bad": np.array([e.bad for e in entries]),
        "sums": np.array([[e.weight_squares, e.log_jacobian] for e in entries]),
        "sample": np.concatenate([s.rows for s in sampled]),
        "sample_hashes": np.concatenate([s.hashes for s in sampled]),
        "sample_weights": np.concatenate([s.weights for s in sampled]),
        "sample_apart": np.concatenate([s.apart for s in sampled]),
        "sampled": np.array([len(s.rows) for s in sampled], np.int64),
    }


def _decode_entries(header: dict[str, Any], arrays: dict[str, Any]) -> tuple[FileStats, ...]:
    k, d = header["shape"]
    none, places = SuffStats.zero(k, d, FULL), {int(i): n for n, i in enumerate(arrays["apart_of"])}
    cuts = np.cumsum(arrays["sampled"])[:-1]
    kinds = ("sample", "sample_hashes", "sample_weights", "sample_apart")
    rows, *columns = (arrays[name] for name in kinds)
    pieces = [np.split(values, cuts) for values in (rows.reshape(-1, d), *columns)]
    out = []
    for i, (files, counts) in enumerate(zip(header["files"], header["counts"], strict=True)):
        apart = _restore(arrays["apart"][places[i]], k, d) if i in places else none
        out.append(
            FileStats(
                tuple(FileId(*f) for f in files), _restore(arrays["used"][i], k, d), apart,
                _restore(arrays["moments"][i], 1, d), arrays["low"][i], arrays["high"][i], arrays["bad"][i],
                counts[0], counts[1], float(arrays["sums"][i, 0]), float(arrays["sums"][i, 1]),
                SampledRows(*(p[i] for p in pieces)),
                Sample(np.empty((0, d)), np.empty(0, np.uint64), 0),
            )
        )  # fmt: skip
    return tuple(out)


def _flatten(stats: SuffStats) -> Array:
    upper = np.triu_indices(stats.mean.shape[1])
    sums = [stats.rows, stats.loglik, stats.entropy, stats.log_max]
    scatter = stats.scatter[:, upper[0], upper[1]]
    return np.concatenate([sums, stats.weight, stats.mean.ravel(), scatter.ravel()])


def _restore(values: Array, k: int, d: int) -> SuffStats:
    sums, weight, mean, packed = np.split(values, [4, 4 + k, 4 + k + k * d])
    upper = np.triu_indices(d)
    scatter = np.empty((k, d, d))
    scatter[:, upper[0], upper[1]] = packed.reshape(k, -1)
    scatter[:, upper[1], upper[0]] = packed.reshape(k, -1)
    rows, loglik, entropy, log_max = (float(v) for v in sums)
    return SuffStats(rows, loglik, entropy, log_max, weight, mean.reshape(k, d), scatter, FULL)
