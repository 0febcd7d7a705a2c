"""The configuration of a run that was made: what its folder says, with changes on top."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_gmm.errors import HIDDEN, ConfigError, explain
from stream_gmm.pipeline.job.config import RunConfig, apply_overrides, validate_config
from stream_gmm.pipeline.job.run_folder import read_record


def load_run_config(folder: Path, overrides: Mapping[str, Any]) -> RunConfig:
    """Return the configuration in the record of a run, with dotted overrides on top; its folder is ``folder``.

    Raises
    ------
    ConfigError
        If the result is wrong, or the paths of the data held credentials, which no record keeps.
    InputDataError
        If the folder is not that of a run.
    """
    content = apply_overrides(read_record(folder)["config"], {**overrides, "output.folder": str(folder)})
    if any(HIDDEN in str(path) for path in content["data"]["paths"]):
        raise ConfigError(
            explain(
                f"the paths in the record of {folder} are without the credentials that they had",
                remedy="give the configuration or the paths, or set the credentials in the environment",
            )
        )
    return validate_config(content, f"the record of {folder}")
