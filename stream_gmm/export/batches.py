"""Scores of rows that are somewhere else than in files: Arrow record batches and Dask data frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

from stream_gmm.core.outliers import OutlierTest
from stream_gmm.core.result import FitResult
from stream_gmm.errors import ConfigError, InputDataError, explain
from stream_gmm.io.sink.columns import Layout
from stream_gmm.io.sink.stream import score_record_batch, score_record_batches
from stream_gmm.pipeline.table_layout import make_stream_layout
from stream_gmm.pipeline.table_options import TableKeywords, TableOptions


def score_batches(
    model: FitResult | Any,
    reader: Any,
    *,
    missing: str = "error",
    **options: Unpack[TableKeywords],
) -> Iterator[Any]:
    """Yield the record batches of a reader with their scores, one in memory at a time, in their order.

    Parameters
    ----------
    model
        A fitted model or estimator.
    reader
        A ``pyarrow.RecordBatchReader``, a table, a record batch, or any iterable of record batches. The columns of
        the model are found by name.
    missing
        ``"error"``, or ``"drop"``: a row with a null, NaN or infinity has null scores, with the reason; or
        ``"marginalise"``: it has the scores of the values that are there.
    **options
        The options of :func:`stream_gmm.score` about columns and outliers: ``passthrough``, ``proba``, ``prefix``,
        ``entropy``, ``log_density_rank``, ``top_components`` and ``outlier``, but for a contamination rate.

    Yields
    ------
    pyarrow.RecordBatch
        The rows of one batch with their scores.

    Raises
    ------
    InputDataError
        If a batch lacks a column of the model or a value cannot be used; names batch, row and column.
    ConfigError
        If two columns would have one name, or an option is only for files.
    """
    result = model if isinstance(model, FitResult) else model.result_
    table = TableOptions.from_keywords(options)
    layout, test = make_stream_layout(table, result)
    yield from score_record_batches(
        result, reader, passthrough=table.passthrough, layout=layout, test=test, missing=missing
    )


def score_dask(
    frame: Any,
    model: FitResult | Any,
    *,
    missing: str = "error",
    **options: Unpack[TableKeywords],
) -> Any:
    """Return a Dask data frame with its columns and then those of the scores; nothing is computed yet.

    Parameters
    ----------
    frame
        A Dask data frame with the columns of the model. Index, divisions and partitions stay as they are.
    model
        A fitted model or estimator; it travels inside the graph.
    missing
        ``"error"``: a row that cannot be scored stops the computation; ``"drop"``: its scores are missing;
        ``"marginalise"``: it has the scores of the values that are there.
    **options
        As in :func:`score_batches`, without ``passthrough``: the columns of the frame stay.

    Returns
    -------
    dask.dataframe.DataFrame
        The columns of ``frame``, then those of :func:`stream_gmm.score`.

    Raises
    ------
    InputDataError
        If a column of the model is not in the frame; or, when it is computed, if a value cannot be used.
    ConfigError
        If the frame has a column with the name of a score column, or an option is only for files.
    """
    result = model if isinstance(model, FitResult) else model.result_
    if not hasattr(frame, "map_partitions"):
        raise InputDataError(
            explain(
                f"score_dask takes a Dask data frame, not {type(frame).__name__}",
                remedy="use score for files, score_batches for Arrow, or predict_proba for rows in memory",
            )
        )
    layout, test = make_stream_layout(TableOptions.from_keywords(options), result)
    given: dict[str, Any] = {"layout": layout, "test": test, "missing": missing}
    return frame.map_partitions(_score_frame, result, **given, meta=_score_frame(frame._meta, result, **given))


def score_frame(frame: Any, result: FitResult, missing: str) -> Any:
    """Return the scores of a pandas data frame, without its own columns, by the rules of the model."""
    layout, test = make_stream_layout(TableOptions(), result)
    return _score_rows(frame, result, layout=layout, test=test, missing=missing)


def _score_frame(frame: Any, result: FitResult, *, layout: Layout, test: OutlierTest, missing: str) -> Any:
    """Return a pandas data frame with its scores."""
    import pandas as pd

    scores = _score_rows(frame, result, layout=layout, test=test, missing=missing)
    clash = sorted(set(scores.columns) & set(frame.columns))
    if clash:
        raise ConfigError(
            explain(f"the frame already has columns named {clash}", remedy="set prefix, such as 'gmm_'")
        )
    return pd.concat([frame, scores], axis=1)


def _score_rows(frame: Any, result: FitResult, *, layout: Layout, test: OutlierTest, missing: str) -> Any:
    """Return the scores of a pandas data frame; columns with missing integers or truth values are nullable."""
    import pandas as pd
    import pyarrow as pa

    absent = [c for c in result.input_columns if c not in frame.columns]
    if [c for c in absent if c in result.columns]:
        raise InputDataError(
            explain(f"the frame lacks the columns {absent}", why=f"the model has {list(result.input_columns)}")
        )
    wanted = [c for c in result.input_columns if c not in absent]
    batch = pa.RecordBatch.from_pandas(frame[wanted], preserve_index=False)
    scored = score_record_batch(result, batch, 0, passthrough="none", layout=layout, test=test, missing=missing)
    kinds = {pa.int32(): pd.Int32Dtype(), pa.bool_(): pd.BooleanDtype(), pa.string(): pd.StringDtype()}
    scores = pa.Table.from_batches([scored]).to_pandas(types_mapper=kinds.get)
    scores.index = frame.index
    return scores
