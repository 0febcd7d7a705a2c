"""The commands that prepare a job: init, doctor, schema."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import click

from stream_gmm.cli.help import ConfiguredCommand, GroupedCommand
from stream_gmm.cli.options import load_settings
from stream_gmm.cli.output import Output, output_options
from stream_gmm.errors import ConfigError, redact_text, remove_credentials

# Keys that also take a single value, or a text such as '1:8', for which the model has a list.
_LISTS = {"data": ("paths", "columns", "exclude"), "sweep": ("n_components", "covariance_type")}

_NUMBERED_ROWS = 100


@click.command(cls=GroupedCommand)
@click.argument("data", nargs=-1, required=True)
@click.option("--output", "target", default="stream-gmm.yaml", show_default=True, type=click.Path(dir_okay=False),
              help="The file to write; - is standard output")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the file if it exists")
def init(data: tuple[str, ...], target: str, force: bool) -> None:
    """Look at some of the data, and write a configuration for it: every key, with its explanation."""
    from stream_gmm.execute.threads import ThreadsExecutor
    from stream_gmm.io.source.dataset import open_dataset
    from stream_gmm.pipeline.fit.settings import Settings
    from stream_gmm.pipeline.fit.steps import profile_source
    from stream_gmm.pipeline.passes.progress import ignore_progress

    if target != "-" and Path(target).exists() and not force:
        raise ConfigError(f"{target} exists. Give another --output, or --force to replace it.")
    dataset = open_dataset(list(data), missing="drop")
    settings = Settings(profile="sample", cache="none")
    paths = [remove_credentials(path) for path in data]
    profile = profile_source(dataset, settings, ThreadsExecutor(), ignore_progress)
    text = write_configuration(paths, profile, "" if target == "-" else Path(target).stem)
    if paths != list(data):
        click.echo(
            "The configuration is without the credentials in the paths: set them in the environment "
            "(AWS_ACCESS_KEY_ID, ...).",
            err=True,
        )
    if target == "-":
        click.echo(text, nl=False)
    else:
        Path(target).write_text(text)
        click.echo(f"{target}: read it, change it, then 'stream-gmm run {target}'")


def write_configuration(paths: list[str], profile: Any, name: str = "") -> str:
    """Return a configuration for data with this profile as YAML; keys with their default are comments.

    Deployments, artifacts and the run folder are named after ``name``, so that two jobs do not share them.
    """
    import yaml

    from stream_gmm.pipeline.job.config import validate_config
    from stream_gmm.pipeline.job.repeat import config_keys

    constant = [f"{c.name} = {c.value:.6g}" for c in profile.constants]
    numbering = find_numbering(profile)
    used = [name for name in profile.columns if name not in numbering]
    if not used:
        useless = ", ".join(numbering)
        raise ConfigError(f"no column can be fitted: {useless} number the rows.")
    chosen: dict[str, Any] = {"data.paths": paths, "data.columns": used, "sweep.n_components": "1:8"}
    if name:
        chosen |= {"name": name, "output.folder": f"runs/{name}"}
    if profile.bad.sum():
        chosen["data.missing"] = "drop"
    lines = [
        "# A job of stream-gmm: 'stream-gmm plan FILE' shows what it needs, 'stream-gmm run FILE' does it.",
        f"# Data: {profile.total_rows:,} rows, of which {profile.rows:,} were looked at.",
        *(f"#   {line}" for line in _describe_columns(profile)),
        *(f"# Left out, because it is constant: {name}" for name in constant),
        *(f"# Left out, because it seems to number the rows: {name}" for name in numbering),
        *(f"# Warning: {redact_text(warning)}" for warning in profile.warnings),
    ]
    section = ""
    for dotted, field in config_keys().items():
        name, _, key = dotted.rpartition(".")
        if name != section:
            section = name
            lines += ["", f"{name}:"] if name else []
        default = field.get_default(call_default_factory=True)
        value = chosen.get(dotted, None if field.is_required() else default)
        text = f"{key}: {yaml.safe_dump([value], default_flow_style=True, width=10_000).strip()[1:-1]}"
        mark = "" if dotted in chosen or dotted == "sweep.covariance_type" else "# "
        indent = "  " if name else ""
        words = textwrap.wrap(str(field.description), 110, break_on_hyphens=False)
        lines += [f"{indent}# {line}" for line in words]
        lines.append(f"{indent}{mark}{text}")
    # A section whose keys are all comments would be null, which is no section.
    text = "\n".join(_comment_empty_sections(lines)) + "\n"
    validate_config(yaml.safe_load(text), "the new configuration")
    return text


def find_numbering(profile: Any) -> list[str]:
    """Return the columns of whole numbers of which no two are equal in a sample of 100 rows or more."""
    import numpy as np

    rows = profile.sample.rows
    if len(rows) < _NUMBERED_ROWS:
        return []
    return [
        name
        for name, values in zip(profile.columns, rows.T, strict=True)
        if (values == np.round(values)).all() and len(np.unique(values)) == len(values)
    ]


def _describe_columns(profile: Any) -> list[str]:
    return [
        f"{name}: {profile.low[j]:.5g} ... {profile.high[j]:.5g}, mean {profile.mean[j]:.5g}"
        + (f", {int(profile.bad[j].sum()):,} values that cannot be used" if profile.bad[j].sum() else "")
        for j, name in enumerate(profile.columns)
    ]


def _comment_empty_sections(lines: list[str]) -> list[str]:
    out = list(lines)
    for i, line in enumerate(lines):
        if line.endswith(":") and not line.startswith((" ", "#")):
            after = lines[i + 1 :]
            end = next((j for j, other in enumerate(after) if not other), len(after))
            if all(other.lstrip().startswith("#") for other in after[:end]):
                out[i] = f"# {line}"
    return out


@click.command(cls=ConfiguredCommand)
@click.argument("given", nargs=-1, metavar="[CONFIG] [DATA]...")
@click.option(
    "--compile", "compile_all", is_flag=True,
    help="Compile the loops of the usual jobs now, for images and clusters: a later job loads them.",
)  # fmt: skip
@output_options
def doctor(given: tuple[str, ...], output: Output, compile_all: bool, **arguments: Any) -> None:
    """Check the installation: versions, storage, a fit with a known answer; with options, cluster and data.

    The cluster is checked if a configuration or an option of the section cluster is given.
    """
    from stream_gmm.cli.doctor import UNKNOWN_DATA, check_installation

    clustered = any(v is not None and k.startswith("cfg__cluster__") for k, v in arguments.items())
    config = None
    if given or arguments["cfg__data__paths"] or clustered:
        some = given or arguments["cfg__data__paths"]
        config = load_settings(given if some else (UNKNOWN_DATA,), arguments)
    folder = config.folder if config else Path(arguments["cfg__output__folder"] or ".")
    checks = check_installation(config, folder, compile_all)
    output.result(
        lambda: {"passed": all(c.passed for c in checks), "checks": [vars(c) for c in checks]},
        lambda: click.echo("\n".join(f"{'ok    ' if c.passed else 'FAILED'} {c.name}: {c.found}" for c in checks)),
    )
    failed = [c for c in checks if not c.passed]
    if failed:
        click.echo(f"error: {len(failed)} of {len(checks)} checks failed: {failed[0].found}", err=True)
        sys.exit(failed[0].exit_code)


@click.command(cls=GroupedCommand)
def schema() -> None:
    """Print the JSON schema of the configuration, with which editors complete and check it.

    For editors with the YAML language server put this into the first line of a configuration:
    '# yaml-language-server: $schema=stream-gmm.schema.json'.
    """
    click.echo(json.dumps(make_schema(), indent=1))


def make_schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file, with the short forms that are accepted there."""
    from stream_gmm.pipeline.job.config import RunConfig

    out = RunConfig.model_json_schema()
    out["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    for section, keys in _LISTS.items():
        name = RunConfig.model_fields[section].annotation.__name__  # type: ignore[union-attr]
        for key in keys:
            field = out["$defs"][name]["properties"][key]
            plain = {k: field.pop(k) for k in ("anyOf", "items", "type", "minItems") if k in field}
            short: list[dict[str, Any]] = [{"type": "string"}]
            if key == "n_components":
                plain["items"] = {"type": ["integer", "string"]}
                short = [{"type": ["integer", "string"]}]
            field["anyOf"] = [*plain.pop("anyOf", []), *([plain] if plain else []), *short]
    return out
