"""Advice is given where it is needed, and its command is one that the command line takes."""

from __future__ import annotations

import shlex
from dataclasses import replace

import numpy as np
import pytest

from stream_gmm.cli.commands import cli
from stream_gmm.cli.options import load_settings
from stream_gmm.core.fit.em import Outcome
from stream_gmm.pipeline.job.repeat import make_command
from stream_gmm.report.advice import give_advice, is_copied, list_cautions, measure_tails
from stream_gmm.report.contents import read_contents


@pytest.fixture(scope="module")
def run(run_folder):
    found = read_contents(run_folder)
    rng = np.random.default_rng(0)
    # Rows that the model describes, and more values of K than the chosen one: there is nothing to advise.
    rows = found.model.sample(3000, random_state=0)[0]
    larger = dict(found.chosen) | {
        "candidate": "full-4",
        "n_components": 4,
        "chosen": False,
        "delta": 99.0,
        "delta_se": 1.0,
    }
    return replace(found, rows=rng.permutation(rows), table=[*found.table, larger])


def parse(command):
    """Return the configuration that a command runs with, as the command line reads it."""
    program, verb, *arguments = shlex.split(command)
    assert program == "stream-gmm"
    context = cli.commands[verb].make_context(verb, arguments, resilient_parsing=False)
    given = context.params.pop("given")
    return load_settings(given, context.params).model_dump(mode="json")


def find(run, title):
    (advice,) = [a for a in give_advice(run) if a.title == title]
    return advice, parse(advice.command) if advice.command else None


def change_config(run, section, **values):
    config = dict(run.config) | {section: dict(run.config[section]) | values}
    return replace(run, record=dict(run.record) | {"config": config})


def test_no_advice_where_nothing_is_the_matter(run):
    assert not give_advice(run)


def test_the_command_to_repeat_a_run_gives_its_configuration(run):
    assert parse(make_command("sweep", run.config)) == run.config
    other = change_config(
        change_config(run, "data", exclude_columns=["a b", "c"], filter="x > 1 and y == 'A'", missing="drop"),
        "em", tol=1e-3, noise=True, resolution={"height": 0.5}, holdout=0.0,
    )  # fmt: skip
    assert parse(make_command("sweep", other.config)) == other.config
    earlier = {name: part for name, part in run.config.items() if name != "monitor"}
    assert parse(make_command("sweep", earlier)) == run.config


def test_largest_k(run):
    ks = [row for row in run.table if row["n_components"] <= 3]
    _, config = find(replace(run, table=ks), "More components may be better")
    assert config["sweep"]["n_components"] == [2, 3, 4, 5, 6]
    assert config["data"] == run.config["data"]
    warned = dict(run.record) | {"warnings": ["the chosen number of components, 3, is the largest tried: x", "other"]}
    again = replace(run, record=warned, table=ks)
    assert list_cautions(again, give_advice(again)) == ["other"]
    assert len(list_cautions(again, ())) == 2


def test_near_ties(run):
    rival = dict(run.table[-1]) | {"delta": 3.0, "delta_se": 2.0, "outcome": "CONVERGED"}
    advice, config = find(replace(run, table=[*run.table[:-1], rival]), "Other candidates are as good")
    assert "full-4 cannot be distinguished" in advice.text
    assert advice.command.startswith("stream-gmm bootstrap ")
    assert config == run.config


def test_not_converged(run):
    model = replace(run.model, outcome=Outcome.MAX_PASSES)
    _, config = find(replace(run, model=model), "The chosen model has not converged")
    assert config["em"]["max_passes"] == 3 * run.config["em"]["max_passes"]


def test_repeated_values(run):
    rows = run.rows.copy()
    rows[:300, 1] = 7.0
    advice, config = find(replace(run, rows=rows), "Many rows share one value")
    assert "width = 7 (10% of the rows)" in advice.text
    assert config["em"]["resolution"] == "auto"


def test_components_that_copy_a_label(run):
    label = run.model.predict(run.rows)
    rows = run.rows.copy()
    rows[:, 2] = np.where(label == 2, 0.0, 1.0)  # known once the component is known
    model = replace(run.model, params=run.model.params)
    object.__setattr__(model, "scores", lambda _: run.model.scores(run.rows))
    copied = replace(run, rows=rows, model=model)
    advice, config = find(copied, "Components copy a column")
    assert "grams has 2 different whole numbers" in advice.text
    assert config["data"]["exclude_columns"] == ["grams"]
    warned = dict(run.record) | {"warnings": ["few different whole numbers, by column: grams (2)", "other"]}
    assert list_cautions(replace(copied, record=warned), give_advice(copied)) == ["other"]


def test_a_column_is_copied_only_if_components_tell_its_values_better_than_a_guess():
    component, rng = np.repeat([0, 1, 2], 100), np.random.default_rng(0)
    assert is_copied(component, (component == 1).astype(float))
    assert is_copied(component, np.append(component[:-1], np.nan))
    assert not is_copied(component, rng.integers(0, 2, 300).astype(float))
    assert not is_copied(component, (np.arange(300) < 20).astype(float))  # nearly all rows have the same value
    assert not is_copied(np.full(300, -1), (component == 1).astype(float))  # no row is in any component


def test_collapsed_components(run):
    broken = dict(run.table[-1]) | {"outcome": "DEGENERATE"}
    advice, config = find(replace(run, table=[*run.table[:-1], broken]), "Components have collapsed")
    assert "full-4" in advice.text
    assert config["em"]["resolution"] == "auto"


def test_heavy_tails(run):
    assert measure_tails(run.model, run.rows) == pytest.approx([1.0] * 3, abs=0.15)
    centres = run.model.means_[run.model.predict(run.rows)]
    stretch = np.random.default_rng(0).standard_t(3, size=(len(run.rows), 1))
    rows = centres + np.abs(stretch) * (run.rows - centres)
    advice, config = find(replace(run, rows=rows), "Heavy tails")
    assert "remote rows" in advice.text
    assert config["em"]["noise"] is True
    _, config = find(replace(change_config(run, "em", noise=True), rows=rows), "Heavy tails")
    assert config["sweep"]["criterion"] == "icl"


def test_values_at_the_end_of_a_range(run):
    rows = run.rows.copy()
    rows[:100, 0] = -200.0
    rows[:1800, 1] = -200.0
    advice, config = find(replace(run, rows=rows), "Values at the end of a range")
    assert "height = -200, width = -200" in advice.text
    assert "In width most rows have it" in advice.text
    assert config["data"]["sentinel"] == {"height": -200.0}
    assert config["data"]["missing"] == "marginalise"
    assert config["data"]["exclude_columns"] == ["width"]
    rows[:20, 2] = -200.0  # fewer than tell by themselves, but the same mark
    rows[20:60, 2] = rows[20, 2]
    _, config = find(replace(run, rows=rows), "Values at the end of a range")
    assert config["data"]["sentinel"] == {"height": -200.0, "grams": -200.0}
    assert not [a for a in give_advice(replace(run, rows=rows)) if a.title == "Many rows share one value"]


def test_a_component_of_outliers(run):
    share = np.quantile(run.model.score_samples(run.rows), 0.9)
    advice, config = find(replace(run, model=replace(run.model, threshold=float(share))), "A component of outliers")
    assert "component 0, 1, 2" in advice.text
    assert config["em"]["noise"] is True


def test_long_tails(run):
    rows = run.rows.copy()
    rows[:, 2] = np.exp(np.random.default_rng(0).normal(size=len(rows)))
    advice, config = find(replace(run, rows=rows), "Heavy tails")
    assert advice.text.startswith("grams reaches far to the right")
    assert config["em"]["transforms"] == "auto"


def test_small_components(run):
    few = replace(run.model, criteria=replace(run.model.criteria, n_rows=100.0))
    _, config = find(replace(run, model=few), "Very small components")
    assert {"spherical", "tied"} <= set(config["sweep"]["covariance_type"])


def test_columns_that_follow_from_others(run):
    rows = run.rows.copy()
    rows[:, 2] = rows[:, 0] + rows[:, 1]
    _, config = find(replace(run, rows=rows), "Columns follow from others")
    assert config["data"]["exclude_columns"] == ["grams"]


def test_drift(run):
    drifted = dict(run.monitored[-1]) | {"status": "drifted"}
    _, config = find(replace(run, monitored=[drifted]), "The rows have drifted")
    assert config["output"]["publish_as"] == "challenger"
    assert config["sweep"]["match_to"] == "previous"


def test_rows_that_are_not_scored(run):
    record = {k: v for k, v in run.record.items() if k != "scored"}
    advice, config = find(replace(run, record=record), "The rows are not scored yet")
    assert advice.command.startswith("stream-gmm score ")
    assert config == run.config
