"""Compiled code gives the same bits whether it was compiled in this process or comes from the cache on disk."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import warnings
import numpy as np
import stream_gmm as sg
from stream_gmm.execute.serial import SerialExecutor

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
rows = np.vstack([rng.normal(size=(200, 4)), 3.0 + rng.normal(size=(200, 4))])
holes = np.where(rng.random(rows.shape) < 0.2, np.nan, rows)
for data, options in ((rows, {}), (holes, {"missing": "marginalise"})):
    for structure in ("full", "tied", "diag", "VEV", "EVE"):
        fit = sg.fit(data, 2, structure, client=SerialExecutor(), sample_rows=200, **options)
        print(structure, options, fit.digest, repr(fit.criteria.loglik), fit.score_samples(rows).sum().hex())
"""


@pytest.mark.long
def test_compiled_now_or_before_the_bits_are_the_same(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    compiled, cached = (
        subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbc"))
    assert compiled.stdout == cached.stdout
