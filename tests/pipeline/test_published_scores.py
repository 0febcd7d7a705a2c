"""Published scores are verified, and what killed scorings left is removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest

import stream_gmm as sg
from benchmarks.races import run_races
from stream_gmm.errors import FolderInUseError, StorageError
from stream_gmm.io.sink import publish as publishing
from stream_gmm.io.store.lease import LEASE
from tests.pipeline.test_score import _KILLED


@pytest.fixture(scope="module")
def model(demo_folder):
    return sg.fit(sg.open_dataset(demo_folder, columns=["x0", "x1", "x2"]), 3, "full")


@pytest.fixture
def data(demo_folder):
    return sg.open_dataset(demo_folder, columns=["x0", "x1", "x2"])


def _leftovers(folder):
    """Return what is left beside the scores; the lease of a process that was killed shows who it was."""
    return [p.name for p in folder.iterdir() if p.name.startswith(".") and not p.name.endswith(LEASE)]


def _damage(kind: str, path):
    if kind == "deleted":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:  # the same size and time: only the checksum shows it
        stat, content = path.stat(), bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _identify(path: Path) -> tuple[int, int]:
    """Return what a file that was written anew does not share: a file system may give its number to the next one."""
    return path.stat().st_ino, path.stat().st_mtime_ns


@pytest.mark.parametrize("kind", ["deleted", "truncated", "one bit"])
def test_a_damaged_part_is_noticed_and_scored_again(model, data, tmp_path, kind, caplog):
    first = sg.score(model, data, tmp_path / "scored")
    before = {p.name: (p.read_bytes(), _identify(p)) for p in (tmp_path / "scored").glob("*.parquet")}
    _damage(kind, tmp_path / "scored" / "part-002.parquet")
    again = sg.score(model, data, tmp_path / "scored")
    after = {p.name: (p.read_bytes(), _identify(p)) for p in (tmp_path / "scored").glob("*.parquet")}

    assert not again.already_published
    assert "1 of 4 files" in caplog.text
    assert {n: content for n, (content, _) in after.items()} == {n: content for n, (content, _) in before.items()}
    assert [n for n in before if before[n][1] != after[n][1]] == [
        "part-002.parquet"
    ]  # the others were not done again
    assert again.manifest["parts"] == first.manifest["parts"]
    assert sg.score(model, data, tmp_path / "scored").already_published
    assert _leftovers(tmp_path) == []


@pytest.mark.parametrize("parts", [[], [{}], None, [1]])
def test_a_manifest_of_an_earlier_release_that_is_damaged_is_not_believed(model, data, tmp_path, parts):
    sg.score(model, data, tmp_path / "scored", passthrough="none")
    path = tmp_path / "scored" / "_manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"parts": parts}))
    with pytest.raises(StorageError, match=r"its SHA-256 does not match: it is damaged, or was edited"):
        sg.score(model, data, tmp_path / "scored", passthrough="none")
    manifest = {k: v for k, v in manifest.items() if k not in ("sealed", "sha256")}
    path.write_text(json.dumps(manifest | {"parts": parts}))
    for part in (tmp_path / "scored").glob("*.parquet"):
        part.unlink()

    assert not sg.score(model, data, tmp_path / "scored", passthrough="none").already_published
    assert ds.dataset(tmp_path / "scored").count_rows() == 20_000
    path.write_text("[]")
    with pytest.raises(StorageError, match=r"the manifest of .* cannot be read. it holds a list"):
        sg.score(model, data, tmp_path / "scored")


def test_foreign_files_beside_the_scores_are_not_removed(model, data, tmp_path):
    sg.score(model, data, tmp_path / "scored")
    (tmp_path / "scored" / "notes.txt").write_text("mine")
    (tmp_path / "scored" / "_SUCCESS").write_text("")
    with pytest.raises(StorageError, match=r"also holds files that stream-gmm has not written: notes\.txt"):
        sg.score(model, data, tmp_path / "scored")
    (tmp_path / "scored" / "notes.txt").unlink()
    assert sg.score(model, data, tmp_path / "scored").already_published


def _start_scoring(script, model, demo_folder, target, folder):
    path = sg.save_model(model, folder / f"{model.digest[:8]}.gmm")
    command = [sys.executable, "-c", script, str(path), str(demo_folder), str(target)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.long
def test_three_killed_nights_leave_nothing(data, demo_folder, tmp_path):
    target = tmp_path / "scored"
    for k in (1, 2, 3):
        assert _start_scoring(_KILLED, sg.fit(data, k, "diag"), demo_folder, target, tmp_path).wait() == -9
        assert len(_leftovers(tmp_path)) == 1  # each night removes what the one before has left
    sg.score(sg.fit(data, 4, "diag"), data, target)

    assert _leftovers(tmp_path) == []
    assert ds.dataset(target).count_rows() == 20_000


_PAUSED = _KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "print('half', flush=True) or sys.stdin.readline()")


@pytest.mark.slow
def test_the_staging_folder_of_a_living_job_stays(model, data, demo_folder, tmp_path):
    target = tmp_path / "scored"
    process = _start_scoring(_PAUSED, model, demo_folder, target, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    for other in (model, sg.fit(data, 2, "diag")):
        with pytest.raises(FolderInUseError, match=rf"scored is in use: .*process {process.pid}"):
            sg.score(other, data, target)
    assert len(_leftovers(tmp_path)) == 1
    process.communicate(b"\n" * 20)

    assert process.returncode == 0
    assert json.loads((target / "_manifest.json").read_text())["model_digest"] == model.digest
    assert _leftovers(tmp_path) == []


def test_what_a_kill_after_the_exchange_leaves_is_removed(model, data, tmp_path, monkeypatch):
    sg.score(sg.fit(data, 2, "diag"), data, tmp_path / "scored")
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if killed before it
    sg.score(model, data, tmp_path / "scored")
    monkeypatch.undo()
    assert len(_leftovers(tmp_path)) == 1

    assert sg.score(model, data, tmp_path / "scored").already_published
    assert _leftovers(tmp_path) == []


def test_without_an_exchange_of_folders_the_previous_result_comes_back(model, data, tmp_path, monkeypatch):
    target = tmp_path / "scored"
    sg.score(sg.fit(data, 2, "diag"), data, target)
    before = json.loads((target / "_manifest.json").read_text())
    monkeypatch.setattr(publishing, "exchange_paths", lambda *_: False)
    os.rename(target, tmp_path / "._scored.0123.previous")  # killed between the two renames
    publishing.remove_dead_staging(target)
    assert json.loads((target / "_manifest.json").read_text()) == before
    sg.score(model, data, target)
    assert json.loads((target / "_manifest.json").read_text())["model_digest"] == model.digest
    assert _leftovers(tmp_path) == []


@pytest.mark.slow
def test_unfinished_files_of_killed_tasks_are_not_published(model, data, demo_folder, tmp_path):
    assert _start_scoring(_KILLED, model, demo_folder, tmp_path / "scored", tmp_path).wait() == -9
    (staging,) = tmp_path.glob("._scored*.staging")
    (staging / ".part-003.parquet.0123.tmp").write_text("half")
    finished = sorted(staging.glob("*.parquet"))[0]
    _damage("one bit", finished)  # its note says that it is finished
    sg.score(model, data, tmp_path / "scored")

    assert not list((tmp_path / "scored").glob(".*"))
    assert ds.dataset(tmp_path / "scored").to_table()["log_density"].null_count == 0


@pytest.mark.long
def test_four_writers_at_once_leave_one_complete_result():
    ends = run_races(4, 4)

    assert set(ends) <= {"published", "there before", "exit code 5"}
    assert sum(ends.values()) == 16
