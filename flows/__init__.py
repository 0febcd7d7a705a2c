"""Prefect flows around the pipeline: names, retries, artifacts; no arithmetic."""
