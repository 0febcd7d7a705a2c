"""The bootstrap as a stage of a run: standard errors, what other data would choose, and tests of K."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from stream_gmm.core.criteria import title
from stream_gmm.core.result import FitResult
from stream_gmm.errors import ConfigError
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.store.models import load_model
from stream_gmm.io.store.tables import read_table, write_table
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.stages import CANDIDATES, LEDGER, MODEL, TABLE, read_record, write_record
from stream_gmm.pipeline.passes.progress import Listener, silent
from stream_gmm.pipeline.sweep.ledger import Ledger
from stream_gmm.pipeline.sweep.sweep import first_pass, open_data
from stream_gmm.pipeline.uncertainty.bootstrap import BootstrapResult, bootstrap
from stream_gmm.pipeline.uncertainty.ratio import RatioTest, ratio_test

BOOTSTRAP = "bootstrap.parquet"


@dataclass(frozen=True)
class Uncertainty:
    """What the bootstrap of a run has found."""

    bootstrap: BootstrapResult
    tests: tuple[RatioTest, ...]

    def record(self) -> dict[str, Any]:
        """Return what goes into run.json; JSON values only."""
        b = self.bootstrap
        return {
            "replicates": len(b.fits),
            "passes": b.passes,
            "criterion": b.criterion,
            "chosen": dict(b.chosen),
            "chosen_k": {str(k): n for k, n in b.chosen_k.items()},
            "weights_se": b.weights_se.tolist(),
            "means_se": b.means_se.tolist(),
            "loglik_se": b.loglik_se,
            "tests": [
                {
                    "n_components": t.n_components, "covariance_type": t.covariance_type, "statistic": t.statistic,
                    "p_value": t.p_value, "replicates": len(t.simulated), "rows": t.rows,
                }
                for t in self.tests
            ],
        }  # fmt: skip


def settings_of(model: FitResult) -> Settings:
    """Return the settings with which a model was fitted.

    Raises
    ------
    ConfigError
        If the model does not tell.
    """
    known = {f.name for f in fields(Settings)}
    given = {k: v for k, v in model.provenance.items() if k in known}
    if "random_state" not in given:
        raise ConfigError("the model does not tell how it was fitted: it needs one that fit or sweep has returned.")
    return Settings(**given)


def bootstrap_stage(
    config: RunConfig,
    executor: Executor,
    *,
    replicates: int = 100,
    candidates: int = 5,
    ratio_replicates: int = 99,
    listener: Listener = silent,
) -> Uncertainty:
    """Bootstrap the model of a run folder and its nearest rivals; leaves ``bootstrap.parquet`` and adds to run.json.

    Raises
    ------
    StreamGMMError
        If the folder is not that of a run, or as :func:`stream_gmm.pipeline.sweep.sweep.sweep`.
    """
    folder, source, settings = config.folder, config.open(), config.settings()
    record = read_record(folder)
    models = [load_model(folder / MODEL), *_rivals(config, candidates - 1)]
    reading = open_data(source, settings, executor)
    found = Ledger.open(folder / LEDGER, source, settings).read().profile
    if found is None:
        found = first_pass(source, reading, settings, executor, listener)
    out = bootstrap(
        models, reading, found, settings, executor,
        replicates=replicates, criterion=record["criterion"], listener=listener,
    )  # fmt: skip
    k, name = models[0].n_components, models[0].covariance_type
    tests = tuple(
        ratio_test(found, n, name, settings, executor, replicates=ratio_replicates, listener=listener)
        for n in ((k - 1, k) if ratio_replicates and not settings.noise else ())
        if n >= 1
    )
    result = Uncertainty(out, tests)
    write_table(out.table, folder / BOOTSTRAP)
    write_record(folder, {**record, "bootstrap": result.record()})
    return result


def _rivals(config: RunConfig, count: int) -> list[FitResult]:
    """Return the candidates that came nearest to the chosen one."""
    rows: list[Mapping[str, Any]] = read_table(config.folder / TABLE).to_pylist()
    usable = [r for r in rows if r["delta"] is not None and not r["chosen"] and r["outcome"] not in _UNFIT]
    nearest = sorted(usable, key=lambda r: r["delta"])[: max(count, 0)]
    return [load_model(config.folder / CANDIDATES / f"{r['candidate']}.gmm") for r in nearest]


_UNFIT = ("DEGENERATE", "FAILED")


def component_figures(model: FitResult, k: int, record: Mapping[str, Any] | None) -> list[str]:
    """Return weight and means of a component as text, with their standard errors if a bootstrap tells them."""
    values = [f"{model.weights_[k]:.4f}", *(f"{v:.5g}" for v in model.means_[k])]
    if record is None:
        return values
    errors = (record["weights_se"][k], *record["means_se"][k])
    return [f"{v} ± {e:.1g}" for v, e in zip(values, errors, strict=True)]


def in_words(record: Mapping[str, Any], chosen: str) -> tuple[str, ...]:
    """Return what a bootstrap of a run says, in sentences."""
    n = record["replicates"]
    others = ", ".join(f"{name} in {count}" for name, count in record["chosen"].items() if name != chosen)
    out = [
        f"In {n} bootstrap replicates of all rows, {chosen} would be chosen by {title(record['criterion'])} in "
        f"{record['chosen'].get(chosen, 0)}"
        f"{', ' + others if others else ''}. The log-likelihood has a standard error of {record['loglik_se']:.4g} "
        "nats per row."
    ]
    for t in record["tests"]:
        k, p = t["n_components"], t["p_value"]
        verdict = "more are needed" if p <= 0.05 else "they may be enough"
        out.append(
            f"Likelihood-ratio test of {k} against {k + 1} components on {t['rows']:,} rows: p = {p:.3g}, {verdict}."
        )
    return tuple(out)
