from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import stream_gmm as sg
from stream_gmm.cli.commands import cli
from stream_gmm.core.rows.oddities import describe_values, find_atoms, find_codes, find_collinear
from stream_gmm.core.rows.sampling import Sample
from stream_gmm.errors import ConfigError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.steps import profile_source


def _write(folder, columns, group=500, files=4):
    folder.mkdir()
    n = len(next(iter(columns.values())))
    for i, index in enumerate(np.array_split(np.arange(n), files)):
        pq.write_table(
            pa.table({k: v[index] for k, v in columns.items()}), folder / f"{i}.parquet", row_group_size=group
        )
    return folder


def _found(folder, **options):
    data = sg.open_dataset(folder, missing="drop")
    return profile_source(data, Settings(cache="none", **options), SerialExecutor())


def test_atoms_and_dependent_columns_are_named(tmp_path, rng):
    a, b = rng.normal(size=(2, 20_000))
    folder = _write(tmp_path / "d", {"a": a, "b": b, "c": 2 * a - b, "z": np.where(rng.random(20_000) < 0.3, 0.0, b)})
    text = " ".join(_found(folder).warnings)

    assert "z = 0 (30 %)" in text
    assert "['a', 'b', 'c'] are collinear" in text
    assert find_atoms(np.array([[1.0], [2.0], [2.0]]))[0].value == 2.0
    assert find_collinear(("x", "y"), np.eye(2)) == []


def test_columns_that_may_be_labels_are_named_with_what_to_do(rng):
    n = 5000
    numbers = {
        "x": rng.normal(size=n), "benign": rng.integers(0, 2, n), "flag": rng.random(n) < 0.5,
        "grade": rng.integers(0, 11, n), "half": rng.integers(0, 3, n) / 2, "kind": rng.integers(3, 13, n),
    }  # fmt: skip
    names, rows = tuple(numbers), np.column_stack([np.asarray(v, float) for v in numbers.values()])
    rows[rng.random(n) < 0.1, 1] = np.nan
    assert find_codes(names, rows) == {"benign": 2, "flag": 2, "kind": 10}
    assert find_codes(names, rows[:99]) == {}
    text = describe_values(names, rows, np.eye(6), [])[0]
    assert "benign (2), flag (2), kind (10)" in text
    assert "exclude_columns: [benign, flag, kind]" in text
    assert not any("different whole numbers" in w for w in describe_values(names[:1], rows[:, :1], np.eye(1), []))


def test_a_sampled_profile_reads_some_row_groups_and_says_what_they_are_worth(tmp_path, rng):
    n = 100_000
    mixed = _write(tmp_path / "mixed", {"x": rng.normal(size=n), "y": rng.normal(size=n)})
    in_order = _write(tmp_path / "sorted", {"x": np.sort(rng.normal(size=n)), "y": rng.normal(size=n)})
    for folder, effect in ((mixed, 1.0), (in_order, 50.0)):
        found = _found(folder, profile="sample", sample_rows=1000)
        assert found.is_partial
        assert 5_000 <= found.rows < 0.2 * n
        assert found.total_rows == n
        measured = found.row_order.design_effect(found.moments, 1000)
        assert measured == pytest.approx(effect, rel=1.0)
        assert any("design effect" in w for w in found.warnings)


@pytest.mark.parametrize("name", ["full", "tied", "tied_spherical"])
def test_a_fit_from_a_sampled_profile_ends_like_one_from_a_full_one(tmp_path, rng, name):
    x = np.concatenate([rng.normal(size=20_000), rng.normal(size=20_000) + 5.0])
    rng.shuffle(x)
    folder = _write(tmp_path / "d", {"x": x, "y": 0.5 * x + rng.normal(size=40_000)})
    full, some = (sg.fit(folder, 2, name, profile=p, sample_rows=2000) for p in ("full", "sample"))

    assert some.lower_bound_ == pytest.approx(full.lower_bound_, abs=1e-5)
    assert some.criteria.n_rows == 40_000
    assert some.provenance["rows_used"] == 40_000
    with pytest.raises(ConfigError, match="holdout needs profile: full"):
        sg.fit(folder, 2, profile="sample", holdout=0.1)


def test_a_degenerate_fit_names_the_repeated_value(rng):
    rows = np.column_stack([rng.normal(size=5000), np.where(rng.random(5000) < 0.4, 7.25, rng.normal(size=5000))])
    model = sg.fit(rows, 2)

    assert model.outcome is sg.Outcome.DEGENERATE
    assert "on x1 = 7.25" in model.reason
    assert any("x1 = 7.25 (40 %)" in w or "x1 = 7.25 (41 %)" in w or "x1 = 7.25 (39 %)" in w for w in model.warnings)
    assert any(e.startswith("pass 1: ") for e in model.events)


def test_a_repeated_zero_is_told_as_zero(rng):
    counts = np.where(rng.random(3000) < 0.6, 0.0, rng.gamma(2.0, size=3000))
    rows = np.column_stack([rng.normal(size=3000) * 100.0, counts])
    model = sg.fit(rows, 3)
    assert model.outcome is sg.Outcome.DEGENERATE
    assert "x1 = 0" in model.reason
    assert "e-" not in model.reason


def test_the_command_shows_the_profile(tmp_path, rng):
    x = rng.normal(size=3000)
    x[:7] = np.nan
    folder = _write(tmp_path / "d", {"x": x, "flag": np.zeros(3000)})
    result = CliRunner().invoke(cli, ["profile", str(folder)])

    assert result.exit_code == 0, result.output
    assert "3,000 rows read, 2,993 can be used" in result.output
    assert "['flag'] are constant" in result.output


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path, rng):
    n = 300
    names = {"skin": rng.integers(0, 2, n), "[red]": np.zeros(n)}
    folder = _write(tmp_path / "d", names | {name: rng.normal(size=n) for name in ("[/]", ":smile:")})
    result = CliRunner().invoke(cli, ["profile", str(folder)])
    assert result.exit_code == 0, result.output
    assert "exclude_columns: [skin]" in result.output
    assert "['[red]'] are constant" in result.output
    assert "│ [/] " in result.output
    assert "│ :smile: " in result.output
    fitted = CliRunner().invoke(cli, ["sweep", str(folder), "--n-components", "1", "--folder", str(tmp_path / "run")])
    assert fitted.exit_code == 0, fitted.output
    assert "mean [/]" in fitted.output


def test_limits_and_long_tails_are_told_in_one_line_each(rng):
    """Before, a line for each column: 18 of them for the 31 columns of breast_cancer."""
    rows = np.abs(rng.normal(size=(3000, 3))) + 0.01
    rows[:200, :2] = 0.0
    rows = np.column_stack([rows, rng.lognormal(size=(3000, 2))])
    warnings = describe_values(("a", "b", "c", "d", "e"), rows, np.eye(5), [])
    (limits,) = [w for w in warnings if "end of a range" in w]
    assert "a = 0 (200 of 3000), b = 0 (200 of 3000);" in limits
    (tails,) = [w for w in warnings if w.startswith("long tails")]
    assert "d (skewness " in tails
    assert "e (skewness " in tails
    assert tails.count("of its logarithm") == 2


def test_a_sampled_profile_has_the_same_bits_on_any_executor(tmp_path, rng):
    folder = _write(tmp_path / "d", {"x": rng.normal(size=9000), "y": rng.normal(size=9000)})
    data = sg.open_dataset(folder)
    one, other = (
        profile_source(data, Settings(profile="sample", sample_rows=300), e)
        for e in (SerialExecutor(), ThreadsExecutor(3))
    )
    np.testing.assert_array_equal(one.sample.rows, other.sample.rows)
    np.testing.assert_array_equal(one.moments.scatter, other.moments.scatter)


def test_many_small_files_are_gathered_before_they_are_merged_with_a_large_sample(tmp_path, monkeypatch):
    """The sample is copied by a merge: with one merge for each file, time grows with the square of their number."""
    rng, sizes = np.random.default_rng(0), []
    rows = rng.normal(size=(3_000, 2)) + 100.0
    for i in range(100):
        part = rows[30 * i : 30 * (i + 1)]
        pq.write_table(pa.table({"x0": part[:, 0], "x1": part[:, 1]}), tmp_path / f"{i:03d}.parquet")
    whole = Sample.merge

    def merge(self, other):
        sizes.append(len(self.hashes) + len(other.hashes))
        return whole(self, other)

    monkeypatch.setattr(Sample, "merge", merge)
    monkeypatch.setattr("stream_gmm.pipeline.passes.profile_pass.GATHERED_ROWS", 300)
    found = profile_source(sg.open_dataset(tmp_path), Settings(), SerialExecutor())

    assert sum(size > 330 for size in sizes) <= 3_000 / 300
    np.testing.assert_allclose(found.moments.mean[0], rows.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.moments.scatter[0] / 3_000, np.cov(rows.T, bias=True), rtol=1e-9)
    drawn = np.vstack([found.sample.rows, found.validation.rows])
    assert sorted(drawn[:, 0]) == sorted(rows[:, 0])
