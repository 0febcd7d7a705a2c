"""Every key of the configuration as a command-line option, made from its model."""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Union, cast, get_args, get_origin

import click

from stream_gmm.errors import ConfigError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from stream_gmm.pipeline.job.config import RunConfig

RESUMED_CONFIG = "stream_gmm.resumed_config"
"""Key in click's ``Context.meta`` of the configuration with which ``resume`` invokes a command."""
CONFIG_ENDINGS = (".yaml", ".yml", ".json")

_ALONE = {"output.wait": "86400"}
"""Values of options that may stand alone: --wait is --wait 86400, and --fresh is --fresh true."""


@functools.cache
def make_config_options(beginnings: tuple[str, ...] = ("",)) -> tuple[click.Option, ...]:
    """Return an option for every key that begins so: ``--em.tol``, and ``--tol`` where that name is unique."""
    from stream_gmm.pipeline.job.repeat import config_keys, option_names

    out = []
    for dotted, field in config_keys().items():
        if not dotted.startswith(beginnings):
            continue
        alone = _ALONE.get(dotted, "true" if field.annotation is bool else None)
        switch: dict[str, Any] = {} if alone is None else {"is_flag": False, "flag_value": alone}
        names = [*option_names(dotted), _variable_name(dotted)]
        out.append(click.Option(names, multiple=_is_list(field), metavar="VALUE", **switch, help=_help_text(field)))
    return tuple(out)


def _variable_name(dotted: str) -> str:
    return "cfg__" + dotted.replace(".", "__")


def _union_members(annotation: Any) -> tuple[Any, ...]:
    union = get_origin(annotation) in (Union, types.UnionType)
    members = get_args(annotation) if union else (annotation,)
    return tuple(get_args(m)[0] if get_origin(m) is Annotated else m for m in members)


def _is_list(field: FieldInfo) -> bool:
    return any(get_origin(m) is list for m in _union_members(field.annotation))


def _is_text(field: FieldInfo) -> bool:
    return any(m is str or isinstance(next(iter(get_args(m)), None), str) for m in _union_members(field.annotation))


def _help_text(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    shown = "" if field.is_required() or default in (None, "", [], {}) else f" [default: {default}]"
    return f"{field.description or ''}{shown}"


def load_settings(given: Sequence[str], arguments: dict[str, Any]) -> RunConfig:
    """Return the configuration of a command: a file, paths of data and options, each over the one before.

    For a command that ``resume`` goes on with, it is the one that is stored.

    Raises
    ------
    ConfigError
        If there are two files, the data are given twice or not at all, or a value is wrong.
    """
    context = click.get_current_context(silent=True)
    if context is not None and RESUMED_CONFIG in context.meta:
        return cast("RunConfig", context.meta[RESUMED_CONFIG])
    files = [path for path in given if path.lower().endswith(CONFIG_ENDINGS)]
    data, overrides = [path for path in given if path not in files], collect_overrides(arguments)
    if len(files) > 1:
        raise ConfigError(f"one configuration at a time, not {len(files)}: {', '.join(files)}.")
    if data and "data.paths" in overrides:
        raise ConfigError(f"the data are given twice: as {', '.join(data)} and by --paths. Leave one of them out.")
    if data:
        overrides["data.paths"] = data
    if not files and "data.paths" not in overrides:
        raise ConfigError(
            "data: is required. Give Parquet files or a folder (stream-gmm sweep DATA, or --paths DATA), or a "
            "configuration (stream-gmm sweep CONFIG.yaml); 'stream-gmm init DATA' writes one."
        )
    from stream_gmm.pipeline.job.config import load_config

    return load_config(files[0] if files else None, overrides)


def load_settings_of_run(
    given: Sequence[str], arguments: dict[str, Any], *, also_with_data: bool = False
) -> RunConfig:
    """Return the configuration of a command as :func:`load_settings`; with --folder alone, that of the run there.

    With ``also_with_data``, paths of data without a file replace only those of the run.
    """
    context = click.get_current_context(silent=True)
    overrides = collect_overrides(arguments)
    has_file = any(path.lower().endswith(CONFIG_ENDINGS) for path in given)
    has_data = bool(given) or "data.paths" in overrides
    resumed = context is not None and RESUMED_CONFIG in context.meta
    if resumed or has_file or "output.folder" not in overrides or (has_data and not also_with_data):
        return load_settings(given, arguments)
    from stream_gmm.pipeline.job.config import load_run_config

    if given and "data.paths" not in overrides:
        overrides["data.paths"] = list(given)
    return load_run_config(overrides["output.folder"], overrides)


def collect_overrides(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the dotted keys that were given on the command line, with their values."""
    from stream_gmm.pipeline.job.repeat import config_keys

    out: dict[str, Any] = {}
    for dotted, field in config_keys().items():
        given = arguments.get(_variable_name(dotted))
        if given is None or given == ():
            continue
        out[dotted] = _parse_list(dotted, given) if _is_list(field) else _parse_single(dotted, field, given)
    return out


def _parse_list(dotted: str, given: tuple[str, ...]) -> Any:
    from stream_gmm.pipeline.job.repeat import COMMA_SEPARATED

    if dotted in COMMA_SEPARATED:
        values = [v.strip() for text in given for v in text.split(",")]
    else:
        values = list(given)
    if dotted == "score.passthrough" and values in (["all"], ["none"]):
        return values[0]
    return [int(v) if v.isdigit() and dotted == "sweep.n_components" else v for v in values]


def _parse_single(dotted: str, field: FieldInfo, text: str) -> Any:
    if text.lower() in ("none", "null") and type(None) in _union_members(field.annotation):
        return None
    if _is_text(field):
        return text
    if not text.strip():
        raise ConfigError(f"--{dotted} needs a value.")
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{dotted}: {text!r} cannot be read: {error}") from error
    # YAML 1.1 takes 1e-3 for a string.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
