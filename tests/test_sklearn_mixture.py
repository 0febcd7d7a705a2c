"""scikit-learn's own tests of its Gaussian mixtures, run with our classes in the place of theirs.

Of the 77 tests that run (others need array libraries that are not installed), 6 call private methods of scikit-learn.
Of the other 71, 68 pass with scikit-learn's defaults, 96 %, and 63 with ours. The tables say why the others do not;
a test that fails and is not in them fails here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import sklearn.mixture

FOLDER = Path(sklearn.mixture.__file__).parent / "tests"
ROOT = Path(__file__).parent.parent

NOT_APPLICABLE = {
    "test_gaussian_mixture_precisions_init": "it calls the private methods _initialize and _set_parameters",
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": "it counts calls of a private function",
    "test_compare_covar_type": "it calls the private methods _check_parameters and _initialize_parameters",
}
ALWAYS = NOT_APPLICABLE | {
    "test_check_weights": "scikit-learn's message calls the largest value the smallest, and ours does not",
    "test_regularisation": "collapsed components are reported as degenerate, with a warning, and are no error",
}
WITH_DEFAULTS_OF_SCIKIT_LEARN = {
    "test_monotonic_likelihood": "it allows no rounding: the likelihood falls by 8e-16 at the optimum",
}
WITH_OUR_DEFAULTS = {
    "test_gaussian_mixture_fit_convergence_warning": "the start, fitted on all rows, has converged after one step",
    "test_score": "it compares one step with many, and both end at the optimum: rounding decides",
    "test_warm_start": "the first fit has converged, and a second one has nothing to gain",
    "test_init": "it allows no rounding, and one start finds the same optimum as ten; left out, as it takes long",
    "test_monotonic_likelihood": WITH_DEFAULTS_OF_SCIKIT_LEARN["test_monotonic_likelihood"],
}


@pytest.mark.long
@pytest.mark.skipif(not (FOLDER / "test_gaussian_mixture.py").exists(), reason="scikit-learn came without its tests")
@pytest.mark.parametrize(
    ("shim", "explained", "least"),
    [("sklearn", ALWAYS | WITH_DEFAULTS_OF_SCIKIT_LEARN, 0.95), ("own", ALWAYS | WITH_OUR_DEFAULTS, 0.87)],
)
def test_the_tests_of_scikit_learn_pass_but_for_those_explained(shim, explained, least, tmp_path):
    once = ["bayesian_mixture"] if shim == "sklearn" else []  # its defaults are those of scikit-learn in any case
    files = [str(FOLDER / f"test_{name}.py") for name in ("gaussian_mixture", "mixture", *once)]
    left_out = ["-k", "not test_init or test_init_means"] if "test_init" in explained else []
    report = tmp_path / "report.xml"
    subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "tests.sklearn_shim", "-p", "no:cacheprovider",
            "-c", os.devnull, "--rootdir", str(FOLDER), "--junitxml", str(report), *left_out, *files,
        ],
        cwd=tmp_path, env={**os.environ, "SHIM": shim, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False,
    )  # fmt: skip
    cases = ElementTree.parse(report).getroot().findall(".//testcase")
    failed = {str(c.get("name")) for c in cases if c.find("failure") is not None or c.find("error") is not None}
    passed = [c for c in cases if not list(c)]
    private = [name for name in failed if re.sub(r"\[.*", "", name) in NOT_APPLICABLE]

    assert len(passed) + len(failed) >= 59
    assert not {name for name in failed if re.sub(r"\[.*", "", name) not in explained}
    assert len(passed) / (len(passed) + len(failed) - len(private)) >= least
