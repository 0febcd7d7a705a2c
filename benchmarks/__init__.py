"""Benchmarks, one command each: README.md lists them with what they measure and the latest figures."""
