"""Progress of a stage in Prefect: a progress artifact and log lines, at most one a second."""

from __future__ import annotations

import time
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from stream_gmm.flows.names import make_key
from stream_gmm.pipeline.passes.progress import Progress

SECONDS = 1.0


class PrefectProgress:
    """A listener that keeps the run page of the Prefect UI up to date."""

    def __init__(self, job: str, stage: str, log: Any) -> None:
        self._log = log
        self._artifact: Any = create_progress_artifact(
            0.0, key=make_key(job, f"{stage}-progress"), description=f"{job}: {stage}"
        )
        self._last = time.monotonic()

    def __call__(self, p: Progress) -> None:
        """Report, at most once a second: every update is a request to the server."""
        now = time.monotonic()
        if now - self._last < SECONDS:
            return
        self._last = now
        share = 100.0 * p.done / max(p.total, 1)
        live = f", {p.live} candidates live" if p.live else ""
        line = f"{p.stage} {p.number}: {share:.0f} %{live}, {p.rows_per_second:,.0f} {p.unit}/s"
        self._log.info(line)
        update_progress_artifact(self._artifact, progress=share, description=line)

    def finish(self) -> None:
        """Report that the stage is done."""
        update_progress_artifact(self._artifact, progress=100.0, description="done")
