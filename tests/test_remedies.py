"""Every remedy that a message about data or a fit names is taken here, and cures the case.

Others are taken where their messages are tested: repeated values in core/test_penalty.py, pruning in
pipeline/test_ledger.py, streams in test_online.py, clusters in execute/test_conformance.py, plans in
pipeline/test_plan.py, run folders in pipeline/test_run_folder.py.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.fit.em import em_step
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import Ridge
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.errors import ConvergenceWarning, InputDataError, NoAdmissibleModelError, SingularCovarianceError


def _two_clusters(rng, n: int = 300):
    return rng.permutation(np.vstack([rng.normal(size=(n, 2)), rng.normal(6.0, 1.0, size=(n, 2))]))


def _write(folder, name, **columns):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / name)
    return folder


@pytest.mark.slow
def test_raising_max_passes_or_tol_lets_a_fit_converge(rng):
    rows = rng.normal(size=(2000, 2)) + 1.5 * rng.integers(0, 2, size=(2000, 1))
    options: Any = {"algorithm": "em", "sample_rows": 50, "tol": 1e-7}
    with pytest.warns(ConvergenceWarning, match="raise max_passes or tol"):
        sg.fit(rows, 2, **(options | {"max_passes": 3}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        assert sg.fit(rows, 2, **(options | {"max_passes": 3000})).converged_
        assert sg.fit(rows, 2, **(options | {"max_passes": 3, "tol": 1.0})).converged_


def test_a_sweep_whose_choice_has_not_converged_warns_too(rng):
    rows = rng.normal(size=(2000, 2)) + 1.5 * rng.integers(0, 2, size=(2000, 1))
    with pytest.warns(ConvergenceWarning, match="raise max_passes or tol"):
        sg.sweep(rows, [2], "full", algorithm="em", sample_rows=50, tol=1e-9, max_passes=2)


def test_a_collapse_on_a_constant_column_is_cured_by_leaving_it_out(rng):
    rows = _two_clusters(rng)
    with pytest.warns(ConvergenceWarning, match="drop the column"):
        sg.fit(np.column_stack([rows, np.ones(len(rows))]), 2, reg_covar=0.0, constants="fit")
    constant = InMemoryEStep(np.ones((9, 1)), Scaling.of_rows(np.ones((9, 1))))
    with pytest.raises(SingularCovarianceError, match="leave out a column that is constant or follows from the oth"):
        em_step(MixtureParams([1.0], [[1.0]], [[[1.0]]], family_named("full")), constant, Ridge(0.0))
    assert sg.fit(rows, 2, reg_covar=0.0).converged_


def test_where_no_candidate_is_admissible_fewer_components_or_other_rows_are(rng):
    rows = np.vstack([rng.normal(size=(100, 2)), np.full((20, 2), 5.0)])
    with pytest.raises(NoAdmissibleModelError, match="use fewer components, or drop the columns or rows with rep"):
        sg.sweep(rows[80:], [3], "full")
    assert sg.sweep(rows, [1], "full").best.converged_
    assert sg.sweep(rows[:100], [1, 2], "full").best.converged_


def test_a_column_recorded_in_steps_has_atoms_with_a_resolution(rng):
    rows = np.vstack([rng.normal(size=(200, 2)), np.full((60, 2), 5.0)]).round(1)
    with pytest.raises(NoAdmissibleModelError, match="set resolution to auto if values were recorded in steps"):
        sg.sweep(rows, [2], "full")
    assert sg.sweep(rows, [2], "full", resolution="auto").best.converged_


def test_at_most_as_many_components_as_distinct_rows_can_be_fitted():
    rows = np.repeat([[0.0], [1.0], [5.0], [9.0]], 5, axis=0)
    failed = next(c for c in sg.sweep(rows, [1, 6], "tied_spherical").candidates if c.n_components == 6)
    most = 4
    assert f"use at most {most} components" in failed.reason
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert sg.fit(rows, most, "tied_spherical").n_components == 4


def test_a_collinear_column_that_is_left_out_warns_no_more(rng):
    rows = _two_clusters(rng)
    spoilt = sg.fit(np.column_stack([rows, rows.sum(axis=1)]), 2)
    assert any("collinear: one follows from the others; leave one out" in w for w in spoilt.warnings)
    assert not sg.fit(rows, 2).warnings


class TestLimits:
    """A detector that saturates piles up rows at the end of the range."""

    @pytest.fixture
    def rows(self, rng):
        rows = _two_clusters(rng, 1000)
        rows[:, 0] = np.minimum(rows[:, 0], 8.0)  # cuts the upper cluster at two standard deviations
        return rows

    def test_rows_at_the_limit_are_named_and_leaving_them_out_cures_the_choice(self, rows):
        limited = sg.sweep(rows, range(1, 4), "full")
        (warning,) = (w for w in limited.warnings if "limit of measurement" in w)
        assert ": x0 = 8 (" in warning
        assert f"{int((rows[:, 0] == 8.0).sum())} of {len(rows)}" in warning
        inside = rows[rows[:, 0] < 8.0]
        mended = sg.sweep(inside, range(1, 4), "full")
        assert mended.best.n_components == 2
        assert not any("limit of measurement" in w for w in mended.warnings)

    def test_a_lower_limit_is_one_too(self, rows):
        assert any(" = -8 (" in w for w in sg.fit(-rows, 1).warnings)

    def test_whole_and_rounded_numbers_have_no_limit(self, rng):
        for column in (rng.integers(0, 3, 2000), rng.poisson(2.0, 2000), rng.normal(size=2000).round(1)):
            assert not any("limit" in w for w in sg.fit(column[:, None].astype(float), 1).warnings)


class TestLongTails:
    """Positive values with a long right tail need several components for one cluster."""

    @pytest.mark.parametrize(
        ("name", "transform", "draw"),
        [
            ("logarithm", np.log, lambda rng, n: rng.lognormal(0.0, 1.0, n)),
            ("cube root", np.cbrt, lambda rng, n: rng.gamma(2.0, 1.0, n)),
        ],
    )
    @pytest.mark.slow
    def test_the_transform_that_is_named_makes_one_cluster_of_one(self, rng, name, transform, draw):
        values = draw(rng, 3000)[:, None]
        skewed = sg.sweep(values, range(1, 5), "full")
        assert skewed.best.n_components > 1
        assert any(f"; of its {name} " in w and "fit these functions instead" in w for w in skewed.warnings)
        mended = sg.sweep(transform(values), range(1, 5), "full")
        assert mended.best.n_components == 1
        assert not mended.warnings

    def test_a_small_cluster_far_away_is_no_long_tail(self, rng):
        values = np.concatenate([rng.normal(20.0, 1.0, 950), rng.normal(40.0, 1.0, 50)])[:, None]
        assert not any("long tail" in w for w in sg.fit(values, 2).warnings)


class TestFiles:
    def test_missing_values_are_dropped_or_filled(self, rng, tmp_path):
        x = rng.normal(size=50)
        x[7] = np.nan
        folder = _write(tmp_path / "in", "a.parquet", x=x)
        with pytest.raises(InputDataError, match="use missing: drop .*, or fill the values"):
            sg.fit(folder)
        assert sg.fit(sg.open_dataset(folder, missing="drop")).criteria.n_rows == 49
        assert sg.fit(_write(tmp_path / "in", "a.parquet", x=np.nan_to_num(x))).criteria.n_rows == 50

    def test_a_column_that_is_a_number_in_some_files_only_is_named_or_its_file_left_out(self, rng, tmp_path):
        _write(tmp_path / "in", "a.parquet", x=rng.normal(size=40), y=rng.normal(size=40))
        folder = _write(tmp_path / "in", "b.parquet", x=rng.normal(size=40), y=["text"] * 40)
        with pytest.raises(InputDataError, match="name the columns .* in data.columns, or leave the file out by"):
            sg.open_dataset(folder)
        assert sg.fit(sg.open_dataset(folder, columns=["x"])).criteria.n_rows == 80
        assert sg.fit(sg.open_dataset(folder, exclude=["b.parquet"])).n_features_in_ == 2

    def test_a_vector_is_written_as_columns_or_left_out(self, rng, tmp_path):
        vectors, x = rng.normal(size=(30, 2)), rng.normal(size=30)
        folder = _write(tmp_path / "in", "a.parquet", v=list(vectors), x=x)
        with pytest.raises(InputDataError, match="write every entry as a column of its own, or name the columns"):
            sg.open_dataset(folder)
        assert sg.fit(sg.open_dataset(folder, columns=["x"])).n_features_in_ == 1
        folder = _write(tmp_path / "in", "a.parquet", v0=vectors[:, 0], v1=vectors[:, 1], x=x)
        assert sg.fit(folder).n_features_in_ == 3

    def test_an_identifier_beyond_float64_is_left_out_or_converted(self, rng, tmp_path):
        ids = 2**60 + np.arange(30) * 7
        folder = _write(tmp_path / "in", "a.parquet", key=ids, x=rng.normal(size=30))
        with pytest.raises(InputDataError, match="leave these columns out .* or convert them to double"):
            sg.fit(sg.open_dataset(folder, columns=["key", "x"]))
        assert sg.fit(sg.open_dataset(folder, columns=["x"])).converged_
        converted = _write(tmp_path / "in", "a.parquet", key=ids.astype(float), x=rng.normal(size=30))
        assert sg.fit(sg.open_dataset(converted, columns=["key", "x"])).n_features_in_ == 2

    def test_two_stars_stand_alone_between_slashes(self, rng, tmp_path):
        (tmp_path / "in" / "deep").mkdir(parents=True)
        _write(tmp_path / "in" / "deep", "a.parquet", x=rng.normal(size=30))
        with pytest.raises(InputDataError, match=re.escape("write 'folder/**/*.parquet'")):
            sg.open_dataset(f"{tmp_path}/in/**.parquet")
        assert sg.open_dataset(f"{tmp_path}/in/**/*.parquet").num_rows == 30

    def test_a_damaged_file_is_left_out_or_rewritten(self, rng, tmp_path):
        _write(tmp_path / "in", "a.parquet", x=rng.normal(size=30))
        folder = _write(tmp_path / "in", "b.parquet", x=rng.normal(size=30))
        whole = (folder / "b.parquet").read_bytes()
        (folder / "b.parquet").write_bytes(whole[:-20])
        with pytest.raises(InputDataError, match="b.parquet.*leave it out"):
            sg.open_dataset(folder)
        assert sg.open_dataset(folder, exclude=["b.parquet"]).num_rows == 30
        (folder / "b.parquet").write_bytes(whole)
        assert sg.open_dataset(folder).num_rows == 60

    def test_text_is_left_out_or_converted(self, rng, tmp_path):
        folder = _write(tmp_path / "in", "a.parquet", x=rng.normal(size=30), y=[str(v) for v in range(30)])
        with pytest.raises(InputDataError, match=r"leave it out of data.columns, or convert it"):
            sg.open_dataset(folder, columns=["x", "y"])
        assert sg.fit(sg.open_dataset(folder, columns=["x"])).converged_
        folder = _write(tmp_path / "in", "a.parquet", x=rng.normal(size=30), y=rng.normal(size=30))
        assert sg.fit(sg.open_dataset(folder, columns=["x", "y"])).converged_


def test_one_column_in_memory_is_reshaped(rng):
    values = rng.normal(size=50)
    with pytest.raises(InputDataError, match=re.escape("Reshape your data with .reshape(-1, 1) if it is one column")):
        sg.fit(values)
    assert sg.fit(values.reshape(-1, 1)).n_features_in_ == 1


def test_rows_in_memory_are_scored_by_the_model(rng, tmp_path):
    rows = _two_clusters(rng)
    model = sg.fit(rows, 2)
    with pytest.raises(InputDataError, match="use predict, predict_proba or score_samples of the model"):
        sg.score(model, rows, tmp_path / "out")  # type: ignore[arg-type]
    assert len(model.predict(rows)) == len(model.score_samples(rows)) == len(model.predict_proba(rows)) == len(rows)
