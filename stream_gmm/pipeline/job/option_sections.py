"""The sections whose options are those of a dataclass, which explains them: score and update."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from stream_gmm.errors import ConfigError
from stream_gmm.pipeline.fit.settings import describe_option
from stream_gmm.pipeline.job.sections import Number, Section, Text, Whole, require_distinct
from stream_gmm.pipeline.table_options import TableOptions
from stream_gmm.pipeline.update.rule import UpdateRule, describe_update_option

describe = partial(describe_option, options=TableOptions)
_RULE = UpdateRule()


def _describe(name: str, **limits: Any) -> Any:
    return Field(getattr(_RULE, name), description=describe_update_option(name), **limits)


class UpdateConfig(Section):
    """How the model follows its files, when new ones come and old ones go."""

    mode: Literal["incremental", "exact", "stepwise"] = _describe("mode")
    min_gain: Number = _describe("min_gain", ge=0.0)
    max_error: Number = _describe("max_error", gt=0.0)
    passes: Whole = _describe("passes", ge=1)
    last: Text | None = _describe("last")
    half_life: Text | None = _describe("half_life")
    rescore: Literal["new", "moved", "all", "none"] = _describe("rescore")
    rescore_shift: Number = _describe("rescore_shift", ge=0.0)
    new_sweep: Literal["evidence", "never"] = _describe("new_sweep")
    sweep_gain: Number = _describe("sweep_gain", ge=0.0)
    apart: Number = _describe("apart", gt=0.0, lt=1.0)
    z: Number = _describe("z", ge=0.0)
    keep_statistics: bool = _describe("keep_statistics")

    @field_validator("last", "half_life", mode="before")
    @classmethod
    def _read_number(cls, value: Any) -> Any:
        """Read a plain number of files."""
        return f"{value:g} files" if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _require_rule(self) -> UpdateConfig:
        try:
            self.rule()
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def rule(self) -> UpdateRule:
        """Return the options."""
        return UpdateRule(**self.model_dump())


class ScoreConfig(Section):
    """What the scored Parquet looks like."""

    outlier_quantile: Number = Field(0.01, ge=0.0, lt=1.0, description="Share of rows below the outlier threshold")
    outlier: dict[str, Number] | None = Field(None, description=describe("outlier"))
    passthrough: Text | list[Text] = Field("all", description=describe("passthrough"))
    proba: str = Field("columns", description=describe("proba"))
    top_components: Whole | None = Field(None, ge=1, description=describe("top_components"))
    prefix: str = Field("", description=describe("prefix"))
    entropy: bool = Field(False, description=describe("entropy"))
    log_density_rank: bool = Field(False, description=describe("log_density_rank"))
    impute: bool = Field(False, description=describe("impute"))
    partition_by: list[Text] = Field([], description=describe("partition_by"))
    rows_per_file: Whole | None = Field(None, ge=1, description=describe("rows_per_file"))
    compression: str = Field("zstd", description=describe("compression"))

    @field_validator("passthrough", "partition_by")
    @classmethod
    def _require_distinct_names(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, list):
            require_distinct(value)
        return value

    @field_validator("partition_by", mode="before")
    @classmethod
    def _wrap_single_value(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("outlier", mode="before")
    @classmethod
    def _read_rule(cls, value: Any) -> Any:
        """Read the text of the command line, such as ``chi_square: 0.999``."""
        return yaml.safe_load(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _require_one_rule(self) -> ScoreConfig:
        if self.outlier is not None and "outlier_quantile" in self.model_fields_set:
            raise ValueError("outlier and outlier_quantile exclude each other: leave one of them out")
        self.options()
        return self

    def options(self) -> TableOptions:
        """Return the options of the scored table."""
        # Not exclude=: older releases of pydantic ignore it where a section has a serializer of its own.
        return TableOptions(**{key: value for key, value in self.model_dump().items() if key != "outlier_quantile"})
