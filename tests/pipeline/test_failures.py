"""A candidate that cannot be fitted is a row of the sweep table with its reason; the others go on."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import multivariate_normal

import stream_gmm as sg
from stream_gmm.core.fit import em
from stream_gmm.core.fit.stepwise import take_stepwise_step
from stream_gmm.core.search import seeding
from stream_gmm.core.search.sample_fit import SampleFit
from stream_gmm.core.search.sample_search import SampleSearch
from stream_gmm.errors import ConfigError, NoAdmissibleModelError, SingularCovarianceError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.pipeline.fit import algorithms, results
from stream_gmm.pipeline.fit.steps import run_states
from stream_gmm.pipeline.sweep import sample_pruning
from stream_gmm.pipeline.sweep import sweep as sweep_module


def make_counters(n, seed=0):
    """38 zero-inflated columns as in KDD Cup 99: most are 0 in most rows, some are flags, two are constant."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, n, p=[0.57, 0.23, 0.20])
    columns = []
    for j in range(36):
        rate = rng.choice([0.0005, 0.002, 0.02, 0.2, 0.9], 3)
        value = (np.round(rng.lognormal(4.0, 2.0, n)), np.round(rng.random(n), 2), np.ones(n))[j % 3]
        columns.append(np.where(rng.random(n) < rate[kind], value, 0.0))
    return np.insert(np.column_stack(columns), [5, 20], 0.0, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("sample_rows", [50_000, 150])
@pytest.mark.parametrize("options", [{}, {"reg_covar": 0.0}, {"prior": "mclust"}], ids=str)
def test_zero_inflated_counters_have_a_table_and_a_model(options, sample_rows):
    rows = make_counters(900)
    result = sg.sweep(rows, [1, 2, 3], ["full", "tied", "diag", "spherical"], sample_rows=sample_rows, **options)
    table = result.table.to_pylist()

    assert len(table) == 12
    assert all(r["reason"] for r in table if r["outcome"] in ("FAILED", "DEGENERATE", "PRUNED"))
    assert len(result.best.constants) >= 2
    varying = rows[:, rows.min(0) < rows.max(0)]
    assert result.best.n_features_in_ == varying.shape[1]
    if not options:
        first = next(r for r in table if r["candidate"] == "full-1")
        # In units of the standard deviations, as scipy refuses covariances with such different variances.
        units = varying.std(0)
        law = multivariate_normal(varying.mean(0) / units, np.corrcoef(varying.T))
        expected = law.logpdf(varying / units).sum() - len(rows) * np.log(units).sum()
        assert first["loglik"] == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def rows(rng):
    return np.vstack([rng.normal(size=(150, 2)), rng.normal(size=(150, 2)) + 6.0])


ERRORS = (SingularCovarianceError("made up."), np.linalg.LinAlgError("made up"), ConfigError("made up."))
GRID = ([1, 2, 3], ["full", "diag"])


def _fail_for_diag_2(original, error, params_of):
    def wrapped(*args, **kwargs):
        params = params_of(*args)
        if params is not None and params.n_components == 2 and params.family.name == "diag":
            raise error
        return original(*args, **kwargs)

    return wrapped


STAGES = {
    "race": (SampleSearch, "race_restarts", lambda self, family, seeds: _Shape(family, len(seeds[0][1].weight))),
    "sample fit": (SampleSearch, "fit_finalists", lambda self, raced: raced.params),
    "M-step": (em, "mstep", lambda stats, family, *rest: _Shape(family, len(stats.weight))),
    "result": (results, "summarise_log_densities", lambda params, *rest: params),
    "report of a collapse": (sweep_module, "explain_collapse", lambda state, *rest: state.params),
}


class _Shape:
    def __init__(self, family, n_components):
        self.family, self.n_components = family, n_components


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.slow
def test_an_error_ends_its_candidate_alone(rows, monkeypatch, stage, error):
    expected = sg.sweep(rows, *GRID, prune=False, client=SerialExecutor()).table.to_pylist()
    place, name, params_of = STAGES[stage]
    monkeypatch.setattr(place, name, _fail_for_diag_2(getattr(place, name), error, params_of))
    result = sg.sweep(rows, *GRID, prune=False, client=SerialExecutor())
    table = result.table.to_pylist()

    (failed,) = [r for r in table if r["outcome"] == "FAILED"]
    assert failed["candidate"] == "diag-2"
    assert "made up" in failed["reason"]
    assert "diag-2" in " ".join(result.warnings)
    for mine, usual in zip(table, expected, strict=True):
        if mine is not failed and mine["covariance_type"] == "full":
            assert mine["loglik"] == usual["loglik"]
        elif mine is not failed:  # without diag-2 its neighbours may start elsewhere
            assert mine["loglik"] == pytest.approx(usual["loglik"], rel=1e-2)


def test_neighbours_that_fail_leave_the_fit_as_it_is(rows, monkeypatch):
    def fail(*args):
        raise SingularCovarianceError("made up.")

    monkeypatch.setattr(SampleSearch, "improve_from_neighbours", fail)
    result = sg.sweep(rows, *GRID, client=SerialExecutor())

    assert all(r["outcome"] != "FAILED" for r in result.table.to_pylist())
    assert any("neighbouring K failed: made up." in e for e in result.best.events)


def test_a_seeding_that_fails_is_left_out(rows, monkeypatch):
    def fail(*args):
        raise np.linalg.LinAlgError("made up")

    monkeypatch.setitem(seeding.SEEDINGS, "adaptive", fail)
    assert sg.sweep(rows, *GRID, client=SerialExecutor()).best.n_components == 2
    for name in list(seeding.SEEDINGS):
        monkeypatch.setitem(seeding.SEEDINGS, name, fail)
    with pytest.raises(
        NoAdmissibleModelError, match="none of the 6 candidates is admissible .*and 3 more: no seeding"
    ):
        sg.sweep(rows, *GRID, client=SerialExecutor())


def test_a_mini_batch_that_fails_ends_its_candidate(rows, monkeypatch):
    wrapped = _fail_for_diag_2(take_stepwise_step, ERRORS[0], lambda step, *rest: step.params)
    monkeypatch.setattr(algorithms, "take_stepwise_step", wrapped)
    table = sg.sweep(rows, *GRID, prune=False, algorithm="minibatch", client=SerialExecutor()).table.to_pylist()

    assert [r["candidate"] for r in table if r["outcome"] == "FAILED"] == ["diag-2"]


def test_a_point_without_a_density_ends_before_the_pass(rows, monkeypatch):
    """Compiled together with the others it would end all."""

    def spoil(states, *args):
        flat = replace(states[-1].params, covariances=np.zeros_like(states[-1].params.covariances))
        return run_states([*states[:-1], replace(states[-1], params=flat)], *args)

    monkeypatch.setattr(sweep_module, "run_states", spoil)
    table = sg.sweep(rows, *GRID, prune=False, client=SerialExecutor()).table.to_pylist()

    assert [r["outcome"] for r in table].count("FAILED") == 1


def test_validation_rows_that_cannot_be_evaluated_prune_nothing(rows, monkeypatch):
    monkeypatch.setattr(sample_pruning, "score_rows", _raise_singular)
    result = sg.sweep(rows, *GRID, client=SerialExecutor())

    assert result.best.n_components == 2
    assert result.evidence[0].behind is None


def _raise_singular(*args):
    raise SingularCovarianceError("made up.")


def test_if_all_fail_there_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr(SampleSearch, "fit_finalists", lambda self, raced: SampleFit(None, reason="flat."))
    with pytest.raises(NoAdmissibleModelError) as error:
        sg.sweep(np.random.default_rng(0).normal(size=(200, 2)), [1, 2], ["full", "diag"], client=SerialExecutor())
    assert str(error.value).startswith(
        "none of the 4 candidates is admissible (full-1, full-2, diag-1 and 1 more: flat). use fewer components"
    )


@pytest.mark.slow
def test_the_command_line_shows_no_traceback(tmp_path):
    pq.write_table(pa.table({"a": np.ones(100), "b": np.ones(100)}), tmp_path / "a.parquet")
    command = [
        sys.executable, "-m", "stream_gmm", "sweep", "--paths", str(tmp_path / "a.parquet"), "--n-components", "1:2",
        "--covariance-type", "full", "--folder", str(tmp_path / "run"), "--executor", "serial",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 8
    assert "Traceback" not in done.stderr
    assert done.stderr.count("none of the 2 candidates is admissible") == 1
