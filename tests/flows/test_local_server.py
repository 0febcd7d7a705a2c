"""The server that Prefect starts for a run ends with it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import wait_for

ROOT = Path(__file__).parents[2]
BODY = """
import os, subprocess, sys, time
from stream_gmm.flows.local_server import tie
process = subprocess.Popen(["sleep", "100"])
tie(process.pid)
print(process.pid, flush=True)
{end}
"""


@pytest.mark.parametrize(("end", "survives"), [("time.sleep(100)", False), ("os._exit(3)", False), ("", True)],
                         ids=["killed", "at once", "as it should, and Prefect stops it"])  # fmt: skip
def test_a_process_that_is_tied_ends_with_the_one_that_started_it(end, survives):
    process = subprocess.Popen(
        [sys.executable, "-c", BODY.format(end=end)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    tied = int(process.stdout.readline())
    if "sleep" in end:
        process.kill()
    process.wait(60)
    if survives:
        os.kill(tied, signal.SIGKILL)
    else:
        wait_for(lambda: not Path(f"/proc/{tied}").exists() or " Z " in Path(f"/proc/{tied}/stat").read_text(), 20,
                 "the tied process has ended")  # fmt: skip
