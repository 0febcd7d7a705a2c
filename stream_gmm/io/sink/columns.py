"""The columns of a scored table: names, types, meaning and content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stream_gmm.core.estep.scores import Scores
from stream_gmm.core.outliers import LOG_DENSITY, OutlierTest
from stream_gmm.core.rows.histogram import LogDensityHistogram
from stream_gmm.errors import ConfigError, explain
from stream_gmm.io.sink.incomplete import explain_unscored
from stream_gmm.io.sink.parquet.encodings import AUTO
from stream_gmm.io.source.chunks import NONE_UNLIKE, Chunk
from stream_gmm.io.source.dataset import Dataset

REASON = "not_scored_reason"
OUTLIER = "is_outlier"
NO_TEST = OutlierTest()
Content = Callable[[Scores], Any]


@dataclass(frozen=True)
class Layout:
    """Which columns and files a scored table has.

    ``proba`` is ``"columns"`` (``proba_0`` ...), ``"list"`` (one list column) or ``"none"``; with ``top_components``
    only the largest responsibilities are there. ``impute`` names the columns of the model to add with conditional
    means for missing values; none: none is. ``outlier`` is the name and value of a rule, ``partition_by`` names the
    columns whose values are folders.
    """

    passthrough: tuple[str, ...]
    proba: str = "columns"
    prefix: str = ""
    impute: tuple[str, ...] = ()
    top_components: int | None = None
    entropy: bool = False
    log_density_rank: bool = False
    outlier: tuple[str, float] | None = None
    partition_by: tuple[str, ...] = ()
    rows_per_file: int | None = None
    compression: str = AUTO


@dataclass(frozen=True)
class ScoreColumn:
    """A column of scores: its name, type, meaning, and what it takes from the scores of the rows."""

    name: str
    kind: pa.DataType
    meaning: str
    content: Content

    def make_field(self) -> pa.Field:
        """Return the field of a schema, with the meaning as metadata ``description``."""
        return pa.field(self.name, self.kind, metadata={"description": self.meaning})


def _entry(name: str, j: int) -> Content:
    return lambda scores: getattr(scores, name)[:, j]


def _proba_columns(k: int) -> list[ScoreColumn]:
    text = "responsibility of component {}: the probability that the row belongs to it"
    return [ScoreColumn(f"proba_{i}", pa.float64(), text.format(i), _entry("proba", i)) for i in range(k)]


def _proba_list(k: int) -> list[ScoreColumn]:
    text = f"responsibilities of the components 0 to {k - 1}"
    return [ScoreColumn("proba", pa.list_(pa.float64()), text, lambda s: s.proba)]


def _top_columns(m: int) -> list[ScoreColumn]:
    def proba(i: int) -> Content:
        return lambda s: np.take_along_axis(s.proba, s.ranking[:, i : i + 1], axis=1)[:, 0]

    out = []
    for i in range(m):
        text = (
            f"component with the largest responsibility but {i}" if i else "component with the largest responsibility"
        )
        out += [
            ScoreColumn(f"top{i + 1}_component", pa.int32(), text, _entry("ranking", i)),
            ScoreColumn(f"top{i + 1}_proba", pa.float64(), "its responsibility", proba(i)),
        ]
    return out


def _top_lists(m: int) -> list[ScoreColumn]:
    return [
        ScoreColumn(
            "top_components", pa.list_(pa.int32()), f"the {m} components with the largest responsibilities",
            lambda s: s.ranking[:, :m].astype(np.int32),
        ),
        ScoreColumn(
            "top_proba", pa.list_(pa.float64()), "their responsibilities",
            lambda s: np.take_along_axis(s.proba, s.ranking[:, :m], axis=1),
        ),
    ]  # fmt: skip


_PROBA: dict[str, Callable[[int], list[ScoreColumn]]] = {
    "columns": _proba_columns,
    "list": _proba_list,
    "none": lambda _: [],
}
_TOP: dict[str, Callable[[int], list[ScoreColumn]]] = {"columns": _top_columns, "list": _top_lists}
PROBA_STYLES = tuple(_PROBA)


def score_columns(
    k: int,
    layout: Layout,
    noisy: bool = False,
    test: OutlierTest = NO_TEST,
    training: LogDensityHistogram | None = None,
) -> list[ScoreColumn]:
    """Return the score columns in order; with noise, its probability, too.

    ``test`` says which rows are outliers, and ``training`` gives the ranks of log-densities.
    """
    rule = f"the log-density is below {test.limit:.6g} nats"
    if test.quantity != LOG_DENSITY:
        rule = f"the squared distance is above {test.limit:.6g}"
    m = layout.top_components
    columns = [
        ScoreColumn(
            "component", pa.int32(), "component of highest responsibility, counted from 0; -1 for noise",
            lambda s: s.component,
        ),
        ScoreColumn("max_proba", pa.float64(), "its responsibility, or that of the noise", lambda s: s.max_proba),
        *(_PROBA[layout.proba](k) if m is None else _TOP[layout.proba](min(m, k))),
    ]  # fmt: skip
    if noisy:
        columns.append(ScoreColumn("proba_noise", pa.float64(), "probability of being noise", lambda s: s.noise))
    if layout.entropy:
        columns.append(
            ScoreColumn("entropy", pa.float64(), "entropy of the responsibilities, nats", lambda s: s.entropy)
        )
    columns += [
        ScoreColumn(
            "log_density", pa.float64(), "log-density of the row, nats: low is unusual", lambda s: s.log_density
        )
    ]
    if layout.log_density_rank:
        columns.append(
            ScoreColumn(
                "log_density_rank", pa.float64(), "share of the training rows whose log-density is not higher",
                lambda s: training.find_ranks(s.comparable) if training is not None else s.comparable,
            )
        )  # fmt: skip
    columns += [
        ScoreColumn("uncertainty", pa.float64(), "1 - max_proba", lambda s: 1.0 - s.max_proba),
        ScoreColumn(
            "mahalanobis_sq", pa.float64(),
            "squared Mahalanobis distance to the assigned component; for noise, to the likeliest one",
            lambda s: s.mahalanobis_sq,
        ),
        ScoreColumn(
            OUTLIER, pa.bool_(), f"true if {rule}, or a value differs from a column that was constant in the fit",
            test.mark,
        ),
        *_imputed_columns(layout.impute),
    ]  # fmt: skip
    return [ScoreColumn(layout.prefix + c.name, c.kind, c.meaning, c.content) for c in columns]


def _imputed_columns(names: Sequence[str]) -> list[ScoreColumn]:
    """Return the columns that come without missing values, and their deviations."""

    def content(which: int, j: int) -> Content:
        return lambda scores: scores.imputed[which][:, j]

    endings = (
        ("imputed", "{} with its conditional mean where it is missing"),
        ("sd", "standard deviation of that mean"),
    )
    return [
        ScoreColumn(f"{name}_{ending}", pa.float64(), text.format(name), content(which, j))
        for j, name in enumerate(names)
        for which, (ending, text) in enumerate(endings)
    ]


def make_reason_field(layout: Layout) -> pa.Field:
    """Return the field of the last column."""
    return pa.field(
        layout.prefix + REASON, pa.string(), metadata={"description": "why the row has no scores; null if it has"}
    )


def make_table_schema(dataset: Dataset, layout: Layout, columns: Sequence[ScoreColumn]) -> pa.Schema:
    """Return all columns of the scored table; without ``columns``, those that are passed through."""
    fields = [dataset.schema.field(name) for name in layout.passthrough]
    if columns:
        fields += [*(c.make_field() for c in columns), make_reason_field(layout)]
    return pa.schema([pa.field(f.name, f.type) for f in fields])


def choose_passthrough(passthrough: str | Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns to carry over: ``"all"`` of these names, ``"none"``, one name, or several."""
    if isinstance(passthrough, str):
        return {"all": tuple(names), "none": ()}.get(passthrough, (passthrough,))
    return tuple(passthrough)


def check_layout(dataset: Dataset, k: int, layout: Layout, noisy: bool = False) -> None:
    """Refuse a layout in which two columns would have one name, or that no files can have.

    Raises
    ------
    ConfigError
        If a pass-through column does not exist, is named twice, or has the name of a score column; or a column to
        partition by is not passed through, or has a type without distinct values.
    InputDataError
        If files have a pass-through column with types that have nothing in common.
    """
    dataset.check_passthrough(layout.passthrough)
    twice = sorted({c for c in layout.passthrough if layout.passthrough.count(c) > 1})
    if twice:
        raise ConfigError(f"score.passthrough names columns twice: {twice}.")
    names = [*(c.name for c in score_columns(k, layout, noisy)), layout.prefix + REASON]
    clash = sorted(set(names) & set(layout.passthrough))
    if clash:
        raise ConfigError(
            explain(
                f"the input already has columns named {clash}",
                remedy="set score.prefix (such as 'gmm_'), or name the columns to keep in score.passthrough",
            )
        )
    for name in layout.partition_by:
        if name not in layout.passthrough:
            raise ConfigError(
                explain(
                    f"score.partition_by names '{name}', which is not passed through",
                    why=f"these columns are: {', '.join(layout.passthrough) or 'none'}",
                    remedy="add it to score.passthrough, or leave it out",
                )
            )
        kind = dataset.schema.field(name).type
        if pa.types.is_floating(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind):
            raise ConfigError(
                f"score.partition_by names '{name}' of type {kind}: take a column of text, whole numbers or dates."
            )


def make_scored_table(
    chunk: Chunk,
    scores: Scores,
    columns: Sequence[ScoreColumn],
    layout: Layout,
    metadata: dict[str, str],
    unlike: NDArray[np.bool_] = NONE_UNLIKE,
) -> pa.Table:
    """Return the rows of a chunk with its pass-through columns and the scores of those that have any.

    ``unlike (N,)`` marks rows that have no scores and are outliers; empty: none is.
    """
    chunk = explain_unscored(chunk, scores)
    assert chunk.batch is not None
    arrays = [chunk.batch.column(c) for c in layout.passthrough]
    fields = [chunk.batch.schema.field(c) for c in layout.passthrough]
    for column in columns:
        arrays.append(_place_rows(column.content(scores), column.kind, chunk))
        fields.append(column.make_field())
        if column.name == layout.prefix + OUTLIER and len(unlike):
            arrays[-1] = pc.if_else(pa.array(unlike), True, arrays[-1])
    arrays.append(
        pa.nulls(chunk.size, pa.string()) if chunk.reasons is None else pa.array(chunk.reasons, pa.string())
    )
    fields.append(make_reason_field(layout))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))


def _place_rows(values: Any, kind: pa.DataType, chunk: Chunk) -> pa.Array:
    """Put the values of the usable rows in their places; the others are null."""
    values = np.asarray(values)
    mask = None if chunk.keep is None else ~chunk.keep
    if pa.types.is_list(kind):
        # Not lists of a fixed size: of those, pyarrow before 26 cannot read nulls.
        lengths = np.full(chunk.size, values.shape[1]) if chunk.keep is None else chunk.keep * values.shape[1]
        starts = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        flat = pa.array(np.ascontiguousarray(values).ravel())
        return pa.ListArray.from_arrays(starts, flat, type=kind, mask=None if mask is None else pa.array(mask))
    if chunk.keep is not None:
        full = np.zeros(chunk.size, values.dtype)
        full[chunk.keep] = values
        values = full
    if chunk.incomplete and pa.types.is_floating(kind):  # NaN: a score that a row without any value does not have
        mask = np.isnan(values) if mask is None else mask | np.isnan(values)
    return pa.array(np.ascontiguousarray(values), kind, mask=mask)
