"""What the scored table looks like: the options, each written and explained once.

The public function, the configuration and the command line share them, as ``Settings`` for the options of a fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from stream_gmm.errors import (
    ConfigError,
    check_whole_number,
    did_you_mean,
    explain,
    one_of,
    refuse_unknown_keywords,
)

PROBA_STYLES = ("columns", "list", "none")
SINKS, WRITES = ("parquet", "delta"), ("replace", "partitions", "append")
COMPRESSIONS = ("auto", "zstd", "snappy", "gzip", "brotli", "lz4", "none")
CONTAMINATION, CHI_SQUARE, LOG_DENSITY = "contamination", "chi_square", "log_density"
OUTLIER_RULES = (CONTAMINATION, CHI_SQUARE, LOG_DENSITY)


class TableKeywords(TypedDict, total=False):
    """The keywords of :func:`stream_gmm.score` about the table: the fields of ``TableOptions``."""

    passthrough: str | Sequence[str]
    proba: str
    top_components: int | None
    prefix: str
    entropy: bool
    log_density_rank: bool
    outlier: Mapping[str, float] | None
    impute: bool
    partition_by: Sequence[str]
    rows_per_file: int | None
    compression: str
    sink: str
    write: str


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"doc": text})


@dataclass(frozen=True)
class TableOptions:
    """Options of the scored table, validated; every field carries its explanation.

    Raises
    ------
    ConfigError
        If a value is out of range or unknown.
    """

    passthrough: str | Sequence[str] = _option("all", "Input columns to keep: 'all', 'none', or names")
    proba: str = _option(
        "columns", "How responsibilities are written: 'columns' (one each), 'list' (one list column), or 'none'"
    )
    top_components: int | None = _option(
        None, "Write only so many of the largest responsibilities of each row, with their components; None: all"
    )
    prefix: str = _option("", "Put before the names of the score columns")
    entropy: bool = _option(False, "Add the entropy of the responsibilities, in nats")
    log_density_rank: bool = _option(
        False, "Add the share of the training rows whose log-density is not higher, between 0 and 1"
    )
    outlier: Mapping[str, float] | None = _option(
        None,
        "What makes an outlier: {contamination: share of these rows}, {chi_square: quantile of the squared "
        "distance}, or {log_density: value in nats}; None: the threshold of the model (outlier_quantile)",
    )
    impute: bool = _option(
        False,
        "Add each column with conditional means in place of missing values (x_imputed), and their standard "
        "deviations (x_sd); with missing: marginalise",
    )
    partition_by: Sequence[str] = _option(
        (), "Pass-through columns whose values become folders (hive layout: country=de/), and leave the files"
    )
    rows_per_file: int | None = _option(None, "Most rows in a file; None: one file for each part of an input file")
    compression: str = _option(
        "auto",
        f"Codec of all columns: {', '.join(COMPRESSIONS[1:])}; 'auto': zstd where it saves three tenths of the bytes",
    )
    sink: str = _option("parquet", "What the table is: 'parquet' (files), or 'delta' (a Delta table)")
    write: str = _option(
        "replace",
        "What is replaced in a Delta table: 'replace' (all rows), 'partitions' (those of the partitions that are "
        "written), or 'append' (none)",
    )

    def __post_init__(self) -> None:
        one_of(self.proba, PROBA_STYLES, "score.proba")
        one_of(self.compression, COMPRESSIONS, "score.compression")
        one_of(self.sink, SINKS, "score.sink")
        one_of(self.write, WRITES, "score.write")
        if self.write != "replace" and self.sink != "delta":
            raise ConfigError(
                explain(
                    f"score.write: {self.write} is for Delta tables",
                    why="a folder of Parquet files is replaced as a whole",
                    remedy="set score.sink to delta, or leave it out",
                )
            )
        if isinstance(self.partition_by, str):
            object.__setattr__(self, "partition_by", (self.partition_by,))
        for name in ("top_components", "rows_per_file"):
            value = getattr(self, name)
            if value is not None:
                check_whole_number(f"score.{name}", value, 1)
        if self.top_components is not None and self.proba == "none":
            raise ConfigError("score.top_components needs score.proba: columns or list, not none.")
        self._check_outlier()

    @classmethod
    def from_keywords(cls, keywords: TableKeywords) -> TableOptions:
        """Return the options of keyword arguments.

        Raises
        ------
        TypeError
            If a keyword is unknown; names the nearest known one.
        ConfigError
            As the constructor.
        """
        refuse_unknown_keywords(keywords, cls.__dataclass_fields__)
        return cls(**keywords)

    def _check_outlier(self) -> None:
        if self.outlier is None:
            return
        known = ", ".join(f"{{{name}: ...}}" for name in OUTLIER_RULES)
        if not isinstance(self.outlier, Mapping) or len(self.outlier) != 1:
            raise ConfigError(f"score.outlier takes exactly one of {known}, not {self.outlier!r}.")
        ((name, value),) = self.outlier.items()
        if name not in OUTLIER_RULES:
            raise ConfigError(f"score.outlier takes one of {known}, not {name!r}{did_you_mean(name, OUTLIER_RULES)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise ConfigError(f"score.outlier: {name} must be a number, not {value!r}.")
        if name == CONTAMINATION and not 0.0 <= value < 1.0:
            raise ConfigError(f"score.outlier: contamination is a share of the rows, from 0 to below 1, not {value}.")
        if name == CHI_SQUARE and not 0.0 < value < 1.0:
            raise ConfigError(f"score.outlier: chi_square is a quantile between 0 and 1, such as 0.999, not {value}.")

    @property
    def outlier_rule(self) -> tuple[str, float] | None:
        """Name and value of the rule for outliers; None: the threshold of the model."""
        return next(((name, float(value)) for name, value in (self.outlier or {}).items()), None)
