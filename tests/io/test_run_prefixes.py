"""The folder of a run in an object store: as on a disk, and the old state or the new one whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from unittest import mock

import pyarrow.fs as pafs
import pytest

import stream_gmm as sg
from stream_gmm import faults
from stream_gmm.errors import ConfigError, StorageError
from stream_gmm.io.sink import places
from stream_gmm.io.sink.objects import run_folders
from stream_gmm.io.sink.objects.checkpoints import Checkpoints
from stream_gmm.io.sink.objects.run_folders import hold_run, open_run_prefix
from stream_gmm.io.source.files import _open_filesystem
from stream_gmm.io.store import lease as leases
from stream_gmm.io.store.models import load_model
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.sweep import ledger
from stream_gmm.pipeline.sweep.ledger import Entries, Ledger
from tests.cli.test_commands import run
from tests.servers import faulty_s3


@pytest.fixture
def bucket(s3, tmp_path, monkeypatch):
    name = tmp_path.name.replace("_", "-").lower()[:60].strip("-")
    s3.create_dir(name)
    _use_machine(monkeypatch, tmp_path, "first")
    return name


def _use_machine(monkeypatch, tmp_path, name):
    """Go on as on another machine: nothing of what was copied before is there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
    run_folders._FETCHED.clear()


@pytest.fixture
def data(demo_folder):
    return demo_folder / "part-000.parquet"


def _sweep(data, folder, ks, *more, **options):
    chosen = ("--columns", "x0,x1,x2", "--executor", "serial", "--covariance-type", "diag", "--n-components", ks)
    return run("sweep", data, *chosen, "--folder", folder, *more, **options)


def _read_latest(s3, place):
    with s3.open_input_stream(f"{place}/_latest.json") as stream:
        folder = json.loads(stream.read())["folder"]
    with s3.open_input_stream(f"{place}/{folder}/model.gmm") as stream:
        return folder, stream.read()


@pytest.mark.long
def test_a_run_lives_in_a_bucket_as_on_a_disk(data, s3, bucket, tmp_path, monkeypatch):
    uri = f"s3://{bucket}/runs/mine"
    printed = _sweep(data, uri, 1)
    assert f"run folder   {uri}" in printed
    _sweep(data, tmp_path / "local", 1)
    model = load_model(tmp_path / "local" / "model.gmm")
    folder, content = _read_latest(s3, f"{bucket}/runs/mine")
    assert content == (tmp_path / "local" / "model.gmm").read_bytes()

    _use_machine(monkeypatch, tmp_path, "second")
    chosen = ("--columns", "x0,x1,x2", "--executor", "serial", "--folder", uri)
    assert f"published: {uri}/scored" in run("score", data, *chosen)
    assert sg.open_scored(f"{uri}/scored").manifest["model_digest"] == model.digest
    _sweep(data, uri, 2, "--publish-as", "challenger")
    assert _read_latest(s3, f"{bucket}/runs/mine")[1] == content

    _use_machine(monkeypatch, tmp_path, "third")
    registry = sg.open_registry(uri)
    assert [v.name for v in registry.history] == ["v1", "v2"]
    assert "v2" in run("history", uri)
    assert "components" in run("diff", uri, "champion", "challenger")
    assert "champion: v2 (was v1)" in run("promote", uri, "challenger")
    assert load_model(sg.open_registry(uri).locate() / "model.gmm").n_components == 2
    assert _read_latest(s3, f"{bucket}/runs/mine")[1] != content
    assert "champion: v1 (was v2)" in run("rollback", uri)
    assert _read_latest(s3, f"{bucket}/runs/mine")[1] == content

    _use_machine(monkeypatch, tmp_path, "fourth")
    assert f"scored rows  {uri}/scored" in run("report", uri)
    folder, _ = _read_latest(s3, f"{bucket}/runs/mine")
    names = {i.base_name for i in s3.get_file_info(pafs.FileSelector(f"{bucket}/runs/mine/{folder}"))}
    assert {"model.gmm", "sweep.parquet", "report.html", "run.json", "statistics.gmm", "_run.json"} <= names
    line = json.loads(run("monitor", data, *chosen).splitlines()[0])
    assert line["rows"] == 5_000
    _use_machine(monkeypatch, tmp_path, "fifth")
    assert "nothing" in run("update", "--folder", uri)
    found = json.loads(run("verify", uri, "--json"))
    assert (found["intact"], found["versions"], found["rows"]) == (True, 2, 5_000)
    run("clean", uri, "--yes")
    assert run("clean", uri) == "nothing to remove\n"
    assert json.loads(run("verify", uri, "--json"))["intact"]


@pytest.mark.slow
def test_nothing_is_sent_where_nothing_has_changed_and_an_unchanged_version_once(data, s3, bucket):
    uri = f"s3://{bucket}/run"
    for k in (1, 2, 1):
        _sweep(data, uri, k)
    prefix = open_run_prefix(uri)
    before = prefix.find_commit()
    with hold_run(prefix):
        pass
    assert prefix.find_commit() == before
    objects = prefix.place.list()
    assert sum(name.endswith("model.gmm") for name in objects) <= 4
    assert not prefix.find_unreferenced()


@pytest.mark.slow
def test_damage_is_found_and_said(data, s3, bucket, tmp_path, monkeypatch):
    uri = f"s3://{bucket}/run"
    _sweep(data, uri, 1)
    folder, content = _read_latest(s3, f"{bucket}/run")
    with s3.open_output_stream(f"{bucket}/run/{folder}/model.gmm") as stream:
        stream.write(content[:-1] + bytes([content[-1] ^ 1]))
    assert "model.gmm is damaged or gone" in run("verify", uri, code=4)
    _use_machine(monkeypatch, tmp_path, "second")
    assert "model.gmm is damaged or gone" in run("report", uri, code=6)


class TestWhatIsRefusedBeforeARowIsRead:
    def test_a_prefix_of_something_else(self, data, s3, bucket):
        with s3.open_output_stream(f"{bucket}/other/notes.txt") as stream:
            stream.write(b"x")
        assert "exists and is not the folder of a run: it holds notes.txt" in _sweep(
            data, f"s3://{bucket}/other", 1, code=6
        )

    def test_a_scored_table(self, data, demo_folder, s3, bucket):
        source = sg.open_dataset(data, columns=["x0", "x1"])
        sg.score(sg.fit(source, 1, "diag", n_init=1), source, f"s3://{bucket}/scored")
        assert "holds a scored table, not a run" in _sweep(data, f"s3://{bucket}/scored", 1, code=6)

    def test_a_bucket_that_is_not_there(self, data, s3, bucket):
        assert "cannot write s3://nowhere-at-all/run" in _sweep(data, "s3://nowhere-at-all/run", 1, code=6)

    def test_another_scheme_a_live_page_and_no_run(self, data, s3, bucket):
        assert "not to ftp://" in _sweep(data, "ftp://host/run", 1, code=2)
        assert "no live page" in run("report", f"s3://{bucket}/run", "--live", code=2)
        assert "is not the folder of a run" in run("history", f"s3://{bucket}/nothing", code=3)


@pytest.fixture
def faulty(s3, monkeypatch):
    with faulty_s3() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setattr(places, "FIRST_PAUSE_SECONDS", 0.0)
        _open_filesystem.cache_clear()  # it knows the other address
        yield server
    _open_filesystem.cache_clear()


def _make_two_versions(data, uri):
    """Return the digests of the two versions; the second one is the champion."""
    for k in (1, 2):
        _sweep(data, uri, k)
    return [v.model_digest for v in sg.open_registry(uri).history]


def _find_champion(uri):
    champion = sg.open_registry(uri).champion
    assert champion is not None
    return champion.model_digest


@pytest.mark.long
@pytest.mark.parametrize("fault", ["500", "503", "lost"])
def test_requests_that_fail_now_and_then_do_not_show(data, s3, bucket, faulty, fault, tmp_path, monkeypatch):
    uri = f"s3://{bucket}/run"
    faulty.faults = lambda number, *_: fault if number % 5 == 4 else ""
    digests = _make_two_versions(data, uri)
    faulty.faults = lambda *_: ""
    _use_machine(monkeypatch, tmp_path, "second")
    assert _find_champion(uri) == digests[1]
    assert not sg.verify(uri).problems


@pytest.mark.long
@pytest.mark.parametrize("first", ["dead", "done"])
def test_killed_between_any_two_requests_the_old_state_is_current_or_the_new(
    data, s3, bucket, faulty, first, tmp_path, monkeypatch
):
    uri = f"s3://{bucket}/run"
    digests = _make_two_versions(data, uri)
    faults = ("last", "dead") if first == "done" else ("dead", "dead")
    ended, seen = False, []
    for stop in range(0, 1000, int(os.environ.get("STREAM_GMM_KILL_STEP", "19"))):
        _use_machine(monkeypatch, tmp_path, f"killed{stop}")
        start = len(faulty.requests)

        def choose(number, *_, start=start, stop=stop):
            return "" if number - start < stop else faults[min(number - start - stop, 1)]

        faulty.faults = choose
        gone = leases.make_owner("killed")
        with mock.patch.object(leases, "make_owner", return_value=replace(gone, started="0")):
            try:
                sg.open_registry(uri).roll_back()
                ended = True
            except StorageError:
                ended = False
            finally:
                faulty.faults = lambda *_: ""
        _use_machine(monkeypatch, tmp_path, f"other{stop}")
        champion = _find_champion(uri)
        assert champion in digests
        assert not sg.verify(uri).problems
        seen.append(champion == digests[0])
        if champion == digests[0]:
            sg.open_registry(uri).promote("v2")
        if ended:
            break
    assert ended
    assert seen[0] is False
    assert seen[-1] is True
    print(f"killed at {len(seen)} of {stop} requests: {seen.count(False)} times the old state, else the new")


@pytest.mark.slow
def test_who_has_lost_the_lease_does_not_publish_over_others(data, s3, bucket, tmp_path, monkeypatch):
    uri = f"s3://{bucket}/run"
    _make_two_versions(data, uri)
    prefix = open_run_prefix(uri)
    prefix.pull()
    (prefix.copy / "monitor.parquet").write_bytes(b"mine")
    _use_machine(monkeypatch, tmp_path, "second")
    sg.open_registry(uri).roll_back()
    with pytest.raises(StorageError, match="another run has published to .* meanwhile"):
        prefix.push()
    with pytest.raises(ConfigError, match="there is no version"):
        sg.open_registry(uri).promote("v9")


@pytest.mark.slow
def test_every_command_takes_a_model_where_it_lies(s3, bucket, data, tmp_path, monkeypatch):
    """The object of a model, a run in a bucket and files of it, a run on a disk; and an export into the bucket."""
    uri, local = f"s3://{bucket}/runs/mine", tmp_path / "local"
    _sweep(data, uri, 2)
    _sweep(data, local, 2)
    model = load_model(local / "model.gmm")
    with s3.open_output_stream(f"{bucket}/alone.gmm") as file:
        file.write((local / "model.gmm").read_bytes())
    _use_machine(monkeypatch, tmp_path, "second")
    monkeypatch.chdir(tmp_path)

    below = (f"{uri}/", f"{uri}/model.gmm", f"{uri}/candidates/diag-2.gmm")
    for where in (f"s3://{bucket}/alone.gmm", uri, *below, local):
        assert sg.load_model(where).digest == model.digest, where
        assert json.loads(run("inspect", where, "--json"))["digest"] == model.digest
    assert run("export", uri, "--format", "json").strip() == "mine.json"
    assert run("export", local, "--format", "json").strip() == str(local / "model.json")
    assert (
        run("export", f"s3://{bucket}/alone.gmm", "--output", f"s3://{bucket}/out/m.json").strip().endswith("m.json")
    )
    with s3.open_input_stream(f"{bucket}/out/m.json") as file:
        assert file.read() == (local / "model.json").read_bytes() == (tmp_path / "mine.json").read_bytes()

    chosen = (data, "--columns", "x0,x1,x2", "--executor", "serial", "--folder", tmp_path / "third")
    run("score", *chosen, "--model", f"s3://{bucket}/alone.gmm")
    assert sg.open_scored(tmp_path / "third" / "scored").manifest["model_digest"] == model.digest
    _sweep(data, tmp_path / "fourth", 2, "--truth", uri, "--match-to", f"s3://{bucket}/alone.gmm")

    assert "cannot read the model file" in run("inspect", f"s3://{bucket}/gone.gmm", code=4)
    assert "neither a model file nor the folder of a run" in run("inspect", tmp_path, code=4)
    with s3.open_output_stream(f"{bucket}/text.gmm") as file:
        file.write(b"weights: 1")
    assert "text.gmm: this is not a stream-gmm model" in run("export", f"s3://{bucket}/text.gmm", code=4)
    for option in ("--state", "--model"):
        paths = {"--state": tmp_path / "s.gmm", "--model": tmp_path / "m.gmm", option: f"{uri}/x.gmm"}
        assert "cannot lie in an object store" in run("stream", *(x for pair in paths.items() for x in pair), code=2)


def _cut_sweep(monkeypatch, data, uri, visit):
    """Run a sweep that is cut off at its n-th visit of the site of a pass; return what it says."""
    monkeypatch.setattr(faults, "_PLAN", f"pass:enospc:{visit}")
    monkeypatch.setattr(faults, "_visits", 0)
    said = _sweep(data, uri, "1:3", *SLOW, code=6)
    monkeypatch.setattr(faults, "_PLAN", "")
    return said


SLOW = ("--sample-rows", "500", "--prune", "false", "--tol", "1e-9")


@pytest.mark.slow
@pytest.mark.parametrize("by_id", [True, False], ids=["resume", "the same command"])
def test_another_machine_goes_on_with_a_sweep_that_was_cut_off(data, s3, bucket, tmp_path, monkeypatch, by_id):
    uri = f"s3://{bucket}/run"
    _sweep(data, tmp_path / "whole", "1:3", *SLOW)
    said = _cut_sweep(monkeypatch, data, uri, 3)
    assert f"to go on: stream-gmm resume {uri} (run " in said
    assert not open_run_prefix(uri).find_commit()

    _use_machine(monkeypatch, tmp_path, "second")
    begun: list[Entries] = []
    monkeypatch.setattr(Ledger, "write", _watch(begun, Ledger.write))
    if by_id:
        run("resume", uri, "--quiet")
    else:
        _sweep(data, uri, "1:3", *SLOW)
    assert begun[0].reads > 1, "it started over"
    assert begun[0].profile is not None
    assert _read_latest(s3, f"{bucket}/run")[1] == (tmp_path / "whole" / "model.gmm").read_bytes()
    assert "nothing to resume" in run("resume", uri)
    assert json.loads(run("verify", uri, "--json"))["intact"]

    _use_machine(monkeypatch, tmp_path, "third")
    assert "reads of the data for the whole sweep: 0" in _sweep(data, uri, "1:3", *SLOW)


def _watch(seen, write):
    def watched(self, entries):
        seen.append(entries)
        write(self, entries)

    return watched


@pytest.mark.slow
def test_of_two_checkpoints_the_one_that_is_further_on_counts(data, bucket, tmp_path, monkeypatch):
    uri = f"s3://{bucket}/run"
    _cut_sweep(monkeypatch, data, uri, 2)
    copies = [open_run_prefix(uri).copy]
    _use_machine(monkeypatch, tmp_path, "second")
    _cut_sweep(monkeypatch, data, uri, 1)  # one pass more
    copies.append(open_run_prefix(uri).copy)
    (first,), (second,) = (list((c / "ledger").glob("*.gmm")) for c in copies)
    done = [Ledger(path).read().reads for path in (first, second)]
    assert done[1] == done[0] + 1

    source, settings = sg.open_dataset(data, columns=["x0", "x1", "x2"]), Settings()
    monkeypatch.setattr(ledger, "compute_key", lambda *_: first.stem)
    mirror = open_run_prefix(uri).open_checkpoints()
    assert Ledger.open(first.parent, source, settings, mirror=mirror).read().reads == done[1]
    mirror.place.write(first.name, first.with_suffix(".previous").read_bytes())  # of the first machine, and older
    assert Ledger.open(first.parent, source, settings, mirror=mirror).read().reads == done[1]
    mirror.place.write(first.name, b"damaged")
    opened = Ledger.open(first.parent, source, settings, mirror=mirror)
    assert opened.read().reads == done[1]
    assert "the checkpoint that was sent from elsewhere is not used" in opened.notes[0]
    assert not Ledger.open(first.parent, source, settings, fresh=True, mirror=mirror).read().states
    assert first.name not in mirror.place.list()


def test_checkpoints_that_cannot_be_sent_are_told_once_and_the_sweep_ends(data, bucket, monkeypatch):
    uri = f"s3://{bucket}/checkpoints"
    write = places.ObjectPlace.write

    def refuse(self, name, content):
        if name.endswith((".gmm", ".profile")):
            raise StorageError("the store refuses.")
        write(self, name, content)

    monkeypatch.setattr(places.ObjectPlace, "write", refuse)
    result = sg.sweep(sg.open_dataset(data, columns=["x0", "x1"]), [1, 2], "diag", ledger=uri)
    told = [w for w in result.warnings if "checkpoints are no longer sent to" in w]
    assert len(told) == 1
    assert uri in told[0]

    monkeypatch.setattr(places.ObjectPlace, "write", write)
    again = sg.sweep(sg.open_dataset(data, columns=["x0", "x1"]), [1, 2, 3], "diag", ledger=uri)
    assert again.reused == 2, "those of this machine"
    assert sg.sweep(sg.open_dataset(data, columns=["x0", "x1"]), [1, 2, 3], "diag", ledger=uri).passes == 0
    with pytest.raises(ConfigError, match="holds credentials"):
        sg.sweep(sg.open_dataset(data, columns=["x0"]), [1], "diag", ledger=f"s3://key:secret@{bucket}/x")


def test_checkpoints_that_come_too_soon_wait_for_the_next_one(bucket, tmp_path, monkeypatch):
    now, sent = [0.0], []

    def write_in_two_seconds(self, name, content):
        sent.append(content)
        now[0] += 2.0

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(places.ObjectPlace, "write", write_in_two_seconds)
    mirror, path = Checkpoints(places.ObjectPlace(f"s3://{bucket}/c")), tmp_path / "a.gmm"
    for number, at in enumerate((0.0, 5.0, 19.9, 20.1)):
        path.write_bytes(str(number).encode())
        now[0] = max(now[0], at)
        mirror.send(path, at_once=False)
    assert sent == [b"0", b"3"]
    mirror.flush()
    assert sent == [b"0", b"3"], "nothing waits"
    path.write_bytes(b"4")
    mirror.send(path, at_once=False)
    mirror.flush()
    assert sent == [b"0", b"3", b"4"]


@pytest.mark.long
@pytest.mark.parametrize("site", ["profile", "sample", "pass:kill:3", "ledger:kill:6", "results"])
def test_a_machine_that_is_killed_is_followed_by_another_one_to_the_same_bits(data, s3, bucket, tmp_path, site):
    """The lease of the dead process counts no longer, as it was on this host; the copy of its machine is gone."""
    uri, whole = f"s3://{bucket}/run", tmp_path / "whole"
    chosen = ("--columns", "x0,x1,x2", "--executor", "serial", "--covariance-type", "diag", "--n-components", "1:3")
    command = [sys.executable, "-m", "stream_gmm", "sweep", str(data), *chosen, *SLOW, "--quiet", "--folder"]
    plan = {"STREAM_GMM_FAULT": site if ":" in site else f"{site}:kill"}
    machines = [os.environ | {"XDG_CACHE_HOME": str(tmp_path / name)} for name in ("first", "second")]
    assert subprocess.run([*command, uri], env=machines[0] | plan, check=False).returncode == -signal.SIGKILL

    subprocess.run([sys.executable, "-m", "stream_gmm", "resume", uri, "--quiet"], env=machines[1], check=True)
    subprocess.run([*command, str(whole)], check=True)
    assert _read_latest(s3, f"{bucket}/run")[1] == (whole / "model.gmm").read_bytes()
