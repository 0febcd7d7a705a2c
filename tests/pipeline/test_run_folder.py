"""The results of a run change together: killed anywhere, a run leaves the old results or the new ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import stream_gmm as sg
from stream_gmm.errors import InputDataError, StorageError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.store.generations import current_state, publish_state
from stream_gmm.io.store.tables import read_table
from stream_gmm.pipeline.job.config import validate_config
from stream_gmm.pipeline.job.run_folder import RESULTS, read_record, read_run, update_record
from stream_gmm.pipeline.job.stages import score_stage, sweep_stage

# A process of its own forks once for each point: the child is killed at its n-th operation on the file system.
_KILL_EVERYWHERE = """
import json, os, shutil, signal, sys
from pathlib import Path
from stream_gmm.io.store.generations import current_state, publish_state

new, start, place, names = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
EVENTS = ("open", "os.rename", "os.symlink", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree",
          "shutil.copytree", "ctypes.call_function")

def publish(folder, kill_at):
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event in EVENTS:
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    def write(staged):
        for path in sorted(new.iterdir()):
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, staged / path.name)
    sys.addaudithook(hook)
    publish_state(folder, names, write)

def contents(folder):
    out = {}
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if f != ".results"]
        paths = [Path(where, f) for f in files]
        out |= {str(p.relative_to(folder)): p.read_text() for p in paths if p.is_file()}
    return out

def results(folder):
    return {n: c for n, c in contents(folder).items() if n.split("/")[0] in names}

old, wanted = results(start), results(new)
seen = []
for kill_at in range(1, 10_000):
    folder = place / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder, symlinks=True)
    child = os.fork()
    if child == 0:
        publish(folder, kill_at)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.waitstatus_to_exitcode(status) == 0, status
    ours, shown = results(current_state(folder)), results(folder)
    assert ours in (old, wanted), (kill_at, sorted(ours))
    # What a reader sees who knows nothing of states: never a file of the other run.
    assert shown == ours or (ours == old and shown.items() <= old.items()) or (
        ours == wanted and all(shown.get(n) in (c, None) for n, c in wanted.items())), (kill_at, sorted(shown))
    if ours == wanted and killed:
        seen.append("new")
    elif killed:
        seen.append("old")
    child = os.fork()  # the next run repairs everything
    if child == 0:
        publish(folder, 0)
        os._exit(0)
    os.waitpid(child, 0)
    assert results(folder) == wanted == results(current_state(folder))
    assert len(list((folder / ".results").iterdir())) <= 3
    if not killed:
        break
assert "other.txt" in contents(folder)
print(json.dumps([kill_at, seen.count("old"), seen.count("new")]))
"""


def _write_run(folder: Path, mark: str, names=RESULTS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name == "candidates":
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"{mark}.gmm").write_text(mark)
        else:
            (folder / name).write_text(f"{name} of {mark}")


def _start_with(kind: str, folder: Path) -> None:
    (folder).mkdir()
    (folder / "other.txt").write_text("not a result")
    if kind == "plain":
        _write_run(folder, "old")
    elif kind == "published":
        publish_state(folder, RESULTS, lambda staged: _write_run(staged, "older"))
        publish_state(folder, RESULTS, lambda staged: _write_run(staged, "old"))


@pytest.mark.parametrize("kind", ["empty", "published", "plain"])
@pytest.mark.slow
def test_a_publication_killed_at_any_point_leaves_the_old_results_or_the_new(tmp_path, kind):
    _start_with(kind, tmp_path / "start")
    _write_run(tmp_path / "new", "new", [n for n in RESULTS if n != "truth.gmm"])
    (tmp_path / "place").mkdir()
    command = [sys.executable, "-c", _KILL_EVERYWHERE, tmp_path / "new", tmp_path / "start", tmp_path / "place",
               json.dumps(RESULTS)]  # fmt: skip
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    points, old, new = json.loads(done.stdout)

    assert points > 20
    assert old > 10
    assert new > 1


def _config(demo_folder, folder, **sections):
    content = {
        "data": {"paths": str(demo_folder), "columns": ["x0", "x1", "x2"]},
        "sweep": {"n_components": [1, 2], "covariance_type": "full"},
        "em": {"n_init": 1, "sample_rows": 2_000},
        "cluster": {"executor": "serial"},
        "output": {"folder": str(folder)},
    }
    return validate_config(content | sections, "test")


@pytest.fixture(scope="module")
def run(demo_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("job") / "run"
    config = _config(demo_folder, folder)
    sweep_stage(config, SerialExecutor())
    return config, folder


def test_record_table_candidates_and_model_are_of_one_run(run):
    config, folder = run
    state, record, model = read_run(folder)

    assert record["model_digest"] == model.digest == sg.load_model(folder / "model.gmm").digest
    chosen = [r["candidate"] for r in read_table(state / "sweep.parquet").to_pylist() if r["chosen"]]
    assert chosen == [record["chosen"]]
    assert {p.stem for p in (folder / "candidates").iterdir()} == {"full-1", "full-2"}
    assert record["config"]["cluster"] == config.cluster.model_dump(mode="json")


def test_scoring_adds_to_the_record_of_its_own_model_only(run, demo_folder):
    config, folder = run
    score_stage(config, SerialExecutor())
    assert read_record(folder)["scored"]["model_digest"] == sg.load_model(folder / "model.gmm").digest

    score_stage(config, SerialExecutor(), sg.load_model(folder / "candidates" / "full-1.gmm"))
    assert "scored" not in read_record(folder)


def test_a_run_that_was_replaced_meanwhile_keeps_its_own_record(run):
    _, folder = run
    before = read_record(folder)

    assert not update_record(folder, "the digest of a model that is gone", lambda record: record.clear())
    assert read_record(folder) == before


def test_a_stale_base_is_not_published(tmp_path):
    publish_state(tmp_path, ("a",), lambda s: (s / "a").write_text("1"))
    base = current_state(tmp_path)
    publish_state(tmp_path, ("a",), lambda s: (s / "a").write_text("2"))

    assert not publish_state(tmp_path, ("a",), lambda s: (s / "a").write_text("3"), base)
    assert (tmp_path / "a").read_text() == "2"


def test_an_update_takes_the_other_files_over(tmp_path):
    def write(staged: Path) -> None:
        _write_run(staged / "d", "x", ["a"])
        (staged / "a").write_text("1")

    publish_state(tmp_path, ("a", "d"), write)
    publish_state(tmp_path, ("a", "d"), lambda s: (s / "a").write_text("2"), current_state(tmp_path))

    assert (tmp_path / "a").read_text() == "2"
    assert (tmp_path / "d" / "a").read_text() == "a of x"


def test_a_failed_publication_leaves_what_was_there(tmp_path):
    publish_state(tmp_path, RESULTS, lambda staged: _write_run(staged, "old"))

    def fail(staged: Path) -> None:
        _write_run(staged, "new")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        publish_state(tmp_path, RESULTS, fail)
    assert (tmp_path / "model.gmm").read_text() == "model.gmm of old"
    assert len(list((tmp_path / ".results").iterdir())) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "it holds a list"),
        ("{", "Expecting"),
        ("{}", "it lacks chosen"),
        ("null", "NoneType"),
        ("", "Expecting"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputDataError, match=f"not the folder of a run.*{message}"):
        read_record(tmp_path)


def test_a_record_of_another_model_is_refused(run, tmp_path):
    _, folder = run
    state = current_state(folder)
    (tmp_path / "run.json").write_bytes((state / "run.json").read_bytes())
    (tmp_path / "model.gmm").write_bytes((state / "candidates" / "full-1.gmm").read_bytes())
    with pytest.raises(InputDataError, match="written for another model"):
        read_run(tmp_path)
