"""The live page follows a run from its ledger, reloads while it goes on, and ends with the report."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from stream_gmm.core.fit.em import Outcome
from stream_gmm.errors import InputDataError
from stream_gmm.io.store.lease import hold_folder
from stream_gmm.pipeline.sweep.ledger import Entries
from stream_gmm.report.live import follow_run, read_newest_entries, render_live
from tests.report.test_page import Page


@pytest.fixture(scope="module")
def entries(run_folder):
    return read_newest_entries(run_folder)


@pytest.mark.slow
def test_a_page_is_written_while_the_run_goes_on_and_the_report_at_its_end(run_folder):
    run = hold_folder(run_folder, run="night")
    run.__enter__()
    seen: list[str] = []
    ended: list[Path] = []

    def wait(seconds):
        seen.append((run_folder / "live.html").read_text())
        if len(seen) == 2:
            run.__exit__(None, None, None)

    report = follow_run(run_folder, 7.0, ended.append, wait)
    assert report == run_folder / "report.html"
    assert ended == [run_folder / "live.html"]
    assert len(seen) == 2
    page = Page(seen[0]).root
    assert page.find("meta", **{"http-equiv": "refresh"})[0].attributes["content"] == "7"
    assert page.find("h1")[0].words == "night"
    assert "://" not in seen[0]
    last = Page((run_folder / "live.html").read_text()).root
    assert not last.find("meta", **{"http-equiv": "refresh"})
    assert last.find("a", href="report.html")


def test_the_page_says_how_far_every_candidate_has_come(entries):
    page = Page(render_live(entries, name="night", every=5.0)).root
    rows = {tr.children[0].words: [td.words for td in tr.children] for tr in page.find("tbody")[0].find("tr")}
    assert set(rows) == {spec.name for spec in entries.grid}
    best = page.find("tbody")[0].find("tr")[0].children[0].words
    for spec, state in entries.states.items():
        if state.history:
            assert f"{state.history[-1]:.6f}" == rows[spec.name][3]
    n = entries.profile.moments.rows
    bics = {
        spec.name: -2 * n * s.history[-1] + s.params.n_parameters * math.log(n)
        for spec, s in entries.states.items() if s.history
    }  # fmt: skip
    assert best == min(bics, key=lambda name: bics[name])
    assert f"of {len(rows)} candidates are still in the race" in page.words
    assert page.find("svg")


def test_of_several_starts_of_a_candidate_the_page_shows_the_best(entries):
    spec, state = next((c, s) for c, s in entries.states.items() if s.history)
    pruned = replace(state, outcome=Outcome.PRUNED)
    better = replace(
        state, outcome=None, history=(*state.history, state.history[-1] + 1.0),
        objectives=(*state.objectives, state.objectives[-1] + 1.0),
    )  # fmt: skip
    at_work = replace(entries, states=entries.states | {spec: pruned}, restarts={spec: (better,)})
    page = Page(render_live(at_work, name="night")).root
    rows = {tr.children[0].words: [td.words for td in tr.children] for tr in page.find("tbody")[0].find("tr")}

    assert rows[spec.name][1] == "in the full passes"
    assert rows[spec.name][3] == f"{better.history[-1]:.6f}"


def test_before_the_first_read_ends_there_is_only_a_sentence():
    page = Page(render_live(Entries(), name="night", every=5.0)).root
    assert "being read for the first time" in page.words
    assert not page.find("table")


def test_without_a_run_there_is_nothing_to_follow(tmp_path):
    with pytest.raises(InputDataError, match="no run is writing to"):
        follow_run(tmp_path)
