"""The section of the configuration about updates; the texts are those of :class:`.rule.UpdateRule`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from stream_gmm.errors import ConfigError
from stream_gmm.pipeline.job.sections import Number, Section, Text, Whole
from stream_gmm.pipeline.update.rule import UpdateRule, describe_update_option

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
