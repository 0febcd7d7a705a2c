"""A data set with a known answer: rows of a five-component mixture, written as Parquet in a stream."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.errors import ConfigError
from stream_gmm.io.store.models import save_model

GROUP_ROWS = 62_500


def truth(n_features: int = 6, n_components: int = 5, seed: int = 7) -> MixtureParams:
    """Return the mixture that the rows come from: full covariances, some of them overlapping."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(n_components, 8.0))
    means = rng.normal(scale=3.0, size=(n_components, n_features))
    shapes = rng.normal(size=(n_components, n_features, n_features)) / np.sqrt(n_features)
    covariances = shapes @ shapes.transpose(0, 2, 1) + 0.15 * np.eye(n_features)
    return MixtureParams(weights, means, covariances, family_named("full")).sort_by_weight()


def write(
    folder: str | os.PathLike[str],
    *,
    rows: int = 1_000_000,
    columns: int = 6,
    files: int = 8,
    components: int = 5,
    seed: int = 7,
    compression: str = "zstd",
) -> Path:
    """Write ``part-*.parquet`` with columns ``id``, ``x0`` ... and ``truth.gmm``.

    One row group is in memory at a time. Returns the path of the truth.

    Raises
    ------
    ConfigError
        If there are fewer rows than files.
    """
    if not 1 <= files <= rows:
        raise ConfigError(f"cannot write {rows} rows into {files} files.")
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    params = truth(columns, components, seed)
    names = tuple(f"x{j}" for j in range(columns))
    bounds = np.linspace(0, rows, files + 1).astype(int)
    for number, (lo, hi) in enumerate(itertools.pairwise(bounds)):
        _write_file(out / f"part-{number:03d}.parquet", params, names, int(lo), int(hi), seed, compression)
    return save_model(_as_result(params, names), out / "truth.gmm")


def _write_file(
    path: Path, params: MixtureParams, names: tuple[str, ...], lo: int, hi: int, seed: int, compression: str
) -> None:
    schema = pa.schema([("id", pa.int64()), *((n, pa.float64()) for n in names)])
    with pq.ParquetWriter(path, schema, use_dictionary=False, compression=compression) as writer:
        for start in range(lo, hi, GROUP_ROWS):
            count = min(GROUP_ROWS, hi - start)
            rng = np.random.default_rng([seed, start])
            rows = rng.permutation(draw_rows(params, count, rng)[0])
            ids = np.arange(start, start + count)
            writer.write_table(pa.table([ids, *rows.T], schema=schema))


def _as_result(params: MixtureParams, names: tuple[str, ...]) -> FitResult:
    nothing = Criteria(0.0, params.n_parameters, 1.0, 0.0, 0.0)
    return FitResult(params, Outcome.CONVERGED, nothing, (), 0, columns=names, reason="the truth")
