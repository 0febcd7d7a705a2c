"""Files of every format version are read, and every key that is written is on the page about formats."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import stream_gmm as sg
from stream_gmm.cli.commands import cli
from stream_gmm.io.store.models import FORMAT, describe_model
from tests.oracles import DATA

GOLDEN = DATA / "golden"
FACTS = json.loads((GOLDEN / "models.json").read_text())
ROWS = {"a": [0.5, 3.0], "b": [0.25, 2.5], "flag": [1.0, 1.0]}
PAGE = (DATA.parents[1] / "docs" / "reference" / "formats.md").read_text()
WORDS = set(re.findall(r"`([\w]+)`", PAGE))


@pytest.mark.parametrize("name", sorted(FACTS))
def test_model_files_of_every_format_give_the_numbers_that_they_gave_when_they_were_written(name):
    model, facts = sg.load_model(GOLDEN / name), FACTS[name]
    rows = pa.table({c: ROWS[c] for c in model.input_columns})

    assert model.digest == facts["digest"]
    np.testing.assert_allclose(model.score_samples(rows), facts["log_density"], rtol=1e-12)
    np.testing.assert_allclose(model.predict_proba(rows), facts["proba"], atol=1e-12)
    assert model.training is not None
    np.testing.assert_allclose(model.training.find_ranks(model.score_samples(rows)), facts["rank"], atol=1e-12)
    text = GOLDEN / name.replace(".gmm", ".json")
    if text.exists():
        assert sg.from_json(text.read_text()).digest == facts["digest"]
        assert sg.from_json(text.read_text()).provenance == model.provenance


def test_there_is_a_golden_file_of_every_format():
    found = {describe_model(sg.load_model(path))[0] for path in GOLDEN.glob("*.gmm")}

    assert found == set(range(1, FORMAT + 1))
    for path in GOLDEN.glob("*.gmm"):
        _, header, arrays = describe_model(sg.load_model(path))
        assert {*header, *arrays} <= WORDS


@pytest.mark.slow
def test_every_key_of_a_run_is_explained(demo_folder, tmp_path):
    common = [str(demo_folder), "--columns", "x0,x1", "--folder", str(tmp_path / "r"), "--executor", "serial"]
    for command in (
        ["sweep", *common, "--n-components", "1:2", "--covariance-type", "full", "--quiet"],
        ["score", *common, "--quiet"],
        ["monitor", *common, "--period", "p"],
    ):
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    manifest = json.loads((tmp_path / "r" / "scored" / "_manifest.json").read_text())

    assert {*record, *record["data"]} <= WORDS
    assert {*manifest, *manifest["layout"], *manifest["outlier"], *manifest["parts"][0]} <= WORDS
    for name in ("sweep.parquet", "monitor.parquet"):
        assert set(pq.read_schema(tmp_path / "r" / name).names) <= WORDS, name
