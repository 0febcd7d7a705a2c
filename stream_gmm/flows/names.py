"""Names in the Prefect UI: of runs, deployments and artifacts, so that jobs can be told apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from prefect import runtime

from stream_gmm.errors import redact_text

MOST_CHARACTERS = 60
"""Of a path in the name of a run."""


def make_slug(name: str) -> str:
    """Return a name of lowercase letters, digits and single dashes, as artifacts need it."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "stream-gmm"


def make_key(job: str, what: str) -> str:
    """Return the key of an artifact of a job: jobs of different names do not share a history of artifacts."""
    return f"{make_slug(job)}-{what}"


def make_run_name(name: str, paths: list[str], start: datetime) -> str:
    """Return the name of a run: job, data and date."""
    first = redact_text(str(paths[0])) if paths else ""
    shown = first if len(first) <= MOST_CHARACTERS else f"...{first[3 - MOST_CHARACTERS :]}"
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{name}: {shown}{more}, {start.astimezone(UTC).date().isoformat()}"


def name_current_run() -> str:
    """Return the name of the run that starts now, from its parameters and the time it was scheduled for."""
    config: Any = runtime.flow_run.parameters["config"]
    content: Mapping[str, Any] = config if isinstance(config, Mapping) else config.model_dump()
    paths = content["data"]["paths"]
    start = runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    return make_run_name(
        content.get("name") or "stream-gmm", [paths] if isinstance(paths, str) else list(paths), start
    )
