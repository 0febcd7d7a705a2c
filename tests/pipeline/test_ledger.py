"""Nothing is fitted twice, and a killed sweep loses no finished pass."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import stream_gmm as sg
from stream_gmm import demo
from stream_gmm.core.fit.em import Outcome
from stream_gmm.errors import ModelFileError
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.io.source.memory import as_source
from stream_gmm.io.store.models import to_bytes
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.sweep.ledger import Ledger
from stream_gmm.pipeline.sweep.sweep import sweep

NAMES = ("diag", "full")


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(5)
    centres = 3.0 * rng.normal(size=(3, 3))
    return centres[rng.integers(3, size=12_000)] + rng.standard_t(6.0, size=(12_000, 3))


class Killed(Exception):
    """Stands for a process that dies between two passes."""


def _bytes(result):
    """Return the models of all candidates; of the table all but the seconds."""
    models = [to_bytes(c.result) for c in result.candidates if c.result is not None]
    return models, result.table.drop_columns(["seconds"]), result.passes, result.why, result.warnings


def _sweep(rows, ledger, ks=(1, 2, 3, 4), die_after=None, **options):
    settings = Settings(sample_rows=options.pop("sample_rows", 1_500), tol=1e-7, **options.pop("settings", {}))
    source = as_source(rows)
    passes = 0

    def on_pass(_):
        nonlocal passes
        passes += 1
        if passes == die_after:
            raise Killed

    profile = Ledger.open(Path(ledger), source, settings) if ledger else Ledger()
    return sweep(source, ks, NAMES, settings, ThreadsExecutor(2), ledger=profile, on_pass=on_pass, **options)


@pytest.mark.slow
@pytest.mark.parametrize("accel", ["auto", "anderson", "squarem", "lbfgs", "none"])
def test_a_sweep_killed_after_any_pass_resumes_to_the_same_bytes(rows, tmp_path, accel):
    whole = _sweep(rows, None, settings={"accel": accel})
    for die_after in range(1, min(whole.passes - 1, 8), 1 if accel == "auto" else 3):
        folder = tmp_path / str(die_after)
        with pytest.raises(Killed):
            _sweep(rows, folder, settings={"accel": accel}, die_after=die_after)
        resumed = _sweep(rows, folder, settings={"accel": accel})
        assert _bytes(resumed) == _bytes(whole)


@pytest.mark.slow
def test_a_sweep_killed_after_every_pass_still_ends_in_the_same_bytes(rows, tmp_path):
    whole = _sweep(rows, None)
    for _ in range(50):
        try:
            resumed = _sweep(rows, tmp_path, die_after=1)
        except Killed:
            continue
        break
    assert _bytes(resumed) == _bytes(whole)


@pytest.mark.slow
def test_the_same_sweep_again_reads_nothing_and_returns_the_same(rows, tmp_path):
    first = _sweep(rows, tmp_path)
    again = _sweep(rows, tmp_path)

    assert again.passes == 0
    assert again.reused == sum(c.on_full_data for c in again.candidates)
    assert _bytes(again)[0] == _bytes(first)[0]
    assert again.table.equals(first.table)  # the seconds, too: they are those of the fit


@pytest.mark.slow
def test_a_larger_grid_fits_only_what_is_new(rows, tmp_path):
    first = _sweep(rows, tmp_path, ks=(1, 2, 3), prune=False)
    larger = _sweep(rows, tmp_path, ks=(1, 2, 3, 4), prune=False)
    models = {c.name: to_bytes(c.result) for c in larger.candidates}

    assert larger.reused == len(first.candidates)
    for c in first.candidates:
        assert models[c.name] == to_bytes(c.result)
    new = [c for c in larger.candidates if c.n_components == 4]
    assert larger.passes == max(c.result.passes for c in new)  # and no profile
    smaller = _sweep(rows, tmp_path, ks=(1, 2), prune=False)
    assert (smaller.passes, smaller.reused) == (0, 4)
    assert _sweep(rows, tmp_path, ks=(1, 2, 3, 4), prune=False).passes == 0


@pytest.mark.slow
def test_pruned_candidates_are_fitted_when_pruning_is_switched_off(rows, tmp_path):
    pruned = _sweep(rows, tmp_path)
    assert any(c.outcome is Outcome.PRUNED for c in pruned.candidates)
    full = _sweep(rows, tmp_path, prune=False)

    assert not any(c.outcome is Outcome.PRUNED for c in full.candidates)
    assert full.passes > 0
    assert full.reused < len(full.candidates)
    assert full.candidates[full.chosen].name == pruned.candidates[pruned.chosen].name


@pytest.mark.slow
def test_other_data_other_settings_or_fresh_reuse_nothing(rows, tmp_path):
    _sweep(rows, tmp_path)
    changed = rows.copy()
    changed[0, 0] += 1e-9
    assert _sweep(changed, tmp_path).reused == 0
    assert _sweep(rows, tmp_path, settings={"random_state": 1}).reused == 0
    assert len(list(tmp_path.glob("*.gmm"))) == 3
    source, settings = as_source(rows), Settings(sample_rows=1_500, tol=1e-7)
    assert Ledger.open(tmp_path, source, settings).read().states
    assert not Ledger.open(tmp_path, source, settings, fresh=True).read().states


def test_only_a_few_ledgers_are_kept(rows, tmp_path):
    for seed in range(6):
        _sweep(rows[:500], tmp_path, ks=(1,), settings={"random_state": seed})
        time.sleep(0.02)
    assert len(list(tmp_path.glob("*.gmm"))) == 4


def test_a_damaged_ledger_is_an_error_and_is_not_overwritten(rows, tmp_path):
    _sweep(rows, tmp_path)
    for suffix in ("gmm", "previous"):
        _spoil(_only(tmp_path, suffix))
    path = _only(tmp_path, "gmm")
    content = path.read_bytes()

    with pytest.raises(ModelFileError, match="ledger file is damaged.*--fresh"):
        _sweep(rows, tmp_path)
    assert path.read_bytes() == content


def test_minibatch_candidates_are_reused(rows, tmp_path):
    options = {"algorithm": "minibatch", "max_passes": 2}
    first = _sweep(rows, tmp_path, settings=options)
    again = _sweep(rows, tmp_path, settings=options)

    assert again.passes == 0
    assert _bytes(again)[0] == _bytes(first)[0]


@pytest.mark.long
def test_a_process_killed_by_the_system_resumes_to_the_same_bytes(tmp_path):
    """A real process, and signal 9 in the midst of its passes."""
    demo.write(tmp_path / "data", rows=150_000, columns=6, files=4, components=4)
    command = [
        sys.executable, "-m", "stream_gmm", "sweep", "--paths", str(tmp_path / "data"), "--columns", "x0,x1,x2,x3",
        "--n-components", "1:5", "--covariance-type", "full,diag", "--executor", "threads", "--sample-rows", "2000",
        "--tol", "1e-9", "--prune", "false", "--folder",
    ]  # fmt: skip
    ledger = tmp_path / "killed" / "ledger"
    process = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL)
    wait_until = time.monotonic() + 120
    while time.monotonic() < wait_until and not any(_passes(p) >= 2 for p in ledger.glob("*.gmm")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model.gmm").exists()

    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    models = [(tmp_path / f / "candidates" / "full-4.gmm").read_bytes() for f in ("killed", "whole")]
    assert models[0] == models[1]
    assert (tmp_path / "killed" / "model.gmm").read_bytes() == (tmp_path / "whole" / "model.gmm").read_bytes()


def _passes(path):
    return Ledger(path).read().reads


def test_the_ledger_of_a_sweep_follows_its_files_and_columns(demo_folder, tmp_path):
    data = sg.open_dataset(demo_folder, columns=["x0", "x1"])
    first = sg.sweep(data, [1, 2], "full", ledger=tmp_path)
    assert sg.sweep(data, [1, 2], "full", ledger=tmp_path).reused == 2
    assert sg.sweep(data, [1, 2], "full", ledger=tmp_path, fresh=True).passes == first.passes
    other = sg.open_dataset(demo_folder, columns=["x0", "x2"])
    assert sg.sweep(other, [1, 2], "full", ledger=tmp_path).reused == 0


def _only(folder, suffix):
    (path,) = Path(folder).glob(f"*.{suffix}")
    return path


def _spoil(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.slow
def test_from_a_damaged_checkpoint_a_sweep_goes_on_from_the_one_before_to_the_same_models(rows, tmp_path):
    whole = _sweep(rows, None)
    with pytest.raises(Killed):
        _sweep(rows, tmp_path, die_after=2)
    _spoil(_only(tmp_path, "gmm"))
    resumed = _sweep(rows, tmp_path)

    assert _bytes(resumed)[0] == _bytes(whole)[0]
    assert any("damaged" in w and "the one before it" in w for w in resumed.warnings)


@pytest.mark.slow
def test_a_damaged_profile_is_read_from_the_data_once_more_and_both_damaged_is_an_error(rows, tmp_path):
    whole = _sweep(rows, None)
    with pytest.raises(Killed):
        _sweep(rows, tmp_path, die_after=2)
    _spoil(_only(tmp_path, "profile"))
    resumed = _sweep(rows, tmp_path)
    assert _bytes(resumed)[0] == _bytes(whole)[0]
    assert any("the data were read once more" in w for w in resumed.warnings)

    for suffix in ("gmm", "previous"):
        _spoil(_only(tmp_path, suffix))
    with pytest.raises(ModelFileError, match="--fresh"):
        _sweep(rows, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["race", "finalists"])
def test_a_sweep_killed_within_the_sample_stage_goes_on_from_the_last_step_of_it(rows, tmp_path, monkeypatch, stage):
    whole = _sweep(rows, None)
    write = Ledger.write

    def write_and_die(self, entries):
        write(self, entries)
        if entries.sample_stage == stage:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "write", write_and_die)
        with pytest.raises(Killed):
            _sweep(rows, tmp_path)
    labels = []
    settings = Settings(sample_rows=1_500, tol=1e-7)
    source = as_source(rows)
    resumed = sweep(
        source, (1, 2, 3, 4), NAMES, settings, ThreadsExecutor(2), ledger=Ledger.open(tmp_path, source, settings),
        listener=lambda p: labels.append(p.stage),
    )  # fmt: skip

    assert _bytes(resumed) == _bytes(whole)
    assert "race" not in labels


def test_the_ledger_is_written_without_the_sample(rows, tmp_path):
    _sweep(rows, tmp_path, ks=(1, 2), sample_rows=4_000)

    assert _only(tmp_path, "gmm").stat().st_size < 0.5 * _only(tmp_path, "profile").stat().st_size
