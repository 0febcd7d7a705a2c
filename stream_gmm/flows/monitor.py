"""The monitor as a Prefect flow: a run with drift fails, so that whoever watches failed runs is told."""

# No "from __future__ import annotations" here, as in .run.
from typing import Any

from prefect import flow, get_run_logger, task

from stream_gmm.flows.artifacts import publish_drift
from stream_gmm.flows.names import name_current_run
from stream_gmm.flows.reporting import collect_warnings, end_in_time
from stream_gmm.flows.run import RETRIES, hide_credentials, report_progress, sweep_task
from stream_gmm.pipeline.job.cluster import open_executor, running_cluster
from stream_gmm.pipeline.job.config import ClusterConfig, RunConfig
from stream_gmm.pipeline.job.monitor_stage import MonitorReport, monitor_stage
from stream_gmm.pipeline.job.run_folder import read_run


@task(name="monitor", task_run_name="monitor-{config.name}", **RETRIES)
def monitor_task(config: RunConfig, cluster: ClusterConfig, period: str | None = None) -> MonitorReport:
    """Compare the data with the model in use on a running cluster, and add the period to ``monitor.parquet``."""
    with (
        hide_credentials(),
        collect_warnings(get_run_logger()),
        report_progress(config.name, "monitor") as listener,
        open_executor(cluster) as executor,
    ):
        report = monitor_stage(config, executor, listener, period)
    publish_drift(config.name, report)
    return report


@flow(name="monitor", flow_run_name=name_current_run)
def gmm_monitor(config: RunConfig, period: str | None = None) -> dict[str, Any]:
    """Compare the data with the model in use: after drift over the threshold the run fails, or sweeps (policy refit).

    Args:
        config: The job: data, candidates, results. What is left out has its default; ``stream-gmm init`` writes
            every option with an explanation.
        period: Name of the period that the data are of; by default today's date in UTC.
    """
    with end_in_time(), hide_credentials():
        read_run(config.folder)  # before a cluster starts
        with running_cluster(config.cluster) as cluster:
            report: MonitorReport = monitor_task(config, cluster, period)
            refit = report.result.drifted and config.monitor.policy == "refit"
            if refit:
                sweep_task(config, cluster)
    if not refit:
        report.raise_if_drifted(config.monitor.max_gain, "a refit describes them better than the model in use does")
    return report.alert(config.name) | {"fitted_again": refit}
