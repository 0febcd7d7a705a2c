"""The configuration: one validated model of the YAML file, the command line and the Prefect form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from stream_gmm.core.criteria import CHOICES
from stream_gmm.core.estep.kernel_choice import DTYPES, KERNELS
from stream_gmm.core.model.covariance import FAMILIES, family_named
from stream_gmm.errors import ConfigError, did_you_mean
from stream_gmm.io.source.dataset import Dataset, open_dataset
from stream_gmm.pipeline.fit.algorithms import ALGORITHMS
from stream_gmm.pipeline.fit.settings import ACCELERATIONS, PROFILES, Settings
from stream_gmm.pipeline.passes.tasks import AUTO, CACHES
from stream_gmm.pipeline.sweep.choice import SelectionRule


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _require_known(value: str, known: Any, what: str) -> str:
    if value not in known:
        raise ValueError(f"unknown {what} '{value}'{did_you_mean(value, known)} Known: {', '.join(known)}")
    return value


class DataConfig(_Section):
    """Which rows and columns."""

    paths: list[str] = Field(min_length=1, description="Parquet files, folders, glob patterns or s3:// URIs")
    columns: list[str] | None = Field(
        None, description="Numeric columns to use, in this order; none: all numeric columns"
    )
    exclude: list[str] = Field([], description="Shell patterns of relative paths to leave out")
    weight: str | None = Field(None, description="Column with the weights of the rows; 2 is two rows, 0 is none")
    missing: Literal["error", "drop"] = Field(
        "error", description="Rows with a null, NaN or infinity: stop, or leave out of the fit and score as null"
    )

    @field_validator("paths", "columns", "exclude", mode="before")
    @classmethod
    def _wrap_single_value(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class SweepConfig(_Section):
    """Which candidates, and what chooses among them."""

    n_components: list[int] = Field(
        list(range(1, 9)), min_length=1, description="Numbers of components: a list, or a range such as '1:8'"
    )
    covariance_type: list[str] = Field(
        ["spherical", "diag", "tied", "full"], min_length=1, description="Covariance structures"
    )
    criterion: str = Field("bic", description="What chooses: bic, aic, icl, heldout, elbow or one_se")
    elbow: float = Field(
        0.01, ge=0.0, description="For the criterion elbow: what more components may still gain, nats per row"
    )
    prune: bool = Field(True, description="Give up candidates that are beaten on the sample, or cannot win any more")
    fresh: bool = Field(False, description="Start over: fit again what an earlier sweep of the same data finished")
    match_to: str | None = Field(
        None, description="Number components after this model file's; 'previous': the one in the output folder"
    )

    @field_validator("n_components", mode="before")
    @classmethod
    def _expand_ranges(cls, value: Any) -> Any:
        if isinstance(value, int):
            return [value]
        values = value.split(",") if isinstance(value, str) else value
        if not isinstance(values, list):
            return value
        return [k for v in values for k in _expand_range(v)]

    @field_validator("n_components")
    @classmethod
    def _require_positive(cls, value: list[int]) -> list[int]:
        if any(k < 1 for k in value):
            raise ValueError("must be at least 1")
        return value

    @field_validator("covariance_type", mode="before")
    @classmethod
    def _wrap_single_value(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("covariance_type")
    @classmethod
    def _canonical_names(cls, value: list[str]) -> list[str]:
        known = [n for f in FAMILIES for n in (f.name, f.mclust)]
        return [family_named(_require_known(v, known, "covariance_type")).name for v in value]

    @field_validator("criterion")
    @classmethod
    def _require_criterion(cls, value: str) -> str:
        return _require_known(value, CHOICES, "criterion")


def _expand_range(value: Any) -> list[Any]:
    if isinstance(value, str) and ":" in value:
        low, _, high = value.partition(":")
        try:
            return list(range(int(low), int(high) + 1))
        except ValueError:
            raise ValueError(f"'{value}' is not a range; write it as '1:8'") from None
    return [value]


_NAMES = {
    "algorithm": ALGORITHMS,
    "accel": ACCELERATIONS,
    "kernel": KERNELS,
    "dtype": DTYPES,
    "cache": CACHES,
    "profile": PROFILES,
}


class EMConfig(_Section):
    """How to fit."""

    algorithm: str = Field("auto", description="auto (exact EM, accelerated), em or minibatch")
    accel: str | None = Field(None, description="Acceleration of exact EM: auto, anderson, squarem, none")
    n_init: int = Field(3, ge=1, description="Restarts on the sample")
    tol: float | None = Field(
        None, ge=0.0, description="Predicted remaining gain to stop at, nats per row; none: 0.1 p / (2 N)"
    )
    max_passes: int = Field(100, ge=1, description="Largest number of steps on the full data")
    reg_covar: float | None = Field(
        None, ge=0.0, description="Added to the diagonals of the covariances; none: a penalty without units"
    )
    prior: Literal["mclust"] | None = Field(
        None, description="mclust: the conjugate prior of Fraley and Raftery, instead of reg_covar or the penalty"
    )
    noise: bool = Field(False, description="One more component, uniform in the box of the data, for stray rows")
    random_state: int = Field(0, ge=0, description="Seed")
    sample_rows: int = Field(50_000, ge=1, description="Rows of the uniform sample")
    profile: str = Field("full", description="First pass: full, or sample (leaves drawn at random; no full read)")
    holdout: float = Field(0.0, ge=0.0, lt=1.0, description="Share of the rows held out of every fit, to judge by")
    kernel: str = Field(AUTO, description="auto (the fastest that is exact enough), quadratic, sphered or whitened")
    dtype: str = Field("float64", description="float64, or float32 where its error stays below 1e-3 nats a row")
    cache: str = Field(AUTO, description="Where decoded rows stay after the first pass: auto, none, memory or disk")
    cache_bytes: int | None = Field(
        None, ge=0, description="Bytes of decoded rows to keep; none: 1/4 of the workers' memory, or the disk"
    )

    @field_validator("algorithm", "accel", "kernel", "dtype", "cache", "profile")
    @classmethod
    def _require_choice(cls, value: str | None, info: ValidationInfo) -> str | None:
        name = str(info.field_name)
        return value if value is None else _require_known(value, _NAMES[name], name)


class ScoreConfig(_Section):
    """What the scored Parquet looks like."""

    outlier_quantile: float = Field(0.01, ge=0.0, lt=1.0, description="Share of rows below the outlier threshold")
    passthrough: str | list[str] = Field("all", description="Input columns to keep: all, none, or names")
    proba: Literal["columns", "list", "none"] = Field("columns", description="How responsibilities are written")
    prefix: str = Field("", description="Put before the names of the score columns")


class ClusterConfig(_Section):
    """Where the work is done; by default on an embedded Dask cluster on the loopback address."""

    executor: Literal["dask", "threads", "serial"] = Field(
        "dask", description="dask, or this process: threads, serial"
    )
    address: str | None = Field(None, description="Scheduler of an existing cluster, such as tcp://host:8786")
    scheduler_file: str | None = Field(None, description="Scheduler file of an existing cluster")
    cluster_class: str | None = Field(None, description="Dotted path of a Dask cluster class to start")
    cluster_options: dict[str, Any] = Field({}, description="Arguments of cluster_class")
    scale: int | None = Field(None, ge=1, description="Workers to ask cluster_class for")
    adapt: dict[str, int] | None = Field(None, description="Adaptive scaling, such as {minimum: 1, maximum: 10}")
    n_workers: int | None = Field(
        None, ge=1, description="Workers of the embedded cluster, or threads; none: one a core"
    )
    threads_per_worker: int = Field(1, ge=1, description="Threads of each embedded worker")
    memory_limit: str | None = Field(None, description="Memory of each embedded worker, such as 2GiB")
    timeout_seconds: float = Field(30.0, gt=0.0, description="How long to wait for a worker")

    @property
    def local(self) -> bool:
        """True if all the work is done on this machine."""
        return self.executor != "dask" or not (self.address or self.scheduler_file or self.cluster_class)

    @model_validator(mode="after")
    def _require_one_cluster(self) -> ClusterConfig:
        ways = [n for n in ("address", "scheduler_file", "cluster_class") if getattr(self, n)]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude each other")
        started = [n for n in ("scale", "adapt", "cluster_options") if getattr(self, n)]
        if started and not self.cluster_class:
            raise ValueError(f"{' and '.join(started)} need cluster_class")
        return self


class OutputConfig(_Section):
    """Where results go."""

    folder: str = Field("runs/latest", description="Gets scored/, model.gmm, sweep.parquet, report.html, run.json")
    truth: str | None = Field(None, description="Model file of a known truth to compare with")
    report_rows: int = Field(20_000, ge=100, description="Sample rows kept for the report's pictures")


class RunConfig(_Section):
    """A whole job."""

    name: str = Field("stream-gmm", description="Name of the run")
    data: DataConfig
    sweep: SweepConfig = SweepConfig()
    em: EMConfig = EMConfig()
    score: ScoreConfig = ScoreConfig()
    cluster: ClusterConfig = ClusterConfig()
    output: OutputConfig = OutputConfig()

    def settings(self) -> Settings:
        """Return the options of the fit."""
        return Settings(**self.em.model_dump(), outlier_quantile=self.score.outlier_quantile)

    def choice(self) -> SelectionRule:
        """Return what chooses."""
        return SelectionRule(self.sweep.criterion, self.sweep.elbow)

    def open(self) -> Dataset:
        """Open the data set."""
        d = self.data
        return open_dataset(d.paths, d.columns, missing=d.missing, exclude=d.exclude, weight=d.weight)

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return Path(self.output.folder)


def load_config(path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a YAML file and put dotted overrides (``{"em.tol": 1e-3}``) on top.

    Raises
    ------
    ConfigError
        If the file cannot be read, or anything in it is wrong; lists all problems at once.
    """
    return validate_config(apply_overrides(_read_yaml(path), overrides or {}), str(path or "the command line"))


def _read_yaml(path: str | Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold sections such as data: and sweep:.")
    return content


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
        return f"{dotted}: unknown key{did_you_mean(location[-1], _known_keys(location[:-1]))}"
    if error["type"] == "missing":
        return f"{dotted}: is required"
    message = error["msg"].removeprefix("Value error, ")
    return f"{dotted}: {message} (found {error['input']!r})"


def _known_keys(location: list[str]) -> list[str]:
    model: Any = RunConfig
    for name in location:
        model = model.model_fields[name].annotation
    return list(model.model_fields)
