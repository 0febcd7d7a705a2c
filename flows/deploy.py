"""Serve the job from this machine: a Prefect deployment, with or without a schedule."""

from __future__ import annotations

from prefect.schedules import Cron

from flows.run import gmm_run
from stream_gmm.errors import ConfigError
from stream_gmm.pipeline.job.config import RunConfig


def serve_run(config: RunConfig, name: str, cron: str | None, timezone: str) -> None:
    """Register a deployment and serve it until the process is stopped.

    Raises
    ------
    ConfigError
        If the schedule or the time zone is malformed.
    """
    try:
        # A slug: without one, serving again under the same name is refused.
        schedules = [Cron(cron, timezone=timezone, slug="cron")] if cron else []
    except ValueError as error:
        raise ConfigError(f"--cron {cron!r}, --timezone {timezone!r}: {error}") from error
    gmm_run.serve(
        name=name,
        parameters={"config": config.model_dump()},
        schedules=schedules,
        limit=1,
        global_limit=1,
        tags=["stream-gmm"],
        description="Gaussian mixture sweep, scored Parquet and report",
    )
