"""The sections that become the options of something else: of a scored table, an update, a cluster, MLflow."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from stream_gmm.errors import ConfigError, redact_text
from stream_gmm.execute.addresses import EXPOSED, is_encrypted, is_exposed
from stream_gmm.pipeline.fit.settings import describe_option
from stream_gmm.pipeline.job.sections import Number, Section, Text, Whole, require_distinct
from stream_gmm.pipeline.limits import MOST_WORKERS
from stream_gmm.pipeline.table_options import TableOptions
from stream_gmm.pipeline.update.rule import UpdateRule, describe_update_option


class MlflowConfig(Section):
    """Where runs are logged in MLflow (extra mlflow); without an address, nowhere."""

    tracking_uri: Text | None = Field(
        None, description="Server or store, such as http://host:5000 or sqlite:///mlflow.db; 'run' is logged there"
    )
    experiment: Text = Field("stream-gmm", description="Name of the experiment; it is created if there is none")
    register_as: Text | None = Field(
        None, description="Name under which MLflow's registry gets the model as a new version; none: not registered"
    )


describe = partial(describe_option, options=TableOptions)
_RULE = UpdateRule()
_MEMORY = re.compile(r"\d+(\.\d*)?(e\d+)? *([kMGTP]i?)?B?", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:(?:tcp|tls|ucx|ws|wss)://)?[^\s/]+:\d+|inproc://\S+")


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


class ScoreConfig(Section):
    """What the scored Parquet looks like."""

    outlier_quantile: Number = Field(0.01, ge=0.0, lt=1.0, description="Share of rows below the outlier threshold")
    outlier: dict[str, Number] | None = Field(None, description=describe("outlier"))
    passthrough: Text | list[Text] = Field("all", description=describe("passthrough"))
    proba: str = Field("columns", description=describe("proba"))
    top_components: Whole | None = Field(None, ge=1, description=describe("top_components"))
    prefix: str = Field("", description=describe("prefix"))
    entropy: bool = Field(False, description=describe("entropy"))
    log_density_rank: bool = Field(False, description=describe("log_density_rank"))
    impute: bool = Field(False, description=describe("impute"))
    partition_by: list[Text] = Field([], description=describe("partition_by"))
    rows_per_file: Whole | None = Field(None, ge=1, description=describe("rows_per_file"))
    compression: str = Field("auto", description=describe("compression"))
    sink: Literal["parquet", "delta"] = Field("parquet", description=describe("sink"))
    write: Literal["replace", "partitions", "append"] = Field("replace", description=describe("write"))

    @field_validator("passthrough", "partition_by")
    @classmethod
    def _require_distinct_names(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, list):
            require_distinct(value)
        return value

    @field_validator("partition_by", mode="before")
    @classmethod
    def _wrap_single_value(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("outlier", mode="before")
    @classmethod
    def _read_rule(cls, value: Any) -> Any:
        """Read the text of the command line, such as ``chi_square: 0.999``."""
        return yaml.safe_load(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _require_one_rule(self) -> ScoreConfig:
        if self.outlier is not None and "outlier_quantile" in self.model_fields_set:
            raise ValueError("outlier and outlier_quantile exclude each other: leave one of them out")
        self.options()
        return self

    def options(self) -> TableOptions:
        """Return the options of the scored table."""
        # Not exclude=: older releases of pydantic ignore it where a section has a serializer of its own.
        return TableOptions(**{key: value for key, value in self.model_dump().items() if key != "outlier_quantile"})


class ClusterConfig(Section):
    """Where the work is done; by default on an embedded Dask cluster on the loopback address."""

    executor: Literal["dask", "threads", "serial"] = Field(
        "dask", description="dask, or this process: threads, serial"
    )
    address: Text | None = Field(None, description="Scheduler of an existing cluster, such as tcp://host:8786")
    scheduler_file: Text | None = Field(None, description="Scheduler file of an existing cluster")
    cluster_class: Text | None = Field(None, description="Dotted path of a Dask cluster class to start")
    cluster_options: dict[str, Any] = Field({}, description="Arguments of cluster_class")
    scale: Whole | None = Field(None, ge=1, description="Workers to ask cluster_class for")
    adapt: dict[str, Whole] | None = Field(None, description="Adaptive scaling, such as {minimum: 1, maximum: 10}")
    n_workers: Whole | None = Field(
        None, ge=1, le=MOST_WORKERS, description="Workers of the embedded cluster, or threads; none: one a core"
    )
    threads_per_worker: Whole = Field(1, ge=1, le=MOST_WORKERS, description="Threads of each embedded worker")
    memory_limit: Text | None = Field(None, description="Memory of each embedded worker, such as 2GiB")
    timeout_seconds: Number = Field(30.0, gt=0.0, description="How long to wait for a worker; later, twice that")
    stall_seconds: Number = Field(
        600.0, gt=0.0, description="The run ends when no worker has worked on its tasks for so long"
    )
    tls_ca_file: Text | None = Field(None, description="Authority (PEM) that signed the certificates of the cluster")
    tls_cert_file: Text | None = Field(None, description="Own certificate (PEM), shown to the scheduler")
    tls_key_file: Text | None = Field(None, description="Key of the certificate (PEM); none: in tls_cert_file")
    encrypt: bool = Field(False, description="A cluster started here: TLS, with certificates made for this run")
    allow_insecure: bool = Field(False, description="Allow a scheduler beyond this machine without TLS (tcp://)")
    performance_report: Text | None = Field(
        None, description="Write Dask's performance report to this HTML file; needs bokeh here and on the scheduler"
    )

    @property
    def local(self) -> bool:
        """True if all the work is done on this machine."""
        return self.executor != "dask" or not (self.address or self.scheduler_file or self.cluster_class)

    @field_validator("memory_limit")
    @classmethod
    def _require_memory_size(cls, value: str | None) -> str | None:
        if value not in (None, "auto") and (not _MEMORY.fullmatch(value) or not re.search(r"[1-9]", value)):
            raise ValueError("is not a size of memory; write it as '2GiB'")
        return value

    @field_validator("address")
    @classmethod
    def _require_address(cls, value: str | None) -> str | None:
        if value is not None and not _ADDRESS.fullmatch(value):
            raise ValueError("is not the address of a scheduler; write it as 'tcp://host:8786'")
        return value

    @field_validator("adapt")
    @classmethod
    def _require_bounds(cls, value: dict[str, int] | None) -> dict[str, int] | None:
        if value is None:
            return None
        if unknown := sorted(set(value) - {"minimum", "maximum"}):
            raise ValueError(f"knows minimum and maximum, not {', '.join(unknown)}")
        if not 0 <= value.get("minimum", 0) <= value.get("maximum", MOST_WORKERS) or value.get("maximum") == 0:
            raise ValueError("needs 0 <= minimum <= maximum, and a maximum of at least 1")
        return value

    @model_validator(mode="after")
    def _require_one_cluster(self) -> ClusterConfig:
        ways = [n for n in ("address", "scheduler_file", "cluster_class") if getattr(self, n)]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude each other")
        started = [n for n in ("scale", "adapt", "cluster_options") if getattr(self, n)]
        if started and not self.cluster_class:
            raise ValueError(f"{' and '.join(started)} need cluster_class")
        return self

    @model_validator(mode="after")
    def _require_secure_connection(self) -> ClusterConfig:
        files = [n for n in ("tls_ca_file", "tls_cert_file", "tls_key_file") if getattr(self, n)]
        if files and not (self.tls_ca_file and self.tls_cert_file):
            raise ValueError("TLS needs both tls_ca_file and tls_cert_file")
        if self.encrypt and (files or self.address or self.scheduler_file):
            raise ValueError("encrypt makes certificates for a cluster that is started here; leave the tls files out")
        if self.address and files and not is_encrypted(self.address):
            raise ValueError("with TLS files the address begins with 'tls://'")
        if self.address and is_exposed(self.address) and not self.allow_insecure:
            raise ValueError(EXPOSED.format(redact_text(self.address)))
        return self
