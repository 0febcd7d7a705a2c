"""Champion and challenger by evidence; and updates that are killed."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binom

import stream_gmm as sg
from stream_gmm.core.file_stats import KeptStats
from stream_gmm.errors import ConfigError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.job.stages import score_stage, sweep_stage
from stream_gmm.pipeline.update.evidence import judge_challenger
from stream_gmm.pipeline.update.result import MOVED, NOTHING
from stream_gmm.pipeline.update.rule import UpdateRule
from stream_gmm.pipeline.update.statistics import gather_statistics, make_stats_rule
from stream_gmm.pipeline.update.update import UpdateJob
from tests.cli.test_commands import run as run_command
from tests.pipeline.test_update import Nights, draw

BY_EVIDENCE = {"output": {"publish_as": "evidence"}}


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """Files of many rows, a model fitted to them, and their statistics."""
    nights = Nights(tmp_path_factory.mktemp("history"))
    rng = np.random.default_rng(0)
    for i in range(4):
        nights.write(f"f{i}.parquet", draw(rng, 1_500))
    data = sg.open_dataset(nights.root / "in")
    model = sg.fit(data, 3)
    rule = make_stats_rule(data, Settings(sample_rows=2_000), 0.3)
    names = [f.relative for f in data.files]
    kept = gather_statistics(data, names, None, model.params, model, rule, SerialExecutor()).kept
    return nights, model, KeptStats(**{**vars(kept), "entries": tuple(e.settle() for e in kept.entries)})


def decide(history, rows):
    """Return what an update by evidence finds about a night of these rows."""
    nights, model, kept = history
    nights.write("new.parquet", rows)
    rule = UpdateRule(min_gain=0.0, apart=0.3, new_sweep="never")
    job = UpdateJob(
        sg.open_dataset(nights.root / "in"), model, kept, Settings(sample_rows=1_000), rule, SerialExecutor(), True
    )
    finding, _ = job.run()
    return finding


@pytest.mark.long
def test_without_a_change_a_challenger_wins_no_more_often_than_stated(history):
    rng, wins, periods = np.random.default_rng(1), 0, 60
    for _ in range(periods):
        verdict = decide(history, draw(rng, 800)).verdict
        wins += verdict is not None and verdict.wins

    assert wins <= binom.ppf(0.999, periods, 0.023)


@pytest.mark.slow
def test_after_a_shift_the_challenger_wins(history):
    rng = np.random.default_rng(2)
    for _ in range(5):
        finding = decide(history, draw(rng, 800, shift=1.0))
        assert finding.moves
        assert finding.verdict is not None
        assert finding.verdict.wins
        assert "follows the champion" in finding.verdict.describe()


def test_a_verdict_is_that_of_paired_differences():
    rng = np.random.default_rng(3)
    old = rng.normal(size=400)
    new = old + 0.1 + rng.normal(size=400)
    difference = new - old
    verdict = judge_challenger(old, new, np.empty(0), z=2.0)
    assert verdict.difference is not None
    assert verdict.difference.mean == pytest.approx(difference.mean())
    assert verdict.difference.standard_error == pytest.approx(difference.std() / 20.0)
    assert verdict.wins == (difference.mean() > 2.0 * difference.std() / 20.0)
    assert not judge_challenger(old[:50], new[:50] + 9.0, np.empty(0), z=2.0).wins
    assert "too few" in judge_challenger(old[:50], new[:50], np.empty(0), z=2.0).describe()


@pytest.fixture
def nights(tmp_path):
    nights = Nights(tmp_path)
    rng = np.random.default_rng(4)
    for i in range(4):
        nights.write(f"f{i}.parquet", draw(rng, 1_500))
    sweep_stage(nights.config(), SerialExecutor())
    score_stage(nights.config(), SerialExecutor())
    return nights


@pytest.mark.slow
def test_a_challenger_that_does_not_win_changes_nothing_and_history_says_why(nights):
    before = sg.load_model(nights.folder / "model.gmm").digest
    nights.write("f4.parquet", draw(np.random.default_rng(5), 2_000))
    result = nights.update(**BY_EVIDENCE, update={"min_gain": 0.0, "z": 50.0})
    assert result.decision == MOVED
    assert result.verdict is not None
    assert not result.verdict.wins
    assert (result.champion, result.version) == ("v1", "v2")
    assert sg.load_model(nights.folder / "model.gmm").digest == before
    registry = sg.open_registry(nights.folder)
    assert registry.challenger is not None
    assert registry.challenger.name == "v2"
    assert "does not replace the champion" in run_command("history", nights.folder)
    record = json.loads((nights.folder / "run.json").read_text())
    assert record["update"]["verdict"]["wins"] is False
    assert record["update"]["verdict"]["rows"] == pytest.approx(200, abs=60)
    assert set(record["scored"]["component_rows"]) != {0}

    nights.write("f5.parquet", draw(np.random.default_rng(6), 2_000, shift=1.5))
    result = nights.update(**BY_EVIDENCE)
    assert result.promoted
    assert registry.find("champion").note == result.verdict.describe() if result.verdict else False


@pytest.mark.slow
def test_a_sweep_is_judged_on_held_out_rows_of_new_files(nights):
    with pytest.raises(ConfigError, match=r"no rows are held out.*em.holdout"):
        sweep_stage(nights.config(**BY_EVIDENCE), SerialExecutor())
    config = nights.config(**BY_EVIDENCE, em={"holdout": 0.2})
    sweep_stage(config, SerialExecutor())
    registry = sg.open_registry(nights.folder)
    assert registry.challenger is not None  # no new file, so that there is nothing to tell
    assert "too few to compare" in registry.challenger.note

    nights.write("f4.parquet", draw(np.random.default_rng(7), 1_500, shift=2.0))
    result = sweep_stage(config, SerialExecutor())
    champion = registry.champion
    assert champion is not None
    assert champion.model_digest == result.best.digest
    assert "follows the champion" in champion.note
    assert champion.note in result.why


_KILLED = """
import json, os, signal, sys
from pathlib import Path
import stream_gmm as sg
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.pipeline.job.update.stage import update_stage
from tests.pipeline.test_update import Nights

EVENTS = ("open", "os.rename", "os.symlink", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree",
          "ctypes.call_function")
nights, config = Nights(Path(sys.argv[1])), Nights(Path(sys.argv[1])).config()

def fork(kill_at):
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    count = 0
    def hook(event, arguments):
        nonlocal count
        reads = event == "open" and (arguments[1] in ("r", "rb") or sys.argv[1] not in str(arguments[0]))
        if event in EVENTS and not reads:
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    update_stage(config, SerialExecutor())
    os._exit(0)

seen = []
for kill_at in range(1, 10_000, 7):
    killed = fork(kill_at)
    model = sg.load_model(nights.folder / "model.gmm")
    registry = sg.open_registry(nights.folder)
    assert registry.load().digest == model.digest == registry.champion.model_digest, kill_at
    assert nights.scored().num_rows in (6_000, 7_500), kill_at
    if not killed:
        break
    seen.append((len(registry.history), nights.scored().num_rows))
print(json.dumps(seen))
"""


@pytest.mark.long
def test_killed_anywhere_an_update_is_completed_by_the_next(nights):
    """Killed again and again, later each time, on one folder: it is whole after each, and complete in the end."""
    nights.write("f4.parquet", draw(np.random.default_rng(8), 1_500, shift=1.0))
    old = sg.load_model(nights.folder / "model.gmm")
    command = [sys.executable, "-c", _KILLED, str(nights.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)

    assert len(seen) > 5
    assert seen[0] == [1, 6_000]
    assert nights.scored().num_rows == 7_500
    model = sg.load_model(nights.folder / "model.gmm")
    assert model.digest != old.digest
    refit = sg.fit(nights.all_rows, 3, init=model.params, tol=1e-10)
    assert refit.score(nights.all_rows) - model.score(nights.all_rows) < 1e-4
    assert nights.update().decision == NOTHING
