"""The update of a run folder as a Prefect flow: what a deployment calls every night."""

# No "from __future__ import annotations" here, as in .run.
from typing import Any

from prefect import flow, get_run_logger, task

from stream_gmm.flows.artifacts import publish_update
from stream_gmm.flows.names import name_current_run
from stream_gmm.flows.reporting import collect_warnings, end_in_time
from stream_gmm.flows.run import RETRIES, hide_credentials, report_progress, report_task
from stream_gmm.pipeline.job.cluster import open_executor, running_cluster
from stream_gmm.pipeline.job.config import ClusterConfig, RunConfig
from stream_gmm.pipeline.job.run_folder import read_run
from stream_gmm.pipeline.job.update.stage import update_stage
from stream_gmm.pipeline.update.result import MOVED, SWEPT


@task(name="update", task_run_name="update-{config.name}", **RETRIES)
def update_task(config: RunConfig, cluster: ClusterConfig) -> dict[str, Any]:
    """Bring the run folder up to date on a running cluster; returns what was done, and why."""
    with (
        hide_credentials(),
        collect_warnings(get_run_logger()) as run_log,
        report_progress(config.name, "update") as listener,
        open_executor(cluster) as executor,
    ):
        result = update_stage(config, executor, listener)
    publish_update(config.name, result)
    for warning in result.warnings:
        run_log.tell(warning)
    return result.as_record()


@flow(name="update", flow_run_name=name_current_run)
def gmm_update(config: RunConfig) -> dict[str, Any]:
    """Read and score new files, and move the model if that pays; without new files nothing is done.

    Args:
        config: The job: data, candidates, results. What is left out has its default; ``stream-gmm init`` writes
            every option with an explanation.
    """
    with end_in_time(), hide_credentials():
        read_run(config.folder)  # before a cluster starts
        with config.begin("update"):
            with running_cluster(config.cluster) as cluster:
                result: dict[str, Any] = update_task(config, cluster)
            if result["promoted"] and result["decision"] in (MOVED, SWEPT):
                result["report"] = report_task(config)
    return result
