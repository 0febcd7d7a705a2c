"""Updates on the workers of a Dask cluster, and of files in an object store: only new files are read."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.store.models import load_model
from stream_gmm.pipeline.job.config import validate_config
from stream_gmm.pipeline.job.stages import score_stage, sweep_stage
from stream_gmm.pipeline.job.update.stage import update_stage
from stream_gmm.pipeline.update.result import MOVED, NOTHING

MEANS = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])


def _draw(seed: int, n: int = 600, shift: float = 0.0) -> pa.Table:
    rng = np.random.default_rng(seed)
    component = rng.choice(3, size=n, p=(0.5, 0.3, 0.2))
    rows = MEANS[component] + rng.normal(size=(n, 2))
    rows[component == 1, 0] += shift
    return pa.table({"a": rows[:, 0], "b": rows[:, 1]})


def _config(paths: str, folder: Path, scored: str | None = None):
    return validate_config(
        {
            "data": {"paths": [paths]},
            "sweep": {"n_components": [2, 3], "covariance_type": ["full"]},
            "em": {"n_init": 1, "sample_rows": 2_000},
            "output": {"folder": str(folder), "scored": scored},
            "update": {"new_sweep": "never", "min_gain": 0.0},
        },
        "test",
    )


def _scored(config, filesystem=None) -> pa.Table:
    """Read the scored table; in a store its newest version."""
    path = str(config.scored).removeprefix("s3://")
    if filesystem is not None:
        path += "/" + json.loads(filesystem.open_input_stream(f"{path}/_latest.json").read())["folder"]
    return ds.dataset(path, filesystem=filesystem).to_table()


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode", ["incremental", *(pytest.param(mode, marks=pytest.mark.long) for mode in ("exact", "stepwise"))]
)
def test_an_update_on_a_dask_cluster_has_the_bits_of_one_in_this_process(dask_client, tmp_path, mode):
    from stream_gmm.execute.dask import DaskExecutor

    for i in range(4):
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(_draw(i), tmp_path / "in" / f"f{i}.parquet", row_group_size=200)
    first = _config(str(tmp_path / "in"), tmp_path / "serial")
    sweep_stage(first, SerialExecutor())
    score_stage(first, SerialExecutor())
    shutil.copytree(tmp_path / "serial", tmp_path / "dask", symlinks=True)
    pq.write_table(_draw(9, shift=0.4), tmp_path / "in" / "f4.parquet", row_group_size=200)
    pq.write_table(_draw(8), tmp_path / "in" / "f0.parquet", row_group_size=200)

    results = {}
    for name, executor in (("serial", SerialExecutor()), ("dask", DaskExecutor(dask_client))):
        config = _config(str(tmp_path / "in"), tmp_path / name)
        config = config.model_copy(update={"update": config.update.model_copy(update={"mode": mode})})
        result = update_stage(config, executor)
        results[name] = (
            result.decision, result.rows_read, (tmp_path / name / "model.gmm").read_bytes(), _scored(config),
        )  # fmt: skip
        assert [Path(str(f)).name for f in result.files.new] == ["f4.parquet"]
    assert results["serial"][0] == MOVED
    assert results["dask"][:3] == results["serial"][:3]
    assert results["dask"][3].equals(results["serial"][3])


@pytest.mark.slow
@pytest.mark.parametrize(
    "remote_scores", [pytest.param(False, marks=pytest.mark.long), True], ids=["scores here", "scores there"]
)
def test_an_update_of_files_in_an_object_store_reads_only_new_ones(
    s3, tmp_path, remote_scores
):
    bucket = f"nights-{uuid.uuid4().hex[:8]}"
    s3.create_dir(bucket)

    def write(name: str, table: pa.Table) -> None:
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "in" / name, row_group_size=200)
        pq.write_table(table, f"{bucket}/in/{name}", row_group_size=200, filesystem=s3)

    for i in range(4):
        write(f"f{i}.parquet", _draw(i))
    configs = {
        "local": _config(str(tmp_path / "in"), tmp_path / "local"),
        "s3": _config(f"s3://{bucket}/in", tmp_path / "s3", f"s3://{bucket}/scored" if remote_scores else None),
    }
    for config in configs.values():
        sweep_stage(config, SerialExecutor())
        score_stage(config, SerialExecutor())
        assert update_stage(config, SerialExecutor()).decision == NOTHING

    write("f4.parquet", _draw(9, shift=0.4))
    write("f0.parquet", _draw(8))
    results = {name: update_stage(config, SerialExecutor()) for name, config in configs.items()}
    for result in results.values():
        assert (len(result.files.new), len(result.files.changed), len(result.files.unchanged)) == (1, 1, 3)
        assert result.decision == MOVED
    assert results["s3"].rows_read == results["local"].rows_read
    # The sample, on which fits start, is drawn by a hash of path and row: the optimum is the same, not the bits.
    here, there = (load_model(c.folder / "model.gmm") for c in configs.values())
    np.testing.assert_allclose(
        there.means_[there.means_[:, 0].argsort()], here.means_[here.means_[:, 0].argsort()], atol=0.02
    )
    assert there.lower_bound_ == pytest.approx(here.lower_bound_, abs=1e-3)
    scored = _scored(configs["s3"], s3 if remote_scores else None)
    assert scored.num_rows == 5 * 600
    rows = np.column_stack([scored["a"], scored["b"]])
    new = slice(4 * 600, None)
    np.testing.assert_allclose(scored["log_density"].to_numpy()[new], there.score_samples(rows[new]), rtol=1e-9)
    assert update_stage(configs["s3"], SerialExecutor()).decision == NOTHING
