"""What --help shows: commands and options in groups, examples, exit codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

EXIT_CODES = (
    "Exit codes: 0 done, 1 unexpected error, 2 configuration, 3 input data, 4 damaged or foreign file, "
    "5 folder in use by another run, 6 storage, 7 cluster, 8 no admissible model, 11 drift over the threshold, "
    "129, 130 and 143 stopped by a signal."
)
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "Fit and score": ("run", "sweep", "fit", "score", "resume", "export", "bootstrap", "report"),
    "Look": ("profile", "plan", "inspect"),
    "Every night": (
        "update",
        "monitor",
        "history",
        "diff",
        "promote",
        "rollback",
        "serve",
        "deploy",
        "verify",
        "clean",
    ),
    "Set up": ("init", "doctor", "schema", "demo-data"),
}
"""The commands by what they are for; others are listed under "Operate"."""
_SENTENCE = 300
"""Characters of what a command is for, in the list of all; it goes over as many lines as it needs."""
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "run": ("stream-gmm run events/ --n-components 1:10 --folder runs/events", "stream-gmm run events.yaml"),
    "sweep": ("stream-gmm sweep events/ --columns x,y --n-components 1:6 --covariance-type diag,full",
              "stream-gmm sweep events.yaml --fresh --json"),
    "fit": ("stream-gmm fit events/ --n-components 5 --covariance-type full --folder runs/five",),
    "bootstrap": ("stream-gmm bootstrap events/ --folder runs/events --replicates 50",),
    "plan": ("stream-gmm plan events/ --n-components 1:10",),
    "score": ("stream-gmm score events/ --folder runs/events",
              "stream-gmm score new.parquet --model runs/events/model.gmm --folder scored/new",
              "stream-gmm score - --model runs/events/model.gmm < batches.arrows > scored.arrows"),
    "resume": ("stream-gmm resume runs/events",),
    "export": ("stream-gmm export runs/events/model.gmm --format onnx",
               "stream-gmm export runs/events/model.gmm --format json --output model.json"),
    "inspect": ("stream-gmm inspect runs/events/model.gmm --json",),
    "report": ("stream-gmm report runs/events",),
    "serve": ("stream-gmm serve events.yaml --cron '0 2 * * *'",
              "stream-gmm serve events.yaml --job update --cron '0 2 * * *'"),
    "deploy": ("stream-gmm deploy events.yaml --pool gmm-pool --cron '0 2 * * *'",
               "stream-gmm deploy events.yaml --job update --pool gmm-pool"),
    "update": ("stream-gmm update events.yaml", "stream-gmm update --folder runs/events --last '30 files'"),
    "monitor": ("stream-gmm monitor events.yaml --period 2026-11-26",),
    "history": ("stream-gmm history runs/events",),
    "diff": ("stream-gmm diff runs/events v3 champion",),
    "promote": ("stream-gmm promote runs/events challenger",),
    "rollback": ("stream-gmm rollback runs/events",),
    "verify": ("stream-gmm verify runs/events", "stream-gmm verify s3://bucket/scored --json"),
    "clean": ("stream-gmm clean runs/events", "stream-gmm clean runs/events --yes"),
    "profile": ("stream-gmm profile events/ --columns x,y",
                "stream-gmm profile 's3://bucket/events/*.parquet' --sample"),
    "init": ("stream-gmm init events/ --output events.yaml",),
    "doctor": ("stream-gmm doctor", "stream-gmm doctor events.yaml --address tls://host:8786"),
    "schema": ("stream-gmm schema > stream-gmm.schema.json",),
}  # fmt: skip
_OWN, _OUTPUT, _GENERAL = "Options of this command", "What is printed", "Name of the run"


class GroupedCommand(click.Command):
    """A command whose options are listed by the section of the configuration that they belong to."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, one group after the other."""
        groups: dict[str, list[tuple[str, str]]] = {_OWN: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups.setdefault(_name_group(str(parameter.name)), []).append(record)
        last = [name for name in (_GENERAL, _OUTPUT) if name in groups]
        for name in [*(n for n in groups if n not in last), *last]:
            if groups[name]:
                with formatter.section(name):
                    formatter.write_dl(groups[name])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples and exit codes."""
        if examples := EXAMPLES.get(str(self.name)):
            with formatter.section("Examples"):
                for line in examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        formatter.write_paragraph()
        formatter.write_text(EXIT_CODES)


def _name_group(parameter: str) -> str:
    """Return the heading of an option: the section of its key, with what the section is about."""
    if parameter in ("as_json", "quiet"):
        return _OUTPUT
    if not parameter.startswith("cfg__"):
        return _OWN
    section, _, key = parameter.removeprefix("cfg__").partition("__")
    if not key:
        return _GENERAL
    from stream_gmm.pipeline.job.config import RunConfig

    model: Any = RunConfig.model_fields[section].annotation
    return f"{section}: {(model.__doc__ or '').splitlines()[0].rstrip('.')}"


class ConfiguredCommand(GroupedCommand):
    """A command with an option for every key of the configuration, which is imported when they are needed.

    With ``keys``, only for those that begin with one of them.
    """

    def __init__(self, *arguments: Any, keys: tuple[str, ...] = ("",), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._keys = keys

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters, then those of the configuration."""
        from stream_gmm.cli.options import make_config_options

        return [*super().get_params(ctx), *make_config_options(self._keys)]


class GroupedCommands(click.Group):
    """The group of all commands, listed by what they are for."""

    command_class = GroupedCommand

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, one group after the other."""
        known = {name for names in COMMANDS.values() for name in names}
        other = tuple(name for name in self.list_commands(ctx) if name not in known)
        for title, names in {**COMMANDS, "Operate": other}.items():
            found = [(n, c) for n in names if (c := self.get_command(ctx, n)) is not None]
            with formatter.section(title):
                formatter.write_dl([(n, c.get_short_help_str(_SENTENCE)) for n, c in found])
