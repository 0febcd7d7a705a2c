"""The configuration: one validated model of the YAML file, the command line and the Prefect form."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import yaml
from pydantic import Field, ValidationError

from stream_gmm.errors import (
    HIDDEN,
    ConfigError,
    InputDataError,
    StreamGMMError,
    did_you_mean,
    explain,
    redact_value,
)
from stream_gmm.io.store.jobs import JOB, Job, find_job, read_job, record_job
from stream_gmm.io.store.lease import hold_folder
from stream_gmm.pipeline.drift_rule import DriftRule
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.job.option_sections import ClusterConfig, MlflowConfig, ScoreConfig, UpdateConfig
from stream_gmm.pipeline.job.sections import (
    DataConfig,
    EMConfig,
    MonitorConfig,
    OutputConfig,
    Section,
    SweepConfig,
    Text,
)
from stream_gmm.pipeline.sweep.choice import SelectionRule

if TYPE_CHECKING:
    from stream_gmm.core.result import FitResult
    from stream_gmm.io.sink.objects.checkpoints import Checkpoints
    from stream_gmm.io.source.dataset import Dataset

__all__ = ["ClusterConfig", "RunConfig", "apply_overrides", "hold_output", "load_config", "validate_config"]

P = ParamSpec("P")
T = TypeVar("T")


class RunConfig(Section):
    """A whole job."""

    name: Text = Field("stream-gmm", description="Name of the run")
    data: DataConfig
    sweep: SweepConfig = SweepConfig()
    em: EMConfig = EMConfig()
    score: ScoreConfig = ScoreConfig()
    cluster: ClusterConfig = ClusterConfig()
    output: OutputConfig = OutputConfig()
    monitor: MonitorConfig = MonitorConfig()
    update: UpdateConfig = UpdateConfig()
    mlflow: MlflowConfig = MlflowConfig()

    def settings(self) -> Settings:
        """Return the options of the fit."""
        return Settings(**self.em.model_dump(), outlier_quantile=self.score.outlier_quantile)

    def choice(self) -> SelectionRule:
        """Return what chooses."""
        return SelectionRule(self.sweep.criterion, self.sweep.elbow)

    def drift_rule(self) -> DriftRule:
        """Return when rows count as drifted."""
        m = self.monitor
        return DriftRule(m.max_gain, m.max_psi, m.false_alarm_rate)

    def open(self, model: FitResult | None = None) -> Dataset:
        """Open the data set: its footers are read, its rows are not.

        Where the configuration names no columns, those of ``model`` are opened. A model that was fitted with missing
        values is scored with them, unless the configuration says otherwise.

        Raises
        ------
        InputDataError
            If it cannot be opened.
        ConfigError
            If columns are named that cannot be used.
        """
        from stream_gmm.io.source.dataset import open_dataset  # with pyarrow: --help answers without it

        d = self.data
        try:
            columns = d.columns or (model.input_columns if model else None)
            missing, sentinel = d.missing, d.sentinel
            if model and model.marginalises and "missing" not in d.model_fields_set:
                missing, sentinel = "marginalise", sentinel or model.provenance.get("sentinel")
            return open_dataset(
                d.paths, columns, missing=missing, exclude=d.exclude, weight=d.weight,
                exclude_columns=() if model and not d.columns else d.exclude_columns, filter=d.filter,
                table_version=d.table_version, sentinel=sentinel,
            )  # fmt: skip
        except StreamGMMError:
            raise
        except (ValueError, OSError) as error:  # such as Arrow's for a malformed URI
            raise InputDataError(
                explain("cannot open data.paths", why=str(error), remedy="check the paths and credentials")
            ) from error

    def hold(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which no other run writes to the folder of the results.

        Raises
        ------
        FolderInUseError
            If another run uses it, and still does after ``output.wait`` seconds.
        StorageError
            If it cannot be written.
        """
        if not self.is_remote:
            return hold_folder(Path(self.output.folder), run=self.name, wait=self.output.wait)
        from stream_gmm.io.sink.objects.run_folders import hold_run_folder  # with pyarrow

        return hold_run_folder(self.output.folder, self.output.work_folder, run=self.name, wait=self.output.wait)

    @contextlib.contextmanager
    def begin(self, command: str, source: Dataset | None = None, **options: Any) -> Iterator[None]:
        """Hold the folder for the ``with`` block as :meth:`hold`, and record there what ``stream-gmm resume`` needs.

        Parameters
        ----------
        command
            The command that does the job.
        source
            The data, where the job is only the same with the same ones.
        options
            Options of the command that are no keys of the configuration.
        """
        with self.hold():
            given = self.model_dump(mode="json", exclude_unset=True)
            given.get("sweep", {}).pop("fresh", None)  # what this job has finished is kept when it goes on
            fingerprint, checkpoints = source.fingerprint if source else "", self.open_checkpoints()
            send = (lambda _: "") if checkpoints is None else checkpoints.send
            with record_job(self.folder, command, given, options, fingerprint, send):
                yield

    def open_checkpoints(self) -> Checkpoints | None:
        """Return the checkpoints in the object store of the output folder; None if that is on a disk."""
        if not self.is_remote:
            return None
        from stream_gmm.io.sink.objects.run_folders import open_run_prefix  # with pyarrow

        return open_run_prefix(self.output.folder, self.output.work_folder).open_checkpoints()

    @property
    def folder(self) -> Path:
        """Folder of the results; where it lies in an object store, its copy on this machine."""
        if not self.is_remote:
            return Path(self.output.folder)
        from stream_gmm.io.sink.objects.run_folders import locate_run_folder  # with pyarrow

        return locate_run_folder(self.output.folder, self.output.work_folder)

    @property
    def is_remote(self) -> bool:
        """True if the output folder is a prefix in an object store."""
        return "://" in self.output.folder

    @property
    def scored(self) -> str:
        """Folder or URI of the scored table."""
        from stream_gmm.pipeline.job.run_folder import SCORED

        return self.output.scored or f"{self.output.folder.rstrip('/')}/{SCORED}"


def hold_output(stage: Callable[Concatenate[RunConfig, P], T]) -> Callable[Concatenate[RunConfig, P], T]:
    """Return a stage during which no other run writes to the output folder of its configuration."""

    @functools.wraps(stage)
    def held(config: RunConfig, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with config.hold():
            return stage(config, *args, **kwargs)

    return held


def load_config(path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a YAML file and put dotted overrides (``{"em.tol": 1e-3}``) on top.

    Raises
    ------
    ConfigError
        If the file cannot be read, or anything in it is wrong; lists all problems at once.
    """
    return validate_config(apply_overrides(_read_yaml(path), overrides or {}), str(path or "the command line"))


def load_run_config(folder: str | Path, overrides: Mapping[str, Any]) -> RunConfig:
    """Return the configuration of the run in a folder, with dotted overrides on top.

    Raises
    ------
    ConfigError
        If the result is wrong, or the paths of the data held credentials, which no record keeps.
    InputDataError
        If the folder is not that of a run.
    """
    from stream_gmm.io.sink.objects.run_folders import locate_run_folder  # with pyarrow
    from stream_gmm.pipeline.job.run_folder import read_record

    where = locate_run_folder(folder, overrides.get("output.work_folder"), again=True)
    content = apply_overrides(read_record(where)["config"], {**overrides, "output.folder": str(folder)})
    if any(HIDDEN in str(path) for path in content["data"]["paths"]):
        raise ConfigError(
            explain(
                f"the paths in the record of {folder} are without the credentials that they had",
                remedy="give the configuration or the paths, or set the credentials in the environment",
            )
        )
    return validate_config(content, f"the record of {folder}")


def load_job(run: str, overrides: Mapping[str, Any]) -> tuple[Path, Job, RunConfig]:
    """Return the job that was begun last in the folder ``run``, or that has this id: its folder and configuration.

    Of a run in an object store, the job that was begun last on any machine counts. ``overrides`` are dotted keys on
    top, of the cluster only: they do not change the results. Relative paths in the configuration are relative to
    ``job.directory``.

    Raises
    ------
    ConfigError
        If the job cannot go on: another version began it, or its configuration held credentials.
    InputDataError, ModelFileError
        If there is no job, or its record is damaged.
    """
    if "://" in run:
        from stream_gmm.io.sink.objects.run_folders import fetch_copy, open_run_prefix  # with pyarrow

        prefix = open_run_prefix(run, overrides.get("output.work_folder"))
        folder = fetch_copy(prefix)
        prefix.open_checkpoints().fetch(os.path.basename(JOB), folder / JOB)
    else:
        folder = find_job(run)
    job, own = read_job(folder), version("stream-gmm")
    if job.written_by != own and not job.ended:
        raise ConfigError(
            explain(
                f"the {job.command} in {folder} was begun by stream-gmm {job.written_by}, and this is {own}",
                why="checkpoints of another version are not used",
                remedy="start its command again, or resume it with the version that began it",
            )
        )
    if not job.is_complete:
        raise ConfigError(
            explain(
                f"the configuration of the {job.command} in {folder} is stored without the credentials that it had",
                remedy="start its command again, which goes on from the same checkpoints; with credentials in the "
                "environment of the process 'stream-gmm resume' is enough",
            )
        )
    content = apply_overrides(job.config, overrides)
    named = str(content.get("output", {}).get("folder", OutputConfig().folder))
    if "://" not in named and Path(job.directory, named).resolve() != folder.resolve():  # it was moved
        content = apply_overrides(content, {"output.folder": str(folder.resolve())})
    return folder, job, validate_config(content, f"the job in {folder}")


def _read_yaml(path: str | Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = _DistinctKeysLoader(Path(path).read_text()).get_single_data()
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold sections such as data: and sweep:.")
    return content


class _DistinctKeysLoader(yaml.SafeLoader):
    """Refuses a key that stands twice: YAML would drop the first value in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def apply_overrides(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with dotted keys set on top."""
    out: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in content.items()}
    for dotted, value in overrides.items():
        section, _, key = dotted.rpartition(".")
        target = out.setdefault(section, {}) if section else out
        if not isinstance(target, dict):
            raise ConfigError(f"{section} must be a section with keys, not {target!r}.")
        target[key] = value
    return out


def validate_config(content: Mapping[str, Any], where: str) -> RunConfig:
    """Validate a configuration.

    Raises
    ------
    ConfigError
        Listing all problems at once; an unknown key comes with the nearest known one.
    """
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        problems = [_describe_problem(e) for e in error.errors()]
        lines = "\n".join(f"  - {p}" for p in problems)
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        raise ConfigError(f"{where}: {count} in the configuration:\n{lines}") from error


def _describe_problem(error: Any) -> str:
    location = [str(p) for p in error["loc"] if not str(p).startswith(("list[", "function"))]
    dotted = ".".join(location)
    if error["type"] == "extra_forbidden":
        sections = {name: field.annotation for name, field in RunConfig.model_fields.items()}
        places = [n for n, s in sections.items() if location[-1] in getattr(s, "model_fields", ())]
        if places:
            return f"{dotted}: unknown key; it belongs to {' or '.join(places)}; is '{places[0]}:' a comment?"
        return f"{dotted}: unknown key{did_you_mean(location[-1], _known_keys(location[:-1]))}"
    if error["type"] == "missing":
        return f"{dotted}: is required"
    message = error["msg"].removeprefix("Value error, ")
    return f"{dotted}: {message} (found {redact_value(error['input'])!r})"


def _known_keys(location: list[str]) -> list[str]:
    model: Any = RunConfig
    for name in location:
        model = model.model_fields[name].annotation
    return list(model.model_fields)
