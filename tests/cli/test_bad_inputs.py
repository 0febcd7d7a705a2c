"""Mistakes in settings and data end in one message and the documented exit code, before anything is created."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.cli.commands import main

SWEEP = "sweep --paths in --folder out --executor threads --sweep.covariance-type full "
RUN = "run --paths in --folder out --executor threads --sweep.covariance-type full "
CANARY = "CANARY+SECRET/42"

# (command, exit code, part of the message)
COMMANDS = [
    (SWEEP + "--n-components 0", 2, "must be at least 1"),
    (SWEEP + "--n-components -3", 2, "must be at least 1"),
    (SWEEP + "--n-components 1000000000", 2, "must be at most 10,000"),
    (SWEEP + "--n-components 1:1000000000", 2, "must be at most 10,000"),
    (SWEEP + "--n-components 3:1", 2, "empty range"),
    (SWEEP + "--n-components a:b", 2, "write it as '1:8'"),
    (SWEEP + "--n-components 1:2:3", 2, "write it as '1:8'"),
    (SWEEP + "--n-components 2.5", 2, "valid integer"),
    (SWEEP + "--tol inf", 2, "em.tol: Input should be a finite number"),
    (SWEEP + "--tol nan", 2, "em.tol: Input should be a finite number"),
    (SWEEP + "--tol -1", 2, "em.tol"),
    (SWEEP + "--tol ''", 2, "needs a value"),
    (SWEEP + "--reg-covar nan", 2, "em.reg_covar"),
    (SWEEP + "--elbow inf", 2, "sweep.elbow"),
    (SWEEP + "--holdout 1.5", 2, "em.holdout"),
    (SWEEP + "--outlier-quantile 1", 2, "score.outlier_quantile"),
    (SWEEP + "--address nonsense", 2, "write it as 'tcp://host:8786'"),
    (SWEEP + "--memory-limit lots", 2, "write it as '2GiB'"),
    (SWEEP + "--memory-limit 0", 2, "write it as '2GiB'"),
    (SWEEP + "--memory-limit -1GiB", 2, "write it as '2GiB'"),
    (SWEEP + "--n-workers 0", 2, "cluster.n_workers"),
    (SWEEP + "--n-workers 1000000", 2, "cluster.n_workers"),
    (SWEEP + "--timeout-seconds inf", 2, "cluster.timeout_seconds"),
    (SWEEP + "--timeout-seconds 0", 2, "cluster.timeout_seconds"),
    (SWEEP + "--scale 3", 2, "need cluster_class"),
    (SWEEP + "--cluster-class a.B --adapt '{minimum: 5, maximum: 2}'", 2, "0 <= minimum <= maximum"),
    (SWEEP + "--cluster-class a.B --adapt '{most: 2}'", 2, "knows minimum and maximum"),
    (SWEEP + "--columns x,x", 2, "named twice: x"),
    (SWEEP + "--columns nope", 3, "there is no column 'nope'"),
    (SWEEP + "--columns x,y --weight x", 2, "also one of the columns"),
    (SWEEP + "--kernel quadratc", 2, "did you mean 'quadratic'"),
    (SWEEP + "--criterion heldout", 2, "needs rows held out"),
    (SWEEP + "--algorithm minibatch --accel anderson", 2, "accel is for exact EM"),
    (SWEEP + "--prior mclust --sweep.covariance-type VEV", 2, "prior 'mclust'"),
    (SWEEP + "--random-state -1", 2, "em.random_state"),
    (SWEEP + "--random-state 99999999999999999999", 2, "em.random_state"),
    (SWEEP + "--truth no.gmm", 4, "cannot read the model file no.gmm"),
    (SWEEP + "--match-to in/a.parquet", 4, "not a stream-gmm model file"),
    (SWEEP + "--truth other.gmm", 2, "output.truth other.gmm has the columns"),
    (SWEEP + "--no-such-option 1", 2, "No such option"),
    ("sweep --folder out", 2, "data: is required"),
    ("sweep --paths '' --folder out", 2, "data.paths"),
    ("sweep --paths nowhere --folder out", 3, "there is no file or folder"),
    ("sweep --paths empty --folder out", 3, "no Parquet file"),
    ("sweep --paths in --folder ''", 2, "output.folder"),
    (RUN + "--passthrough z", 2, "score.passthrough: there is no column 'z'"),
    (RUN + "--passthrough x,x", 2, "named twice"),
    (RUN + "--proba list2", 2, "score.proba"),
    ("run --paths clash --folder out", 2, "already has columns named ['component']"),
    ("run --paths in --folder in/out", 2, "lies in the input"),
    ("run --paths in --folder in", 2, "is the input"),
    ("run --paths in --folder .", 2, "holds the input"),
    ("run --paths 'in/**/*.parquet' --folder in/deep/out", 2, "lies in the input"),
    ("run --paths 'in/*/*.parquet' --folder in/out", 2, "lies in the input"),
    ("run --paths in/a.parquet --folder in", 2, "holds the input"),
    (f"run --paths in --folder s3://key:{CANARY}@bucket/out", 2, "holds credentials"),
    ("run --paths in --folder file.txt/out", 6, "is a file, not a folder"),
    ("run --paths in --folder taken", 6, "not an output of stream-gmm"),
    ("report damaged", 3, "it holds a list"),
    ("bootstrap --paths in --folder damaged", 3, "it holds a list"),
    ("report in", 3, "is not the folder of a run"),
    ("bootstrap --paths in --folder damaged --replicates 0", 2, "--replicates"),
    ("score --paths in --folder out", 4, "cannot read the model file"),
    ("score --paths in --folder in/out --model other.gmm", 2, "lies in the input"),
    ("inspect nothing.gmm", 4, "cannot read the model file"),
    ("profile in --sample-rows 0", 2, "--sample-rows"),
    ("stream --state s.gmm --half-life nan", 2, "not a finite number"),
    ("stream --state s.gmm --n-components 0", 2, "--n-components"),
    ("stream --state s.gmm --outlier-quantile 2", 2, "--outlier-quantile"),
    ("stream --state s.gmm --covariance-type fulll", 2, "did you mean 'full'"),
    ("demo-data data --compression zip", 2, "--compression"),
    ("demo-data data --rows -5", 2, "--rows"),
    ("demo-data data --columns 0", 2, "--columns"),
    ("demo-data data --files 9 --rows 3", 2, "cannot write 3 rows into 9 files"),
    ("serve --paths in --folder out --timezone Mars/Phobos", 2, "Mars/Phobos"),
    ("serve --paths in --folder out --cron nonsense", 2, "nonsense"),
    (f"run --paths in --folder out --scored s3://key:{CANARY}@bucket/out", 2, "holds credentials"),
    ("run --paths in --folder out --scored ftp://host/out", 2, "not to ftp://"),
    ("deploy --paths in --folder out --pool p --cron nonsense", 2, "nonsense"),
    ("deploy --paths in --folder out", 2, "--pool"),
    (f"serve --paths s3://key:{CANARY}@bucket/in --folder out", 2, "holds credentials"),
    (f"sweep --paths ftp://key:{CANARY}@host/in --folder out", 3, "cannot read from ftp://"),
    (f"sweep --paths 's3://key:{CANARY}@b ucket/in' --folder out", 3, "s3"),
]

# (YAML, exit code, part of the message); each is run as "sweep file.yaml".
FILES = [
    ("data: {paths: in}\nem: {tol: 1, tol: 2}", 2, "'tol' stands twice"),
    ("data: {paths: in}\ndata: {paths: empty}", 2, "'data' stands twice"),
    ("data: {paths: in, columns: []}", 2, "data.columns"),
    ("data: {paths: []}", 2, "data.paths"),
    ("data: {paths: 5}", 2, "data.paths"),
    ("data: {paths: in}\nem: {n_init: true}", 2, "not a truth value"),
    ("data: {paths: in}\nem: {tol: .inf}", 2, "em.tol"),
    ("data: {paths: in}\nem: {n_init: [1]}", 2, "em.n_init"),
    ("data: {paths: in}\nem: []", 2, "em:"),
    ("data: {paths: in}\nsweep: {n_components: []}", 2, "sweep.n_components"),
    ("data: {paths: in}\nsweep: {n_components: {a: 1}}", 2, "sweep.n_components"),
    ("data: {paths: in}\nsweep: {covariance_type: [ful]}", 2, "did you mean 'full'"),
    ("data: {paths: in}\nswep: {}", 2, "did you mean 'sweep'"),
    ("data: {paths: in}\nname: ''", 2, "name:"),
    ("- 1", 2, "must hold sections"),
    ("data: [", 2, "not valid YAML"),
    ("data: !!python/object/apply:os.system [echo]", 2, "not valid YAML"),
    ("", 2, "must hold sections"),
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with good data, bad data, a damaged run and a model of other columns, as the current folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("in", "clash", "damaged", "empty", "taken/scored"):
        Path(name).mkdir(parents=True)
    rows = {"x": rng.normal(size=60), "y": rng.normal(size=60)}
    pq.write_table(pa.table(rows), "in/a.parquet")
    pq.write_table(pa.table({**rows, "component": np.arange(60)}), "clash/a.parquet")
    Path("damaged/run.json").write_text("[]")
    Path("file.txt").write_text("")
    Path("taken/scored/thesis.tex").write_text("")
    sg.save_model(sg.fit(rng.normal(size=(60, 3)), 1), "other.gmm")
    return tmp_path


def _run(arguments: list[str], monkeypatch, capsys) -> tuple[object, str]:
    monkeypatch.setattr(sys, "argv", ["stream-gmm", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    return end.value.code, captured.out + captured.err


def _everything(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def _check(arguments, code, message, place, monkeypatch, capsys):
    before = _everything(place)
    found, output = _run(arguments, monkeypatch, capsys)

    assert found == code, output
    assert message in output
    assert "Traceback" not in output
    assert CANARY not in output
    assert _everything(place) == before


@pytest.mark.parametrize(("command", "code", "message"), COMMANDS, ids=[c for c, _, _ in COMMANDS])
@pytest.mark.slow
def test_a_bad_command_ends_in_one_message_and_creates_nothing(command, code, message, place, monkeypatch, capsys):
    _check(shlex.split(command), code, message, place, monkeypatch, capsys)


@pytest.mark.parametrize(("content", "code", "message"), FILES, ids=[c for c, _, _ in FILES])
def test_a_bad_file_ends_in_one_message_and_creates_nothing(content, code, message, place, monkeypatch, capsys):
    (place / "file.yaml").write_text(content)
    _check(["sweep", "file.yaml", "--folder", "out"], code, message, place, monkeypatch, capsys)


def test_serve_without_an_api_is_refused(place, monkeypatch, capsys):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        _check(
            ["serve", "--paths", "in", "--folder", "out"], 2, "serve needs a Prefect API", place, monkeypatch, capsys
        )


def test_a_folder_beside_the_data_is_accepted(place):
    from stream_gmm.pipeline.job.checks import check_output_folder
    from stream_gmm.pipeline.job.config import validate_config

    for paths, folder in (
        ("in", "out"),
        ("in/a.parquet", "in/out"),
        ("in/*.parquet", "in/out"),
        ("*.parquet", "out"),
    ):
        check_output_folder(validate_config({"data": {"paths": paths}, "output": {"folder": folder}}, "test"))
    assert not (place / "out").exists()


def test_a_plan_of_what_no_worker_can_hold_is_refused_before_it_is_measured(place, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    pq.write_table(pa.table({f"c{j}": rng.normal(size=50) for j in range(400)}), "in/a.parquet")
    arguments = "plan --paths in --executor threads --n-components 10000 --sweep.covariance-type full"
    _check(shlex.split(arguments), 2, "full with 10,000 components and 400 columns", place, monkeypatch, capsys)
