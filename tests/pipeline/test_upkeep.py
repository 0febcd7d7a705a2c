"""Published results are verified, and what is left over is removed; nothing else is."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

import stream_gmm as sg
from benchmarks.flips import find_targets, find_unnoticed, flip_bit, make_run
from stream_gmm.errors import ConfigError, DamagedResultError, FolderInUseError, StreamGMMError
from stream_gmm.io.store.lease import hold_folder
from stream_gmm.pipeline.job.registry import open_registry
from stream_gmm.pipeline.upkeep.clean import clean
from stream_gmm.pipeline.upkeep.verify import verify
from tests.cli.test_commands import run as run_command


@pytest.fixture(scope="module")
def finished(demo_folder, tmp_path_factory):
    """A run folder with two versions and a scored table."""
    folder = tmp_path_factory.mktemp("upkeep") / "run"
    make_run(demo_folder, folder, ["x0", "x1", "x2"])
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def test_what_was_published_is_intact(folder):
    found = verify(folder)

    assert not found.problems
    assert not found.notes
    assert (found.versions, found.files, found.rows) == (2, 4, 20_000)
    assert verify(folder / "scored").files == 4
    assert "all as written" in run_command("verify", folder)


@pytest.mark.slow
def test_no_flipped_bit_is_accepted(folder):
    unnoticed, _ = find_unnoticed(folder, 60, seed=1)

    assert not unnoticed
    assert not verify(folder).problems


@pytest.mark.parametrize("name", ["model.gmm", "run.json", "ledger", "versions.json", "scored/_manifest.json"])
def test_readers_notice_flipped_bits_themselves(folder, name):
    chance = random.Random(2)
    path = {
        "versions.json": folder / ".results" / "current" / "versions.json",
        "ledger": next(iter((folder / "ledger").glob("*.gmm"))),
    }.get(name, folder / name)
    path = path.resolve()

    def read():
        if name == "ledger":
            from stream_gmm.pipeline.sweep.ledger import Ledger

            if damage := Ledger(path).find_damage():
                raise StreamGMMError(damage[0][1])
        elif name == "scored/_manifest.json":
            sg.open_scored(folder / "scored")
        elif name == "versions.json":
            assert open_registry(folder).history
        elif name == "run.json":
            open_registry(folder).read_record()
        else:
            sg.load_model(folder / name)

    kept = path.read_bytes()
    read()
    for _ in range(25):
        number = chance.randrange(len(kept) * 8)
        flip_bit(path, number)
        with pytest.raises(StreamGMMError):
            read()
        path.write_bytes(kept)
    read()


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_every_kind_of_damage_is_named(folder):
    state = (folder / ".results" / "current").resolve()
    _replace(state / "sweep.parquet", b"PAR1")
    (folder / "scored" / "part-001.parquet").unlink()
    _replace(state / "candidates" / "diag-2.gmm", (state / "candidates" / "diag-2.gmm").read_bytes()[:-1])
    problems = {Path(p.path).name: p.what for p in verify(folder).problems}

    assert "4 bytes, and" in problems["sweep.parquet"]
    assert problems["part-001.parquet"] == "is missing"
    assert "bytes, and" in problems["diag-2.gmm"]
    with pytest.raises(DamagedResultError, match="not as they were written"):
        verify(folder).raise_if_damaged()
    printed = run_command("verify", folder, "--json", code=4)
    assert json.loads(printed[: printed.rindex("}") + 1])["intact"] is False


def test_a_model_that_was_exchanged_is_noticed(folder):
    old, new = (open_registry(folder).locate(name) for name in ("v1", "v2"))
    (new / "model.gmm").unlink()
    (new / "model.gmm").write_bytes((old / "model.gmm").read_bytes())
    assert verify(folder).problems


def test_clean_lists_first_and_leaves_what_it_does_not_know(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / ".hidden").write_text("mine")
    (folder / ".results" / "000099").mkdir()
    (folder / ".results" / "000099" / "model.gmm").write_text("half")
    (folder / "._scored.0123456789abcdef.staging" / "_reports").mkdir(parents=True)
    (folder / f".model.gmm.{2**22 + 1}.tmp").write_text("half")
    (folder / f".model.gmm.{os.getpid()}.tmp").write_text("another run is writing it")
    (folder / ".lease.json").write_text("{}")
    before = find_targets(folder)

    listed = clean(folder)
    names = {Path(x.path).name for x in listed}
    assert {"000099", "._scored.0123456789abcdef.staging", ".lease.json"} <= names
    assert f".model.gmm.{2**22 + 1}.tmp" in names
    assert f".model.gmm.{os.getpid()}.tmp" not in names
    assert find_targets(folder) == before
    assert "--yes removes them" in run_command("clean", folder)
    assert "removed: " in run_command("clean", folder, "--yes")
    assert clean(folder) == ()
    assert (folder / "notes.txt").exists()
    assert (folder / ".hidden").exists()
    assert not verify(folder).problems
    assert len(open_registry(folder).history) == 2


@pytest.mark.slow
def test_clean_waits_for_the_run(folder):
    import threading

    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        with hold_folder(folder):
            taken.set()
            free.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(30)
    with pytest.raises(FolderInUseError):
        clean(folder, remove=True)
    free.set()
    thread.join()
    clean(folder, remove=True)


@pytest.mark.parametrize("action", [verify, clean])
def test_a_folder_without_results_is_refused(tmp_path, action):
    with pytest.raises(ConfigError, match="neither a run nor a scored table"):
        action(tmp_path)
