"""The dependency rule and the budgets of style, executed."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "stream_gmm").rglob("*.py"), *(ROOT / "flows").rglob("*.py")])


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("stream_gmm", {"dask", "distributed", "pyarrow", "prefect", "numba", "matplotlib"}),
        ("stream_gmm.core.fit.em", {"dask", "distributed", "pyarrow", "prefect", "pydantic", "matplotlib"}),
        ("stream_gmm.execute.threads", {"dask", "distributed", "pyarrow", "prefect"}),
        ("stream_gmm.io.sink.scores", {"dask", "distributed", "prefect", "matplotlib"}),
        ("stream_gmm.pipeline.job.stages", {"dask", "distributed", "prefect", "matplotlib"}),
        ("stream_gmm.cli.commands", {"dask", "distributed", "prefect", "matplotlib", "sklearn"}),
    ],
)
def test_a_fresh_interpreter_imports_no_more_than_the_layer_may(module, banned):
    code = f"import sys, {module}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert not banned & set(loaded.stdout.split())


def _functions():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = ast.get_docstring(node, clean=False)
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{path.name}:{node.name}", lines - (len(doc.splitlines()) if doc else 0)


def test_functions_are_small():
    sizes = dict(_functions())

    assert statistics.median(sizes.values()) <= 10
    assert sum(s > 40 for s in sizes.values()) <= 4, {n: s for n, s in sizes.items() if s > 40}


def test_files_have_one_idea():
    too_long = {p.name: n for p in SOURCES if (n := len(p.read_text().splitlines())) > 350}

    assert not too_long


def test_nothing_branches_on_the_covariance_type():
    found = [p.name for p in SOURCES if "covariance_type ==" in p.read_text()]

    assert not found


def test_no_pickle_is_ever_loaded():
    for path in SOURCES:
        text = path.read_text()
        assert "pickle.load" not in text, path
        assert "yaml.load(" not in text, path
