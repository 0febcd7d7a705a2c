"""The bootstrap as a stage of a run: standard errors, what other data would choose, and tests of K."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_gmm.core.result import FitResult
from stream_gmm.errors import StorageError
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.store.models import load_model
from stream_gmm.io.store.tables import read_table, write_table
from stream_gmm.pipeline.fit.steps import open_tasks
from stream_gmm.pipeline.fit.transforms import open_and_profile
from stream_gmm.pipeline.job.config import RunConfig, hold_output
from stream_gmm.pipeline.job.run_folder import BOOTSTRAP, CANDIDATES, LEDGER, TABLE, read_run, update_record
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress
from stream_gmm.pipeline.sweep.ledger import Ledger
from stream_gmm.pipeline.uncertainty.bootstrap import BootstrapResult, bootstrap
from stream_gmm.pipeline.uncertainty.ratio import RatioTest, ratio_test


@dataclass(frozen=True)
class Uncertainty:
    """The result of bootstrapping a run: replicates, standard errors and tests of K."""

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


@hold_output
def bootstrap_stage(
    config: RunConfig,
    executor: Executor,
    *,
    replicates: int = 100,
    candidates: int = 5,
    ratio_replicates: int = 99,
    listener: Listener = ignore_progress,
) -> Uncertainty:
    """Bootstrap the model of a run folder and its nearest rivals; writes ``bootstrap.parquet`` and adds to run.json.

    Parameters
    ----------
    replicates
        Bootstrap replicates of the data.
    candidates
        Candidates among which every replicate chooses: the chosen one and its nearest rivals.
    ratio_replicates
        Simulations of each likelihood-ratio test of K against K + 1; 0: no test.

    Raises
    ------
    StreamGMMError
        If the folder is not that of a run, or another run replaced it meanwhile; or as
        :func:`stream_gmm.pipeline.sweep.sweep.sweep`.
    """
    folder, source, settings = config.folder, config.open(), config.settings()
    state, record, chosen = read_run(folder)
    models = [chosen, *_load_runners_up(state, candidates - 1)]
    ledger = Ledger.open(folder / LEDGER, source, settings, mirror=config.open_checkpoints())
    profile = ledger.read().profile
    if profile is None:
        tasks, profile, _ = open_and_profile(source, settings, executor, listener)
    else:
        tasks = open_tasks(source.with_transforms(profile.transforms), settings, executor)
    out = bootstrap(
        models, tasks, profile, settings, executor,
        replicates=replicates, criterion=record["criterion"], listener=listener,
    )  # fmt: skip
    k, name = chosen.n_components, chosen.covariance_type
    tests = tuple(
        ratio_test(profile, n, name, settings, executor, replicates=ratio_replicates, listener=listener)
        for n in ((k - 1, k) if ratio_replicates and not settings.noise else ())
        if n >= 1
    )
    result = Uncertainty(out, tests)
    kept = update_record(
        folder,
        chosen.digest,
        lambda record: record.update(bootstrap=result.record()),
        lambda staged: write_table(out.table, staged / BOOTSTRAP),
    )
    if not kept:
        raise StorageError(
            f"{folder} was replaced by another run meanwhile; the bootstrap of the earlier one is not kept."
        )
    return result


def _load_runners_up(state: Path, count: int) -> list[FitResult]:
    """Return the candidates that came nearest to the chosen one."""
    rows: list[Mapping[str, Any]] = read_table(state / TABLE).to_pylist()
    usable = [r for r in rows if r["delta"] is not None and not r["chosen"] and r["outcome"] not in _INADMISSIBLE]
    nearest = sorted(usable, key=lambda r: r["delta"])[: max(count, 0)]
    return [load_model(state / CANDIDATES / f"{r['candidate']}.gmm") for r in nearest]


_INADMISSIBLE = ("DEGENERATE", "FAILED")
