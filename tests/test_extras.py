"""Packages that only an extra installs: the core works without them, and says which extra where one is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import stream_gmm as sg
from stream_gmm.errors import ConfigError, MissingPackageError
from stream_gmm.extras import EXTRAS, import_extra, is_installed

ROOT = Path(__file__).parent.parent


def _run_without(packages: set[str], *arguments: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in an interpreter in which these packages cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(packages)!r})); "
        "from stream_gmm.cli.commands import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(folder), **env},
    )  # fmt: skip


def test_every_extra_is_one_of_the_package():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    for package, extra in EXTRAS.items():
        assert any(re.match(rf"{package}(-skinny)?\b", requirement) for requirement in declared[extra]), package


def test_a_missing_package_is_an_import_error_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    assert not is_installed("matplotlib")
    for kind in (MissingPackageError, ConfigError, ImportError):
        with pytest.raises(kind, match=r"sg\.plot\.weights needs the package matplotlib, which is not installed\. "
                                       r"pip install 'stream-gmm\[plot\]'"):
            _ = sg.plot.weights


def test_a_package_that_is_broken_says_why(monkeypatch, tmp_path):
    (tmp_path / "onnx.py").write_text("import a_library_that_is_not_there")
    monkeypatch.delitem(sys.modules, "onnx", raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(MissingPackageError, match="which cannot be imported .*a_library_that_is_not_there"):
        import_extra("onnx", "it")


@pytest.mark.long
def test_the_whole_job_runs_without_any_extra(demo_folder, tmp_path):
    options = ("--columns", "x0,x1", "--n-components", "1:2", "--covariance-type", "full", "--executor", "serial")
    done = _run_without(
        set(EXTRAS), "run", str(demo_folder), *options, "--folder", "out", folder=tmp_path,
        PREFECT_API_URL="http://127.0.0.1:9/api",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "PREFECT_API_URL is set, but Prefect is not installed (pip install 'stream-gmm[prefect]')" in done.stderr
    assert (tmp_path / "out" / "scored").exists()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "matplotlib is not installed" in page
    assert "<table" in page
    assert "<svg" not in page.split("<main", 1)[-1]

    served = _run_without(set(EXTRAS), "serve", str(demo_folder), folder=tmp_path)
    assert served.returncode == 2
    assert "stream-gmm serve needs the package prefect" in served.stderr

    again = subprocess.run(
        [sys.executable, "-m", "stream_gmm", "report", "out"], cwd=tmp_path, capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    page = (tmp_path / "out" / "report.html").read_text()
    assert again.returncode == 0
    assert "matplotlib is not installed" not in page
    assert "<svg" in page.split("<main", 1)[-1]
