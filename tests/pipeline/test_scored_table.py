from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from scipy.stats import chi2, entropy

import stream_gmm as sg
from stream_gmm.cli.commands import cli
from stream_gmm.core.outliers import FineHistogram
from stream_gmm.core.rows.histogram import LogDensityHistogram
from stream_gmm.errors import ConfigError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.io.sink.parquet.encodings import choose_encoding

COLUMNS = ["x0", "x1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files with row groups of 700 rows: numbers, a country with nulls, a day, and three rows without scores."""
    out, rng = tmp_path_factory.mktemp("table"), np.random.default_rng(5)
    for i in range(2):
        n = 2_000
        x = rng.normal(size=(n, 2)) + 4.0 * rng.integers(0, 3, size=(n, 1))
        country = rng.choice(np.array(["de", "fr", "a/b c", None], dtype=object), n, p=[0.5, 0.3, 0.15, 0.05])
        table = pa.table(
            {
                "id": np.arange(n) + n * i,
                "x0": pa.array([None if i == 0 and j in (3, 800, 801) else v for j, v in enumerate(x[:, 0])]),
                "x1": x[:, 1],
                "country": pa.array(country.tolist(), pa.string()).dictionary_encode(),
                "day": rng.integers(1, 3, n).astype(np.int16),
                "flag": x[:, 0] > 4.0,
            }
        )
        pq.write_table(table, out / f"{i}.parquet", row_group_size=700)
    return out


@pytest.fixture(scope="module")
def data(folder):
    return sg.open_dataset(folder, columns=COLUMNS, missing="drop")


@pytest.fixture(scope="module")
def model(data):
    return sg.fit(data, 3, "full")


@pytest.fixture(scope="module")
def plain(model, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "scored"
    sg.score(model, data, out, client=SerialExecutor())
    return ds.dataset(out).to_table().to_pandas()


def _read(folder):
    return ds.dataset(folder, partitioning="hive").to_table().to_pandas()


def test_entropy_rank_and_top_components_are_those_of_slow_loops(model, data, plain, tmp_path):
    sg.score(model, data, tmp_path / "s", entropy=True, log_density_rank=True, top_components=2)
    got = _read(tmp_path / "s")
    keep = got["component"].notna().to_numpy()
    proba = plain[["proba_0", "proba_1", "proba_2"]].to_numpy()[keep]
    order = np.argsort(-proba, axis=1)

    assert not {"proba_0", "proba_2"} & set(got.columns)
    np.testing.assert_allclose(got["entropy"][keep], [entropy(p) for p in proba], atol=1e-12)
    for i in range(2):
        np.testing.assert_array_equal(got[f"top{i + 1}_component"][keep], order[:, i])
        np.testing.assert_array_equal(got[f"top{i + 1}_proba"][keep], np.sort(proba, axis=1)[:, ::-1][:, i])
    # All rows are in the sample of this model: the rank is their own empirical distribution.
    log_density = got["log_density"][keep].to_numpy()
    exact = np.searchsorted(np.sort(log_density), log_density, side="right") / len(log_density)
    assert np.abs(got["log_density_rank"][keep] - exact).max() < 1 / 512
    low = exact < 0.02
    np.testing.assert_allclose(got["log_density_rank"][keep][low], exact[low], rtol=0.25, atol=1e-9)
    assert got["entropy"][~keep].isna().all()

    sg.score(model, data, tmp_path / "list", top_components=9, proba="list")
    listed = ds.dataset(tmp_path / "list").to_table()
    assert listed["top_components"][0].as_py() == order[0].tolist()
    assert listed["top_proba"][3].as_py() is None
    pairs = zip(listed["top_components"][0].as_py(), listed["top_proba"][0].as_py(), strict=True)
    assert dict(pairs) == dict(enumerate(proba[0]))


def test_ranks_of_known_distributions_and_of_models_without_levels():
    rng = np.random.default_rng(0)
    values = -np.exp(rng.normal(size=50_000))
    histogram = LogDensityHistogram.of(values)
    new = np.sort(-np.exp(rng.normal(size=5_000)))
    exact = np.searchsorted(np.sort(values), new, side="right") / len(values)

    assert len(histogram.levels) < 700
    assert np.abs(histogram.find_ranks(new) - exact).max() < 1 / 512
    assert histogram.find_ranks(np.array([-1e9, -np.inf, 0.0])).tolist() == [0.0, 0.0, 1.0]
    coarse = LogDensityHistogram(histogram.edges, histogram.shares, histogram.rows)
    assert np.abs(coarse.find_ranks(new) - exact).max() <= 0.051
    weights = rng.integers(0, 3, 50_000).astype(float)
    repeated = LogDensityHistogram.of(np.repeat(values, weights.astype(int)))
    weighted = LogDensityHistogram.of(values, weights)
    np.testing.assert_allclose(weighted.find_ranks(new), repeated.find_ranks(new), atol=2 / 512)
    ties = LogDensityHistogram.of(np.repeat([-3.0, -2.0, -1.0], [10, 30, 60]))
    np.testing.assert_allclose(ties.find_ranks(np.array([-3.0, -2.0, -1.0])), [0.1, 0.4, 1.0])


@pytest.mark.parametrize("rule", [{"contamination": 0.03}, {"chi_square": 0.99}, {"log_density": -5.5}])
def test_outliers_by_every_rule(model, data, plain, tmp_path, rule):
    result = sg.score(model, data, tmp_path / "s", outlier=rule, client=ThreadsExecutor(2))
    got = _read(tmp_path / "s")
    keep = got["component"].notna().to_numpy()
    marked = got["is_outlier"][keep].to_numpy(bool)
    log_density, distance = (plain[c][keep].to_numpy() for c in ("log_density", "mahalanobis_sq"))
    ((name, value),) = rule.items()

    if name == "contamination":
        assert marked.mean() <= 0.03
        assert marked.mean() > 0.03 - 3 / len(marked)
        assert log_density[marked].max() < log_density[~marked].min()
    elif name == "chi_square":
        np.testing.assert_array_equal(marked, distance > chi2.ppf(value, 2))
    else:
        np.testing.assert_array_equal(marked, log_density < value)
    assert result.outliers == marked.sum()
    assert result.manifest["outlier"]["rule"] == name
    assert result.manifest["outlier"]["value"] == value
    assert sg.score(model, data, tmp_path / "s", outlier=rule).already_published
    assert not sg.score(model, data, tmp_path / "s").already_published
    assert _read(tmp_path / "s")["is_outlier"].equals(plain["is_outlier"])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.9])
def test_the_limit_of_a_contamination_rate_is_exact_to_a_bin(share):
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(size=4_000) * 30.0, [0.0, -0.0, np.nan, -np.inf, 1e-300, -1e-300]])
    whole = FineHistogram.of(values)
    parts = [FineHistogram.of(v) for v in np.array_split(values, 7)]
    merged = parts[3]
    for i in (0, 6, 1, 5, 2, 4):
        merged = merged.merge(parts[i])
    limit = whole.find_limit(share)
    known = np.sort(values[~np.isnan(values)])
    below = (known < limit).mean()

    np.testing.assert_array_equal(whole.bins, merged.bins)
    np.testing.assert_array_equal(whole.counts, merged.counts)
    assert below <= share
    exact = known[int(np.floor(share * len(known)))]
    assert limit <= exact
    assert limit == -np.inf or abs(exact - limit) <= abs(limit) / 2**11
    assert FineHistogram.of(np.empty(0)).find_limit(0.1) == -np.inf


def test_folders_for_the_values_of_columns_hold_all_rows_in_their_order(model, data, plain, tmp_path):
    out = tmp_path / "s"
    result = sg.score(model, data, out, partition_by=["country", "day"], client=SerialExecutor())
    again = sg.score(model, data, tmp_path / "other", partition_by=["country", "day"], client=ThreadsExecutor(3))
    files = {p["path"]: p for p in result.manifest["parts"]}
    got = _read(out)

    assert "country=a%2Fb%20c/day=1/0.parquet" in files
    assert any(name.startswith("country=__HIVE_DEFAULT_PARTITION__/") for name in files)
    assert [p["sha256"] for p in again.manifest["parts"]] == [p["sha256"] for p in result.manifest["parts"]]
    for name, report in files.items():
        table = pq.read_table(out / name, partitioning=None)
        assert not {"country", "day"} & set(table.column_names)
        assert (np.diff(table["id"].to_numpy()) > 0).all()
        assert table.num_rows == report["rows_out"] == report["rows_in"]
        assert table.num_rows - table["component"].null_count == report["rows_scored"]
    both = got.sort_values("id").reset_index(drop=True)
    for name in plain.columns:
        expected = plain[name].astype(object).where(plain[name].notna(), None)
        own = both[name].astype(object).where(both[name].notna(), None)
        assert own.tolist() == expected.tolist(), name
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as base:
        query = f"select country, count(*) from read_parquet('{out}/**/*.parquet', hive_partitioning=true) group by 1"
        counts = dict(base.execute(query).fetchall())
    assert counts["de"] == (plain["country"] == "de").sum()
    assert sg.score(model, data, out, partition_by=["country", "day"]).already_published


def test_a_damaged_file_of_a_part_makes_the_whole_part_anew(model, data, tmp_path):
    out = tmp_path / "s"
    first = sg.score(model, data, out, partition_by="day")
    name = first.manifest["parts"][0]["path"]
    (out / name).write_bytes(b"damaged")
    second = sg.score(model, data, out, partition_by="day")

    assert not second.already_published
    assert second.manifest["parts"] == first.manifest["parts"]
    assert (out / name).read_bytes() != b"damaged"


def test_files_with_at_most_so_many_rows(model, data, plain, tmp_path):
    result = sg.score(model, data, tmp_path / "s", rows_per_file=900, compression="snappy")
    files = [p["path"] for p in result.manifest["parts"]]

    assert files == [f"{i}.{j:05d}.parquet" for i in range(2) for j in range(3)]
    assert [p["rows_out"] for p in result.manifest["parts"]] == [900, 900, 200] * 2
    pd.testing.assert_frame_equal(_read(tmp_path / "s"), plain)
    group = pq.ParquetFile(tmp_path / "s" / files[0]).metadata.row_group(0)
    assert group.column(1).compression == "SNAPPY"


def test_rows_are_accounted_for_by_row_group(model, folder, data, tmp_path):
    result = sg.score(model, data, tmp_path / "s")
    counts = [p["row_group_counts"] for p in result.manifest["parts"]]
    assert json.loads(json.dumps(counts)) == [
        [[0, 700, 699, 1], [1, 700, 698, 2], [2, 600, 600, 0]],
        [[0, 700, 700, 0], [1, 700, 700, 0], [2, 600, 600, 0]],
    ]
    some = sg.open_dataset(folder, columns=COLUMNS, missing="drop", filter="id >= 1000 and id < 2500")
    split = sg.score(model, some, tmp_path / "t", partition_by="day").manifest
    firsts = {p["source"]: p["row_group_counts"] for p in reversed(split["parts"]) if p["row_group_counts"]}
    assert [list(c) for c in firsts["0.parquet"]] == [[1, 700, 400, 0], [2, 600, 600, 0]] or [
        list(c) for c in firsts["0.parquet"]
    ] == [[0, 700, 0, 0], [1, 700, 400, 0], [2, 600, 600, 0]]
    assert split["rows_in"] == some.num_rows
    assert split["rows_out"] == 1_500


def test_every_score_column_explains_itself(model, data, tmp_path):
    sg.score(model, data, tmp_path / "s", entropy=True, log_density_rank=True, outlier={"chi_square": 0.99})
    schema = pq.read_schema(tmp_path / "s" / "0.parquet")
    meanings = {f.name: (f.metadata or {}).get(b"description", b"").decode() for f in schema}

    assert all(meanings[name] for name in schema.names if name not in ("id", "x0", "x1", "country", "day", "flag"))
    assert "squared distance is above 9.21" in meanings["is_outlier"]


def test_an_empty_part_has_a_file_also_with_folders(model, folder, tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pq.read_table(folder / "0.parquet").slice(0, 0), tmp_path / "in" / "0.parquet")
    pq.write_table(pq.read_table(folder / "1.parquet").slice(0, 10), tmp_path / "in" / "1.parquet")
    source = sg.open_dataset(tmp_path / "in", columns=COLUMNS)
    sg.score(model, source, tmp_path / "s", partition_by="day")

    assert len(_read(tmp_path / "s")) == 10
    assert sg.score(model, source, tmp_path / "s", partition_by="day").already_published


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outlier": {"contamination": 1.0}}, "share of the rows"),
        ({"outlier": {"chi_square": 1.0}}, "quantile between 0 and 1"),
        ({"outlier": {"contaminaton": 0.1}}, "did you mean 'contamination'"),
        ({"outlier": {"contamination": 0.1, "chi_square": 0.9}}, "exactly one"),
        ({"outlier": {}}, "exactly one"),
        ({"outlier": {"log_density": True}}, "must be a number"),
        ({"top_components": 0}, "at least 1"),
        ({"top_components": 2, "proba": "none"}, "needs score.proba"),
        ({"rows_per_file": 2.5}, "whole number"),
        ({"compression": "zip"}, "Known: auto, zstd"),
        ({"partition_by": "x1"}, "take a column of text"),
        ({"partition_by": "nothing"}, "not passed through"),
        ({"partition_by": "day", "passthrough": ["id"]}, "not passed through"),
        ({"proba": "column"}, "did you mean 'columns'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(model, data, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        sg.score(model, data, tmp_path / "s", **options)
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="did you mean 'entropy'"):
        sg.score(model, data, tmp_path / "s", entrpy=True)  # type: ignore[call-arg]


def test_columns_are_encoded_as_their_values_want_it(model, data, tmp_path):
    """A dictionary for values that come again; differences for row numbers; no codec where it saves little."""
    columns = {}
    for compression in ("auto", "zstd"):
        sg.score(model, data, tmp_path / compression, client=SerialExecutor(), compression=compression)
        group = pq.read_metadata(next((tmp_path / compression).glob("*.parquet"))).row_group(0)
        columns[compression] = {c.path_in_schema: c for c in map(group.column, range(group.num_columns))}
    auto, zstd = columns["auto"], columns["zstd"]
    coded = {name for name, column in auto.items() if column.has_dictionary_page}

    assert coded == {"country", "day", "component"} | ({"not_scored_reason"} & coded)
    assert "DELTA_BINARY_PACKED" in auto["id"].encodings
    assert {name for name, column in auto.items() if column.compression == "UNCOMPRESSED"} >= {"x0", "log_density"}
    assert {auto[name].compression for name in ("id", "country", "component")} == {"ZSTD"}
    assert {column.compression for column in zstd.values()} == {"ZSTD"}


def test_encodings_keep_every_value_and_are_read_by_others(tmp_path):
    """Numbers of all widths with and without nulls, texts, times, categories and nested columns; also by DuckDB."""
    n, rng = 3000, np.random.default_rng(3)
    rising, null = np.arange(n) * 3 + rng.integers(0, 2, n), rng.random(n) < 0.2
    columns = {
        "row": pa.array(rising),
        "row32": pa.array(rising.astype(np.int32), mask=null),
        "unsigned": pa.array(rising.astype(np.uint64) + np.uint64(2**63)),
        "jumps": pa.array(rng.integers(-(2**62), 2**62, n)),
        "wraps": pa.array(np.where(rising % 2, 2**63 - 1, -(2**63))),
        "time": pa.array(rising * 1_000_000, pa.timestamp("us")),
        "date": pa.array(rising.astype(np.int32), pa.date32()),
        "clock": pa.array(rising, pa.time64("us")),
        "x": pa.array(rng.normal(size=n), mask=null),
        "x32": pa.array(rng.normal(size=n).astype(np.float32)),
        "mostly": pa.array(np.where(null, rng.random(n), 1.0)),
        "price": pa.array([Decimal(int(v)) / 100 for v in rng.integers(0, 10**9, n)], pa.decimal128(18, 2)),
        "word": pa.array([f"a{v % 7}" for v in rising]),
        "kind": pa.array(["a", "b", "c"] * 1000).dictionary_encode(),
        "truth": pa.array(null),
        "nothing": pa.nulls(n),
        "empty": pa.nulls(n, pa.float64()),
        "list": pa.array([[float(v), 0.5] for v in rng.random(n)]),
        "words": pa.array([["a", None]] * n),
        "struct": pa.array([{"a": int(v), "b": [1.5]} for v in rising]),
        "key": pa.array([b"%08d" % v for v in rising], pa.binary(8)),
    }
    table = pa.table(columns)
    for first in (table, table.slice(0, 1), table.slice(0, 0)):
        for compression in ("auto", "zstd", "snappy", "none"):
            path = tmp_path / f"{compression}.parquet"
            with pq.ParquetWriter(path, table.schema, **choose_encoding(first, compression)) as writer:
                writer.write_table(table)
            assert pq.read_table(path).equals(table), compression
    assert pq.read_table(path).schema.equals(table.schema)
    duckdb = pytest.importorskip("duckdb")
    with pq.ParquetWriter(path, table.schema, **choose_encoding(table, "auto")) as writer:
        writer.write_table(table)
    plain = ["row", "row32", "jumps", "wraps", "x", "x32", "mostly", "word", "truth"]
    found = duckdb.sql(f"SELECT {', '.join(plain)} FROM '{path}'").fetchall()
    assert found == list(zip(*(table.column(c).to_pylist() for c in plain), strict=True))


def test_too_many_folders_are_refused(model, data, tmp_path):
    with pytest.raises(ConfigError, match="more than 1,000 combinations"):
        sg.score(model, data, tmp_path / "s", partition_by="id", client=SerialExecutor())
    assert not (tmp_path / "s").exists()


def test_the_options_are_keys_of_the_configuration_and_of_the_command_line(model, folder, tmp_path):
    sg.save_model(model, tmp_path / "m.gmm")
    given = [
        "score", str(folder), "--missing", "drop", "--model", str(tmp_path / "m.gmm"), "--columns", "x0,x1",
        "--executor", "threads", "--folder", str(tmp_path / "r"),
    ]  # fmt: skip
    options = ["--entropy", "--outlier", "chi_square: 0.99", "--top-components", "1", "--partition-by", "day,flag"]
    done = CliRunner().invoke(cli, [*given, *options, "--compression", "gzip", "--rows-per-file", "500"])
    assert done.exit_code == 0, done.output
    layout = json.loads((tmp_path / "r" / "scored" / "_manifest.json").read_text())["layout"]
    assert (layout["outlier"], layout["partition_by"], layout["entropy"]) == (
        ["chi_square", 0.99],
        ["day", "flag"],
        True,
    )
    assert (tmp_path / "r" / "scored" / "day=1" / "flag=true" / "0.00000.parquet").exists()
    for bad in (["--outlier", "{chi_square: 2}"], ["--outlier", "{log_density: 1}", "--outlier-quantile", "0.1"]):
        done = CliRunner().invoke(cli, [*given, *bad])
        assert isinstance(done.exception, ConfigError), done.output


@pytest.mark.slow
def test_any_executor_writes_the_same_bytes(model, data, tmp_path, executor):
    options: Any = {"partition_by": ["day"], "outlier": {"contamination": 0.02}, "log_density_rank": True}
    a = sg.score(model, data, tmp_path / "a", client=SerialExecutor(), **options)
    b = sg.score(model, data, tmp_path / "b", client=executor, **options)

    assert a.manifest == b.manifest
