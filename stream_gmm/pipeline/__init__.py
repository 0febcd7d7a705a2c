"""Use-cases: plain functions that put core, io and execute together. No prefect here."""
