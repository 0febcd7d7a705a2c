"""Scoring with the model in use as a Prefect flow."""

# No "from __future__ import annotations" here, as in .run.
from typing import Any

from prefect import flow

from stream_gmm.flows.names import name_current_run
from stream_gmm.flows.reporting import end_in_time
from stream_gmm.flows.run import hide_credentials, score_task
from stream_gmm.io.store.models import load_model
from stream_gmm.pipeline.job.checks import check_scoring
from stream_gmm.pipeline.job.cluster import running_cluster
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.run_folder import MODEL


@flow(name="score", flow_run_name=name_current_run)
def gmm_score(config: RunConfig) -> dict[str, Any]:
    """Score every row with the model of the run folder, and publish; what is published is not scored again.

    Args:
        config: The job: data, candidates, results. What is left out has its default; ``stream-gmm init`` writes
            every option with an explanation.
    """
    with end_in_time(), hide_credentials():
        model = load_model(config.folder / MODEL)
        source = config.open(model)
        check_scoring(config, source, model.n_components, model.density.noisy)  # before a cluster starts
        with config.begin("score", source, model=None), running_cluster(config.cluster) as cluster:
            result: dict[str, Any] = score_task(config, cluster)
    return result
