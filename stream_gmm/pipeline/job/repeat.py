"""The command that repeats a run, or one like it: a configuration as options of the command line."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stream_gmm.pipeline.job.config import RunConfig

COMMA_SEPARATED = {
    "data.columns",
    "data.exclude_columns",
    "sweep.covariance_type",
    "sweep.n_components",
    "score.passthrough",
    "score.partition_by",
}
"""Keys whose values are written in one option, with commas between."""


def config_keys() -> dict[str, FieldInfo]:
    """Return every key of the configuration, dotted, with its field."""
    out: dict[str, FieldInfo] = {}
    for name, field in RunConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            out |= {f"{name}.{key}": f for key, f in section.model_fields.items()}
        else:
            out[name] = field
    return out


def option_names(dotted: str) -> list[str]:
    """Return the options of a key: ``--em.tol``, and ``--tol`` where that name is unique."""
    last = dotted.rsplit(".", 1)[-1]
    names = [f"--{dotted.replace('_', '-')}"]
    if _count_names()[last] == 1 and "." in dotted:
        names.append(f"--{last.replace('_', '-')}")
    return names


@cache
def _count_names() -> Counter[str]:
    return Counter(key.rsplit(".", 1)[-1] for key in config_keys())


def make_command(verb: str, config: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> str:
    """Return the command that runs ``verb`` with a configuration, given as ``run.json`` has it.

    Only what differs from the defaults is written. ``changes`` are dotted keys with other values, None: the default.
    """
    parts = ["stream-gmm", verb, *config["data"]["paths"]]
    for dotted, value in list_changes(config, changes):
        if dotted != "data.paths":
            parts += _write_option(dotted, value)
    return shlex.join(parts)


def list_changes(config: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a configuration whose values differ from the defaults, with their values.

    ``changes`` as for :func:`make_command`.
    """
    defaults = RunConfig.model_validate({"data": {"paths": list(config["data"]["paths"])}}).model_dump(mode="json")
    for dotted in config_keys():
        usual = None if dotted == "data.paths" else _look_up(defaults, dotted, None)
        value = _look_up(config, dotted, usual)
        if changes and dotted in changes:
            value = usual if changes[dotted] is None else changes[dotted]
        if value != usual:
            yield dotted, value


def _look_up(tree: Mapping[str, Any], dotted: str, otherwise: Any) -> Any:
    """Return the value of a key, or another one where an earlier release did not have it."""
    section, _, key = dotted.partition(".")
    return tree.get(section, {}).get(key, otherwise) if key else tree.get(section, otherwise)


def _write_option(dotted: str, value: Any) -> list[str]:
    name = option_names(dotted)[-1]
    if dotted == "sweep.n_components":
        return [name, _write_range(value)]
    if dotted in COMMA_SEPARATED and isinstance(value, list):
        return [name, ",".join(map(str, value)) or "none"]
    if isinstance(value, list):
        return [part for v in value for part in (name, str(v))]
    if isinstance(value, bool | dict) or value is None:
        return [name, yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("\n...\n").strip()]
    return [name, str(value)]


def _write_range(ks: Sequence[int] | str) -> str:
    if isinstance(ks, str):
        return ks
    low, high = min(ks), max(ks)
    whole = len(ks) > 2 and sorted(ks) == list(range(low, high + 1))
    return f"{low}:{high}" if whole else ",".join(map(str, ks))
