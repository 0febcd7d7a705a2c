from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.errors import ConfigError, InputDataError, StorageError
from stream_gmm.io.sink import publish as publishing
from stream_gmm.io.sink.scores import group_small_parts
from tests.oracles import DATA


@pytest.fixture(scope="module")
def model(demo_folder):
    return sg.fit(sg.open_dataset(demo_folder, columns=["x0", "x1", "x2"]), 3, "full")


@pytest.fixture
def data(demo_folder):
    return sg.open_dataset(demo_folder, columns=["x0", "x1", "x2"])


def _leftovers(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


@pytest.mark.slow
def test_rows_order_and_columns_are_kept_and_scores_are_right(model, data, tmp_path, executor):
    result = sg.score(model, data, tmp_path / "scored", client=executor)
    table = ds.dataset(tmp_path / "scored").to_table()

    assert table.column_names == [
        "id", "x0", "x1", "x2", "component", "max_proba", "proba_0", "proba_1", "proba_2",
        "log_density", "uncertainty", "mahalanobis_sq", "is_outlier", "not_scored_reason",
    ]  # fmt: skip
    np.testing.assert_array_equal(table["id"].to_numpy(), np.arange(20_000))
    rows = np.column_stack([table[c].to_numpy() for c in ("x0", "x1", "x2")])
    scores = model.scores(rows)
    np.testing.assert_array_equal(table["component"].to_numpy(), scores.component)
    assert table.schema.field("component").type == pa.int32()
    np.testing.assert_allclose(table["log_density"].to_numpy(), scores.log_density, rtol=1e-12)
    np.testing.assert_allclose(table["proba_1"].to_numpy(), scores.proba[:, 1], rtol=1e-10, atol=1e-300)
    np.testing.assert_allclose(table["uncertainty"].to_numpy(), 1 - scores.max_proba, atol=1e-12)
    outliers = scores.log_density < model.threshold
    np.testing.assert_array_equal(table["is_outlier"].to_numpy(zero_copy_only=False), outliers)
    assert table["not_scored_reason"].null_count == 20_000
    assert result.rows == 20_000
    assert result.outliers == outliers.sum()
    assert result.component_rows == np.bincount(scores.component).tolist()
    assert result.manifest["loglik"] == pytest.approx(scores.log_density.sum(), rel=1e-12)


def test_one_file_for_each_part_with_the_models_identity(model, data, tmp_path):
    sg.score(model, data, tmp_path / "scored")
    files = sorted(p.name for p in (tmp_path / "scored").glob("*.parquet"))
    manifest = json.loads((tmp_path / "scored" / "_manifest.json").read_text())

    assert files == [f"part-{i:03d}.parquet" for i in range(4)]
    metadata = pq.read_schema(tmp_path / "scored" / files[0]).metadata
    assert metadata[b"stream_gmm.model_digest"].decode() == model.digest == manifest["model_digest"]
    assert (manifest["rows_in"], manifest["rows_out"], manifest["rows_not_scored"]) == (20_000, 20_000, 0)
    assert [p["rows_out"] for p in manifest["parts"]] == [5000] * 4
    assert _leftovers(tmp_path) == []


def test_a_file_of_several_parts_and_folders_are_mirrored(model, demo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("stream_gmm.io.source.parts.PART_BYTES", 8 * 3 * 2500)
    table = pq.read_table(demo_folder / "part-000.parquet")
    path = tmp_path / "in" / "day=1" / "a.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table, path, row_group_size=1000)
    sg.score(model, sg.open_dataset(tmp_path / "in", columns=["x0", "x1", "x2"]), tmp_path / "scored")

    names = sorted(p.name for p in (tmp_path / "scored" / "day=1").iterdir())
    assert names == ["a.part-00000.parquet", "a.part-00002.parquet", "a.part-00004.parquet"]
    scored = ds.dataset(tmp_path / "scored").to_table()
    np.testing.assert_array_equal(scored["id"].to_numpy(), table["id"].to_numpy())


def test_the_layout_of_the_scored_table_can_be_chosen(model, data, tmp_path):
    sg.score(model, data, tmp_path / "a", passthrough=["id"], proba="list", prefix="gmm_")
    table = ds.dataset(tmp_path / "a").to_table()
    assert table.column_names[:4] == ["id", "gmm_component", "gmm_max_proba", "gmm_proba"]
    assert len(table["gmm_proba"][0].as_py()) == 3
    assert sum(table["gmm_proba"][0].as_py()) == pytest.approx(1.0)

    sg.score(model, data, tmp_path / "b", passthrough="none", proba="none")
    assert ds.dataset(tmp_path / "b").to_table().column_names[:3] == ["component", "max_proba", "log_density"]
    assert ds.dataset(tmp_path / "b").count_rows() == 20_000

    with pytest.raises(ConfigError, match="did you mean 'columns'"):
        sg.score(model, data, tmp_path / "c", proba="column")
    with pytest.raises(ConfigError, match="no file has a column 'no'"):
        sg.score(model, data, tmp_path / "c", passthrough=["no"])


@pytest.mark.parametrize("proba", ["columns", "list"])
def test_rows_that_cannot_be_scored_are_null_with_a_reason(tmp_path, proba):
    columns = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm"]
    data = sg.open_dataset(DATA / "penguins", columns=columns, missing="drop")
    model = sg.fit(data, 2)
    result = sg.score(model, data, tmp_path / "scored", proba=proba)
    table = ds.dataset(tmp_path / "scored").to_table()
    source = pq.read_table(DATA / "penguins" / "data.parquet")

    assert table.num_rows == 344
    assert result.manifest["rows_not_scored"] == 2
    assert table["species"].to_pylist() == source["species"].to_pylist()
    for row, given in zip(table.to_pylist(), source.to_pylist(), strict=True):
        if given["bill_length_mm"] is None:
            assert row["component"] is row["log_density"] is row["is_outlier"] is None
            assert row["not_scored_reason"] == "null in bill_length_mm"
        else:
            assert row["component"] is not None
            assert row["not_scored_reason"] is None


def test_scoring_again_with_the_same_model_writes_nothing(model, data, tmp_path):
    first = sg.score(model, data, tmp_path / "scored")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "scored").iterdir()}
    second = sg.score(model, data, tmp_path / "scored")

    assert not first.already_published
    assert second.already_published
    assert second.manifest == json.loads(json.dumps(first.manifest))
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "scored").iterdir()} == before


def test_a_reader_sees_the_old_or_the_new_result_and_nothing_else(model, data, tmp_path, monkeypatch):
    sg.score(model, data, tmp_path / "scored")
    other = sg.fit(data, 2, "diag")
    seen = []
    swap = publishing._swap_folders

    def watched(staging, target):
        seen.append(ds.dataset(target).to_table().num_columns)
        swap(staging, target)
        seen.append(ds.dataset(target).to_table().num_columns)

    monkeypatch.setattr(publishing, "_swap_folders", watched)
    sg.score(other, data, tmp_path / "scored")

    assert seen == [14, 13]
    assert _leftovers(tmp_path) == []


def test_a_failure_leaves_what_was_there(model, demo_folder, data, tmp_path):
    sg.score(model, data, tmp_path / "scored")
    before = ds.dataset(tmp_path / "scored").to_table()
    copy = tmp_path / "in"
    copy.mkdir()
    for path in sorted(demo_folder.glob("*.parquet")):
        (copy / path.name).write_bytes(path.read_bytes())
    table = pq.read_table(copy / "part-003.parquet").to_pydict()
    table["x1"][17] = None
    pq.write_table(pa.table(table), copy / "part-003.parquet", write_statistics=False)
    with pytest.raises(InputDataError, match=r"part-003\.parquet, row group 0, column 'x1': 1 null"):
        sg.score(model, sg.open_dataset(copy, columns=["x0", "x1", "x2"]), tmp_path / "scored")

    assert ds.dataset(tmp_path / "scored").to_table().equals(before)


def test_a_full_disk_is_a_storage_error_and_the_run_goes_on_later(model, data, tmp_path, monkeypatch):
    write = pq.ParquetWriter.write_table
    calls = []

    def full(self, table, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return write(self, table, *args, **kwargs)

    from stream_gmm.execute.serial import SerialExecutor

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        sg.score(model, data, tmp_path / "scored", client=SerialExecutor())
    assert not (tmp_path / "scored").exists()
    monkeypatch.undo()
    kept = len(list(tmp_path.glob("._scored*/*.parquet")))
    assert kept == 2
    assert sg.score(model, data, tmp_path / "scored").rows == 20_000
    assert _leftovers(tmp_path) == []


_KILLED = """
import os, signal, sys
import stream_gmm as sg
from stream_gmm.execute.serial import SerialExecutor
def stop(p):
    if p.stage == "score" and p.done >= 10_000:
        os.kill(os.getpid(), signal.SIGKILL)
model = sg.load_model(sys.argv[1])
data = sg.open_dataset(sys.argv[2], columns=["x0", "x1", "x2"])
sg.score(model, data, sys.argv[3], client=SerialExecutor(), progress=stop)
"""


@pytest.mark.slow
def test_a_killed_run_is_invisible_and_resumes(model, data, demo_folder, tmp_path):
    sg.save_model(model, tmp_path / "m.gmm")
    target = tmp_path / "scored"
    command = [sys.executable, "-c", _KILLED, tmp_path / "m.gmm", demo_folder, target]
    code = subprocess.run([str(c) for c in command], check=False).returncode

    assert code == -9
    assert not target.exists()
    staged = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("._scored*/*.parquet")}
    assert len(staged) == 2
    time.sleep(0.01)
    sg.score(model, data, target)
    published = {p.name: p.stat().st_mtime_ns for p in target.glob("*.parquet")}
    assert {n: published[n] for n in staged} == staged  # these were not done again
    assert ds.dataset(target).count_rows() == 20_000


def test_a_folder_that_is_not_an_output_is_not_replaced(model, data, demo_folder, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("")
    with pytest.raises(StorageError, match="not an output of stream-gmm"):
        sg.score(model, data, tmp_path / "precious")
    with pytest.raises(StorageError, match="holds the input file"):
        sg.score(model, data, demo_folder)
    with pytest.raises(ConfigError, match="object store.*not to ftp://"):
        sg.score(model, data, "ftp://bucket/scored")


def test_a_target_that_is_a_file_system_of_its_own_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    """It cannot be renamed: publishing would fail after hours of work, and every time."""
    from stream_gmm.io.sink.publish import check_target

    check_target(tmp_path, [])
    monkeypatch.setattr(type(tmp_path), "is_mount", lambda _: True)
    with pytest.raises(StorageError, match=r"file system of its own.*give a folder in it, such as .*/scored"):
        check_target(tmp_path, [])
    check_target(tmp_path / "scored", [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_a_storage_error(model, data, tmp_path):
    (tmp_path / "ro").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="cannot write beside"):
        sg.score(model, data, tmp_path / "ro" / "scored")


def test_columns_are_matched_by_name(model, demo_folder, tmp_path):
    turned = sg.open_dataset(demo_folder, columns=["x2", "id", "x0", "x1"])
    sg.score(model, turned, tmp_path / "scored")
    sg.score(model, str(demo_folder), tmp_path / "again")
    with pytest.raises(InputDataError, match=r"\['x2'\] are missing"):
        sg.score(model, sg.open_dataset(demo_folder, columns=["x0", "x1"]), tmp_path / "no")

    a, b = (ds.dataset(tmp_path / n).to_table() for n in ("scored", "again"))
    assert a.equals(b)


def test_a_column_with_the_name_of_a_score_is_refused_with_a_remedy(model, data, tmp_path):
    sg.score(model, data, tmp_path / "scored")
    twice = sg.open_dataset(tmp_path / "scored", columns=["x0", "x1", "x2"])
    with pytest.raises(ConfigError, match=r"already has columns named .*'component'.*score\.prefix"):
        sg.score(model, twice, tmp_path / "again")


def test_empty_files_are_scored_to_empty_files(model, demo_folder, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    table = pq.read_table(demo_folder / "part-000.parquet")
    pq.write_table(table.slice(0, 0), source / "0.parquet")
    pq.write_table(table.slice(0, 10), source / "1.parquet")
    sg.score(model, sg.open_dataset(source, columns=["x0", "x1", "x2"]), tmp_path / "scored")

    assert [pq.read_table(tmp_path / "scored" / f"{i}.parquet").num_rows for i in (0, 1)] == [0, 10]


def test_rows_in_memory_are_refused_with_a_hint(model):
    with pytest.raises(InputDataError, match="predict_proba"):
        sg.score(model, np.zeros((2, 3)), "nowhere")  # type: ignore[arg-type]


def test_neighbouring_small_files_are_scored_by_one_task(tmp_path):
    """A task for each of 100,000 files would cost more than their rows; files and reports stay one for each."""
    rng = np.random.default_rng(0)
    sizes = [10] * 150 + [70_000, 10, 10]
    (tmp_path / "data").mkdir()
    for i, n in enumerate(sizes):
        pq.write_table(pa.table({"x": rng.normal(size=n)}), tmp_path / "data" / f"{i:03d}.parquet")
    data = sg.open_dataset(tmp_path / "data")
    groups = group_small_parts([(part, part.file.relative) for part in data.parts])

    assert [len(group) for group in groups] == [64, 64, 22, 1, 2]
    assert [item for group in groups for item in group] == [(part, part.file.relative) for part in data.parts]
    model = sg.fit(data, 1, "full")
    found = sg.score(model, data, tmp_path / "scored")
    assert [part["rows_out"] for part in found.manifest["parts"]] == sizes
    assert ds.dataset(tmp_path / "scored").count_rows() == sum(sizes)
