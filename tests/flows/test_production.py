"""The nights of ``examples/production``, on real servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.prefect
def test_five_nights_are_right_on_every_night(tmp_path):
    script = ROOT / "examples" / "production" / "nights.py"
    done = subprocess.run(
        [sys.executable, str(script), "--folder", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "WRONG" not in done.stdout
    assert done.stdout.count("components keep their numbers") == 6
