"""Which columns are fitted and passed through: whatever the order of the files and of the columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.errors import InputDataError

pd = pytest.importorskip("pandas")

ORDERS = [("1.parquet", "2.parquet"), ("2.parquet", "1.parquet")]


def _write_pair(folder, names, first, second):
    folder.mkdir(exist_ok=True)
    for name, columns in zip(names, (first, second), strict=True):
        pq.write_table(pa.table(columns), folder / name)
    return folder


class TestPandasIndex:
    @pytest.mark.parametrize("index", [np.arange(0, 1000, 2), pd.Index(np.arange(500) ** 2, name="row")])
    def test_the_index_of_a_frame_is_not_fitted(self, tmp_path, rng, index):
        frame = pd.DataFrame(rng.normal(size=(500, 2)), columns=["x", "y"], index=index)
        frame.to_parquet(tmp_path / "a.parquet")
        assert len(pq.read_schema(tmp_path / "a.parquet").names) == 3
        data = sg.open_dataset(tmp_path)

        assert list(data.columns) == list(pd.read_parquet(tmp_path / "a.parquet").columns)
        assert "index of a pandas frame" in sg.fit(data, 1).warnings[0]

    def test_an_index_that_is_named_is_fitted(self, tmp_path):
        pd.DataFrame({"x": [1.0, 2.0]}, index=pd.Index([3, 9], name="k")).to_parquet(tmp_path / "a.parquet")

        assert sg.open_dataset(tmp_path, columns=["k", "x"]).columns == ("k", "x")

    def test_a_table_of_a_stream(self, rng):
        frame = pd.DataFrame(rng.normal(size=(1000, 2)), columns=["x", "y"], index=np.arange(0, 2000, 2))
        stream = sg.OnlineGaussianMixture(1).partial_fit(pa.Table.from_pandas(frame))

        assert stream.result_.columns == ("x", "y")


class TestEveryFileHasASay:
    X = np.arange(50.0)

    @pytest.mark.parametrize("names", ORDERS)
    @pytest.mark.parametrize(
        "other",
        [{"x": X}, {"x": X, "y": ["a"] * 50}, {"x": X, "y": [[1.0, 2.0]] * 50}],
        ids=["absent", "string", "list"],
    )
    def test_a_column_that_is_a_number_in_one_file_only_is_an_error(self, tmp_path, names, other):
        folder = _write_pair(tmp_path / "in", names, {"x": self.X, "y": self.X}, other)
        with pytest.raises(InputDataError, match=f"{folder / names[1]}: column 'y' .*data.columns"):
            sg.open_dataset(folder)
        assert sg.open_dataset(folder, columns=["x"]).num_rows == 100

    @pytest.mark.parametrize("names", ORDERS)
    def test_a_column_without_values_in_one_file_is_fitted(self, tmp_path, names):
        folder = _write_pair(tmp_path / "in", names, {"x": self.X, "y": pa.nulls(50)}, {"x": self.X, "y": self.X})
        dropped = sg.open_dataset(folder, missing="drop")

        assert dropped.columns == ("x", "y")
        assert sg.fit(dropped, 1).criteria.n_rows == 50
        with pytest.raises(
            InputDataError, match=f"column 'y': 50 of 100 values .{folder / names[0]}, row group 0: 50"
        ):
            sg.fit(folder, 1)

    def test_a_column_without_values_in_any_file_is_named(self, tmp_path):
        folder = _write_pair(tmp_path / "in", ORDERS[0], *[{"x": self.X, "y": pa.nulls(50)}] * 2)

        assert "['y'] hold no value in any file" in sg.open_dataset(folder).warnings[0]
        with pytest.raises(InputDataError, match="column 'y' is null, not a number"):
            sg.open_dataset(folder, columns=["x", "y"])

    @pytest.mark.parametrize("second", [pa.nulls(50), pa.nulls(50, pa.float64())], ids=["null", "double"])
    def test_a_column_of_nulls_alone_is_set_aside(self, tmp_path, second):
        folder = _write_pair(
            tmp_path / "in", ORDERS[0], {"x": self.X, "y": pa.nulls(50, pa.float64())}, {"x": self.X, "y": second}
        )
        dataset = sg.open_dataset(folder)
        assert dataset.columns == ("x",)
        assert any("columns ['y'] hold no value in any file" in w for w in dataset.warnings)
        assert sg.open_dataset(folder, ["x", "y"]).columns == ("x", "y")

    def test_one_value_in_a_later_row_group_is_enough(self, tmp_path):
        values = pa.array([None] * 90 + [1.0], pa.float64())
        pq.write_table(pa.table({"x": np.arange(91) + 0.5, "y": values}), tmp_path / "a.parquet", row_group_size=30)
        assert sg.open_dataset(tmp_path).columns == ("x", "y")

    def test_a_name_that_is_there_twice_is_refused(self, tmp_path):
        table = pa.Table.from_arrays([pa.array([1.0, 2.0])] * 3, names=["a", "b", "a"])
        pq.write_table(table, tmp_path / "a.parquet")
        for columns in (None, ["a", "b"]):
            with pytest.raises(InputDataError, match="a.parquet: .*'a'"):
                sg.open_dataset(tmp_path, columns=columns)


class TestPassthrough:
    """What the files have not in common, against pyarrow's own union of their schemas."""

    @pytest.mark.parametrize("names", ORDERS)
    def test_columns_that_some_files_lack_are_null_there(self, tmp_path, names, rng):
        one = {"x": rng.normal(size=80), "key": np.arange(80, dtype=np.int32), "old": ["o"] * 80}
        two = {"x": rng.normal(size=60), "new": [True] * 60, "key": np.arange(60, dtype=np.int64)}
        folder = _write_pair(tmp_path / "in", names, one, two)
        data = sg.open_dataset(folder, columns=["x"])
        assert any("'new' is not in 1 of 2 files" in w and "80 rows" in w for w in data.warnings)
        assert any("'old' is not in 1 of 2 files" in w and "60 rows" in w for w in data.warnings)
        sg.score(sg.fit(data, 1), data, tmp_path / "out")

        schemas = [pq.read_schema(folder / n) for n in sorted(names)]
        schema = pa.unify_schemas(schemas, promote_options="permissive")
        expected = pads.dataset(folder, schema=schema, format="parquet").to_table()
        scored = pq.read_table(tmp_path / "out").select(schema.names)
        assert scored.to_pylist() == expected.to_pylist()
        assert set(zip(scored.schema.names, scored.schema.types, strict=True)) == set(
            zip(schema.names, schema.types, strict=True)
        )

    @pytest.mark.parametrize("names", ORDERS)
    def test_an_empty_file_has_the_columns_of_the_others(self, tmp_path, names, rng):
        one = {"x": rng.normal(size=80), "key": np.arange(80), "v": [[1.0]] * 80}
        folder = _write_pair(tmp_path / "in", names, one, {"x": pa.array([], pa.float64())})
        data = sg.open_dataset(folder, columns=["x"])
        sg.score(sg.fit(data, 1), data, tmp_path / "out")

        schemas = [pq.read_schema(tmp_path / "out" / n) for n in names]
        assert schemas[0].names == schemas[1].names
        assert schemas[0].types == schemas[1].types
        assert pq.read_table(tmp_path / "out")["key"].to_pylist() == list(range(80))

    @pytest.mark.parametrize("names", ORDERS)
    def test_types_with_nothing_in_common_are_refused_by_name(self, tmp_path, names):
        x = np.arange(20.0)
        folder = _write_pair(tmp_path / "in", names, {"x": x, "k": np.arange(20)}, {"x": x, "k": ["a"] * 20})
        data = sg.open_dataset(folder, columns=["x"])
        with pytest.raises(
            InputDataError, match=r"column 'k' is (string|int64), and (string|int64) in .*passthrough"
        ):
            data.check_passthrough(["x", "k"])
        data.check_passthrough(["x"])
        with pytest.raises(sg.errors.ConfigError, match="no file has a column 'kk'; did you mean 'k'"):
            data.check_passthrough(["kk"])
        model = sg.fit(data, 1)
        assert sg.score(model, data, tmp_path / "out", passthrough=["x"]).rows == 40


class TestVectors:
    SPARK = pa.struct(
        [
            ("type", pa.int8()), ("size", pa.int32()),
            ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64())),
        ]
    )  # fmt: skip

    @pytest.mark.parametrize(
        "kind", [pa.list_(pa.float64()), pa.large_list(pa.int32()), pa.list_(pa.float32(), 3), SPARK], ids=str
    )
    def test_a_vector_column_is_an_error_and_the_remedies_work(self, tmp_path, kind):
        value = (
            {"type": 1, "size": 3, "indices": None, "values": [1.0, 2.0, 3.0]} if kind == self.SPARK else [1, 2, 3]
        )
        table = pa.table({"x": [1.0, 2.0], "features": pa.array([value, value], kind)})
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(InputDataError, match="a.parquet: column 'features' is .*, a vector.*data.columns"):
            sg.open_dataset(tmp_path)
        with pytest.raises(InputDataError, match="column 'features' is"):
            sg.open_dataset(tmp_path, columns=["features"])
        assert sg.open_dataset(tmp_path, columns=["x"]).num_rows == 2
        with pytest.raises(InputDataError, match="a vector"):
            sg.OnlineGaussianMixture(1).partial_fit(table)


class TestIdentifiers:
    """Without columns, what is no measurement is set aside, and the result says so."""

    @pytest.fixture
    def columns(self, rng):
        hours = np.arange(3000)
        return {
            "row_no": hours + 1,
            "year": 2010 + hours // 8760,
            "month": 1 + hours // 730,
            "day": 1 + (hours // 24) % 28,
            "hour": hours % 24,
            "station_id": rng.integers(0, 12, 3000),
            "pm25": rng.gamma(2.0, 40.0, 3000),
            "count": rng.integers(0, 900, 3000),
        }

    def test_row_numbers_dates_and_identifiers_are_not_fitted(self, columns, write_parquet, caplog):
        path = write_parquet("a.parquet", columns)
        data = sg.open_dataset(path)

        assert data.columns == ("pm25", "count")
        assert sg.open_dataset(path, list(columns)).columns == tuple(columns)
        (warning,) = data.warnings
        for name in ("row_no", "year", "month", "day", "hour", "station_id"):
            assert f"{name} (" in warning
        assert f"columns: {[*list(columns)[:6], 'pm25', 'count']}" in warning
        assert caplog.messages == [warning]
        assert sg.open_dataset(path).columns == data.columns
        assert caplog.messages == [warning]  # once in a process
        for result in (sg.fit(path, 1), sg.sweep(path, [1], "full")):
            assert warning in result.warnings

    def test_the_demo_data_need_no_columns(self, demo_folder):
        assert sg.open_dataset(demo_folder).columns == ("x0", "x1", "x2")

    @pytest.mark.parametrize(
        ("name", "values", "aside"),
        [
            ("n", np.arange(100), True),
            ("n", np.arange(100)[::-1] * 7 - 3, True),
            ("n", np.random.default_rng(0).permutation(100), True),
            ("n", np.cumsum(1 + np.arange(100) % 3), True),
            ("n", np.arange(100) // 2, False),
            ("n", np.random.default_rng(0).integers(0, 1000, 100), False),
            ("n", np.arange(100.0), False),
            ("n", np.arange(10), False),
            ("month", np.arange(100) % 12 + 1.0, True),
            ("month", np.arange(100) % 13 + 1, False),
            ("month", np.arange(100) % 12 + 0.5, False),
            ("hour", pa.array([None, *(np.arange(99) % 24)]), True),
            ("index", np.random.default_rng(0).permutation(300)[:100] + 0.0, True),
            ("index", np.arange(100) % 7, False),
            ("customerId", np.arange(100) % 7, True),
            ("humid", np.arange(100) % 7, False),
            ("id", np.arange(100) / 7.0, False),
        ],
    )
    def test_what_counts_as_one(self, name, values, aside, write_parquet, rng):
        path = write_parquet("a.parquet", {name: values, "x": rng.normal(size=len(values))})

        assert (name not in sg.open_dataset(path).columns) == aside

    def test_a_later_row_group_out_of_the_range_shows_in_its_statistics(self, write_parquet, rng):
        hours = np.r_[np.arange(100) % 24, np.arange(100) * 3]
        path = write_parquet("a.parquet", {"hour": hours, "x": rng.normal(size=200)}, row_group_size=100)

        assert sg.open_dataset(path).columns == ("hour", "x")

    def test_a_data_set_of_nothing_else_is_fitted(self, write_parquet):
        assert sg.open_dataset(write_parquet("a.parquet", {"id": np.arange(50)})).columns == ("id",)

    def test_a_model_is_scored_in_its_own_columns(self, write_parquet, tmp_path, rng):
        model = sg.fit(write_parquet("a.parquet", {"k": rng.integers(0, 99, 50), "x": rng.normal(size=50)}), 1)
        later = write_parquet("b.parquet", {"k": np.arange(50), "x": rng.normal(size=50)}, folder="b")

        assert sg.open_dataset(later).columns == ("x",)
        assert sg.score(model, later, tmp_path / "out").rows == 50


class TestSelectors:
    @pytest.fixture
    def path(self, write_parquet, rng):
        kinds = {"x1": "f8", "x2": "f4", "y": "f8", "n1": "i4", "n2": "u2", "b": "?", "x[1]": "f8"}
        columns = {name: rng.integers(0, 2, 40).astype(kind) for name, kind in kinds.items()}
        return write_parquet("a.parquet", {**columns, "xs": ["a"] * 40})

    @pytest.mark.parametrize(
        ("columns", "exclude", "expected"),
        [
            (["x*"], [], ["x1", "x2", "x[1]"]),
            (["y", "x?"], [], ["y", "x1", "x2"]),
            (["n2", "n*"], [], ["n2", "n1"]),
            (["x[1]"], [], ["x[1]"]),
            (["x[12]"], [], ["x1", "x2"]),
            (["dtype:float64"], [], ["x1", "y", "x[1]"]),
            (["dtype:float"], ["x[[]*"], ["x1", "x2", "y"]),
            (["dtype:int", "b"], ["n1"], ["n2", "b"]),
            (["dtype:number"], ["dtype:float32", "y"], ["x1", "n1", "n2", "x[1]"]),
            (None, ["x*", "dtype:bool"], ["y", "n1", "n2"]),
        ],
    )
    def test_names_patterns_and_types(self, path, columns, exclude, expected):
        assert list(sg.open_dataset(path, columns, exclude_columns=exclude).columns) == expected

    def test_a_column_has_its_type_in_every_file(self, path, write_parquet):
        write_parquet("b.parquet", {**pq.read_table(path).to_pydict(), "y": np.ones(40, np.float32)})

        assert sg.open_dataset(path.parent, ["dtype:float64"]).columns == ("x1", "x[1]")

    def test_the_weight_is_not_among_those_that_match(self, path):
        assert sg.open_dataset(path, ["x*"], weight="x2").columns == ("x1", "x[1]")

    @pytest.mark.parametrize(
        ("columns", "exclude", "message"),
        [
            (["z*"], [], "columns: no column matches 'z.'"),
            (["xs*"], [], "no numeric column matches 'xs.'"),
            (["dtype:flaot"], [], "unknown type 'dtype:flaot'; did you mean 'float'"),
            (["y", "y"], [], "named twice"),
            (["x1"], ["x*"], "every column of data.columns is left out"),
            (["x1"], ["x11"], "exclude_columns: there is no column 'x11'; did you mean"),
        ],
    )
    def test_what_selects_nothing_is_an_error(self, path, columns, exclude, message):
        with pytest.raises(sg.errors.StreamGMMError, match=message):
            sg.open_dataset(path, columns, exclude_columns=exclude)

    def test_a_vector_that_is_excluded_does_not_matter(self, write_parquet):
        path = write_parquet("a.parquet", {"x": [1.5, 2.5], "v": [[1.0], [2.0]]})

        assert sg.open_dataset(path, exclude_columns=["v"]).columns == ("x",)


class TestDamagedNames:
    def test_bytes_that_are_no_text(self, tmp_path):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"xyzzy": [1.0, 2.0], "q": [1.0, 2.0]}), path, store_schema=False)
        path.write_bytes(path.read_bytes().replace(b"xyzzy", b"x\xff\xfezy"))
        with pytest.raises(InputDataError, match=r"a.parquet: the name of column 'x.xff.xfezy' is damaged"):
            sg.open_dataset(tmp_path)

    @pytest.mark.parametrize("columns", [None, ["b"]])
    def test_a_name_that_is_there_twice_cannot_be_passed_through(self, tmp_path, columns, rng):
        arrays = [pa.array(rng.normal(size=50)), pa.array(["u"] * 50), pa.array(["v"] * 50)]
        pq.write_table(pa.Table.from_arrays(arrays, names=["b", "s", "s"]), tmp_path / "a.parquet")
        data = sg.open_dataset(tmp_path, columns)
        model = sg.fit(data, 1)
        with pytest.raises(InputDataError, match="a.parquet: there are 2 columns 's'.*rename"):
            sg.score(model, data, tmp_path / "out")
        assert sg.score(model, data, tmp_path / "out", passthrough=["b"]).rows == 50


class TestLabels:
    """A label is the answer that a clustering should find: by its name and its values it is set aside."""

    ROWS = 90
    MEASURED = np.random.default_rng(0).normal(size=ROWS)
    CODES = np.arange(ROWS) % 3

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("class", CODES), ("Target", CODES.astype(float)), ("label", CODES == 1), ("true_label", CODES - 1),
            ("cluster", np.sort(CODES)), ("species_code", CODES.astype(np.uint8)), ("is_pulsar", CODES // 2),
            ("y", CODES), ("cultivar", pa.array(CODES).dictionary_encode()),
        ],
    )  # fmt: skip
    def test_a_label_is_set_aside_with_a_line(self, tmp_path, name, values):
        pq.write_table(pa.table({"size": self.MEASURED, name: values}), tmp_path / "a.parquet", row_group_size=30)
        dataset = sg.open_dataset(tmp_path)
        assert dataset.columns == ("size",)
        assert f"{name} (" in dataset.warnings[0]
        assert "by its name a label" in dataset.warnings[0]
        assert sg.open_dataset(tmp_path, ["size", name]).columns == ("size", name)

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("class", MEASURED), ("class", np.random.default_rng(1).integers(0, 45, ROWS)), ("target", 1000 * CODES),
            ("rooms", CODES),
            ("label", [*CODES[1:], 500]), ("is_hot", CODES), ("classic", CODES), ("target_temperature", CODES),
            ("label_width", CODES), ("y", CODES.astype(float)),
        ],
    )  # fmt: skip
    def test_what_only_resembles_a_label_is_fitted(self, tmp_path, name, values):
        pq.write_table(pa.table({"size": self.MEASURED, name: values}), tmp_path / "a.parquet", row_group_size=30)
        assert sg.open_dataset(tmp_path).columns == ("size", name)

    def test_a_coordinate_is_no_label(self, tmp_path):
        table = {"x": self.CODES, "y": self.CODES, "grey": self.MEASURED}
        pq.write_table(pa.table(table), tmp_path / "a.parquet")
        assert sg.open_dataset(tmp_path).columns == ("x", "y", "grey")


class TestPanels:
    """Measurements of units over time: `unit` and `cycle` are no measurements, whatever they are called."""

    @staticmethod
    def _write(path, rng, lengths, **changed):
        groups = np.repeat(np.arange(len(lengths)) * 3 + 5, lengths)
        columns = {"engine": groups, "cycle": np.concatenate([np.arange(1, n + 1) for n in lengths])}
        columns |= {"x": rng.normal(size=len(groups)), "y": rng.integers(0, 50, len(groups))}
        pq.write_table(pa.table(columns | changed), path)
        return sg.open_dataset(path)

    def test_what_numbers_rows_in_groups_and_the_groups_are_not_fitted(self, tmp_path, rng):
        data = self._write(tmp_path / "a.parquet", rng, [150, 90, 200])
        assert data.columns == ("x", "y")
        (said,) = [w for w in data.warnings if "are not fitted" in w]
        assert "cycle (integers that number the rows of groups)" in said
        assert "engine (an integer for each of the groups whose rows cycle numbers)" in said
        assert "['engine', 'cycle', 'x', 'y']" in said
        assert sg.open_dataset(tmp_path / "a.parquet", ["cycle", "x"]).columns == ("cycle", "x")

    def test_what_only_resembles_them_is_fitted(self, tmp_path, rng):
        lengths = [150, 90, 200]
        ages = np.concatenate([np.arange(20 + i, 20 + i + n) for i, n in enumerate(lengths)])  # other first values
        twice = np.repeat([1, 2, 1], lengths)  # a value of two groups is none of their numbers
        data = self._write(tmp_path / "a.parquet", rng, lengths, cycle=ages, engine=twice)
        assert data.columns == ("engine", "cycle", "x", "y")
        assert self._write(tmp_path / "b.parquet", rng, lengths, engine=twice).columns == ("engine", "x", "y")
        binary = np.arange(440) % 2  # rises by 1 and restarts, but in groups of two
        assert "cycle" in self._write(tmp_path / "c.parquet", rng, lengths, cycle=binary).columns
        floats = self._write(tmp_path / "d.parquet", rng, lengths, cycle=np.arange(440.0) % 150)
        assert "cycle" in floats.columns

    def test_later_rows_have_a_say(self, tmp_path, rng):
        lengths = [150, 90, 200]
        self._write(tmp_path / "1.parquet", rng, lengths)
        self._write(tmp_path / "2.parquet", rng, [120, 310])
        assert sg.open_dataset(tmp_path).columns == ("x", "y")
        self._write(tmp_path / "2.parquet", rng, lengths, cycle=rng.integers(0, 90, 440))
        assert sg.open_dataset(tmp_path).columns == ("engine", "cycle", "x", "y")
