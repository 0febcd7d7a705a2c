"""What a command prints: tables for people, one JSON document with --json, nothing with --quiet."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stream_gmm.errors import redact_value

if TYPE_CHECKING:
    from stream_gmm.core.result import FitResult
    from stream_gmm.pipeline.job.plan import Plan
    from stream_gmm.pipeline.passes.profile import Profile
    from stream_gmm.pipeline.passes.progress import Listener

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Output:
    """How a command prints."""

    as_json: bool = False
    quiet: bool = False

    @property
    def tables(self) -> bool:
        """True if people read it."""
        return not (self.as_json or self.quiet)

    @contextmanager
    def progress(self) -> Iterator[Listener]:
        """Yield a listener that shows progress, if people read it."""
        from stream_gmm.cli.display import progress_display
        from stream_gmm.pipeline.passes.progress import ignore_progress

        if not self.tables:
            yield ignore_progress
            return
        with progress_display() as listener:
            yield listener

    def tell(self, text: str) -> None:
        """Print a line at once, if people read it."""
        if self.tables:
            click.echo(text)

    def plan(self, plan: Plan) -> None:
        """Print the plan of a run that begins, if people read it."""
        from stream_gmm.cli.display import show_plan

        if self.tables:
            show_plan(plan)

    def result(self, describe: Callable[[], Mapping[str, Any]], show: Callable[[], object]) -> None:
        """Print a result: as the JSON document that ``describe`` returns, or by ``show``."""
        if self.as_json:
            click.echo(json.dumps(make_plain(describe()), indent=1, allow_nan=False))
        elif not self.quiet:
            show()


def output_options(function: F) -> F:
    """Add --json and --quiet to a command, which gets an :class:`Output` as ``output``."""

    @functools.wraps(function)
    def command(*args: Any, as_json: bool, quiet: bool, **kwargs: Any) -> Any:
        return function(*args, output=Output(as_json, quiet), **kwargs)

    quiet = click.option("--quiet", "-q", is_flag=True, help="Print nothing but warnings and errors")
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document, and no progress")(  # type: ignore[return-value]
        quiet(command)
    )


def make_plain(value: Any) -> Any:
    """Return a value for JSON: without arrays and credentials; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return redact_value({str(k): make_plain(v) for k, v in value.items()})
    if isinstance(value, list | tuple):
        return [make_plain(v) for v in value]
    if hasattr(value, "tolist"):  # arrays and numbers of NumPy
        return make_plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return redact_value(str(value) if isinstance(value, Path) else value)


def describe_run(folder: Path) -> dict[str, Any]:
    """Return the results of a run folder: its record, the sweep table, the model, the paths of its files."""
    from stream_gmm.io.store.tables import read_table
    from stream_gmm.pipeline.job.run_folder import CANDIDATES, MODEL, REPORT, TABLE, locate_scores, read_run

    state, record, model = read_run(folder)
    files = {"model": MODEL, "report": REPORT, "sweep_table": TABLE, "candidates": CANDIDATES}
    return {
        **{k: v for k, v in record.items() if k != "histories"},
        "folder": folder,
        "files": {
            **({"scored": locate_scores(folder, record)} if "scored" in record else {}),
            **{what: folder / name for what, name in files.items() if (folder / name).exists()},
        },
        "table": read_table(state / TABLE).to_pylist(),
        "model": describe_model(model),
    }


def describe_model(model: FitResult) -> dict[str, Any]:
    """Return a model: parameters, outcome, criteria, provenance."""
    c = model.criteria
    return {
        "n_components": model.n_components,
        "covariance_type": model.covariance_type,
        "columns": model.columns,
        "weights": model.weights_,
        "noise_weight": model.noise_weight_,
        "means": model.means_,
        "covariances": model.covariances_,
        "outcome": model.outcome.name,
        "reason": model.reason,
        "steps": model.n_iter_,
        "passes": model.passes,
        "log_likelihood_per_row": model.lower_bound_,
        "threshold": model.threshold,
        "outlier_quantile": model.outlier_quantile,
        "criteria": {
            "bic": c.bic, "aic": c.aic, "icl": c.icl, "parameters": c.n_parameters, "rows": c.n_rows,
            "heldout": c.heldout,
        },
        **_describe_transforms(model),
        "provenance": model.provenance,
        "warnings": model.warnings,
        "events": model.events,
        "digest": model.digest,
    }  # fmt: skip


def _describe_transforms(model: FitResult) -> dict[str, Any]:
    from stream_gmm.core.rows.transform_requests import describe_transforms

    if not model.transforms:
        return {}
    return {"transforms": describe_transforms(model.transforms), "medians": model.medians_}


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Return a plan: its numbers, and the same in words."""
    return {**asdict(plan), "words": plan.describe()}


def describe_profile(profile: Profile) -> dict[str, Any]:
    """Return a profile: counts, and the numbers of every column."""
    from stream_gmm.core.rows.oddities import find_atoms

    atoms = find_atoms(profile.sample.rows)
    columns = {
        name: {
            "min": profile.low[j], "mean": profile.mean[j], "sd": profile.variances[j] ** 0.5, "max": profile.high[j],
            **dict(zip(("null", "nan", "infinite", "too_large"), profile.bad[j].tolist(), strict=True)),
            "most_frequent": atoms[j].value, "most_frequent_share": atoms[j].share,
        }
        for j, name in enumerate(profile.labels)
    }  # fmt: skip
    return {
        "rows_read": profile.rows,
        "rows": profile.total_rows,
        "usable_rows": profile.fit_rows,
        "sample_rows": len(profile.sample.rows),
        "columns": columns,
        "warnings": profile.warnings,
    }
