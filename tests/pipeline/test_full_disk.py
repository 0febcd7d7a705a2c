"""A full disk (ENOSPC) or a broken one (EIO) at any operation: a storage error, and the old results or the new."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from contextlib import contextmanager

import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from benchmarks.flips import make_run
from stream_gmm.errors import StorageError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.pipeline.job.registry import open_registry
from stream_gmm.pipeline.upkeep.verify import verify

_EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime")


class Disk:
    """Counts the operations that change files below a folder, and lets one of them fail."""

    def __init__(self) -> None:
        self.folder = ""
        self.fail_at = 0
        self.number = errno.ENOSPC
        self.count = 0

    def operate(self, what: str) -> None:
        if not self.folder:
            return
        self.count += 1
        if self.count == self.fail_at:
            raise OSError(self.number, os.strerror(self.number), what)

    def hear(self, event: str, arguments: tuple) -> None:
        """Take part in the audit events of Python, which precede an operation; those that write."""
        if not self.folder:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        paths = [str(a) for a in arguments if isinstance(a, str | bytes | os.PathLike)]
        if (event in _EVENTS or writes) and any(self.folder in p for p in paths):
            self.operate(f"{event} {paths}")


DISK = Disk()


@pytest.fixture(scope="module", autouse=True)
def _audit():
    sys.addaudithook(DISK.hear)  # there is no way back, but without a folder it does nothing
    yield
    DISK.folder = ""


@contextmanager
def _fail(folder, at, number, monkeypatch):
    """Let the operation with this number fail, and count them."""
    fsync, write = os.fsync, pq.ParquetWriter.write_table

    def checked_fsync(handle):
        DISK.operate("fsync")
        return fsync(handle)

    def checked_write(self, *args, **kwargs):
        DISK.operate("write")
        return write(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", checked_fsync)
        patch.setattr(pq.ParquetWriter, "write_table", checked_write)
        DISK.folder, DISK.fail_at, DISK.number, DISK.count = str(folder), at, number, 0
        try:
            yield
        finally:
            DISK.folder = ""


@pytest.fixture(scope="module")
def models(demo_folder):
    source = sg.open_dataset(demo_folder / "part-000.parquet", columns=["x0", "x1", "x2"])
    return [sg.fit(source, k, "diag", n_init=1, sample_rows=500) for k in (1, 2)]


STEP = int(os.environ.get("STREAM_GMM_FAULT_STEP", "3"))


@pytest.mark.long
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("published", [False, True])
def test_scores_are_the_old_ones_or_the_new(models, demo_folder, tmp_path, monkeypatch, number, published):
    source = sg.open_dataset(demo_folder / "part-000.parquet", columns=["x0", "x1", "x2"])
    failed = 0
    for at in range(1, 1000, STEP):
        place = tmp_path / f"{at}"
        place.mkdir()
        target = place / "scored"
        if published:
            sg.score(models[0], source, target, client=SerialExecutor())
        message = ""
        with _fail(place, at, number, monkeypatch):
            try:
                sg.score(models[1], source, target, client=SerialExecutor())
                ended = True
            except StorageError as error:
                ended, message = False, str(error)
        assert ended or os.strerror(number) in message
        current = sg.open_scored(target).manifest["model_digest"] if target.exists() else None
        assert current in ([models[1].digest] if ended else [models[0].digest if published else None]), at
        assert not target.exists() or not verify(target).problems
        failed += not ended
        sg.score(models[1], source, target, client=SerialExecutor())  # there is space again
        assert not verify(target).problems
        assert sg.open_scored(target).manifest["model_digest"] == models[1].digest
        sg.clean(target, remove=True)
        assert [p.name for p in place.iterdir()] == ["scored"]
        shutil.rmtree(place)
        if DISK.count < at:
            break
    assert failed > 10 / STEP
    print(f"{DISK.count} operations, {failed} ended with an error of storage")


@pytest.mark.long
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_a_run_folder_has_the_old_results_or_the_new(demo_folder, tmp_path, monkeypatch, number):
    start = tmp_path / "start"
    make_run(demo_folder, start, ["x0", "x1", "x2"])
    failed = 0
    for at in range(1, 1000, STEP):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(start, folder, symlinks=True)
        message = ""
        with _fail(folder, at, number, monkeypatch):
            try:
                open_registry(folder).promote("v1")
                ended = True
            except StorageError as error:
                ended, message = False, str(error)
        assert ended or os.strerror(number) in message
        champion = open_registry(folder).champion
        assert champion is not None
        assert champion.name == ("v1" if ended else "v2"), at
        assert not verify(folder).problems
        failed += not ended
        open_registry(folder).promote("v1")
        assert not verify(folder).problems
        if DISK.count < at:
            break
    assert failed > 10 / STEP
    print(f"{DISK.count} operations, {failed} ended with an error of storage")
