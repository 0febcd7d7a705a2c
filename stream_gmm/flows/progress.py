"""Progress of a stage in Prefect: a progress artifact and log lines, at most one a second."""

from __future__ import annotations

import time
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from stream_gmm.flows.names import make_key
from stream_gmm.flows.reporting import REPORTER
from stream_gmm.pipeline.passes.progress import Progress

SECONDS = 1.0


class PrefectProgress:
    """A listener that keeps the run page of the Prefect UI up to date."""

    def __init__(self, job: str, stage: str, log: Any) -> None:
        self._log = log
        self._artifact: Any = None
        self._is_waiting = False
        self._last = time.monotonic()
        REPORTER.send(self._create, key=make_key(job, f"{stage}-progress"), description=f"{job}: {stage}")

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
        if not self._is_waiting:  # of a slow server's backlog only the newest would be of use
            self._is_waiting = True
            REPORTER.send(self._update, progress=share, description=line)

    def finish(self) -> None:
        """Report that the stage is done."""
        REPORTER.send(self._update, progress=100.0, description="done")

    def _create(self, key: str, description: str) -> None:
        self._artifact = create_progress_artifact(0.0, key=key, description=description)

    def _update(self, progress: float, description: str) -> None:
        self._is_waiting = False
        if self._artifact is not None:
            update_progress_artifact(self._artifact, progress=progress, description=description)
