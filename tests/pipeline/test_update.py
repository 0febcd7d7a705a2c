"""Updates: only new files are read, the model follows them as a refit would, and what was there stays whole."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.core.drift import reduce_moments
from stream_gmm.core.file_stats import StatsTotal
from stream_gmm.errors import ConfigError, InputDataError, ModelFileError, StorageError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.io.store.statistics import load_statistics, save_statistics
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.steps import make_full_pass, make_profile, open_tasks
from stream_gmm.pipeline.job.config import RunConfig, validate_config
from stream_gmm.pipeline.job.stages import score_stage, sweep_stage
from stream_gmm.pipeline.job.update.stage import update_stage
from stream_gmm.pipeline.update.files import select_window, weigh_files
from stream_gmm.pipeline.update.result import KEPT, MOVED, NOTHING, SWEPT
from stream_gmm.pipeline.update.rule import Span
from stream_gmm.pipeline.update.statistics import gather_statistics, identify_files, make_stats_rule
from tests.cli.test_commands import run as run_command

MEANS = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])


def draw(rng, n: int, shift: float = 0.0):
    """Draw rows of three components; one column of one of them is shifted."""
    component = rng.choice(3, size=n, p=(0.5, 0.3, 0.2))
    rows = MEANS[component] + rng.normal(size=(n, 2))
    rows[component == 1, 0] += shift
    return rows


@dataclass
class Nights:
    """A folder of files that grows, and the folder of its runs."""

    root: Path
    rows: dict[str, np.ndarray] = field(default_factory=dict)

    def write(self, name: str, rows) -> None:
        path = self.root / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"a": rows[:, 0], "b": rows[:, 1]}), path, row_group_size=400)
        self.rows[name] = rows

    def remove(self, name: str) -> None:
        (self.root / "in" / name).unlink()
        del self.rows[name]

    @property
    def all_rows(self):
        return np.concatenate([self.rows[name] for name in sorted(self.rows)])

    @property
    def folder(self) -> Path:
        return self.root / "run"

    def config(self, **sections) -> RunConfig:
        content = {
            "data": {"paths": [str(self.root / "in")]},
            "sweep": {"n_components": [2, 3], "covariance_type": ["full"]},
            "em": {"n_init": 1, "sample_rows": 2_000},
            "output": {"folder": str(self.folder)},
            "cluster": {"executor": "serial"},
            "update": {"new_sweep": "never"},
        }
        return validate_config({k: v | sections.get(k, {}) for k, v in content.items()}, "test")

    def update(self, **sections) -> sg.UpdateResult:
        return update_stage(self.config(**sections), SerialExecutor())

    def scored(self) -> pa.Table:
        return pq.read_table(self.folder / "scored")


@pytest.fixture(scope="module")
def first_night(tmp_path_factory):
    """Ten files, swept and scored."""
    nights = Nights(tmp_path_factory.mktemp("nights"))
    rng = np.random.default_rng(0)
    for i in range(10):
        nights.write(f"f{i:02d}.parquet", draw(rng, 800))
    sweep_stage(nights.config(), SerialExecutor())
    score_stage(nights.config(), SerialExecutor())
    return nights


@pytest.fixture
def nights(first_night, tmp_path):
    """A copy of that, whose files have the times of the original."""
    shutil.copytree(first_night.root, tmp_path / "n", symlinks=True)
    return Nights(tmp_path / "n", dict(first_night.rows))


@pytest.fixture
def count_reads(monkeypatch):
    """Count the rows that are decoded, where they are decoded."""
    from stream_gmm.io.source import chunks

    decoded, plain = [], chunks.decode_rows

    def decode(batch, *args, **kwargs):
        decoded.append(batch.num_rows)
        return plain(batch, *args, **kwargs)

    monkeypatch.setattr(chunks, "decode_rows", decode)
    return decoded


def kept_stats(nights: Nights):
    return load_statistics(nights.folder / "statistics.gmm")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_scores_that_cannot_be_kept_stay_published_and_are_not_made_anew_by_another_model(nights, monkeypatch, code):
    """Before, the file was scored again with the new model: an update without a fault would not have done that."""
    nights.write("f10.parquet", draw(np.random.default_rng(1), 600))
    before = {p.name: p.read_bytes() for p in (nights.folder / "scored").glob("*.parquet")}
    link, calls = os.link, itertools.count()

    def fail_once(source, target):
        if "scored" in Path(source).parts and next(calls) == 3:
            raise OSError(code, os.strerror(code))
        link(source, target)

    monkeypatch.setattr(os, "link", fail_once)
    with pytest.raises(StorageError, match=r"scores of .*f03.parquet cannot be kept\. .*run again"):
        nights.update(update={"min_gain": 0.0})
    assert {p.name: p.read_bytes() for p in (nights.folder / "scored").glob("*.parquet")} == before
    result = nights.update(update={"min_gain": 0.0})
    assert (result.scored, result.kept_scores) == (1, 10)
    assert all((nights.folder / "scored" / name).read_bytes() == content for name, content in before.items())


def test_scores_are_kept_as_copies_where_a_file_system_has_no_links(nights, monkeypatch):
    nights.write("f10.parquet", draw(np.random.default_rng(1), 600))
    before = {p.name: p.read_bytes() for p in (nights.folder / "scored").glob("*.parquet")}

    def refuse(source, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    result = nights.update()
    assert (result.scored, result.kept_scores) == (1, 10)
    assert all((nights.folder / "scored" / name).read_bytes() == content for name, content in before.items())


def test_unchanged_files_are_not_read_at_all(nights, count_reads):
    before = sorted((p, p.stat().st_mtime_ns) for p in nights.folder.rglob("*"))
    result = nights.update()

    assert (result.decision, result.rows_read, result.passes) == (NOTHING, 0, 0)
    assert not count_reads
    assert sorted((p, p.stat().st_mtime_ns) for p in nights.folder.rglob("*")) == before


def test_only_new_files_are_read_and_scored(nights, count_reads):
    old = {p.name: p.stat().st_ino for p in (nights.folder / "scored").glob("*.parquet")}
    nights.write("f10.parquet", draw(np.random.default_rng(1), 600))
    result = nights.update()

    assert result.decision == KEPT
    assert result.files.new == ("f10.parquet",)
    assert sum(count_reads) == result.rows_read == 1_200  # for the statistics, and for the scores
    assert (result.scored, result.kept_scores) == (1, 10)
    now = {p.name: p.stat().st_ino for p in (nights.folder / "scored").glob("*.parquet")}
    assert {name: now[name] for name in old} == old
    assert nights.scored().num_rows == 8_600
    model = sg.load_model(nights.folder / "model.gmm")
    rows = pq.read_table(nights.folder / "scored" / "f10.parquet")
    np.testing.assert_allclose(rows["log_density"], model.score_samples(nights.rows["f10.parquet"]), atol=1e-12)
    assert nights.update().decision == NOTHING  # twice is once


def test_the_statistics_of_files_add_up_to_those_of_a_full_pass(nights):
    """The sum is that of a pass over all rows; and whatever was read when, its bits are the same."""
    nights.write("f10.parquet", draw(np.random.default_rng(1), 600))
    nights.update()
    kept, data = kept_stats(nights), sg.open_dataset(nights.root / "in")
    ones = [1.0] * len(kept.entries)
    total = StatsTotal.of(kept.entries, ones, with_apart=True)
    rule = make_stats_rule(data, Settings(sample_rows=2_000), 0.1, kept.share)
    names = [f.relative for f in data.files]
    for executor in (SerialExecutor(), ThreadsExecutor(2)):
        fresh = gather_statistics(
            data, names, None, kept.anchor, sg.load_model(nights.folder / "model.gmm"), rule, executor
        ).kept
        again = StatsTotal.of([e.settle() for e in fresh.entries], ones, with_apart=True)
        for name in ("rows", "loglik", "entropy", "log_max", "weight", "mean", "scatter"):
            np.testing.assert_array_equal(getattr(again.stats, name), getattr(total.stats, name), err_msg=name)
        np.testing.assert_array_equal(again.sample.rows, total.sample.rows)
        np.testing.assert_array_equal(again.moments.scatter, total.moments.scatter)

    settings, executor = Settings(), SerialExecutor()
    tasks = open_tasks(data, settings, executor)
    profile = make_profile(data, tasks, settings, executor)
    (full,) = make_full_pass(tasks, profile, settings, executor)([kept.anchor])
    ours = reduce_moments(total.stats, kept.anchor)
    for name in ("rows", "loglik", "entropy", "log_max", "weight", "mean", "scatter"):
        expected = np.asarray(getattr(full, name))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(getattr(ours, name), expected, rtol=1e-12, atol=1e-12 * scale, err_msg=name)


def test_changed_replaced_and_gone_files_leave_no_trace(nights):
    """After files have come, changed and gone, the statistics are those of the files that there are, bit for bit."""
    rng = np.random.default_rng(2)
    nights.write("f10.parquet", draw(rng, 600))
    nights.update()
    nights.write("f03.parquet", draw(rng, 500))
    nights.write("f03b.parquet", draw(rng, 300))
    nights.remove("f07.parquet")
    result = nights.update()
    assert result.files.changed == ("f03.parquet",)
    assert result.files.new == ("f03b.parquet",)
    assert result.files.gone == ("f07.parquet",)
    assert len(result.files.unchanged) == 9
    assert result.rows_read == 2 * 800

    kept, data = kept_stats(nights), sg.open_dataset(nights.root / "in")
    assert kept.files == tuple(identify_files(data).values())
    rule = make_stats_rule(data, Settings(sample_rows=2_000), 0.1, kept.share)
    fresh = gather_statistics(
        data,
        [f.relative for f in data.files],
        None,
        kept.anchor,
        sg.load_model(nights.folder / "model.gmm"),
        rule,
        SerialExecutor(),
    ).kept
    for mine, theirs in zip(kept.entries, fresh.entries, strict=True):
        np.testing.assert_array_equal(mine.total.scatter, theirs.total.scatter)
        np.testing.assert_array_equal(mine.sample.rows, theirs.sample.rows)
    assert not list((nights.folder / "scored").glob("f07*"))
    assert nights.scored().num_rows == len(nights.all_rows)


@pytest.mark.parametrize("mode", ["incremental", "exact", "stepwise"])
def test_the_model_follows_new_files_as_a_refit_does(nights, count_reads, mode):
    nights.write("f10.parquet", draw(np.random.default_rng(3), 800, shift=1.0))
    before = sg.load_model(nights.folder / "model.gmm")
    result = nights.update(update={"mode": mode})
    assert result.decision == MOVED
    assert result.promoted
    assert result.version == "v2"
    passes = {"incremental": 0, "exact": result.passes, "stepwise": 0}[mode]
    assert (result.passes > 0) == (mode == "exact")
    assert sum(count_reads) == result.rows_read == 1_600 + passes * 8_800

    rows = nights.all_rows
    refit = sg.fit(rows, 3, init=before.params, tol=1e-10)
    fresh = draw(np.random.default_rng(4), 20_000, shift=0.0)
    loss = refit.score(rows) - result.model.score(rows)
    assert loss < {"incremental": 1e-5, "exact": 1e-6, "stepwise": 1e-3}[mode]
    assert abs(refit.score(fresh) - result.model.score(fresh)) < 1e-3
    assert result.model.score(rows) > before.score(rows)
    if mode != "stepwise":
        assert result.model.lower_bound_ == pytest.approx(result.model.score(rows), abs=1e-5)
        assert result.gain == pytest.approx(result.model.score(rows) - before.score(rows), rel=0.02)
    assert result.model.provenance["identity"]["model"] == before.digest
    record = json.loads((nights.folder / "run.json").read_text())
    assert record["update"]["decision"] == MOVED
    assert record["model_digest"] == sg.load_model(nights.folder / "model.gmm").digest
    assert nights.update(update={"mode": mode}).decision == NOTHING
    assert sg.open_registry(nights.folder).roll_back().name == "v1"


def test_an_update_whose_error_is_too_large_reads_all_files(nights):
    nights.write("f10.parquet", draw(np.random.default_rng(3), 800, shift=1.0))
    result = nights.update(update={"max_error": 1e-12})

    assert result.passes > 0
    assert "pass" in " ".join(result.why)
    assert "more than 1e-12" in " ".join(result.why)
    assert result.model.warnings == tuple(w for w in result.model.warnings if "predicted" not in w)


@pytest.mark.parametrize(("rescore", "scored"), [("new", 1), ("moved", 11), ("all", 11), ("none", 0)])
def test_which_files_are_scored_when_the_model_has_moved(nights, rescore, scored):
    nights.write("f10.parquet", draw(np.random.default_rng(3), 800, shift=2.0))
    result = nights.update(update={"rescore": rescore, "rescore_shift": 1e-3})
    assert result.scored == scored
    manifest = json.loads((nights.folder / "scored" / "_manifest.json").read_text())
    if rescore == "none":
        assert len(manifest["parts"]) == 10
        return
    by = {part["path"]: part["model"] for part in manifest["parts"]}
    assert len(by) == 11
    assert by["f10.parquet"] == result.model.digest
    assert len(set(by.values())) == (2 if rescore == "new" else 1)
    if rescore != "new":  # the scoring pass gave the statistics at the new parameters
        np.testing.assert_array_equal(kept_stats(nights).anchor.means, result.model.means_)
    assert nights.update(update={"rescore": rescore}).decision == NOTHING


def test_a_model_that_hardly_moved_keeps_the_scores_of_all_files(nights):
    nights.write("f10.parquet", draw(np.random.default_rng(3), 800, shift=0.3))
    result = nights.update(update={"rescore": "moved", "min_gain": 0.0, "rescore_shift": 0.1})

    assert result.decision == MOVED
    assert (result.scored, result.kept_scores) == (1, 10)


def test_windows_and_half_lives():
    names = [f"day={d}/part-{i}.parquet" for d in (8, 9, 10, 11) for i in range(2)]
    assert select_window(names, Span.parse("3 files", "x", rows=False)) == names[-3:]
    assert select_window(names, Span.parse("2 day", "x", rows=False)) == names[-4:]
    assert select_window(names, None) == names
    with pytest.raises(ConfigError, match="does not lie below a folder hour="):
        select_window(names, Span.parse("2 hour", "x", rows=False))
    for wrong in ("2e6 rows", "-1", "many", "0 files"):
        with pytest.raises(ConfigError, match="positive number of files or a partition column"):
            Span.parse(wrong, "update.last", rows=False)


def test_a_half_life_weighs_files_by_their_age(nights):
    entries = kept_stats(nights).entries
    ages = np.arange(len(entries))[::-1]
    np.testing.assert_allclose(weigh_files(entries, Span(2.0, "files")), 0.5 ** (ages / 2.0))
    np.testing.assert_allclose(weigh_files(entries, Span(1_600.0, "rows")), 0.5 ** (ages / 2.0))
    assert weigh_files(entries, None) == [1.0] * len(entries)


def test_a_window_is_a_refit_to_its_files(nights, count_reads):
    """Only the statistics of the files in the window are summed, and none of them is read again."""
    rng = np.random.default_rng(5)
    nights.write("f10.parquet", draw(rng, 800, shift=1.0))
    nights.update(update={"min_gain": 1.0})
    del count_reads[:]
    result = nights.update(update={"last": "3 files", "min_gain": 0.0})
    assert not count_reads
    assert len(result.files.outside) == 8
    rows = np.concatenate([nights.rows[f"f{i:02d}.parquet"] for i in (8, 9, 10)])
    refit = sg.fit(rows, 3, init=result.model.params, tol=1e-10)
    assert refit.score(rows) - result.model.score(rows) < 1e-4
    assert nights.scored().num_rows == 8_800  # the scored table has all files
    assert nights.update(update={"last": "3 files"}).decision == NOTHING

    half = nights.update(update={"half_life": "2 files", "min_gain": 0.0})
    weights = np.concatenate([np.full(800, 0.5 ** ((10 - i) / 2.0)) for i in range(11)])
    refit = sg.fit(nights.all_rows, 3, weight=weights, init=half.model.params, tol=1e-10)

    def score(model):
        return np.average(model.score_samples(nights.all_rows), weights=weights)

    assert score(refit) - score(half.model) < 1e-4


def test_a_new_cluster_calls_for_a_sweep_and_no_change_does_not(nights):
    rng = np.random.default_rng(6)
    nights.write("f10.parquet", draw(rng, 800))
    sections = {
        "update": {"new_sweep": "evidence", "min_gain": 1e-3, "apart": 0.3},
        "sweep": {"n_components": [2, 3, 4]},
    }
    assert nights.update(**sections).decision == KEPT

    nights.write("f11.parquet", np.concatenate([draw(rng, 500), rng.normal(size=(300, 2)) * 0.5 + 9.0]))
    result = nights.update(**sections)
    assert result.rivals is not None
    assert result.rivals.crosses
    assert result.decision == SWEPT
    assert result.model.n_components == 4
    assert "a new sweep was made" in " ".join(result.why)
    assert nights.scored().num_rows == 9_600
    assert set(nights.scored()["component"].to_pylist()) == {0, 1, 2, 3}
    assert nights.update(**sections).decision == NOTHING


def test_without_statistics_all_files_are_read_once(nights, count_reads):
    (nights.folder / "statistics.gmm").unlink()
    result = nights.update()
    assert result.rows_read == sum(count_reads) == 8_000
    assert "no statistics of the files were kept" in result.why[0]
    assert nights.update().decision == NOTHING

    path = nights.folder / "statistics.gmm"
    path.write_bytes(path.read_bytes()[:-50])
    del count_reads[:]
    assert nights.update().rows_read == sum(count_reads) == 8_000


def test_the_file_of_statistics_keeps_every_bit_and_is_bounded(nights, tmp_path):
    path = nights.folder / "statistics.gmm"
    kept = load_statistics(path)
    assert save_statistics(kept, tmp_path / "again").read_bytes() == path.read_bytes()
    k, d, per_file = 3, 2, 8
    numbers = 4 + k * (1 + d + d * (d + 1) // 2) + (4 + 6) + 2 * d + 4 * d + 1
    sample = 2_400 * (d * 8 + 8 + 8 + 1)
    assert path.stat().st_size < len(kept.entries) * (numbers * per_file + 120) + sample + 3_000
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelFileError, match="damaged or truncated"):
        load_statistics(path)


def test_many_files_share_their_statistics(nights, monkeypatch):
    monkeypatch.setattr("stream_gmm.core.file_stats.MOST_BYTES", 1_000)
    (nights.folder / "statistics.gmm").unlink()
    nights.update()
    entries = kept_stats(nights).entries
    assert len(entries) == 5
    assert [len(e.files) for e in entries] == [2] * 5

    nights.write("f02.parquet", draw(np.random.default_rng(7), 700))
    result = nights.update()
    assert result.rows_read == 700 + 800 + 700  # its neighbour is read again; only the new one is scored
    assert StatsTotal.of(kept_stats(nights).entries, [1.0] * 5, with_apart=True).stats.rows == 7_900


def test_what_cannot_be_updated_is_refused_with_the_reason(nights, tmp_path):
    with pytest.raises(InputDataError, match="not the folder of a run"):
        sg.update(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no option 'mod'; did you mean 'mode'"):
        sg.update(nights.folder, mod="exact")
    with pytest.raises(ConfigError, match=r"update.last.*positive number of files"):
        sg.update(nights.folder, last="2 rows")
    with pytest.raises(ConfigError, match="an update needs complete rows"):
        nights.update(data={"missing": "marginalise"})
    nights.write("f10.parquet", np.full((50, 2), np.nan))
    with pytest.raises(InputDataError, match="f10"):
        nights.update()
    assert len(kept_stats(nights).files) == 10


def test_python_and_the_command_line(nights):
    nights.write("f10.parquet", draw(np.random.default_rng(8), 800, shift=1.0))
    result = sg.update(nights.folder, [nights.root / "in"], publish_as="challenger")
    assert (result.version, result.champion, result.promoted) == ("v2", "v1", False)
    assert sg.load_model(nights.folder / "model.gmm").digest != result.model.digest
    printed = run_command("update", "--folder", nights.folder, "--paths", nights.root / "in", "--executor", "serial")
    assert "nothing to do" in printed

    nights.write("f11.parquet", draw(np.random.default_rng(9), 800, shift=1.0))
    printed = run_command(
        "update", "--folder", nights.folder, "--paths", nights.root / "in", "--executor", "serial", "--json"
    )
    record = json.loads(printed)
    assert record["decision"] == MOVED
    assert record["files"]["new"] == ["f11.parquet"]
