"""What an installation contains: the wheel and the source distribution, built as a release builds them."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return Path(path)


def test_the_wheel_installs_one_top_level_name(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {top for n in names if not (top := n.split("/")[0]).endswith(".dist-info")} == {"stream_gmm"}

    files = {
        str(p.relative_to(ROOT))
        for p in (ROOT / "stream_gmm").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert files <= names  # templates and marks of types, too


@pytest.mark.slow
def test_a_flows_folder_of_the_user_does_no_harm(wheel, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    zipfile.ZipFile(wheel).extractall(site)
    (work / "flows").mkdir(parents=True)
    (work / "flows" / "__init__.py").write_text("raise RuntimeError('this is the flows folder of the user')")
    code = "import stream_gmm.flows.deploy, stream_gmm.flows.run as run; print(run.__file__, run.gmm_run.name)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=work, env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.stdout.split() == [str(site / "stream_gmm/flows/run.py"), "sweep-and-score"], done.stderr


def test_the_source_distribution_holds_all_that_its_documents_and_tests_need(tmp_path):
    from hatchling.builders.sdist import SdistBuilder

    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = {name.split("/", 1)[1] for name in tarfile.open(path).getnames()}

    assert {
        "Makefile", "prefect.yaml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "docs/report.png",
        "docs/index.md", "mkdocs.yml",
        "flows/run.py", "configs/quickstart.yaml", "tests/conftest.py", "benchmarks/README.md", ".ci/run",
    } <= names  # fmt: skip
