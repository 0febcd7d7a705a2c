"""A run folder with everything a report can show, made once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.monitor_stage import monitor_stage
from stream_gmm.pipeline.job.stages import score_stage, sweep_stage

COLUMNS = ["height", "width", "grams"]


def draw_groups() -> np.ndarray:
    """Three groups: the second is far higher, the third is far heavier and varies little in width."""
    rng = np.random.default_rng(4)
    centres = np.repeat([[0.0, 0.0, 10.0], [40.0, 0.0, 10.0], [0.0, 0.0, 90.0]], 800, axis=0)
    return rng.permutation(
        centres + rng.normal(size=(2400, 3)) * np.repeat([[2, 9, 3], [2, 9, 3], [2, 1, 3]], 800, 0)
    )


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("report")
    pq.write_table(pa.table(dict(zip(COLUMNS, draw_groups().T, strict=True))), place / "rows.parquet")
    config = RunConfig.model_validate({
        "name": "boxes <script>alert(1)</script>",
        "data": {"paths": [str(place / "rows.parquet")]},
        "sweep": {"n_components": [1, 2, 3], "covariance_type": ["full", "diag"]},
        "em": {"n_init": 1, "holdout": 0.1},
        "cluster": {"executor": "threads"},
        "output": {"folder": str(place / "run")},
    })  # fmt: skip
    executor = ThreadsExecutor(2)
    sweep_stage(config, executor)
    score_stage(config, executor)
    monitor_stage(config, executor, period="2026-11-26")
    return place / "run"
