"""The nightly update, for ``prefect.yaml``; without a checkout: ``stream_gmm.flows.update:gmm_update``."""

from stream_gmm.flows.update import gmm_update

__all__ = ["gmm_update"]
