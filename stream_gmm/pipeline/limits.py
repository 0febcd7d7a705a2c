"""The largest numbers that a configuration and the command line take."""

from __future__ import annotations

MOST_COMPONENTS, MOST_WORKERS = 10_000, 4_096
