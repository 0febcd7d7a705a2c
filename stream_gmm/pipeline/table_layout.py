"""The options of a scored table made concrete for a data set and a model: its columns, and what makes an outlier."""

from __future__ import annotations

from collections.abc import Sequence

from stream_gmm.core.outliers import OutlierTest
from stream_gmm.core.result import FitResult
from stream_gmm.errors import ConfigError, explain
from stream_gmm.io.sink.columns import Layout, check_layout, choose_passthrough
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.source.decode import MARGINALISE
from stream_gmm.pipeline.table_options import CHI_SQUARE, CONTAMINATION, LOG_DENSITY, TableOptions


def make_layout(
    dataset: Dataset, n_components: int, noise: bool, options: TableOptions, columns: Sequence[str]
) -> Layout:
    """Return the columns and files of a scored table of up to ``n_components`` components of these columns.

    Raises
    ------
    ConfigError
        If two columns would have one name, or a pass-through column does not exist; or if missing values are to be
        imputed in rows that are left out because of them.
    """
    if options.impute and dataset.missing != MARGINALISE:
        raise ConfigError(
            explain(
                f"score.impute fills in missing values, and with missing: {dataset.missing} no scored row has any",
                remedy="set data.missing to marginalise, or score.impute to false",
            )
        )
    layout = Layout(
        choose_passthrough(options.passthrough, dataset.schema.names), options.proba, options.prefix,
        tuple(columns) if options.impute else (), options.top_components, options.entropy, options.log_density_rank,
        options.outlier_rule, tuple(options.partition_by), options.rows_per_file, options.compression,
    )  # fmt: skip
    check_layout(dataset, n_components, layout, noise)
    return layout


def make_stream_layout(options: TableOptions, model: FitResult) -> tuple[Layout, OutlierTest]:
    """Return the columns and the rule for outliers of rows that come one batch after the other.

    Raises
    ------
    ConfigError
        If an option is only for files.
    """
    for name in ("partition_by", "rows_per_file", "impute"):
        if getattr(options, name):
            raise ConfigError(f"score.{name} is not for a stream of rows: score files, or leave it out.")
    if options.sink != "parquet":
        raise ConfigError("score.sink: delta is not for a stream of rows: score files, or leave it out.")
    rule = options.outlier_rule
    if rule is not None and rule[0] == CONTAMINATION:
        raise ConfigError(
            explain(
                "score.outlier: a contamination rate is not for a stream of rows",
                why="its limit depends on all rows",
                remedy="give chi_square or log_density",
            )
        )
    layout = Layout(
        (), options.proba, options.prefix, (), options.top_components, options.entropy, options.log_density_rank, rule
    )
    require_ranks(layout, model)
    return layout, choose_fixed_test(layout, model)


def require_ranks(layout: Layout, model: FitResult) -> None:
    """Refuse ranks of log-densities where there is nothing to compare with.

    Raises
    ------
    ConfigError
        If the model does not hold the log-densities that it was fitted to.
    """
    if layout.log_density_rank and model.training is None:
        raise ConfigError(
            explain(
                "log_density_rank needs the log-densities that the model was fitted to, and the model has none",
                remedy="fit it again, or leave the column out",
            )
        )


def choose_fixed_test(layout: Layout, model: FitResult) -> OutlierTest:
    """Return what makes a row an outlier, whatever the other rows are."""
    rule, value = layout.outlier or ("", 0.0)
    if rule == CHI_SQUARE:
        return OutlierTest.by_chi_square(value, model.n_features_in_)
    return OutlierTest(limit=value if rule == LOG_DENSITY else model.threshold)
