"""The main job as a Prefect flow: one task per stage; Dask owns the partitions."""

# No "from __future__ import annotations" here: with it, served runs cannot validate a pydantic
# parameter ("RunConfig is not fully defined"). Prefect reads descriptions of parameters in Google's style only.
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE

from stream_gmm.errors import ClusterError, StorageError, redact_error
from stream_gmm.flows.artifacts import publish_choice, publish_curves, publish_results, publish_sweep
from stream_gmm.flows.context import current_listener, current_outcome, show_plan
from stream_gmm.flows.names import name_current_run
from stream_gmm.flows.progress import PrefectProgress
from stream_gmm.flows.reporting import collect_warnings, end_in_time
from stream_gmm.pipeline.job.checks import check_job
from stream_gmm.pipeline.job.cluster import open_executor, running_cluster
from stream_gmm.pipeline.job.config import ClusterConfig, RunConfig
from stream_gmm.pipeline.job.plan import Plan
from stream_gmm.pipeline.job.stages import score_stage, sweep_stage
from stream_gmm.pipeline.passes.progress import Listener, Progress

log = logging.getLogger(__name__)


class _BelowError(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Keep what is no error, and no warning of a task: the caller shows those of the result itself."""
        return record.levelno < (logging.WARNING if record.name == "prefect.task_runs" else logging.ERROR)


@contextmanager
def hide_error_logs() -> Iterator[None]:
    """Keep Prefect's tracebacks off the terminal inside the block, whose errors reach the caller as exceptions.

    The Prefect API still gets them.
    """
    loggers = [logging.getLogger(name) for name in ("", "prefect", "prefect.flow_runs", "prefect.task_runs")]
    handlers = [h for logger in loggers for h in logger.handlers if isinstance(h, logging.StreamHandler)]
    quiet = _BelowError()
    for handler in handlers:
        handler.addFilter(quiet)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(quiet)


@contextmanager
def hide_credentials() -> Iterator[None]:
    """Remove credentials from what is raised inside the block: Prefect logs and stores it."""
    try:
        yield
    except Exception as error:
        redact_error(error)
        raise


def _report_plan(plan: Plan) -> None:
    show_plan(plan)
    for line in plan.describe():
        get_run_logger().info(line)


@contextmanager
def report_progress(job: str, stage: str) -> Iterator[Listener]:
    """Yield a listener that reports to this process, to the run's log and to its progress artifact."""
    local, remote = current_listener(), PrefectProgress(job, stage, get_run_logger())

    def both(progress: Progress) -> None:
        local(progress)
        remote(progress)

    yield both
    remote.finish()


def is_worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    """Return True for failures that may go away: storage, cluster, network; not data or settings."""
    del task, task_run
    try:
        state.result()
    except (StorageError, ClusterError, OSError) as error:
        log.warning("a failure that may go away: %s", error)
        return True
    except BaseException:
        return False
    return False


RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [5, 30],
    "retry_condition_fn": is_worth_retrying,
    "cache_policy": NO_CACHE,
}


@task(name="sweep", task_run_name="sweep-{config.name}", **RETRIES)
def sweep_task(config: RunConfig, cluster: ClusterConfig) -> str:
    """Fit every candidate on a running cluster and choose one; returns its name."""
    if runtime.task_run.run_count > 1:  # what the first attempt has finished is kept
        config = config.model_copy(update={"sweep": config.sweep.model_copy(update={"fresh": False})})
    with (
        hide_credentials(),
        collect_warnings(get_run_logger()) as run_log,
        report_progress(config.name, "sweep") as listener,
        open_executor(cluster) as executor,
    ):
        result = sweep_stage(config, executor, listener, on_plan=_report_plan)
    publish_sweep(config.name, result)
    publish_choice(config.name, result)
    for warning in result.warnings:
        run_log.tell(warning)
    return result.candidates[result.chosen].name


@task(name="score", task_run_name="score-{config.name}", **RETRIES)
def score_task(config: RunConfig, cluster: ClusterConfig) -> dict[str, Any]:
    """Score every row on a running cluster and publish; returns the manifest without its parts."""
    with (
        hide_credentials(),
        collect_warnings(get_run_logger()),
        report_progress(config.name, "score") as listener,
        open_executor(cluster) as executor,
    ):
        result = score_stage(config, executor, listener=listener)
    return {k: v for k, v in result.manifest.items() if k != "parts"}


@task(name="report", task_run_name="report-{config.name}", **RETRIES)
def report_task(config: RunConfig) -> str:
    """Write the report, and log the run to MLflow if the configuration asks for it; returns the report's path."""
    from stream_gmm.export.mlflow_runs import log_job
    from stream_gmm.report.html import write_report

    with hide_credentials():
        path = str(write_report(config.folder))
        publish_curves(config.name, config.folder)
        publish_results(config.name, config)
        log_job(config)
    return path


@flow(name="sweep-and-score", flow_run_name=name_current_run)
def gmm_run(config: RunConfig) -> dict[str, Any]:
    """Sweep over K and covariance structure, choose, score every row, publish and report.

    Args:
        config: The job: data, candidates, results. What is left out has its default; ``stream-gmm init`` writes
            every option with an explanation.
    """
    outcome = current_outcome()
    outcome.keep_signals()
    try:
        with end_in_time(), hide_credentials():
            source = check_job(config, scoring=True)
            with config.begin("run", source):
                # The record of the run has the cluster section as given, not the address of one that ends here.
                with running_cluster(config.cluster) as cluster:
                    chosen = sweep_task(config, cluster)
                    scored = score_task(config, cluster)
                outcome.result = {"chosen": chosen, "scored": scored, "report": report_task(config)}
    except BaseException as error:
        outcome.error = error
        raise
    return outcome.result
