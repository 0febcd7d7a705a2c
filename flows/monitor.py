"""The monitor, for ``prefect.yaml``; without a checkout: ``stream_gmm.flows.monitor:gmm_monitor``."""

from stream_gmm.flows.monitor import gmm_monitor

__all__ = ["gmm_monitor"]
