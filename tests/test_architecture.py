"""The dependency rule and the shape of the house, executed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "stream_gmm").rglob("*.py"), *(ROOT / "flows").rglob("*.py")])
ROOMS = sorted(p.parent for p in (ROOT / "stream_gmm").rglob("__init__.py"))
FOLDERS = ("stream_gmm", "flows", "tests", "benchmarks", "configs", "docs", ".ci")
FRAGMENTS_ALLOWED = 29
"""Private functions of three lines or fewer with a single call; lower this number when one goes."""


SLOW_TO_IMPORT = {
    "dask", "distributed", "matplotlib", "numba", "numpy", "pandas", "prefect", "pyarrow", "pydantic", "rich",
    "scipy", "sklearn", "yaml",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("stream_gmm", {"dask", "distributed", "pyarrow", "prefect", "numba", "matplotlib", "sklearn", "numpy"}),
        ("stream_gmm.core.fit.em", {"dask", "distributed", "pyarrow", "prefect", "pydantic", "matplotlib"}),
        ("stream_gmm.core.online", {"dask", "pyarrow", "sklearn"}),
        ("stream_gmm.execute.threads", {"dask", "distributed", "pyarrow", "prefect"}),
        ("stream_gmm.io.sink.scores", {"dask", "distributed", "prefect", "matplotlib"}),
        ("stream_gmm.pipeline.job.stages", {"dask", "distributed", "prefect", "matplotlib", "pandas"}),
        ("stream_gmm.cli.commands", SLOW_TO_IMPORT),
        ("stream_gmm.pipeline.job.config", {"dask", "distributed", "prefect", "matplotlib", "sklearn", "pandas"}),
    ],
)
def test_a_fresh_interpreter_imports_no_more_than_the_layer_may(module, banned):
    code = f"import sys, {module}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert not banned & set(loaded.stdout.split())


def test_no_file_has_more_than_350_lines():
    too_long = {p.name: n for p in SOURCES if (n := len(p.read_text().splitlines())) > 350}

    assert not too_long


def test_no_room_holds_more_than_twelve_files():
    crowded = {str(room.relative_to(ROOT)): n for room in ROOMS if (n := len(_files_of(room))) > 12}

    assert not crowded


def test_every_room_says_in_three_lines_what_lives_there_what_it_imports_and_where_to_begin():
    too_short = [
        str(room.relative_to(ROOT))
        for room in ROOMS
        if len((ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or "").splitlines()) < 3
    ]

    assert not too_short


def _files_of(room: Path) -> list[Path]:
    return [p for p in room.glob("*.py") if p.name != "__init__.py"]


def test_a_private_function_of_three_lines_or_fewer_is_called_more_than_once():
    """A fragment that is called once makes the reader jump for nothing; a few earn their name."""
    fragments = [name for path in SOURCES for name in _fragments_of(path)]

    assert len(fragments) <= FRAGMENTS_ALLOWED, fragments


def _fragments_of(path: Path) -> list[str]:
    """Return the undecorated private functions with a body of at most three lines and one use, which is a call."""
    tree = ast.parse(path.read_text())
    uses = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    calls = Counter(n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name))
    return [
        f"{path.relative_to(ROOT)}:{f.name}"
        for f in tree.body
        if isinstance(f, ast.FunctionDef) and f.name.startswith("_") and not f.decorator_list
        if uses[f.name] == calls[f.name] == 1 and _lines_of_body(f) <= 3
    ]


def _lines_of_body(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_path_that_a_document_names_exists(document):
    """A path is a word in backticks that begins with a folder of the repository: `stream_gmm/core/stats.py`."""
    if not (ROOT / document).exists():
        pytest.skip(f"{document} has not been written yet")
    words = re.findall(r"`([\w./-]+)[^`\s]*`", (ROOT / document).read_text())
    named = {w for w in words if "/" in w and w.split("/")[0] in FOLDERS}

    assert named
    assert not [w for w in sorted(named) if not (ROOT / w).exists()]


def test_nothing_branches_on_the_covariance_type():
    found = [p.name for p in SOURCES if "covariance_type ==" in p.read_text()]

    assert not found


def test_no_pickle_is_ever_loaded():
    for path in SOURCES:
        text = path.read_text()
        assert "pickle.load" not in text, path
        assert "yaml.load(" not in text, path
