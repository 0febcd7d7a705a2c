"""Filters of rows, against pandas' own queries; and what is not a filter."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.errors import ConfigError, InputDataError
from stream_gmm.io.source.filters import parse_filter

pd = pytest.importorskip("pandas")

N = 2000


@pytest.fixture
def frame(rng):
    return pd.DataFrame(
        {
            "time": pd.date_range("2024-01-01", periods=N, freq="h"),
            "temperature": np.where(rng.random(N) < 0.05, -999.0, rng.normal(10.0, 5.0, N)),
            "wind speed": rng.gamma(2.0, 3.0, N),
            "station": rng.choice(["A", "B", "it's"], N),
            "level": rng.integers(0, 50, N),
            "valid": rng.random(N) < 0.9,
        }
    )


@pytest.fixture
def path(frame, tmp_path):
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=250)
    return tmp_path / "a.parquet"


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("temperature > -200 and station == 'A'", None),
        ("not (temperature <= -200 or station != 'B')", None),
        ("-200 < temperature <= 12.5", None),
        ("`wind speed` >= 3", None),
        ('station == "it\'s"', None),
        ("station in ['A', 'B'] and level not in [1, 2, 3]", None),
        ("valid", None),
        ("not valid or level == 7", None),
        ("valid == true and level > 2.5", "valid == True and level > 2.5"),
        ("time >= '2024-02-01' and time < '2024-03-01 12:00:00'", None),
        ("12 <= level", None),
        ("temperature is not null and station is null", "temperature == temperature and station != station"),
    ],
)
def test_the_rows_are_those_of_pandas_in_fits_and_scores(path, frame, tmp_path, text, query):
    expected = frame.query(query or text)
    if not len(expected):
        with pytest.raises(InputDataError, match="no usable row|no row matches"):
            sg.fit(sg.open_dataset(path, ["temperature", "wind speed"], filter=text), 1)
        return
    data = sg.open_dataset(path, ["temperature", "wind speed"], filter=text)
    model = sg.fit(data, 1)
    sg.score(model, data, tmp_path / "out")

    assert model.criteria.n_rows == len(expected)
    np.testing.assert_allclose(model.means_[0], expected[["temperature", "wind speed"]].mean(), rtol=1e-12)
    scored = pq.read_table(tmp_path / "out").to_pandas()
    pd.testing.assert_frame_equal(scored[frame.columns], expected.reset_index(drop=True), check_dtype=False)


def test_missing_values_match_nothing_as_in_sql(tmp_path):
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0, 4.0], "k": [None, 1, 5, None]}), tmp_path / "a.parquet")

    def kept(text):
        data = sg.open_dataset(tmp_path, ["x"], filter=text)
        return [v for leaf in data.leaves() for chunk in leaf.chunks() for v in chunk.rows[:, 0]]

    assert kept("k > 2") == [3.0]
    assert kept("not (k > 2)") == [2.0]
    assert kept("k not in [5]") == [2.0]
    assert kept("k is null") == [1.0, 4.0]
    assert kept("k == null or k == 5") == [1.0, 3.0, 4.0]


def test_row_groups_that_cannot_match_are_not_opened(path):
    data = sg.open_dataset(path, ["level"], filter="time < '2024-01-20'")  # 456 hours
    assert [p.row_groups for p in data.parts] == [(0, 1)]
    assert data.num_rows == 500
    outer = sg.open_dataset(path, ["level"], filter="time < '2024-01-02' or time >= '2024-03-20'")
    assert [p.row_groups for p in outer.parts] == [(0,), (7,)]
    assert [p.first_row for p in outer.parts] == [0, 1750]
    assert sum(len(c.rows) for leaf in outer.leaves() for c in leaf.chunks()) == 24 + 104
    with pytest.raises(InputDataError, match="no row matches the filter .*ranges in the footers"):
        sg.open_dataset(path, ["level"], filter="level > 1000")


def test_the_sample_and_the_rows_held_out_are_drawn_by_the_row_numbers_of_the_file(path, frame):
    """The same rows are held out with a filter as without one."""
    whole = sg.open_dataset(path, ["level"])
    numbers = np.concatenate([c.row_numbers for leaf in whole.leaves() for c in leaf.chunks()])
    data = sg.open_dataset(path, ["level"], filter="station == 'A'")
    mine = np.concatenate([c.row_numbers for leaf in data.leaves() for c in leaf.chunks()])

    np.testing.assert_array_equal(numbers, np.arange(N))
    np.testing.assert_array_equal(mine, np.flatnonzero(frame.station == "A"))
    model = sg.fit(data, 1, holdout=0.3, cache="none")
    assert 0.6 < model.criteria.n_rows / len(mine) < 0.8


OPTIONS = [{"cache": "none"}, {"cache": "memory"}, {"cache": "disk"}, {"profile": "sample"}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_that_read_the_rows_again_give_the_same(path, options):
    data = sg.open_dataset(path, ["temperature", "wind speed"], filter="temperature > -200")
    expected = sg.fit(data, 2, random_state=1, cache="none")
    model = sg.fit(data, 2, random_state=1, **options)

    np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-12 if "profile" in options else 0.0)
    assert model.provenance["rows"] == expected.provenance["rows"] == expected.criteria.n_rows
    assert any("the filter has left out" in w for w in model.warnings)
    assert model.provenance["filter"] == "temperature > -200"


def test_an_error_names_the_row_of_the_file(path, frame, tmp_path):
    frame.loc[1500, "temperature"] = np.inf
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "b.parquet", row_group_size=250)
    station = frame.station[1500]
    data = sg.open_dataset(tmp_path / "b.parquet", ["temperature"], filter=f'station == "{station}"')
    with pytest.raises(
        InputDataError, match=r"b.parquet, row group 6, column 'temperature': 1 infinite .* row 1500 "
    ):
        sg.fit(data, 1)


def test_the_filter_is_part_of_the_identity_of_the_data(path):
    def identity(text):
        return sg.open_dataset(path, ["level"], filter=text).fingerprint

    assert len({identity(None), identity("level > 3"), identity("level > 4")}) == 3


def test_a_dictionary_and_a_date_are_compared_by_value(tmp_path):
    days = [datetime.date(2024, 1, d) for d in (1, 2, 3)]
    table = pa.table({"x": [1.0, 2.0, 3.0], "s": pa.array(["a", "b", "a"]).dictionary_encode(), "d": days})
    pq.write_table(table, tmp_path / "a.parquet")

    for text, rows in (("s == 'a' and d > '2024-01-02'", 1), ("s in ['a']", 2), ("d in ['2024-01-02']", 1)):
        data = sg.open_dataset(tmp_path, ["x"], filter=text)
        assert sum(len(c.rows) for leaf in data.leaves() for c in leaf.chunks()) == rows, text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temperature >", "cannot be read"),
        ("temperature = 3", "cannot be read"),
        ("3 > 2", "names no column"),
        ("level + 1 > 2", "'level \\+ 1'"),
        ("abs(level) > 2", "'abs\\(level\\)'|needs one column 'abs'"),
        ("level > 'A'", "int64, string"),
        ("level", "gives int64, not true or false"),
        ("station in 'A'", "'in' needs a list"),
        ("level in ['x']", "cannot be used"),
        ("time > 'yesterday'", "yesterday"),
        ("[level for level in [1]]", "not a comparison"),
    ],
)
def test_what_is_no_filter_is_refused_with_the_grammar(path, text, message):
    with pytest.raises((ConfigError, InputDataError), match=message):
        sg.open_dataset(path, ["level"], filter=text)


def test_nothing_in_a_filter_is_run(path, tmp_path):
    for text in (
        f"__import__('pathlib').Path('{tmp_path}/made').touch()",
        f"level > open('{tmp_path}/made', 'w').fileno()",
        "(lambda: 1)() > level",
    ):
        with pytest.raises((ConfigError, InputDataError)):
            sg.open_dataset(path, ["level"], filter=text)
    assert not (tmp_path / "made").exists()


def test_an_unknown_column_is_named_with_its_file(path):
    with pytest.raises(
        InputDataError, match="a.parquet: the filter needs one column 'stations'; did you mean 'station'"
    ):
        sg.open_dataset(path, ["level"], filter="stations == 'A'")
    assert parse_filter("`wind speed` > 1 and level > 2 and level < 9").columns == ("wind speed", "level")
