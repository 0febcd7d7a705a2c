"""Versions of a run folder: each is kept as it was, and one atomic step decides which is in use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import stream_gmm as sg
from stream_gmm.errors import ConfigError, InputDataError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.store.generations import current_state
from stream_gmm.io.store.versions import Catalog, Version
from stream_gmm.pipeline.job.run_folder import (
    locate_version,
    publish_results,
    read_record,
    update_record,
    write_record,
)
from stream_gmm.pipeline.job.stages import sweep_stage
from tests.cli.test_commands import run as run_command
from tests.pipeline.test_run_folder import _config

_EMPTY = {
    "criterion": "bic", "chosen": "full-2", "passes": 1, "reused": 0, "why": ["because"], "warnings": [],
    "seconds": {}, "histories": {}, "data": {"rows": 100},
}  # fmt: skip


def _model(shift: float) -> sg.FitResult:
    rows = np.random.default_rng(5).normal(size=(60, 2)) + 6.0 * (np.arange(60) % 2)[:, None]
    return sg.fit(rows + shift, 2)


MODELS = [replace(_model(0.0), threshold=float(i)) for i in range(5)]


def publish(folder, i: int, **options) -> str:
    """Publish the i-th model as the result of a run, and return the name of its version."""

    def write(staged):
        sg.save_model(MODELS[i], staged / "model.gmm")
        (staged / "sweep.parquet").write_text(f"table {i}")
        write_record(staged, {"name": f"run {i}", "config": {"em": {"tol": i}}, **_EMPTY})

    return publish_results(folder, write, **options).name


def read(folder) -> tuple[str, float, str, str | None]:
    """Return champion, and what the plain files of the folder and the challenger's are; they must agree."""
    registry = sg.open_registry(folder)
    champion, challenger = registry.champion, registry.challenger
    assert champion is not None
    model = sg.load_model(folder / "model.gmm")
    assert model.digest == champion.model_digest == registry.load().digest
    assert json.loads((folder / "run.json").read_text())["name"] == f"run {model.threshold:.0f}"
    assert (folder / "sweep.parquet").read_text() == f"table {model.threshold:.0f}"
    for version in registry.history:
        assert registry.load(version.name).digest == version.model_digest
    return champion.name, model.threshold, f"table {model.threshold:.0f}", challenger.name if challenger else None


def test_versions_are_kept_and_the_plain_files_follow_the_champion(tmp_path):
    assert [publish(tmp_path, i) for i in range(3)] == ["v1", "v2", "v3"]
    registry = sg.open_registry(tmp_path)
    assert read(tmp_path)[:2] == ("v3", 2.0)
    assert [v.origin for v in registry.history] == [None, "v1", "v2"]

    registry.promote("v1")
    assert read(tmp_path)[:2] == ("v1", 0.0)
    assert registry.roll_back().name == "v3"
    assert registry.roll_back().name == "v2"
    assert registry.roll_back().name == "v1"
    assert read(tmp_path)[:2] == ("v1", 0.0)
    with pytest.raises(ConfigError, match=r"no earlier champion.*history RUN"):
        registry.roll_back()
    assert publish(tmp_path, 3) == "v4"
    assert registry.read_record("v2")["name"] == "run 1"


def test_a_challenger_changes_nothing_until_it_is_promoted(tmp_path):
    assert publish(tmp_path, 0, challenger=True) == "v1"  # the first has nobody to challenge
    before = read(tmp_path)
    publish(tmp_path, 1, challenger=True)
    assert read(tmp_path) == (*before[:3], "v2")

    publish(tmp_path, 2, challenger=True)
    assert read(tmp_path) == (*before[:3], "v3")
    sg.open_registry(tmp_path).promote("challenger")
    assert read(tmp_path) == ("v3", 2.0, "table 2", None)
    assert sg.open_registry(tmp_path).roll_back().name == "v1"


def test_only_so_many_versions_are_kept_and_never_too_few(tmp_path):
    for i in range(5):
        publish(tmp_path, i, keep=2)
    registry = sg.open_registry(tmp_path)
    assert [v.name for v in registry.history] == ["v4", "v5"]
    publish(tmp_path, 0, keep=1, challenger=True)
    publish(tmp_path, 1, keep=1, challenger=True)

    assert [v.name for v in registry.history] == ["v5", "v7"]
    assert len([p for p in (tmp_path / ".results").iterdir() if p.name.isdigit()]) <= 5
    publish(tmp_path, 2, keep=1, challenger=True)
    assert read(tmp_path)[3] == "v8"


def test_no_version_is_forgotten_before_there_are_too_many():
    catalog = Catalog()
    for i in range(1, 13):
        catalog = catalog.add(Version(f"v{i}", "", "full-2", 100, "", ""), challenger=i % 2 == 0, keep=10)
        assert [v.name for v in catalog.versions] == [f"v{j}" for j in range(max(i - 9, 1), i + 1)]


def test_an_alias_that_nothing_has_is_not_proposed_for_itself(tmp_path):
    publish(tmp_path, 0)
    with pytest.raises(ConfigError, match=r"^there is no challenger\. the folder has the versions v1"):
        sg.open_registry(tmp_path).diff("champion", "challenger")


def test_the_same_run_again_is_the_same_version(tmp_path):
    assert [publish(tmp_path, i) for i in (0, 1, 1)] == ["v1", "v2", "v2"]
    assert sg.open_registry(tmp_path).roll_back().name == "v1"


def test_an_addition_to_the_record_stays_with_its_version(tmp_path):
    publish(tmp_path, 0)
    assert update_record(tmp_path, MODELS[0].digest, lambda record: record.update(scored={"rows_out": 3}))
    publish(tmp_path, 1)
    registry = sg.open_registry(tmp_path)

    assert registry.read_record("v1")["scored"] == {"rows_out": 3}
    registry.promote("v1")
    assert read_record(tmp_path)["scored"] == {"rows_out": 3}
    assert "scored" not in registry.read_record("v2")


@pytest.mark.parametrize("kind", ["plain", "states"])
def test_the_folder_of_an_earlier_release_is_taken_over(tmp_path, kind):
    publish(tmp_path / "new", 0)
    state = current_state(tmp_path / "new")
    (state / "versions.json").unlink()
    folder = tmp_path / "new"
    if kind == "plain":
        folder = tmp_path / "old"
        shutil.copytree(state, folder)
    (folder / "report.html").write_text("the report")

    assert [v.name for v in sg.open_registry(folder).history] == ["v1"]
    update_record(folder, MODELS[0].digest, lambda record: None)
    assert (folder / "report.html").read_text() == "the report"
    publish(folder, 1)
    assert not (folder / "report.html").exists()
    assert sg.open_registry(folder).roll_back().name == "v1"
    assert read(folder)[:2] == ("v1", 0.0)
    assert (folder / "report.html").read_text() == "the report"


def test_results_that_cannot_be_read_do_not_stop_a_new_run(tmp_path, caplog):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "model.gmm").write_text("no model")

    assert publish(tmp_path, 0) == "v1"
    assert "not kept as a version" in caplog.text


def test_unknown_versions_and_folders_are_refused_with_what_there_is(tmp_path):
    publish(tmp_path, 0)
    registry = sg.open_registry(tmp_path)
    with pytest.raises(ConfigError, match=r"no version 'v7'.*the versions v1.*history"):
        registry.promote("v7")
    with pytest.raises(ConfigError, match="there is no challenger"):
        registry.promote()
    with pytest.raises(InputDataError, match="not the folder of a run"):
        sg.open_registry(tmp_path / "nowhere")
    (current_state(tmp_path) / "versions.json").write_text("{}")
    with pytest.raises(InputDataError, match=r"catalog .* is damaged.*remove it"):
        sg.open_registry(tmp_path)


@pytest.mark.slow
def test_a_difference_matches_components_and_measures_them(tmp_path, demo_folder):
    folder = tmp_path / "run"
    for seed, k in ((0, [3]), (1, [1, 2, 3])):
        em = {"n_init": 2, "sample_rows": 2_000, "random_state": seed}
        config = _config(demo_folder, folder, em=em, sweep={"n_components": k, "covariance_type": "full"})
        sweep_stage(config, SerialExecutor())
    registry = sg.open_registry(folder)
    difference = registry.diff("v1", "champion")

    assert difference.same_data
    assert difference.config["em.random_state"] == (0, 1)
    a, b = registry.load("v1"), registry.load("v2")
    for c in difference.components:
        sd = np.sqrt(np.diagonal(a.params.dense_covariances[c.before]))
        shift = np.abs(b.means_[c.after] - a.means_[c.before]) / sd
        assert c.mean_shift == pytest.approx(shift.max())
        assert c.weight_after == b.weights_[c.after]
        assert c.covariance_change >= 1.0
    assert len(difference.components) == 3

    config = _config(demo_folder, folder, em=em, output={"folder": str(folder), "publish_as": "challenger"})
    sweep_stage(config, SerialExecutor())
    printed = run_command("report", folder)
    assert "version      v2, the champion of 3" in printed
    assert "challenger   v3: full-2; 'stream-gmm diff" in printed
    assert registry.load("champion").n_components == 3

    assert "v2" in (printed := run_command("history", folder))
    assert "champion" in printed
    assert "the same data: 20,000 rows" in run_command("diff", folder, "v1", "v2")
    assert "champion: v1 (was v2)" in run_command("promote", folder, "v1")
    assert "champion: v2 (was v1)" in run_command("rollback", folder)
    assert "no version 'v9'" in run_command("promote", folder, "v9", code=2)


_KILL_EVERYWHERE = """
import json, os, shutil, signal, sys
from pathlib import Path
from tests.pipeline.test_registry import publish, read
import stream_gmm as sg

start, place = Path(sys.argv[1]), Path(sys.argv[2])
EVENTS = ("open", "os.rename", "os.symlink", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree",
          "shutil.copytree", "ctypes.call_function")
STEPS = {
    "publish": lambda folder: publish(folder, 3, keep=2),
    "challenge": lambda folder: publish(folder, 3, challenger=True),
    "promote": lambda folder: sg.open_registry(folder).promote("v1"),
    "rollback": lambda folder: sg.open_registry(folder).roll_back(),
}
step = STEPS[sys.argv[3]]

def restart(folder):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder, symlinks=True)
    return folder

def fork(folder, kill_at):
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event in EVENTS and not (event == "open" and arguments[1] in ("r", "rb")):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    step(folder)
    os._exit(0)

old = read(restart(place / "run"))
step(place / "run")
wanted = read(place / "run")
assert old != wanted
seen = []
for kill_at in range(1, 10_000):
    folder = restart(place / "run")
    killed = fork(folder, kill_at)
    found = read(folder)
    assert found in (old, wanted), (kill_at, found)
    if not killed:
        break
    seen.append(found == wanted)
    publish(folder, 4)  # the next run repairs everything
    assert read(folder)[1] == 4.0
print(json.dumps([seen.count(False), seen.count(True)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", ["publish", "rollback", *(pytest.param(s, marks=pytest.mark.long) for s in ("challenge", "promote"))]
)
def test_killed_at_any_point_the_old_champion_is_in_place_or_the_new_one(tmp_path, step):
    for i in range(3):
        publish(tmp_path / "start", i)
    (tmp_path / "place").mkdir()
    command = [sys.executable, "-c", _KILL_EVERYWHERE, str(tmp_path / "start"), str(tmp_path / "place"), step]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    old, new = json.loads(done.stdout)

    assert old > 5
    assert new > 1


def test_the_files_of_a_version_never_change(tmp_path):
    publish(tmp_path, 0)
    registry = sg.open_registry(tmp_path)
    before = (registry.locate("v1") / "model.gmm").read_bytes()
    publish(tmp_path, 1)
    registry.promote("v1")
    registry.roll_back()

    version = registry.find("v1")
    assert (locate_version(tmp_path, version) / "model.gmm").read_bytes() == before
    assert version.model_digest == MODELS[0].digest
