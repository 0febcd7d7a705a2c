"""Scoring with the model in use, for ``prefect.yaml``; without a checkout: ``stream_gmm.flows.score:gmm_score``."""

from stream_gmm.flows.score import gmm_score

__all__ = ["gmm_score"]
