"""Starts the job from the command line or Python: as a Prefect flow where that is possible, and in any case.

The job is the data's, not the server's: a Prefect server that does not answer, or that is lost on the way, costs the
record of the run there, and nothing else. Where Prefect is not installed, the stages run without it.
"""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from stream_gmm.errors import redact_text
from stream_gmm.extras import describe_installation, is_installed
from stream_gmm.flows.context import OnPlan, forward_progress, watch_outcome
from stream_gmm.flows.reporting import ANSWER_SECONDS, answers
from stream_gmm.pipeline.job.checks import check_job
from stream_gmm.pipeline.job.cluster import open_executor, running_cluster
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.stages import score_stage, sweep_stage
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobReport:
    """The result of a job (see :func:`stream_gmm.flows.run.gmm_run`), and what went wrong beside it."""

    result: dict[str, Any]
    warnings: tuple[str, ...] = ()


def run_job(config: RunConfig, listener: Listener = ignore_progress, on_plan: OnPlan = lambda _: None) -> JobReport:
    """Sweep, choose, score, publish and report; recorded by Prefect if its server can be reached.

    Raises
    ------
    StreamGMMError
        Whatever the stages raise; never because of Prefect or its server.
    """
    if not is_installed("prefect"):
        why = f"PREFECT_API_URL is set, but Prefect is not installed ({describe_installation('prefect')})"
        return _run_unrecorded(config, listener, on_plan, why if os.environ.get("PREFECT_API_URL") else "")
    from prefect.settings import get_current_settings

    from stream_gmm.flows.local_server import tie_local_server
    from stream_gmm.flows.run import gmm_run, hide_error_logs

    url = get_current_settings().api.url
    if url and not answers(url):
        why = f"the Prefect server at {redact_text(url)} does not answer within {ANSWER_SECONDS:g} s"
        return _run_unrecorded(config, listener, on_plan, why)
    tied = nullcontext() if url else tie_local_server()
    with watch_outcome() as outcome, forward_progress(listener, on_plan), hide_error_logs(), tied:
        try:
            return JobReport(gmm_run(config))
        except Exception as error:
            if outcome.error is not None:
                raise outcome.error from None
            failure = error
    why = f"the Prefect server was lost ({type(failure).__name__}: {redact_text(str(failure))})"
    if outcome.result is not None:
        return JobReport(
            outcome.result, (f"{why}: the results are complete, and the run's last state is not recorded",)
        )
    return _run_unrecorded(config, listener, on_plan, why)


def _run_unrecorded(config: RunConfig, listener: Listener, on_plan: OnPlan, why: str) -> JobReport:
    from stream_gmm.export.mlflow_runs import log_job
    from stream_gmm.report.html import write_report

    if why:
        log.info("%s: the run goes on without it", why)
    source = check_job(config, scoring=True)
    with config.begin("run", source):
        with running_cluster(config.cluster) as cluster, open_executor(cluster) as executor:
            swept = sweep_stage(config, executor, listener, on_plan=on_plan)
            scored = score_stage(config, executor, listener=listener)
        path = write_report(config.folder)
        log_job(config)
    result = {
        "chosen": swept.candidates[swept.chosen].name,
        "scored": {k: v for k, v in scored.manifest.items() if k != "parts"},
        "report": str(path),
    }
    return JobReport(result, (f"{why}: the run was made without it, and is not recorded there",) if why else ())
