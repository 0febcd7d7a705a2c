"""A row of weight 2 is two rows, one of weight 0 is none; in every kernel, structure and executor."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

import stream_gmm as sg
from stream_gmm.core.estep.in_memory import InMemoryEStep
from stream_gmm.core.estep.kernel_choice import KERNELS, KernelPreference
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.rows.moments import collect_moments
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.errors import ConfigError, InputDataError
from tests.strategies import families, random_params, seeds


def _case(seed, family, n=300):
    rng = np.random.default_rng(seed)
    params = random_params(rng, 3, 2, family)
    return params, draw_rows(params, n, rng)[0], rng.integers(0, 4, size=n).astype(float)


def _close(a, b):
    for name in ("rows", "loglik", "entropy", "log_max"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-9, abs=1e-7)
    np.testing.assert_allclose(a.weight, b.weight, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=10)
@given(seeds, families)
def test_whole_weights_are_repeated_rows(kernel, seed, family):
    params, rows, weights = _case(seed, family)
    some = weights > 0
    scaling, preference = Scaling.of_rows(rows), KernelPreference(kernel)
    repeated = InMemoryEStep(np.repeat(rows, weights.astype(int), axis=0), scaling, preference)
    weighted = InMemoryEStep(rows[some], scaling, preference, weights[some])

    _close(weighted.evaluate(params), repeated.evaluate(params))
    _close(collect_moments(rows[some], weights[some]), collect_moments(repeated.rows))


@given(seeds, families)
def test_a_common_factor_scales_the_statistics(seed, family):
    params, rows, _ = _case(seed, family)
    estep = InMemoryEStep(rows, Scaling.of_rows(rows))
    weighted = InMemoryEStep(rows, Scaling.of_rows(rows), weights=np.full(len(rows), 2.5))

    _close(weighted.evaluate(params), estep.evaluate(params).scale(2.5))


@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])
def test_a_weighted_fit_is_the_fit_of_repeated_rows(name, rng):
    rows = np.vstack([rng.normal(size=(400, 2)), rng.normal(size=(300, 2)) + 6.0])
    weights = rng.integers(0, 4, size=700).astype(float)
    weighted = sg.GaussianMixture(2, covariance_type=name).fit(rows, sample_weight=weights)
    repeated = sg.GaussianMixture(2, covariance_type=name).fit(np.repeat(rows, weights.astype(int), axis=0))

    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, abs=1e-6)
    order = np.argsort(weighted.means_[:, 0]), np.argsort(repeated.means_[:, 0])
    np.testing.assert_allclose(weighted.means_[order[0]], repeated.means_[order[1]], atol=1e-3)
    assert weighted.result_.criteria.n_rows == weights.sum()
    assert weighted.result_.criteria.bic == pytest.approx(repeated.result_.criteria.bic, abs=1e-2)


@pytest.fixture(scope="module")
def weighted_files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("weighted"), np.random.default_rng(3)
    x = np.vstack([rng.normal(size=(3000, 2)), rng.normal(size=(3000, 2)) + 6.0])[rng.permutation(6000)]
    w = rng.integers(0, 3, size=6000)
    for i in range(3):
        part = slice(2000 * i, 2000 * (i + 1))
        table = pa.table({"x": x[part, 0], "y": x[part, 1], "w": w[part]})
        pq.write_table(table, folder / f"{i}.parquet", row_group_size=500)
    return folder, x, w


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_a_weight_column_of_files_counts_as_repeated_rows(weighted_files, cache):
    folder, x, w = weighted_files
    data = sg.open_dataset(folder, weight="w")
    assert data.columns == ("x", "y")
    found = sg.fit(data, 2, cache=cache, sample_rows=1000)
    repeated = sg.fit(np.repeat(x, w, axis=0), 2)

    assert found.lower_bound_ == pytest.approx(repeated.lower_bound_, abs=1e-5)
    assert found.criteria.n_rows == w.sum()
    assert any("rows are weighted" in text for text in found.warnings)
    assert found.provenance["weight"] == "w"


@pytest.mark.slow
def test_held_out_rows_and_sweeps_are_weighted_too(weighted_files):
    folder, _, w = weighted_files
    result = sg.sweep(folder, range(1, 4), ["full", "tied"], weight="w", holdout=0.2, sample_rows=1000)

    assert result.best.n_components == 2
    c = result.best.criteria
    assert c.n_rows + c.heldout_rows == w.sum()
    assert c.heldout == pytest.approx(c.loglik / c.n_rows, abs=0.1)


def test_a_weighted_data_set_can_be_scored(weighted_files, tmp_path):
    folder, _, _ = weighted_files
    data = sg.open_dataset(folder, weight="w")
    model = sg.fit(data, 2)
    out = sg.score(model, data, tmp_path / "scored")

    assert out.manifest["rows_out"] == 6000
    assert pq.read_table(tmp_path / "scored").num_rows == 6000
    assert sg.GaussianMixture(2).fit(data).predict(data).shape == (6000,)


def test_weights_that_cannot_be_used_are_refused(weighted_files, tmp_path):
    folder, x, _ = weighted_files
    bad = pa.table({"x": [1.0, 2.0], "y": [1.0, 3.0], "w": [1.0, -1.0]})
    pq.write_table(bad, tmp_path / "bad.parquet")
    with pytest.raises(InputDataError, match="negative, by the footers of the files: column 'w': -1.0"):
        sg.fit(sg.open_dataset(tmp_path / "bad.parquet", weight="w"), 1)
    pq.write_table(bad, tmp_path / "bare.parquet", write_statistics=False)
    with pytest.raises(InputDataError, match="column 'w': the weight of row 1 is negative"):
        sg.fit(sg.open_dataset(tmp_path / "bare.parquet", weight="w"), 1)
    with pytest.raises(InputDataError, match="no column 'v'"):
        sg.open_dataset(folder, weight="v")
    for wrong in (np.ones(3), -np.ones(len(x)), np.full(len(x), np.nan)):
        with pytest.raises(ConfigError, match="sample_weight must be"):
            sg.fit(x, 2, weight=wrong)
    with pytest.raises(ConfigError, match="as an array"):
        sg.fit(x, 2, weight="w")
    with pytest.raises(ConfigError, match="weights already"):
        sg.fit(sg.open_dataset(folder), 2, weight="w")
