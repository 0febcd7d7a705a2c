"""The page needs nothing else, can be read by everyone, and shows what the run folder holds."""

from __future__ import annotations

import base64
import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow.parquet as pq
import pytest

from stream_gmm.report.colours import PAPERS, SCHEMES, STEPS, TEXTS, measure_contrast, name_grey
from stream_gmm.report.html import write_report

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Element:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, dict(attributes), parent
        self.children, self.text = [], ""

    def walk(self):
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, tag, **attributes):
        return [e for e in self.walk() if e.tag == tag and attributes.items() <= e.attributes.items()]

    @property
    def words(self):
        return " ".join("".join([self.text, *(f" {c.words}" for c in self.children)]).split())


class Page(HTMLParser):
    """The elements of a page; every one that is opened must be closed."""

    def __init__(self, content):
        super().__init__()
        self.root = self.place = Element("root", {}, None)
        self.feed(content)
        assert self.place is self.root

    def handle_starttag(self, tag, attributes):
        element = Element(tag, attributes, self.place)
        self.place.children.append(element)
        if tag not in VOID:
            self.place = element

    def handle_startendtag(self, tag, attributes):
        self.place.children.append(Element(tag, attributes, self.place))

    def handle_endtag(self, tag):
        assert tag == self.place.tag, f"</{tag}> in <{self.place.tag}>"
        self.place = self.place.parent

    def handle_data(self, text):
        self.place.text += text


@pytest.fixture(scope="session")
def content(run_folder):
    return write_report(run_folder).read_text()


@pytest.fixture(scope="session")
def page(content):
    return Page(content).root


def test_no_request_leaves_the_page(content, page, run_folder):
    assert "://" not in content
    policy = page.find("meta", **{"http-equiv": "Content-Security-Policy"})[0].attributes["content"]
    assert policy.startswith("default-src 'none'")
    for element in page.walk():
        for name in ("href", "src"):
            address = element.attributes.get(name, "#")
            assert address.startswith(("#", "data:")) or (run_folder / address).exists(), address
    assert {"scored", "model.gmm", "sweep.parquet", "monitor.parquet"} <= {
        a.attributes["href"] for a in page.find("a")
    }


def test_ids_are_unique_and_every_reference_finds_one(page):
    ids = [e.attributes["id"] for e in page.walk() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in page.walk():
        for name in ("aria-labelledby", "href"):
            for reference in element.attributes.get(name, "").split():
                if name == "aria-labelledby" or reference.startswith("#"):
                    assert reference.lstrip("#") in ids


def test_pictures_have_titles_and_descriptions_and_captions(page):
    pictures = page.find("svg")
    assert len(pictures) > 12
    for svg in pictures:
        assert svg.attributes["role"] == "img"
        title, text = svg.children[0], svg.children[1]
        assert (title.tag, text.tag) == ("title", "desc")
        assert len(title.words) > 5
        assert len(text.words) > 20
        assert svg.parent.find("figcaption")[0].words
    assert not page.find("img")


def test_headings_go_down_one_level_at_a_time_and_landmarks_are_there(page):
    levels = [int(e.tag[1]) for e in page.walk() if re.fullmatch("h[1-6]", e.tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(below <= above + 1 for above, below in zip(levels[:-1], levels[1:], strict=True))
    for tag in ("header", "nav", "main", "footer"):
        assert len(page.find(tag)) == 1
    assert page.find("html", lang="en")


def test_what_scrolls_can_be_reached_by_keyboard_and_has_a_name(page):
    scrolling = [e for e in page.walk() if "scroll" in e.attributes.get("class", "").split()]
    assert len(scrolling) > 5
    for element in scrolling:
        assert element.attributes["tabindex"] == "0"
        assert "aria-label" in element.attributes or "aria-labelledby" in element.attributes


def test_text_has_a_contrast_of_at_least_four_and_a_half_in_both_schemes():
    assert measure_contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert measure_contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    for colours in SCHEMES.values():
        for text in TEXTS:
            for paper in PAPERS:
                assert measure_contrast(colours[text], colours[paper]) >= 4.5, (text, paper)


def test_greys_of_drawings_follow_the_scheme_and_colours_do_not():
    assert name_grey("#000000") == "var(--ink)"
    assert name_grey("#ffffff") == "var(--paper)"
    assert name_grey("#808080") == f"var(--grey-{STEPS // 2})"
    assert name_grey("#0072b2") == "#0072b2"


def test_every_colour_that_is_used_is_defined(content):
    defined = set(re.findall(r"--([\w-]+):", content))
    assert set(re.findall(r"var\(--([\w-]+)\)", content)) <= defined
    assert content.count("prefers-color-scheme:dark") == 1


def test_names_from_the_data_are_text(content, page):
    assert "<script>alert" not in content
    assert page.find("h1")[0].words == "boxes <script>alert(1)</script>"


def test_csv_holds_what_the_table_shows_with_all_digits(page, run_folder):
    tables = {t.attributes["id"]: t for t in page.find("table") if "id" in t.attributes}
    links = {a.attributes["download"]: a.attributes["href"] for a in page.find("a") if "download" in a.attributes}
    assert {"candidates", "fits", "components", "means", "strangest", "monitor", "data"} == set(tables)
    for name, table in tables.items():
        text = base64.b64decode(links[f"{name}.csv"].split(",", 1)[1]).decode()
        head, *rows = csv.reader(io.StringIO(text))
        assert head == [th.words for th in table.find("thead")[0].find("th")]
        shown = table.find("tbody")[0].find("tr")
        assert len(rows) == len(shown)
        for row, tr in zip(rows, shown, strict=True):
            assert row == [cell.attributes["data-value"] for cell in tr.children]
    written = pq.read_table(run_folder / "sweep.parquet").to_pylist()
    text = base64.b64decode(links["candidates.csv"].split(",", 1)[1]).decode()
    assert {(r["candidate"], r["BIC"]) for r in csv.DictReader(io.StringIO(text)) if r["BIC"]} == {
        (r["candidate"], repr(r["bic"] if r["bic"] is not None else r["bic_estimate"])) for r in written
    }


def test_the_strangest_rows_are_those_of_lowest_density_with_what_is_strange(page, run_folder):
    from stream_gmm.report.contents import read_contents

    run = read_contents(run_folder)
    density = run.model.score_samples(run.rows)
    rows = page.find("table", id="strangest")[0].find("tbody")[0].find("tr")
    assert [tr.children[0].words for tr in rows] == [f"{value:.2f}" for value in np.sort(density)[:10]]
    for tr, i in zip(rows, np.argsort(density)[:10], strict=True):
        k = run.model.predict(run.rows[i : i + 1])[0]
        away = (run.rows[i] - run.model.means_[k]) / np.sqrt(np.diag(run.model.params.dense_covariances[k]))
        j = np.abs(away).argmax()
        assert tr.children[2].words.startswith(f"{run.model.columns[j]} = {run.rows[i, j]:.6g} ({away[j]:+.1f} sd)")


def test_first_comes_a_sentence_and_then_the_figures_behind_it(page, run_folder):
    header = page.find("header")[0]
    assert re.match("3 components with (full|diag) covariances describe 2,1.. rows of 3 columns best by BIC of 6 "
                    "candidates; the next best, ", header.find("p")[0].words)  # fmt: skip
    facts = {dt.words: dt.parent for dt in header.find("dt")}
    assert list(facts) == [
        "components (K)", "evidence", "rows used", "outliers", "drift", "fitted on", "data", "version"
    ]  # fmt: skip
    rows = pq.read_table(run_folder / "sweep.parquet").to_pylist()
    nearest = min((r for r in rows if r["delta"] is not None and not r["chosen"]), key=lambda r: r["delta"])
    assert f"{nearest['delta']:+,.1f} ± {nearest['delta_se']:,.1f}" in facts["evidence"].words
    assert nearest["candidate"] in facts["evidence"].words
    assert "none" in facts["drift"].words
    assert "v1 of 1" in facts["version"].words


def test_the_chosen_candidate_is_first_and_outcome_and_reason_are_beside_it(page):
    table = page.find("table", id="candidates")[0]
    head = [th.words for th in table.find("th", scope="col")]
    assert head.index("outcome") < 6 > head.index("reason")
    first = table.find("tbody")[0].find("tr")[0]
    assert first.attributes["class"] == "chosen"
    assert "chosen" in first.words


def test_a_report_without_scores_monitor_or_rivals_says_so(run_folder):
    from dataclasses import replace

    from stream_gmm.report.contents import read_contents
    from stream_gmm.report.html import render

    run = read_contents(run_folder)
    record = {k: v for k, v in run.record.items() if k != "scored"}
    alone = replace(run, record=record, monitored=(), table=[dict(run.chosen) | {"gain": None, "gain_se": None}])
    words = Page(render(alone)).root.words
    for part in ("no other candidate was tried", "not scored", "not monitored", "The rows are not scored yet"):
        assert part in words
