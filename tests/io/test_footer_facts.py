"""What footers tell is refused before any row is read: all of one kind in one message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import stream_gmm as sg
from stream_gmm.cli.commands import main
from stream_gmm.errors import ConfigError, InputDataError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.source.columns.names import UnknownColumnError

ROWS = 100


@pytest.fixture
def folder(tmp_path, rng):
    """Two files of two row groups: nulls in x and z, all of w in the second file; y and v are whole."""
    place = tmp_path / "in"
    place.mkdir()
    for name in ("a", "b"):
        x, y, z, w, v = rng.normal(size=(5, ROWS))
        table = {
            "x": pa.array(x, mask=np.arange(ROWS) % 60 == 59),
            "y": y,
            "z": pa.array(z, mask=np.arange(ROWS) < (3 if name == "a" else 0)),
            "w": pa.nulls(ROWS) if name == "b" else w,
            "v": v,
        }
        pq.write_table(pa.table(table), place / f"{name}.parquet", row_group_size=50)
    return place


@pytest.fixture
def unread(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a row was read")

    monkeypatch.setattr("stream_gmm.io.source.leaf.parquet_chunks", refuse)


def test_all_nulls_are_told_with_columns_files_row_groups_and_counts(folder, unread):
    with pytest.raises(InputDataError) as caught:
        sg.fit(folder, 1, client=SerialExecutor())
    text = str(caught.value)
    counts = {c: pq.read_table(folder / "a.parquet")[c].null_count for c in "xz"}
    counts["x"] += pq.read_table(folder / "b.parquet")["x"].null_count
    for column, count in {**counts, "w": ROWS}.items():
        assert f"column '{column}': {count} of {2 * ROWS} values" in text
    for place in ("a.parquet, row group 1: 1", "a.parquet, row group 0: 3", "b.parquet, row group 1: 50"):
        assert place in text
    assert "missing: drop" in text
    assert "missing: marginalise" in text
    assert "in y, v nothing is null" in text


def test_columns_without_nulls_and_policies_for_nulls_go_on(folder):
    whole = sg.fit(sg.open_dataset(folder).with_columns(["y", "v"]), 1, client=SerialExecutor())
    assert whole.criteria.n_rows == 2 * ROWS
    rows = pa.concat_tables([pq.read_table(folder / f"{n}.parquet", columns=["y", "x"]) for n in "ab"]).to_pandas()
    dropped = sg.fit(sg.open_dataset(folder, ["y", "x"], missing="drop"), 1, client=SerialExecutor())
    np.testing.assert_allclose(dropped.means_[0], rows.dropna().mean(), rtol=1e-12)


def test_a_filter_may_leave_the_nulls_out_and_is_not_prejudged(folder):
    fitted = sg.fit(sg.open_dataset(folder, ["y", "x"], filter="x is not null"), 1, client=SerialExecutor())
    assert fitted.criteria.n_rows == 2 * ROWS - 2


def test_scoring_refuses_before_it_writes(folder, tmp_path):
    model = sg.fit(sg.open_dataset(folder, ["y", "x"], missing="drop"), 1, client=SerialExecutor())
    with pytest.raises(InputDataError, match="column 'x': 2 of 200 values"):
        sg.score(model, sg.open_dataset(folder, ["y", "x"]), tmp_path / "scored", client=SerialExecutor())
    assert not (tmp_path / "scored").exists()


def test_more_columns_and_row_groups_than_fit_a_message_are_counted(tmp_path, unread):
    table = pa.table({f"c{i}": pa.array([None, 1.0] * 20) for i in range(12)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    with pytest.raises(InputDataError, match="and 7 more row groups.*and 4 more columns") as caught:
        sg.fit(tmp_path, 1, client=SerialExecutor())
    assert len(str(caught.value).replace(str(tmp_path), "")) < 2500


def test_a_sentinel_that_is_out_of_range_is_a_missing_value(tmp_path):
    values = np.arange(60.0)
    values[7] = 1e300
    pq.write_table(pa.table({"x": values}), tmp_path / "a.parquet")
    dataset = sg.open_dataset(tmp_path, missing="drop", sentinel={"x": 1e300})
    assert sg.fit(dataset, 1, client=SerialExecutor()).criteria.n_rows == 59
    clipped = sg.fit(tmp_path, 1, client=SerialExecutor(), transforms={"x": {"clip": {"lower": 0, "upper": 99}}})
    assert clipped.criteria.n_rows == 60


class TestNames:
    def test_all_options_of_a_data_set_are_named_at_once(self, folder):
        with pytest.raises(UnknownColumnError) as caught:
            sg.open_dataset(
                folder, ["y", "vv"], weight="q", filter="k > 1", exclude_columns=["y1"], sentinel={"r*": 1}
            )
        for line in (
            "columns: there is no column 'vv'; did you mean 'v'?",
            "exclude_columns: there is no column 'y1'; did you mean 'y'?",
            "weight: there is no column 'q'.",
            "filter: there is no column 'k'.",
            "sentinel: no column matches 'r*'.",
            "There are: x, y, z, w, v.",
        ):
            assert line in str(caught.value)

    def test_all_sections_of_a_configuration_are_named_at_once(self, folder, tmp_path, unread, monkeypatch, capsys):
        config: dict[str, Any] = {
            "data": {"paths": [str(folder)], "columns": ["y", "yy"]},
            "em": {"resolution": {"v1": 1.0}, "transforms": {"lot*": "asinh"}},
            "score": {"passthrough": ["y", "id"], "partition_by": ["day"]},
            "output": {"folder": str(tmp_path / "out")},
        }
        expected = {
            "columns: there is no column 'yy'; did you mean 'y'?",
            "em.resolution: there is no column 'v1'; did you mean 'v'?",
            "em.transforms: no column matches 'lot*'.",
            "score.passthrough: there is no column 'id'.",
            "score.partition_by: there is no column 'day'",
        }
        for columns, code in ((["y", "yy"], 3), (["y", "v"], 2)):
            config["data"]["columns"] = columns
            (tmp_path / "job.yaml").write_text(yaml.safe_dump(config))
            monkeypatch.setattr("sys.argv", ["stream-gmm", "sweep", str(tmp_path / "job.yaml")])
            with pytest.raises(SystemExit) as caught:
                main()
            assert caught.value.code == code
            shown = capsys.readouterr().err
            assert all(line in shown for line in expected if code == 3 or "yy" not in line), shown
        assert not (tmp_path / "out").exists()

    def test_options_for_columns_that_are_there_and_not_fitted(self, folder, unread):
        with pytest.raises(ConfigError, match=r"resolution names 'z'.*transforms names 'w'.*to fit are y, v"):
            sg.fit(
                sg.open_dataset(folder, ["y", "v"]), 1, client=SerialExecutor(), resolution={"z": 1.0},
                transforms={"w": "asinh"},
            )  # fmt: skip

    def test_a_step_for_a_constant_column_is_no_mistake(self, tmp_path, rng):
        pq.write_table(pa.table({"x": rng.normal(size=60).round(1), "c": np.ones(60)}), tmp_path / "a.parquet")
        assert sg.fit(tmp_path, 1, client=SerialExecutor(), resolution={"x": 0.1, "c": 1.0}).converged_

    def test_the_error_can_be_sent_between_processes(self):
        import pickle

        error = UnknownColumnError(["columns: there is no column 'q'."], ["x"])
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
