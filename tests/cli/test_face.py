"""What a person meets first: bare paths, help, JSON, quiet, init, doctor, schema, progress in a log."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import click
import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import stream_gmm as sg
from stream_gmm.cli.commands import cli
from stream_gmm.cli.display import LogLines
from stream_gmm.cli.help import COMMANDS, EXAMPLES
from stream_gmm.cli.options import load_settings
from stream_gmm.cli.setup import make_schema
from stream_gmm.core.estep import kernels, score_kernels, whitening
from stream_gmm.core.fit import few_rows_loops
from stream_gmm.errors import ConfigError, ModelFileError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.store.models import load_model
from stream_gmm.pipeline.job.config import load_config
from stream_gmm.pipeline.job.repeat import config_keys
from stream_gmm.pipeline.passes.progress import Progress
from tests.cli.test_commands import run
from tests.documents import read_blocks

FAST = ("--executor", "serial", "--n-components", "2", "--sweep.covariance-type", "diag", "--n-init", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("face") / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    x = rng.normal(size=400) + np.repeat([0.0, 8.0], 200)
    pq.write_table(pa.table({"x": x, "y": rng.normal(size=400), "same": np.ones(400)}), folder / "a.parquet")
    return folder


@pytest.fixture(scope="module")
def fitted(data):
    folder = data.parent / "run"
    output = run("fit", data, "--columns", "x,y", *FAST, "--folder", folder, "--json")
    return folder, json.loads(output)


def _options(**more):
    return {"cfg__" + key.replace(".", "__"): more.get(key) for key in config_keys()}


class TestWhereTheDataAre:
    def test_a_bare_folder_or_file_is_the_data(self, data):
        config = load_settings([str(data), "b.parquet"], _options())
        assert config.data.paths == [str(data), "b.parquet"]

    def test_a_bare_path_replaces_the_data_of_a_configuration(self, tmp_path):
        path = tmp_path / "c.yml"
        path.write_text("data: {paths: old}\nem: {n_init: 7}\n")
        config = load_settings([str(path), "new"], _options())
        assert (config.data.paths, config.em.n_init) == (["new"], 7)

    def test_nothing_twice_and_two_configurations_are_refused_with_what_to_do(self):
        with pytest.raises(ConfigError, match=r"data: is required.*--paths DATA.*init DATA"):
            load_settings([], _options())
        with pytest.raises(ConfigError, match="given twice"):
            load_settings(["in"], _options() | {"cfg__data__paths": ("other",)})
        with pytest.raises(ConfigError, match="one configuration at a time"):
            load_settings(["a.yaml", "b.yaml"], _options())

    @pytest.mark.parametrize("verb", ["plan", "profile"])
    def test_plan_and_profile_take_it_too(self, verb, data):
        more = () if verb == "profile" else FAST
        assert "400 rows" in run(verb, data, "--columns", "x,y", *more)

    def test_score_takes_it_too(self, data, fitted):
        folder, _ = fitted
        output = run("score", data / "a.parquet", "--columns", "x,y", "--executor", "serial", "--folder", folder)
        assert "400 rows scored into 2 components" in output


class TestJson:
    def test_fit_prints_one_document_with_the_model_and_the_table(self, fitted):
        folder, document = fitted
        model = load_model(folder / "model.gmm")

        assert document["chosen"] == "diag-2"
        np.testing.assert_array_equal(document["model"]["means"], model.means_)
        assert document["model"]["criteria"]["bic"] == model.criteria.bic == document["table"][0]["bic"]
        assert document["files"]["model"] == str(folder / "model.gmm")

    def test_the_other_verbs_print_one_document(self, data, fitted):
        folder, _ = fitted
        inspected = json.loads(run("inspect", folder / "model.gmm", "--json"))
        assert inspected["digest"] == load_model(folder / "model.gmm").digest
        planned = json.loads(run("plan", data, "--columns", "x,y", *FAST, "--json"))
        assert (planned["rows"], planned["candidates"]) == (400, 1)
        profiled = json.loads(run("profile", data, "--json"))
        assert profiled["columns"]["same"]["sd"] == 0.0
        scored = json.loads(
            run("score", data, "--columns", "x,y", "--executor", "serial", "--folder", folder, "--json")
        )
        assert scored["scored"]["rows_out"] == 400

    @pytest.mark.slow
    def test_report_prints_one_document_and_writes_the_page(self, fitted):
        folder, _ = fitted
        assert json.loads(run("report", folder, "--json"))["files"]["report"] == str(folder / "report.html")

    @pytest.mark.long
    def test_a_flow_prints_one_document_and_nothing_else(self, data, tmp_path):
        command = [sys.executable, "-m", "stream_gmm", "run", data, "--columns", "x,y", *FAST, "--folder", tmp_path]
        done = subprocess.run(
            [*command, "--json"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["scored"]["rows_out"] == 400

    def test_what_json_cannot_hold_is_null(self):
        from stream_gmm.cli.output import make_plain

        values = {"a": np.array([1.0, np.nan]), "b": float("-inf"), "c": np.int64(3), "token": "x"}
        assert make_plain(values) == {"a": [1.0, None], "b": None, "c": 3, "token": "***"}


def test_quiet_prints_nothing_on_success_and_errors_all_the_same(data, fitted, tmp_path):
    folder, _ = fitted
    assert run("fit", data, "--columns", "x,y", *FAST, "--folder", tmp_path / "r", "--quiet") == ""
    assert run("inspect", folder / "model.gmm", "-q") == ""
    assert "cannot read the model file" in run("inspect", "no.gmm", "-q", code=ModelFileError.exit_code)


class TestHelp:
    def test_options_stand_under_their_section(self):
        output = run("sweep", "--help")
        heads = ["Options of this command:", "data: Which rows", "sweep: Which candidates", "em: How to fit",
                 "cluster:", "output: Where results go", "What is printed:", "Examples:"]  # fmt: skip
        places = [output.index(head) for head in heads]
        assert places == sorted(places)
        assert output.index("em: How to fit") < output.index("--em.tol") < output.index("cluster:")

    def test_commands_stand_in_groups(self):
        output = run("--help")
        for title, names in COMMANDS.items():
            assert f"{title}:" in output
            for name in names:
                assert name in cli.commands
                assert re.search(rf"^  {name} ", output, re.MULTILINE)

    def test_every_example_is_understood(self, monkeypatch):
        for name, lines in EXAMPLES.items():
            for line in lines:
                program, verb, *arguments = shlex.split(line.split(" > ")[0])
                assert (program, verb) == ("stream-gmm", name)
                command = cli.commands[verb]
                with click.Context(command, info_name=verb) as context:
                    command.parse_args(context, arguments)


class TestInit:
    def test_the_configuration_holds_every_key_and_runs(self, data, tmp_path):
        target = tmp_path / "job.yaml"
        assert "stream-gmm run" in run("init", data, "--output", target)
        text = target.read_text()

        config = load_config(target)
        assert config.data.paths == [str(data)]
        assert config.data.columns == ["x", "y"]
        assert (config.name, config.output.folder) == ("job", "runs/job"), "two jobs share nothing"
        assert "Left out, because it is constant: same" in text
        for dotted, field in config_keys().items():
            assert re.search(rf"^ *(# )?{dotted.rpartition('.')[2]}:", text, re.MULTILINE)
            words = " ".join(line.lstrip(" #") for line in text.splitlines())
            assert str(field.description) in words
        assert "exists" in run("init", data, "--output", target, code=2)
        assert target.read_text() == text
        run("init", data, "--output", target, "--force")

    def test_every_key_can_be_switched_on(self, data, tmp_path):
        run("init", data, "--output", tmp_path / "job.yaml")
        text = (tmp_path / "job.yaml").read_text()
        keys = {key.rpartition(".")[2] for key in config_keys()}
        lines = [re.sub(rf"^( *)# ({'|'.join(keys)}):(?= )", r"\1\2:", line) for line in text.splitlines()]
        lines = [re.sub(r"^# (\w+):$", r"\1:", line) for line in lines]
        content = yaml.safe_load("\n".join(lines))
        found = {f"{s}.{k}" for s, v in content.items() if isinstance(v, dict) for k in v}
        assert found | {"name"} == set(config_keys())

    def test_a_column_that_numbers_the_rows_is_left_out(self, tmp_path):
        rng = np.random.default_rng(0)
        columns = {
            "id": rng.permutation(1000),
            "key": rng.choice(10**6, 1000, replace=False),
            "count": rng.poisson(9, 1000),
            "x": rng.normal(size=1000),
        }
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        run("init", tmp_path / "a.parquet", "--output", tmp_path / "job.yaml")
        text = (tmp_path / "job.yaml").read_text()
        assert yaml.safe_load(text)["data"]["columns"] == ["count", "x"]
        assert "seems to number the rows: key" in text
        assert "are not fitted: id (whole numbers, by its name an identifier)" in text

    def test_missing_values_are_dropped(self, tmp_path):
        pq.write_table(pa.table({"x": [1.0, None, 3.0]}), tmp_path / "a.parquet")
        run("init", tmp_path / "a.parquet", "--output", tmp_path / "job.yaml")
        text = (tmp_path / "job.yaml").read_text()
        assert yaml.safe_load(text)["data"]["missing"] == "drop"
        assert "1 values that cannot be used" in text


class TestDoctor:
    def test_every_check_passes_and_the_known_answer_is_found(self, data, tmp_path):
        document = json.loads(run("doctor", data, "--executor", "serial", "--folder", tmp_path, "--json"))
        checks = {c["name"]: c for c in document["checks"]}

        assert document["passed"]
        assert list(checks) == ["versions", "machine", "storage", "known answer", "compiled code", "cluster", "data"]
        assert f"numpy {np.__version__}" in checks["versions"]["found"]
        assert "400 rows in 1 files" in checks["data"]["found"]
        assert list(tmp_path.iterdir()) == []

    def test_without_anything_it_checks_the_installation(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        output = run("doctor")
        assert output.count("ok ") == 5
        assert "FAILED" not in output

    @pytest.mark.long
    def test_compiling_in_advance_leaves_little_for_a_fit(self, tmp_path):
        run("doctor", "--compile", "--executor", "serial", "--folder", tmp_path)
        functions = kernels.feature_pass, whitening.full_pass, score_kernels.score_full, few_rows_loops.climb
        known = [len(f.signatures) for f in functions]
        assert min(known) >= 1
        rows = np.random.default_rng(1).normal(size=(500, 5))
        sg.fit(rows, 3, "full", client=SerialExecutor(), sample_rows=200).predict(rows)
        assert [len(f.signatures) for f in functions] == known

    def test_a_wrong_answer_is_a_failure(self, tmp_path, monkeypatch):
        monkeypatch.setattr("stream_gmm.cli.doctor.KNOWN_LOGLIK", -2.0)
        output = run("doctor", "--folder", tmp_path, code=1)
        assert "FAILED known answer: a fit with a known answer is wrong by" in output

    def test_missing_data_end_in_their_exit_code(self, tmp_path):
        output = run("doctor", tmp_path / "no", "--executor", "serial", "--folder", tmp_path, code=3)
        assert "FAILED data: there is no file or folder" in output


def test_the_schema_accepts_what_is_accepted_and_names_what_is_not(data):
    schema = json.loads(run("schema"))
    assert schema == make_schema()
    checker = jsonschema.Draft202012Validator(schema)
    checker.check_schema(schema)

    (example,) = (b for b in read_blocks("docs/how-to/own-data.md") if b.language == "yaml")
    assert not list(checker.iter_errors(yaml.safe_load(example.text)))
    assert not list(checker.iter_errors(yaml.safe_load(run("init", data, "--output", "-"))))
    assert not list(checker.iter_errors({"data": {"paths": "in", "columns": "x"}, "sweep": {"n_components": 3}}))
    for wrong in ({"paths": 5}, {"paths": "in", "cols": 1}, {}):
        assert list(checker.iter_errors({"data": wrong}))
    assert list(checker.iter_errors({"data": {"paths": "in"}, "swep": {}}))


class TestProgressInALog:
    def test_a_stage_that_begins_says_nothing_and_a_time_left_is_known_or_absent(self, capsys, monkeypatch):
        monkeypatch.setattr("stream_gmm.cli.display.LINE_SECONDS", 0.0)
        lines = LogLines()
        lines(Progress("profile", 1, 0, 0, 100, "rows", 0.0, float("inf")))
        assert capsys.readouterr().out == ""
        lines(Progress("profile", 1, 0, 50, 100, "rows", 10.0, 300.0))
        assert " 50 % · 10 rows/s · 5 min left" in capsys.readouterr().out
        lines(Progress("fit", 1, 3, 100, 100, "rows", 10.0, 0.0))
        assert re.search(r"fit 1 +100 % · 3 live · 10 rows/s\n", capsys.readouterr().out)

    @pytest.mark.slow
    def test_a_real_process_prints_each_warning_once_and_never_inf(self, data, tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "stream_gmm", "fit", data, "--columns", "x,y", *FAST, "--folder", tmp_path / "r"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        output = done.stdout + done.stderr
        warnings = [line for line in output.splitlines() if "warning" in line.lower()]

        assert "inf s left" not in output
        assert len(warnings) == len(set(warnings))
        assert "in 1 passes" not in output
        assert "pass over the data" in output or "passes over the data" in output


def test_help_answers_without_what_is_slow_to_import():
    code = (
        "import sys; from stream_gmm.cli.commands import cli; cli(['--help'], standalone_mode=False); "
        "cli(['history', '--help'], standalone_mode=False); "
        "print(*sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "Every night" in done.stdout
    assert "List the versions of a run folder" in done.stdout
    assert not {"numpy", "pydantic", "pyarrow", "numba", "scipy", "rich", "yaml"} & set(done.stderr.split())


def test_every_number_of_a_profile_stands_below_a_heading(data):
    lines = run("profile", data, "--columns", "x,y").splitlines()
    (heads,) = (line for line in lines if line.startswith("┃"))
    rows = [line for line in lines if line.startswith("│")]

    assert len(rows) == 2
    assert {len(row.split("│")) for row in rows} == {len(heads.split("┃"))}
    assert all(head.strip() for head in heads.split("┃")[1:-1])
