"""Deployments of the jobs: served from this process, or run by the workers of a Prefect work pool."""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Schedule
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType

from stream_gmm.errors import ConfigError, explain, redact_text
from stream_gmm.execute.interrupts import is_no_cancellation
from stream_gmm.flows.monitor import gmm_monitor
from stream_gmm.flows.reporting import answers
from stream_gmm.flows.run import gmm_run
from stream_gmm.flows.score import gmm_score
from stream_gmm.flows.update import gmm_update
from stream_gmm.pipeline.job.config import RunConfig

log = logging.getLogger(__name__)

JOBS: Mapping[str, tuple[Any, str]] = {
    "run": (gmm_run, "Gaussian mixture sweep, scored Parquet and report"),
    "update": (gmm_update, "Read and score new files, and move the model if that pays"),
    "score": (gmm_score, "Score every row with the model in use"),
    "monitor": (gmm_monitor, "Compare the data with the model in use; a run with drift fails"),
}
"""The flow of each job, and what it does."""
PATIENCE_SECONDS = 20.0
"""A server that is busy may take so long to answer: without one, nothing can be deployed."""
OUTAGE_SECONDS = 5.0
"""Between two looks for a server that was lost."""


@dataclass(frozen=True)
class Deployment:
    """A job with its configuration and its schedule, as Prefect stores it.

    Parameters
    ----------
    config
        The parameter of the runs.
    job
        A key of :data:`JOBS`.
    name
        Name of the deployment; empty: that of the configuration.
    cron, timezone
        The schedule; without ``cron``, runs are started on demand.
    """

    config: RunConfig
    job: str = "run"
    name: str = ""
    cron: str | None = None
    timezone: str = "UTC"

    def serve(self) -> None:
        """Register the deployment, and run its runs from this process until that is stopped.

        Raises
        ------
        ConfigError
            If the schedule or the time zone is malformed, the configuration holds credentials, no API is set, or its
            server does not answer. One that is lost later is waited for.
        """
        flow, options = self._prepare("serve")
        url = str(get_current_settings().api.url)
        _require_answer(url)
        handler = signal.getsignal(signal.SIGTERM)
        # Prefect's handler of SIGTERM calls it, and ends the process before it can run.
        warnings.filterwarnings("ignore", "coroutine 'Runner.astop' was never awaited", RuntimeWarning)
        # At the end Prefect cancels its connection to a run that is at work, or ends, too.
        logging.getLogger("asyncio").addFilter(is_no_cancellation)
        while True:
            try:
                flow.serve(limit=1, global_limit=1, **options)
                return
            except Exception as error:  # after some minutes without a server Prefect gives up, once its runs are done
                if answers(url):
                    raise
                shown = f"the Prefect server at {redact_text(url)} does not answer ({type(error).__name__})"
                log.warning("%s: serving goes on when it does", shown)
            signal.signal(signal.SIGTERM, handler)  # Prefect's own would stop what has ended
            while not answers(url):
                time.sleep(OUTAGE_SECONDS)

    def deploy(self, pool: str) -> str:
        """Register the deployment for a work pool, whose workers have stream-gmm installed; return its full name.

        In a pool of processes, runs start in the present working folder, which relative paths are relative to.

        Raises
        ------
        ConfigError
            As :meth:`serve`; or if there is no such pool.
        """
        flow, options = self._prepare("deploy")
        url = str(get_current_settings().api.url)
        _require_answer(url)
        with get_client(sync_client=True) as client:
            try:
                kind = client.read_work_pool(pool).type
            except ObjectNotFound as error:
                raise ConfigError(
                    explain(
                        f"there is no work pool {pool!r} in the Prefect server at {redact_text(url)}",
                        remedy=f"create it with 'prefect work-pool create {pool} --type process'",
                    )
                ) from error
        flow.to_deployment(
            work_pool_name=pool,
            job_variables={"working_dir": os.getcwd()} if kind == "process" else None,
            concurrency_limit=1,
            entrypoint_type=EntrypointType.MODULE_PATH,  # a worker has the package, not this checkout
            **options,
        ).apply()
        return f"{flow.name}/{options['name']}"

    def _prepare(self, verb: str) -> tuple[Any, dict[str, Any]]:
        """Return the flow, and what is the same for every kind of deployment."""
        config = self.config
        try:
            ZoneInfo(self.timezone)
            # A slug: without one, serving again under the same name is refused.
            schedules: list[Schedule] = (
                [Cron(self.cron, timezone=self.timezone, slug="cron")] if self.cron else []
            )
        except (ValueError, KeyError, OSError) as error:
            raise ConfigError(f"--cron {self.cron!r}, --timezone {self.timezone!r}: {error}.") from error
        if config.model_dump(mode="json") != config.model_dump():
            raise ConfigError(
                explain(
                    "the configuration holds credentials",
                    why="Prefect stores the parameters of a deployment in clear text",
                    remedy="remove them, and set them in the environment of the process that runs the job "
                    "(AWS_ACCESS_KEY_ID, ...)",
                )
            )
        if not get_current_settings().api.url:
            raise ConfigError(
                explain(
                    f"{verb} needs a Prefect API, and none is set",
                    why="a schedule without a server would end with this process",
                    remedy="start one with 'prefect server start' and set PREFECT_API_URL to its address",
                )
            )
        flow, description = JOBS[self.job]
        return flow, {
            "name": self.name or config.name,
            "parameters": {"config": config.model_dump(mode="json", exclude_unset=True)},
            "schedules": schedules,
            "tags": ["stream-gmm"],
            "description": description,
        }


def _require_answer(url: str) -> None:
    if not answers(url, PATIENCE_SECONDS):
        raise ConfigError(
            explain(
                f"the Prefect server at {redact_text(url)} does not answer within {PATIENCE_SECONDS:g} s",
                remedy="start it, or set PREFECT_API_URL to its address",
            )
        )
