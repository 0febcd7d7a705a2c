"""Gaussian mixture models for data that does not fit in memory.

Names are imported when they are first used, so that ``import stream_gmm.core`` stays free of
pyarrow and dask, and the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream_gmm import plot
    from stream_gmm.api import fit, monitor, score, sweep
    from stream_gmm.core.fit.em import Outcome
    from stream_gmm.core.model.covariance import FAMILIES
    from stream_gmm.core.model.params import MixtureParams
    from stream_gmm.core.result import FitResult
    from stream_gmm.errors import ConvergenceWarning
    from stream_gmm.estimator import GaussianMixture
    from stream_gmm.estimator_bayesian import BayesianGaussianMixture
    from stream_gmm.estimator_selector import GaussianMixtureSelector
    from stream_gmm.export.batches import score_batches, score_dask
    from stream_gmm.export.json_models import from_json
    from stream_gmm.export.mlflow_runs import log_to_mlflow
    from stream_gmm.export.sklearn_mixtures import from_sklearn
    from stream_gmm.inference import bootstrap, likelihood_ratio_test
    from stream_gmm.io.sink.scored import ScoredTable, open_scored
    from stream_gmm.io.source.dataset import Dataset, open_dataset
    from stream_gmm.io.store.models import save_model
    from stream_gmm.nightly import update
    from stream_gmm.online import OnlineGaussianMixture
    from stream_gmm.pipeline.job.registry import Registry, open_registry
    from stream_gmm.pipeline.model_files import load_model
    from stream_gmm.pipeline.monitor import MonitorResult
    from stream_gmm.pipeline.score import ScoreResult
    from stream_gmm.pipeline.sweep.result import SweepResult
    from stream_gmm.pipeline.uncertainty.bootstrap import BootstrapResult
    from stream_gmm.pipeline.uncertainty.ratio import RatioTest
    from stream_gmm.pipeline.update.result import UpdateResult
    from stream_gmm.pipeline.upkeep.clean import clean
    from stream_gmm.pipeline.upkeep.verify import Verification, verify

_WHERE = {
    "BayesianGaussianMixture": "stream_gmm.estimator_bayesian",
    "bootstrap": "stream_gmm.inference",
    "fit": "stream_gmm.api",
    "from_json": "stream_gmm.export.json_models",
    "from_sklearn": "stream_gmm.export.sklearn_mixtures",
    "likelihood_ratio_test": "stream_gmm.inference",
    "log_to_mlflow": "stream_gmm.export.mlflow_runs",
    "monitor": "stream_gmm.api",
    "score": "stream_gmm.api",
    "score_batches": "stream_gmm.export.batches",
    "score_dask": "stream_gmm.export.batches",
    "sweep": "stream_gmm.api",
    "FAMILIES": "stream_gmm.core.model.covariance",
    "Outcome": "stream_gmm.core.fit.em",
    "MixtureParams": "stream_gmm.core.model.params",
    "ConvergenceWarning": "stream_gmm.errors",
    "FitResult": "stream_gmm.core.result",
    "GaussianMixture": "stream_gmm.estimator",
    "GaussianMixtureSelector": "stream_gmm.estimator_selector",
    "Dataset": "stream_gmm.io.source.dataset",
    "open_dataset": "stream_gmm.io.source.dataset",
    "clean": "stream_gmm.pipeline.upkeep.clean",
    "verify": "stream_gmm.pipeline.upkeep.verify",
    "Verification": "stream_gmm.pipeline.upkeep.verify",
    "open_scored": "stream_gmm.io.sink.scored",
    "ScoredTable": "stream_gmm.io.sink.scored",
    "open_registry": "stream_gmm.pipeline.job.registry",
    "Registry": "stream_gmm.pipeline.job.registry",
    "load_model": "stream_gmm.pipeline.model_files",
    "save_model": "stream_gmm.io.store.models",
    "plot": "stream_gmm.plot",
    "OnlineGaussianMixture": "stream_gmm.online",
    "BootstrapResult": "stream_gmm.pipeline.uncertainty.bootstrap",
    "MonitorResult": "stream_gmm.pipeline.monitor",
    "RatioTest": "stream_gmm.pipeline.uncertainty.ratio",
    "ScoreResult": "stream_gmm.pipeline.score",
    "SweepResult": "stream_gmm.pipeline.sweep.result",
    "update": "stream_gmm.nightly",
    "UpdateResult": "stream_gmm.pipeline.update.result",
}

__all__ = [
    "FAMILIES",
    "BayesianGaussianMixture",
    "BootstrapResult",
    "ConvergenceWarning",
    "Dataset",
    "FitResult",
    "GaussianMixture",
    "GaussianMixtureSelector",
    "MixtureParams",
    "MonitorResult",
    "OnlineGaussianMixture",
    "Outcome",
    "RatioTest",
    "Registry",
    "ScoreResult",
    "ScoredTable",
    "SweepResult",
    "UpdateResult",
    "Verification",
    "bootstrap",
    "clean",
    "fit",
    "from_json",
    "from_sklearn",
    "likelihood_ratio_test",
    "load_model",
    "log_to_mlflow",
    "monitor",
    "open_dataset",
    "open_registry",
    "open_scored",
    "plot",
    "save_model",
    "score",
    "score_batches",
    "score_dask",
    "sweep",
    "update",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("stream-gmm")
    if name not in _WHERE:
        raise AttributeError(f"module 'stream_gmm' has no attribute {name!r}")
    module = importlib.import_module(_WHERE[name])
    return module if name == "plot" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
