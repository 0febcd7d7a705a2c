"""Serve the job from this machine: a Prefect deployment, with or without a schedule."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from prefect.schedules import Cron
from prefect.settings import get_current_settings

from stream_gmm.errors import ConfigError, explain
from stream_gmm.flows.run import gmm_run
from stream_gmm.flows.update import gmm_update
from stream_gmm.pipeline.job.config import RunConfig

JOBS = {
    "run": (gmm_run, "Gaussian mixture sweep, scored Parquet and report"),
    "update": (gmm_update, "Read and score new files, and move the model if that pays"),
}


def serve_run(config: RunConfig, name: str, cron: str | None, timezone: str, job: str = "run") -> None:
    """Register a deployment of a job (``run`` or ``update``) and serve it until the process is stopped.

    Raises
    ------
    ConfigError
        If the schedule or the time zone is malformed, the configuration holds credentials, or no Prefect API is set.
    """
    try:
        ZoneInfo(timezone)
        # A slug: without one, serving again under the same name is refused.
        schedules = [Cron(cron, timezone=timezone, slug="cron")] if cron else []
    except (ValueError, KeyError, OSError) as error:
        raise ConfigError(f"--cron {cron!r}, --timezone {timezone!r}: {error}.") from error
    parameters = config.model_dump(mode="json")
    if parameters != config.model_dump():
        raise ConfigError(
            explain(
                "the configuration holds credentials",
                why="Prefect stores the parameters of a deployment in clear text",
                remedy="remove them, and set them in the environment of the served process (AWS_ACCESS_KEY_ID, ...)",
            )
        )
    if not get_current_settings().api.url:
        raise ConfigError(
            explain(
                "serve needs a Prefect API, and none is set",
                why="a schedule without a server would end with this process",
                remedy="start one with 'prefect server start' and set PREFECT_API_URL to its address",
            )
        )
    flow, description = JOBS[job]
    flow.serve(
        name=name,
        parameters={"config": parameters},
        schedules=schedules,
        limit=1,
        global_limit=1,
        tags=["stream-gmm"],
        description=description,
    )
