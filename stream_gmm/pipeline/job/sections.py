"""The sections of the configuration: every key with its type, its range, its default and its description."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from stream_gmm.core.criteria import CHOICES
from stream_gmm.core.estep.kernel_choice import DTYPES, KERNELS
from stream_gmm.core.model.covariance import FAMILIES, family_named
from stream_gmm.core.rows.transform_requests import parse_transforms
from stream_gmm.errors import did_you_mean, redact_value
from stream_gmm.pipeline.drift_rule import DriftRule
from stream_gmm.pipeline.fit.algorithms import ALGORITHMS
from stream_gmm.pipeline.fit.settings import ACCELERATIONS, CONSTANTS, PROFILES, describe_option
from stream_gmm.pipeline.limits import MOST_COMPONENTS
from stream_gmm.pipeline.passes.tasks import AUTO, CACHES


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not a truth value")
    return value


Whole = Annotated[int, BeforeValidator(_refuse_bool)]
Number = Annotated[float, BeforeValidator(_refuse_bool)]
Text = Annotated[str, StringConstraints(min_length=1)]


class Section(BaseModel):
    """A part of the configuration: frozen, strict about keys, and shown and written as JSON without credentials."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_serializer(mode="wrap", when_used="json")
    def _hide_credentials(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        out: dict[str, Any] = redact_value(serialize(self))
        return out

    def __repr_args__(self) -> Any:
        """Show values without credentials: a traceback or a log may hold this."""
        return [(name, redact_value(value)) for name, value in super().__repr_args__()]


def _require_known(value: str, known: Any, what: str) -> str:
    if value not in known:
        raise ValueError(f"unknown {what} '{value}'{did_you_mean(value, known)} Known: {', '.join(known)}")
    return value


class DataConfig(Section):
    """Which rows and columns."""

    paths: list[Text] = Field(min_length=1, description="Parquet files, folders, glob patterns or s3:// URIs")
    columns: list[Text] | None = Field(
        None, min_length=1,
        description="Numeric columns to use, in this order: names, patterns (x*), types (dtype:float64); none: all "
        "numeric ones but identifiers, row numbers, parts of a date and labels",
    )  # fmt: skip
    exclude_columns: list[Text] = Field([], description="Columns to leave out: names, patterns, types")
    filter: Text | None = Field(
        None, description="Only rows for which this is true, such as \"temperature > -200 and station == 'A'\""
    )
    table_version: Whole | None = Field(
        None, ge=0, description="Version of a Delta table, or snapshot of an Iceberg table; none: the latest"
    )
    exclude: list[Text] = Field([], description="Shell patterns of relative paths to leave out")
    weight: Text | None = Field(None, description="Column with the weights of the rows; 2 is two rows, 0 is none")
    missing: Literal["error", "drop", "marginalise"] = Field(
        "error", description="Rows with a null or NaN: error (stop), drop (leave out), marginalise (use the rest)"
    )
    sentinel: dict[Text, Number | list[Number]] | None = Field(None, description="Missing-value marks: {x: -200}")

    @field_validator("paths", "columns", "exclude", "exclude_columns", mode="before")
    @classmethod
    def _wrap_single_value(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("columns")
    @classmethod
    def _require_distinct_columns(cls, value: list[str] | None) -> list[str] | None:
        require_distinct(value or [])
        return value

    @model_validator(mode="after")
    def _require_weight_beside_columns(self) -> DataConfig:
        if self.weight and self.weight in (self.columns or []):
            raise ValueError(f"the weight '{self.weight}' is also one of the columns to fit")
        return self


class SweepConfig(Section):
    """Which candidates, and what chooses among them."""

    n_components: list[Whole] = Field(
        list(range(1, 9)), min_length=1, description="Numbers of components: a list, or a range such as '1:8'"
    )
    covariance_type: list[str] = Field(
        ["spherical", "diag", "tied", "full"], min_length=1, description="Covariance structures"
    )
    criterion: str = Field("bic", description="What chooses: bic, aic, icl, heldout, elbow or one_se")
    elbow: Number = Field(
        0.01, ge=0.0, description="For the criterion elbow: what more components may still gain, nats per row"
    )
    prune: bool = Field(True, description="Drop candidates that are beaten on the sample, or can no longer win")
    fresh: bool = Field(False, description="Start over: fit again what an earlier sweep of the same data finished")
    match_to: Text | None = Field(
        None, description="Number components after this model file's; 'previous': the one in the output folder"
    )

    @field_validator("n_components", mode="before")
    @classmethod
    def _expand_ranges(cls, value: Any) -> Any:
        if isinstance(value, int | float):
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
        if any(k > MOST_COMPONENTS for k in value):
            raise ValueError(f"must be at most {MOST_COMPONENTS:,}")
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
    if not (isinstance(value, str) and ":" in value):
        return [value]
    try:
        low, high = (int(bound) for bound in value.split(":"))
    except ValueError:
        raise ValueError(f"'{value}' is not a range; write it as '1:8'") from None
    if high < low:
        raise ValueError(f"'{value}' is an empty range; write the smaller number first")
    if high > MOST_COMPONENTS:  # before the list is made
        raise ValueError(f"must be at most {MOST_COMPONENTS:,}")
    return list(range(low, high + 1))


def require_distinct(values: list[str]) -> None:
    """Refuse names that are given twice."""
    twice = sorted({v for v in values if values.count(v) > 1})
    if twice:
        raise ValueError(f"named twice: {', '.join(twice)}")


_NAMES = {
    "algorithm": ALGORITHMS,
    "accel": ACCELERATIONS,
    "kernel": KERNELS,
    "dtype": DTYPES,
    "cache": CACHES,
    "profile": PROFILES,
    "constants": CONSTANTS,
}


class EMConfig(Section):
    """How to fit."""

    algorithm: str = Field("auto", description=describe_option("algorithm"))
    accel: str | None = Field(None, description=describe_option("accel"))
    n_init: Whole = Field(3, ge=1, description=describe_option("n_init"))
    tol: Number | None = Field(None, ge=0.0, description=describe_option("tol"))
    max_passes: Whole = Field(100, ge=1, description=describe_option("max_passes"))
    reg_covar: Number | None = Field(None, ge=0.0, description=describe_option("reg_covar"))
    prior: Literal["mclust"] | None = Field(None, description=describe_option("prior"))
    noise: bool = Field(False, description=describe_option("noise"))
    constants: str = Field("aside", description=describe_option("constants"))
    resolution: str | dict[str, Number] = Field("none", description=describe_option("resolution"))
    transforms: str | dict[str, Any] | None = Field(None, description=describe_option("transforms"))
    random_state: Whole = Field(0, ge=0, lt=1 << 63, description=describe_option("random_state"))
    sample_rows: Whole = Field(50_000, ge=1, description=describe_option("sample_rows"))
    profile: str = Field("full", description=describe_option("profile"))
    holdout: Number = Field(0.0, ge=0.0, lt=1.0, description=describe_option("holdout"))
    kernel: str = Field(AUTO, description=describe_option("kernel"))
    dtype: str = Field("float64", description=describe_option("dtype"))
    cache: str = Field(AUTO, description=describe_option("cache"))
    cache_bytes: Whole | None = Field(None, ge=0, description=describe_option("cache_bytes"))

    @field_validator("resolution", "transforms", mode="before")
    @classmethod
    def _read_mapping(cls, value: Any, info: ValidationInfo) -> Any:
        """Read the text of the command line, such as ``{x5: 1, x7: 0.1}``."""
        try:
            value = yaml.safe_load(value) if isinstance(value, str) and value.lstrip().startswith("{") else value
        except yaml.YAMLError as error:
            raise ValueError(f"cannot be read: {error}") from error
        if info.field_name == "transforms":
            parse_transforms(value)
        return value

    @field_validator("algorithm", "accel", "kernel", "dtype", "cache", "profile", "constants")
    @classmethod
    def _require_choice(cls, value: str | None, info: ValidationInfo) -> str | None:
        name = str(info.field_name)
        return value if value is None else _require_known(value, _NAMES[name], name)


_DRIFT = DriftRule()


class MonitorConfig(Section):
    """When new rows count as drifted from the model in use, and what follows."""

    policy: Literal["alert", "refit", "refuse"] = Field(
        "alert", description="After drift: alert (exit code 11); refit (sweep again); refuse (score nothing)"
    )
    files: Literal["all", "new"] = Field(
        "all",
        description="Which files are compared: all, or those that are new or changed since the last run or update",
    )
    max_gain: Number = Field(
        _DRIFT.max_gain, ge=0.0, description="Largest gain of a refit beyond chance, nats per row, without drift"
    )
    max_psi: Number = Field(
        _DRIFT.max_psi, ge=0.0, description="Largest stability index of the log-density beyond chance, without drift"
    )
    false_alarm_rate: Number = Field(
        _DRIFT.false_alarm_rate, gt=0.0, lt=1.0, description="How often unchanged rows may count as changed, per file"
    )


class OutputConfig(Section):
    """Where results go."""

    folder: Text = Field(
        "runs/latest",
        description="Folder or s3://, gs://, abfs:// URI: gets scored/, model.gmm, sweep.parquet, report.html ...",
    )
    scored: Text | None = Field(
        None, description="Folder or s3://, gs://, abfs:// URI of the scored table; none: scored/ in the folder"
    )
    work_folder: Text | None = Field(
        None,
        description="Folder of this machine for a copy of the results and the ledger, where folder is a URI; none: "
        "in the user's cache",
    )
    wait: Number = Field(0.0, ge=0.0, description="Seconds to wait for another run there; --wait alone: a day")
    truth: Text | None = Field(None, description="Model file of a known truth to compare with")
    report_rows: Whole = Field(20_000, ge=100, description="Sample rows kept for the report's pictures")
    keep_versions: Whole = Field(
        10, ge=1, description="Versions that the folder keeps, the newest; champion and challenger in any case"
    )
    publish_as: Literal["champion", "challenger", "evidence"] = Field(
        "champion",
        description="What a new model becomes: champion, in use at once; challenger, until promoted; evidence: "
        "champion if it is better on new rows that neither model has used, else challenger",
    )
