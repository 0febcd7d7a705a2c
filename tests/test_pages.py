"""README.md and the pages in docs/: every command and snippet runs, and every link leads somewhere.

Pages whose commands need a Prefect server are followed in tests/flows/test_flow.py, where one runs.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.documents import (
    PAGES,
    ROOT,
    Reader,
    needs_prefect,
    read_blocks,
    read_commands,
    run_in_shell,
    start,
    starts_servers,
    stop,
)
from tests.servers import free_port

GENERATED = {"reference/settings.md", "reference/commands.md", "reference/python.md", "gallery.md", "benchmarks.md"}
"""Pages below docs that the build of the site makes (docs/hooks/pages.py)."""
WITH_CODE = [p for p in PAGES if any(b.runs and b.language in ("bash", "python", "yaml") for b in read_blocks(p))]


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in WITH_CODE if not needs_prefect(p) and not starts_servers(p)])
def test_every_command_and_snippet_of_a_page_runs(page, tmp_path, monkeypatch, no_screen, capsys):
    del no_screen, capsys
    for name in ("configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    Reader(tmp_path, monkeypatch).follow(page)


@pytest.fixture
def no_screen():
    """Draw without a screen, and close what a page has drawn."""
    import matplotlib

    matplotlib.use("Agg")
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def test_a_block_that_is_not_run_says_why_or_where_it_is():
    comment = re.compile(r"<!-- not run: (.+?) -->\n+```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
    for page in PAGES:
        text = (ROOT / page).read_text()
        assert text.count("<!-- not run:") == len(comment.findall(text)), page
        for why, _, block in comment.findall(text):
            if why.startswith("as in "):
                commands = read_commands(why.removeprefix("as in "))
                assert all(line in commands for line in block.splitlines()), (page, block)


@pytest.mark.slow
@pytest.mark.long
def test_the_commands_for_a_cluster_run(tmp_path):
    port = str(free_port())
    data, scheduler, worker, sweep = (c.replace("8786", port) for c in read_commands("docs/how-to/cluster.md"))
    run_in_shell(data.replace("100000", "5000"), tmp_path)
    started = [start(scheduler, tmp_path)]
    time.sleep(2)
    started.append(start(worker, tmp_path))
    try:
        assert "full" in run_in_shell(sweep.replace(" 1:4 ", " 2 "), tmp_path)
    finally:
        stop(*started[::-1])


def _anchors(path: Path) -> set[str]:
    """Return the anchors of a page: its headings as GitHub and the site write them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "docs/architecture.md", "benchmarks/README.md"])
def test_every_link_of_a_page_leads_somewhere(page):
    path = ROOT / page
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        there = (path.parent / target).resolve() if target else path
        on_site = str(there).removeprefix(f"{ROOT}/docs/")
        if "://" in target or on_site in GENERATED or on_site.startswith("gallery/"):
            continue
        assert there.exists(), f"{page}: {link}"
        if anchor and there.suffix == ".md":
            assert anchor in _anchors(there), f"{page}: {link}"
