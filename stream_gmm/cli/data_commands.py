"""The commands about data or a model alone: profile, demo-data, stream, export."""

from __future__ import annotations

import math
from typing import Any

import click

from stream_gmm.cli.help import GroupedCommand
from stream_gmm.cli.output import Output, describe_profile, output_options
from stream_gmm.errors import ConfigError
from stream_gmm.pipeline.limits import MOST_COMPONENTS

POSITIVE = click.IntRange(min=1)
NOT_NEGATIVE = click.IntRange(min=0)


class FiniteNumber(click.FloatRange):
    """A number of a range that is neither infinite nor NaN, which compares as being inside of every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number of a text."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


@click.command(cls=GroupedCommand)
@click.argument("data", nargs=-1, required=True)
@click.option("--columns", help="Columns to look at, with commas between [default: all that look like measurements]")
@click.option("--exclude-columns", default="", help="Columns to leave out, with commas between")
@click.option("--filter", help="Only rows for which this is true")
@click.option(
    "--missing", default="drop", show_default=True, type=click.Choice(["drop", "error", "marginalise"]),
    help="Rows with a null or NaN: left out, refused, or counted with the values that they have",
)  # fmt: skip
@click.option("--sentinel", help="Values that stand for a missing one, such as '{x: -200}'")
@click.option("--sample-rows", default=50_000, type=POSITIVE, show_default=True, help="Rows of the uniform sample")
@click.option("--transforms", help="What to look at instead of columns, such as auto, log1p or '{x*: log1p}'")
@click.option("--sample", is_flag=True, help="Read leaves drawn at random only, not everything")
@output_options
def profile(data: tuple[str, ...], output: Output, **given: Any) -> None:
    """Read a data set once and show counts, missing values, ranges, repeated values and dependent columns."""
    from stream_gmm.cli.display import make_console, show_profile
    from stream_gmm.execute.threads import ThreadsExecutor
    from stream_gmm.io.source.dataset import open_dataset
    from stream_gmm.pipeline.fit.settings import Settings
    from stream_gmm.pipeline.fit.transforms import open_and_profile

    chosen: dict[str, Any] = {n: given[n].split(",") for n in ("columns", "exclude_columns") if given[n]}
    transforms, sentinel = (_read_mapping(name, given[name]) for name in ("transforms", "sentinel"))
    if sentinel is not None and not isinstance(sentinel, dict):
        raise ConfigError(f"--sentinel maps columns to values, such as '{{x: -200}}', and is {sentinel!r}.")
    dataset = open_dataset(
        list(data), missing=given["missing"], filter=given["filter"], sentinel=sentinel, **chosen
    )  # fmt: skip
    read = "sample" if given["sample"] else "full"
    settings = Settings(
        sample_rows=given["sample_rows"], profile=read, cache="none", constants="fit", transforms=transforms
    )
    executor = ThreadsExecutor()
    with output.progress() as listener:
        _, found, _ = open_and_profile(dataset, settings, executor, listener)
    output.result(lambda: describe_profile(found), lambda: show_profile(found, make_console()))


def _read_mapping(name: str, text: str | None) -> Any:
    """Return the mapping in a text such as ``{x: -200}``, or the text if it is none."""
    import yaml

    try:
        return yaml.safe_load(text) if text and text.lstrip().startswith("{") else text
    except yaml.YAMLError as error:
        raise ConfigError(f"--{name} cannot be read: {error}") from error


@click.command("demo-data", cls=GroupedCommand)
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--rows", default=1_000_000, type=POSITIVE, show_default=True)
@click.option("--columns", default=6, type=POSITIVE, show_default=True)
@click.option("--files", default=8, type=POSITIVE, show_default=True)
@click.option("--components", default=5, type=click.IntRange(1, MOST_COMPONENTS), show_default=True)
@click.option("--seed", default=7, type=NOT_NEGATIVE, show_default=True)
@click.option(
    "--compression", default="zstd", type=click.Choice(["zstd", "snappy", "gzip", "brotli", "lz4", "none"]),
    show_default=True, help="Parquet codec",
)  # fmt: skip
def demo_data(folder: str, **options: Any) -> None:
    """Write Parquet files drawn from a known mixture, and that mixture as truth.gmm."""
    from stream_gmm.demo import write

    write(folder, **options)
    click.echo(f"{options['rows']:,} rows x {options['columns']} columns in {options['files']} files: {folder}")


@click.command(cls=GroupedCommand)
@click.argument("model")
@click.option(
    "--format", "form", default="json", show_default=True, type=click.Choice(["json", "onnx", "sklearn"]),
    help="json: the whole model; onnx: label, probabilities and log-density (needs the package onnx); sklearn: a "
    "GaussianMixture, for joblib.load",
)  # fmt: skip
@click.option("--output", "target", help="File or URI [default: beside MODEL, or here if that is a URI]")
def export(model: str, form: str, target: str | None) -> None:
    """Write a model for other programs: JSON, ONNX or scikit-learn.

    MODEL is a model file, or the folder of a run, whose champion is meant; also as a URI.
    """
    from stream_gmm.export.files import FORMATS
    from stream_gmm.pipeline.model_files import load_model, name_beside, write_file

    ending, make_content = FORMATS[form]
    content = make_content(load_model(model))
    click.echo(write_file(target or name_beside(model, ending), content))


@click.command(cls=GroupedCommand)
@click.option("--state", required=True, type=click.Path(dir_okay=False), help="State file: resumed from, and saved")
@click.option(
    "--n-components",
    default=5,
    type=click.IntRange(1, MOST_COMPONENTS),
    show_default=True,
    help="Number of components K",
)
@click.option("--covariance-type", default="full", show_default=True, help="Covariance structure")
@click.option(
    "--half-life",
    type=FiniteNumber(min=0.0, min_open=True),
    help="Rows after which a row counts half, for streams that drift",
)
@click.option(
    "--reservoir-rows", type=NOT_NEGATIVE,
    help="Rows kept to review the model on, without --half-life [default: 50,000]; 0: no reviews",
)  # fmt: skip
@click.option("--columns", help="Columns to fit, with commas between [default: all numeric ones]")
@click.option("--missing", default="drop", show_default=True, type=click.Choice(["drop", "error"]), help="Bad rows")
@click.option("--n-init", default=3, type=POSITIVE, show_default=True, help="Restarts of the first fit")
@click.option("--random-state", default=0, type=NOT_NEGATIVE, show_default=True, help="Seed")
@click.option(
    "--outlier-quantile", default=0.01, type=FiniteNumber(0.0, 1.0, max_open=True), show_default=True,
    help="Share of rows below the outlier threshold",
)  # fmt: skip
@click.option("--passthrough/--no-passthrough", default=True, help="Carry the input's columns over [default: yes]")
@click.option("--proba", default="columns", show_default=True, type=click.Choice(["columns", "list", "none"]))
@click.option(
    "--save-rows", default=1_000_000, type=POSITIVE, show_default=True,
    help="Save the state after so many rows, which are a period",
)  # fmt: skip
@click.option(
    "--folder", type=click.Path(file_okay=False),
    help="Run folder: with every period it gets a version of the model, and a row of monitor.parquet that compares "
    "the period with the version in use before",
)  # fmt: skip
@click.option(
    "--publish-as", default="champion", show_default=True, type=click.Choice(["champion", "challenger"]),
    help="Whether versions in --folder are in use at once",
)  # fmt: skip
@click.option("--keep-versions", default=10, type=POSITIVE, show_default=True, help="Versions that --folder keeps")
@click.option(
    "--max-gain", default=0.01, type=FiniteNumber(min=0.0), show_default=True,
    help="Nats per row that a refit may gain beyond chance before a period counts as drifted",
)  # fmt: skip
@click.option("--replay", is_flag=True, help="The input starts over: skip the batches that the state has taken in")
@click.option("--model", type=click.Path(dir_okay=False), help="Write the model here at the end")
@click.option("--no-scores", is_flag=True, help="Learn only; write nothing on standard output")
def stream(state: str, model: str | None, no_scores: bool, columns: str | None, **given: Any) -> None:
    """Learn from Arrow IPC record batches on standard input; write them, scored, to standard output.

    A batch is scored by the model as it was before, and then learnt from. Killed and started again with --replay,
    the state ends as if nothing had happened, bit for bit.

    With --folder, 'stream-gmm history', 'diff', 'rollback' and 'report' show what became of the model; every period
    is a JSON line on standard error, and if one has drifted, the exit code at the end is 11.
    """
    from stream_gmm.cli.streaming import stream_stdin

    stream_stdin(state, model, not no_scores, tuple(columns.split(",")) if columns else None, given)
