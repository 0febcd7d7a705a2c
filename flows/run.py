"""The main job, for ``prefect.yaml``; without a checkout the entry point is ``stream_gmm.flows.run:gmm_run``."""

from stream_gmm.flows.run import gmm_run

__all__ = ["gmm_run"]
