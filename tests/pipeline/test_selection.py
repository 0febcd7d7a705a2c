"""What is chosen, by what, how sure that is, and in which words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import stream_gmm as sg
import stream_gmm.io.sink.scores as scores_module
import stream_gmm.io.source.leaf as leaf_module
from stream_gmm import demo
from stream_gmm.core.criteria import CHOICES
from stream_gmm.core.fit.em import Outcome
from stream_gmm.errors import ConfigError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.source.chunks import parquet_chunks
from stream_gmm.pipeline.job.config import validate_config
from stream_gmm.pipeline.job.stages import sweep_stage
from stream_gmm.pipeline.sweep.sample_pruning import select_validation_rows


@pytest.fixture(scope="module")
def rows():
    """Three components, far apart and skewed, so that more Gaussians gain a little."""
    rng = np.random.default_rng(3)
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    return centres[rng.integers(3, size=30_000)] + rng.gamma(8.0, 0.5, size=(30_000, 2))


@pytest.fixture(scope="module")
def swept(rows):
    return sg.sweep(rows, range(1, 7), ["full", "diag"], sample_rows=5_000, holdout=0.1, prune=False, n_init=2)


def _by_name(result):
    return {r["candidate"]: r for r in result.table.to_pylist()}


@pytest.mark.slow
def test_the_elbow_is_where_more_components_gain_little(rows):
    result = sg.sweep(rows, range(1, 7), "full", criterion="elbow", elbow=0.1, sample_rows=5_000)
    logliks = {r["n_components"]: r["mean_loglik"] for r in result.table.to_pylist() if r["mean_loglik"]}
    k = result.best.n_components

    assert k == 3
    assert max(logliks.values()) - logliks[k] <= 0.1
    assert max(logliks.values()) - logliks[k - 1] > 0.1
    wide = sg.sweep(rows, range(1, 7), "full", criterion="elbow", elbow=10.0, sample_rows=5_000)
    assert wide.best.n_components == 1
    assert "gain too little per row" in result.why[0]


@pytest.mark.slow
def test_one_standard_error_chooses_no_larger_a_model_than_the_best(rows):
    options: dict[str, Any] = {"holdout": 0.2, "sample_rows": 5_000}
    best = sg.sweep(rows, range(1, 7), "full", criterion="heldout", **options)
    small = sg.sweep(rows, range(1, 7), "full", criterion="one_se", prune=False, **options)
    table = _by_name(small)
    top = max(r["heldout"] for r in table.values())
    error = {n: abs(r["heldout_se"]) for n, r in table.items()}

    assert small.best.n_components <= best.best.n_components
    assert top - small.best.criteria.heldout <= max(error.values())
    assert "within a standard error" in small.why[0]
    with pytest.raises(ConfigError, match="'one_se' needs rows held out"):
        sg.sweep(rows, [1, 2], criterion="one_se")


def test_standard_errors_are_those_of_paired_differences(swept):
    rows = select_validation_rows(swept.profile).rows
    chosen = swept.best.score_samples(rows)
    for i, c in enumerate(swept.candidates):
        difference = chosen - c.result.score_samples(rows)
        row = swept.table.to_pylist()[i]
        n = c.result.criteria.n_rows
        assert row["behind"] == pytest.approx(difference.mean(), abs=1e-9)
        assert row["behind_se"] == pytest.approx(difference.std() / len(rows) ** 0.5, abs=1e-9)
        assert row["delta_se"] == pytest.approx(2.0 * n * difference.std() / n**0.5, abs=1e-6)
        assert row["heldout_se"] == pytest.approx(difference.std() / c.result.criteria.heldout_rows**0.5, abs=1e-9)


def test_no_validation_row_is_in_the_sample(rows):
    for holdout in (0.0, 0.1):
        found = sg.sweep(rows, 1, "full", sample_rows=5_000, holdout=holdout).profile
        assert len(found.sample.rows) == 5_000
        assert len(found.validation.rows) == 2_500
        assert not set(map(tuple, found.sample.rows)) & set(map(tuple, found.validation.rows))


def test_gains_are_differences_between_neighbouring_k(swept):
    rows, table = select_validation_rows(swept.profile).rows, _by_name(swept)
    full = {c.n_components: c.result.score(rows) for c in swept.candidates if c.family.name == "full"}

    assert table["full-1"]["gain"] is None
    for k in range(2, 7):
        assert table[f"full-{k}"]["gain"] == pytest.approx(full[k] - full[k - 1], abs=1e-9)
    assert table["full-3"]["gain"] > 10 * table["full-3"]["gain_se"]


def test_a_singularity_is_no_gain(rng):
    """Before, a reader was told that K = 3 would gain as much as the height of the singularity."""
    rows = np.vstack([rng.normal(size=(400, 2)), np.column_stack([np.full(200, 7.0), rng.normal(size=200)])])
    result = sg.sweep(rows, range(1, 5), "full", prune=False)
    outcomes = {c.n_components: c.outcome for c in result.candidates}
    assert outcomes[1] is sg.Outcome.CONVERGED
    assert outcomes[2] is outcomes[3] is sg.Outcome.DEGENERATE
    assert all(row["gain"] is None for row in result.table.to_pylist())
    assert "would gain" not in " ".join(result.why)


def test_a_gap_in_the_grid_is_no_gain_of_one_component(rng):
    rows = np.vstack([rng.normal(size=(300, 2)), 6.0 + rng.normal(size=(300, 2))])
    result = sg.sweep(rows, [3, 4], "diag", prune=False)  # with K = 1, which is always there
    gains = {c["candidate"]: c["gain"] for c in result.table.to_pylist()}
    assert gains["diag-3"] is None
    assert gains["diag-4"] is not None
    assert "component 3 gains" not in " ".join(result.why)


def test_the_table_holds_the_sample_fit_and_the_shape(swept):
    for row, c in zip(swept.table.to_pylist(), swept.candidates, strict=True):
        spectra = np.linalg.eigvalsh(c.result.params.dense_covariances)
        assert row["smallest_variance"] == pytest.approx(spectra.min())
        assert row["largest_condition"] == pytest.approx((spectra[:, -1] / spectra[:, 0]).max())
        assert row["sample_loglik"] == pytest.approx(row["mean_loglik"], abs=0.1)
        assert row["restart"].startswith(("restart", "split", "merge", "density peak"))
        assert row["seconds"] > 0.0
        assert row["mclust"] == c.family.mclust


def test_a_single_component_is_always_a_candidate(rows):
    result = sg.sweep(rows[:2000], [3, 4], "full")
    assert [c.name for c in result.candidates] == ["full-1", "full-3", "full-4"]
    assert [c.name for c in sg.sweep(rows[:2000], 3, ["full", "diag"]).candidates] == ["full-3", "diag-3"]


@pytest.mark.slow
def test_pruned_candidates_stay_in_the_table_with_reason_and_parameters(rows):
    result = sg.sweep(rows, range(1, 7), ["full", "spherical", "tied"], sample_rows=5_000)
    pruned_reason = [c for c in result.candidates if not c.on_full_data]

    assert pruned_reason
    for c in pruned_reason:
        assert c.result is not None
        row = _by_name(result)[c.name]
        assert c.outcome is Outcome.PRUNED
        assert c.reason.startswith("clearly worse on the sample than full-")
        assert row["bic"] is row["loglik"] is row["delta"] is None
        assert row["behind"] > 0.0
        assert row["sample_loglik"] is not None
        # The exact value, had it taken part, is within a few standard errors of the estimate.
        exact = sg.fit(rows, c.n_components, c.family.name, init=c.result.params).criteria
        error = 2.0 * len(rows) * row["behind_se"]
        for name in ("bic", "aic", "icl"):
            assert row[f"{name}_estimate"] == pytest.approx(getattr(exact, name), abs=5.0 * error + 100.0)
        assert c.result.weights_.sum() == pytest.approx(1.0)
    assert all(c.on_full_data for c in result.candidates if c.n_components == 1)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", CHOICES)
def test_pruning_does_not_change_what_is_chosen(rows, criterion):
    options = {"criterion": criterion, "sample_rows": 4_000, "holdout": 0.1, "elbow": 0.05}
    pruned, whole = (sg.sweep(rows, range(1, 6), ["full", "diag"], prune=p, **options) for p in (True, False))

    assert pruned.candidates[pruned.chosen].name == whole.candidates[whole.chosen].name
    assert pruned.passes <= whole.passes


def test_why_says_what_the_table_says(swept):
    text = " ".join(swept.why)
    ranked = sorted((r for r in swept.table.to_pylist() if not r["chosen"]), key=lambda r: r["delta"])

    assert (
        swept.why[0] == f"{swept.candidates[swept.chosen].name} was chosen: it has the lowest BIC of 12 candidates."
    )
    assert f"{ranked[0]['candidate']} comes next" in text
    assert "nats per row" in text
    assert set(swept.alternatives) == set(CHOICES)


def test_near_ties_are_named():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(150, 2)), 1.3 * rng.normal(size=(150, 2)) + [2.2, 0.0]])
    result = sg.sweep(rows, range(1, 4), ["full", "diag", "tied"])
    near = [result.candidates[i].name for i in result.near_ties()]

    assert near
    for i in result.near_ties():
        delta, error = result.delta(i)
        assert delta is not None
        assert error is not None
        assert abs(delta) <= 2.0 * error
    best = result.candidates[result.chosen].name
    assert f"{', '.join(near)} cannot be distinguished from {best}" in " ".join(result.why)


def test_the_largest_k_comes_with_the_gain_curve(rows):
    result = sg.sweep(rows, range(1, 4), "spherical", sample_rows=5_000)
    (warning,) = (w for w in result.warnings if "largest tried" in w)

    assert "K = 3 +" in warning
    assert "BIC requires no more than" in warning


@pytest.mark.slow
def test_every_candidate_is_left_in_the_run_folder(demo_folder, tmp_path):
    content: dict[str, Any] = {
        "data": {"paths": str(demo_folder), "columns": ["x0", "x1", "x2"]},
        "sweep": {"n_components": "1:4", "covariance_type": ["full", "tied"]},
        "em": {"sample_rows": 3_000}, "output": {"folder": str(tmp_path / "run")},
    }  # fmt: skip
    result = sweep_stage(validate_config(content, "test"), SerialExecutor())
    for c in result.candidates:
        model = sg.load_model(tmp_path / "run" / "candidates" / f"{c.name}.gmm")
        assert c.result is not None
        np.testing.assert_array_equal(model.means_, c.result.means_)
    content["sweep"]["n_components"] = "1:2"
    sweep_stage(validate_config(content, "test"), SerialExecutor())
    assert not (tmp_path / "run" / "candidates" / "full-4.gmm").exists()


def test_components_keep_the_numbers_of_the_previous_run(demo_folder, tmp_path):
    content: dict[str, Any] = {
        "data": {"paths": str(demo_folder), "columns": ["x0", "x1", "x2"]},
        "sweep": {"n_components": 3, "covariance_type": "full", "match_to": "previous"},
        "output": {"folder": str(tmp_path / "run")},
    }  # fmt: skip
    first = sweep_stage(validate_config(content, "test"), SerialExecutor()).best  # on the first night there is none
    reordered = sg.save_model(_turned(first, [2, 0, 1]), tmp_path / "reordered.gmm")
    like_a_file = content | {"sweep": content["sweep"] | {"match_to": str(reordered)}}
    np.testing.assert_array_equal(
        sweep_stage(validate_config(like_a_file, "test"), SerialExecutor()).best.means_, first.means_[[2, 0, 1]]
    )
    second = sweep_stage(validate_config(content, "test"), SerialExecutor())

    np.testing.assert_array_equal(second.best.means_, first.means_[[2, 0, 1]])
    assert second.reused == 1
    assert "identity" in second.best.provenance
    assert sg.load_model(tmp_path / "run" / "model.gmm").provenance["identity"]["lost"] == []


def _turned(model, order):
    return replace(model, params=model.params.reorder(order))


def test_a_lost_component_is_a_warning(rows):
    before = sg.fit(rows, 3, "full")
    lost = rows[np.argmax(before.predict_proba(rows), axis=1) != 1]
    after = sg.sweep(lost, 2, "full", match_to=before)

    assert any("component 1 of the earlier model is lost" in w for w in after.warnings)


@pytest.mark.slow
def test_the_sweep_of_the_demo_reads_the_data_a_few_times(tmp_path, monkeypatch):
    """8 K x 6 structures: at most eight reads, scoring included, counted where rows are decoded."""
    demo.write(tmp_path / "data", rows=200_000)
    decoded = 0

    def counting(*arguments, **options):
        nonlocal decoded
        for chunk in parquet_chunks(*arguments, **options):
            decoded += chunk.size
            yield chunk

    for module in (leaf_module, scores_module):
        monkeypatch.setattr(module, "parquet_chunks", counting)
    data = sg.open_dataset(tmp_path / "data", columns=[f"x{j}" for j in range(6)])
    names = ["spherical", "diag", "tied", "full", "tied_diag", "tied_spherical"]
    result = sg.sweep(data, range(1, 9), names, n_init=3, cache="none")
    swept = decoded
    sg.score(result.best, data, tmp_path / "scored")

    assert len(result.candidates) == 48
    assert (result.best.covariance_type, result.best.n_components) == ("full", 5)
    assert swept == result.passes * 200_000
    assert decoded <= 8 * 200_000
