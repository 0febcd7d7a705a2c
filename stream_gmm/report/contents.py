"""What a report is made of: everything that a run folder holds, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.transforms import transform_rows
from stream_gmm.io.store.models import load_model
from stream_gmm.io.store.tables import read_table
from stream_gmm.io.store.versions import Version
from stream_gmm.pipeline.job.monitor_stage import MONITOR
from stream_gmm.pipeline.job.run_folder import SAMPLE, TABLE, TRUTH, read_catalog, read_run
from stream_gmm.pipeline.monitor import ALL_FILES
from stream_gmm.plot.inputs import take_rows


@dataclass(frozen=True)
class RunContents:
    """The results of a run.

    Attributes
    ----------
    folder
        The folder of the run, in which the report will lie.
    record
        ``run.json``.
    model
        The chosen model.
    table
        The sweep table, one mapping for each candidate.
    rows
        Sample rows ``(n, D)`` in the columns of the model, as they were read; those that are complete, or if they are
        few, all, with conditional means in place of what is missing.
    truth
        A known truth to compare with.
    monitored
        What the monitor found about this model, one mapping for each period; all files together.
    version, versions
        The version of the model, and how many the folder has; None in a folder without versions.
    """

    folder: Path
    record: Mapping[str, Any]
    model: FitResult
    table: Sequence[Mapping[str, Any]]
    rows: Array
    truth: FitResult | None = None
    monitored: Sequence[Mapping[str, Any]] = ()
    version: Version | None = None
    versions: int = 0

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration, section by section."""
        config: Mapping[str, Any] = self.record["config"]
        return config

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The row of the chosen candidate in the sweep table."""
        return next(row for row in self.table if row["chosen"])

    @cached_property
    def fitted_rows(self) -> Array:
        """The sample rows as they were fitted: with the transforms of their columns."""
        return transform_rows(self.rows, self.model.columns, self.model.transforms)

    @property
    def scored(self) -> Mapping[str, Any] | None:
        """What is known about the scored rows; None if they are not scored."""
        return self.record.get("scored")


def read_contents(folder: Path) -> RunContents:
    """Read the folder of a run.

    Raises
    ------
    InputDataError
        If it is not that of a run, or a table is damaged.
    ModelFileError
        If a model is damaged.
    """
    state, record, model = read_run(folder)
    sample = read_table(state / SAMPLE)
    catalog = read_catalog(folder)
    monitored = read_table(folder / MONITOR).to_pylist() if (folder / MONITOR).exists() else []
    return RunContents(
        folder, record, model, read_table(state / TABLE).to_pylist(),
        take_rows(model, np.column_stack([sample[c].to_numpy() for c in sample.column_names])),
        load_model(state / TRUTH) if (state / TRUTH).exists() else None,
        [r for r in monitored if r["file"] == ALL_FILES and r["model_digest"] == model.digest],
        catalog.find(catalog.champion) if catalog.champion else None, len(catalog.versions),
    )  # fmt: skip
