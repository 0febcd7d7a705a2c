"""Checks of an installation: versions, storage, cluster, and a fit whose numbers are known."""

from __future__ import annotations

import math
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from stream_gmm.errors import StreamGMMError, redact_text
from stream_gmm.execute.protocol import Executor, machine_memory
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.execute.threads import available_cores
from stream_gmm.pipeline.job.config import RunConfig

PACKAGES = ("stream-gmm", "numpy", "scipy", "numba", "pyarrow", "dask", "distributed", "prefect", "scikit-learn",
            "matplotlib")  # fmt: skip
TOLERANCE = 1e-9
KNOWN_LOGLIK = -0.5 * math.log(2.0 * math.pi) - 0.5 - math.log(2.0)
"""Of the known rows, nats per row: two components of equal weight and unit variance that do not overlap."""


@dataclass(frozen=True)
class Check:
    """A check: what was looked at, whether that is in order, and what was found."""

    name: str
    passed: bool
    found: str
    exit_code: int = 1
    """What the command line returns if this check is the first to fail."""


def check_installation(config: RunConfig | None, run_folder: Path, compile_all: bool = False) -> list[Check]:
    """Run every check; the data and the cluster are those of a configuration, if there is one.

    What a check creates is removed at its end. With ``compile_all`` the code of the usual jobs is compiled, and kept.
    """
    checks = [
        Check("versions", True, f"Python {platform.python_version()}, {', '.join(map(_describe_version, PACKAGES))}"),
        Check("machine", True, f"{available_cores()} cores, {machine_memory() / 2**30:.1f} GiB of memory"),
        _run_check("storage", lambda: _check_storage(run_folder)),
        _run_check("known answer", lambda: _check_known_answer(SerialExecutor(), run_folder)),
        _run_check("compiled code", lambda: _compile_loops() if compile_all else _find_compiled_code()),
    ]
    if config is not None:
        checks.append(_run_check("cluster", lambda: _check_cluster(config)))
        if config.data.paths != [UNKNOWN_DATA]:
            checks.append(_run_check("data", lambda: _check_data(config)))
    return checks


UNKNOWN_DATA = "no data"
"""The path of a configuration that is made for its cluster only."""


def _describe_version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


def _run_check(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except StreamGMMError as error:
        return Check(name, False, str(error), error.exit_code)
    except Exception as error:  # a check must not end the others
        return Check(name, False, redact_text(f"{type(error).__name__}: {error}"))


def _existing_parent(folder: Path) -> Path:
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())


def _check_storage(folder: Path) -> str:
    from stream_gmm.io.store.folders import exchange_paths

    place = _existing_parent(folder)
    with tempfile.TemporaryDirectory(prefix="._stream-gmm-", dir=place) as made:
        first, second = Path(made, "first"), Path(made, "second")
        first.mkdir()
        second.mkdir()
        (first / "file").write_text("x")
        atomic = exchange_paths(first, second) and (second / "file").exists()
    how = "folders are exchanged in one step" if atomic else "folders are exchanged in two steps, not in one"
    return f"{place} can be written; {how}"


def _check_known_answer(executor: Executor, folder: Path) -> str:
    """Fit rows whose optimum is known, from a Parquet file; the difference from it is rounding only."""
    from stream_gmm.io.source.dataset import open_dataset
    from stream_gmm.io.store.tables import write_rows
    from stream_gmm.pipeline.fit.settings import Settings
    from stream_gmm.pipeline.sweep.sweep import sweep

    rows = np.repeat([[-11.0], [-9.0], [9.0], [11.0]], 50, axis=0)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="._stream-gmm-", dir=_existing_parent(folder)) as made:
        write_rows(rows, ("x",), Path(made, "known.parquet"))
        settings = Settings(n_init=1, reg_covar=0.0)
        model = sweep(open_dataset(made), [2], ["full"], settings, executor).best
    found = (model.lower_bound_, *sorted(model.means_[:, 0]), *model.weights_, *model.covariances_[:, 0, 0])
    expected = (KNOWN_LOGLIK, -10.0, 10.0, 0.5, 0.5, 1.0, 1.0)
    error = float(np.abs(np.array(found) - expected).max())
    if not error <= TOLERANCE:
        raise StreamGMMError(
            f"a fit with a known answer is wrong by {error:.2g}: expected {expected}, found {np.array(found)}."
            " Install the package again, and report this with the versions above."
        )
    return f"a fit of 200 rows has the known parameters and log-likelihood (error {error:.1g})" + (
        f", {time.perf_counter() - started:.1f} s"
    )


def _find_compiled_code() -> str:
    from stream_gmm.core.estep.kernels import feature_pass

    folder = feature_pass.stats.cache_path
    if folder is None:
        return "is not kept: no folder for it can be written, so every process compiles anew; set NUMBA_CACHE_DIR"
    return f"is kept in {folder}, and in folders beside it"


def _compile_loops() -> str:
    """Fit and score small data of every kind, so that what the usual jobs need is compiled and kept."""
    from stream_gmm.api import fit

    started, rng = time.perf_counter(), np.random.default_rng(0)
    rows = np.vstack([rng.normal(size=(200, 4)), 3.0 + rng.normal(size=(200, 4))])
    holes = np.where(rng.random(rows.shape) < 0.2, np.nan, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for structure in ("spherical", "diag", "tied", "full", "VEV"):
            fit(rows, 2, structure, client=SerialExecutor(), sample_rows=200).predict_proba(rows)
        for structure in ("diag", "tied", "full"):
            incomplete = fit(holes, 2, structure, client=SerialExecutor(), sample_rows=200, missing="marginalise")
            incomplete.predict_proba(holes)
    return f"of the usual jobs {_find_compiled_code()}; {time.perf_counter() - started:.0f} s"


def _check_cluster(config: RunConfig) -> str:
    from stream_gmm.pipeline.job.cluster import open_executor

    with open_executor(config.cluster) as executor:
        answers = list(executor.map(_double_number, [1, 2, 3]))
        if answers != [2, 4, 6]:
            raise StreamGMMError(f"the workers answered {answers} instead of [2, 4, 6].")
        memory = executor.memory_bytes / 2**30
        return f"{config.cluster.executor}: {executor.n_workers} workers answer, {memory:.1f} GiB of memory together"


def _double_number(number: int, _: object) -> int:
    return 2 * number


def _check_data(config: RunConfig) -> str:
    dataset = config.open()
    return f"{dataset.num_rows:,} rows in {len(dataset.files)} files, columns {', '.join(dataset.columns[:20])}"
