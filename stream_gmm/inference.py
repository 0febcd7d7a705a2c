"""The public verbs that say how sure a fit is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stream_gmm.api import executor_for
from stream_gmm.core.criteria import CHOICES
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.result import FitResult
from stream_gmm.errors import ConfigError, InputDataError, explain, one_of
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.decode import MARGINALISE
from stream_gmm.io.source.memory import as_source
from stream_gmm.pipeline.fit.results import recover_settings
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.fit.steps import profile_source
from stream_gmm.pipeline.fit.transforms import open_and_profile
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress
from stream_gmm.pipeline.uncertainty import bootstrap as _bootstrap
from stream_gmm.pipeline.uncertainty.bootstrap import BootstrapResult
from stream_gmm.pipeline.uncertainty.ratio import RatioTest, ratio_test

if TYPE_CHECKING:
    from distributed import Client


def bootstrap(
    model: FitResult | Any,
    data: Any,
    replicates: int = 100,
    *,
    rivals: Sequence[FitResult] = (),
    weight: Any = None,
    criterion: str = "bic",
    client: Client | Executor | None = None,
    progress: Listener = ignore_progress,
) -> BootstrapResult:
    """Refit a model in bootstrap replicates of all rows; all replicates share every read of the data.

    A replicate weighs every row by a Poisson(1) number from the row's hash, starts at the model, so that
    components keep their numbers, and runs to its own optimum.

    Parameters
    ----------
    model
        The result of :func:`fit` on ``data``, or the ``best`` of :func:`sweep`.
    data
        The data of the fit. Whatever has column names is read by the names of the model's columns; the columns of
        an array must be in their order.
    replicates
        Number of replicates.
    rivals
        Other models of the same data, with the same columns in the same order: how often each would be chosen is
        ``chosen`` and ``chosen_k`` of the result.
    weight
        Weights of the rows, as in :func:`fit`.
    criterion
        What chooses among the model and its rivals: ``"bic"``, ``"aic"``, ``"icl"``.
    client, progress
        As in :func:`fit`.

    Returns
    -------
    BootstrapResult
        ``weights_se``, ``means_se``, ``covariances_se``, ``loglik_se``, and ``table`` with an interval for each.

    Raises
    ------
    ConfigError, InputDataError, ClusterError
        See their descriptions.
    """
    result = model if isinstance(model, FitResult) else model.result_
    for rival in rivals:
        if rival.transforms != result.transforms:
            raise ConfigError(
                explain(
                    f"a rival was fitted to {list(rival.labels)}, the model to {list(result.labels)}",
                    why="both are refitted to the same transformed columns",
                    remedy="fit both with the same transforms",
                )
            )
        if rival.columns != result.columns:
            raise ConfigError(
                explain(
                    f"a rival has the columns {list(rival.columns)}, the model {list(result.columns)}",
                    why="both are refitted to the same rows",
                    remedy="fit both to the same columns in the same order",
                )
            )
    policy = MARGINALISE if result.marginalises else "error"
    source = as_source(data, result.input_columns, policy, weight)
    settings, executor = recover_settings(result), executor_for(client)
    tasks, profile, _ = open_and_profile(source, settings, executor, progress)
    if profile.columns != result.columns:
        raise InputDataError(
            explain(
                f"{list(profile.columns)} vary in these rows, and the model was fitted to {list(result.columns)}",
                why="other columns are constant here than in the rows of the fit",
                remedy="pass the data of the fit",
            )
        )
    return _bootstrap.bootstrap(
        [result, *rivals], tasks, profile, settings, executor,
        replicates=replicates, criterion=one_of(criterion, CHOICES, "criterion"), listener=progress,
    )  # fmt: skip


def likelihood_ratio_test(
    data: Any,
    n_components: int,
    covariance_type: str = "full",
    *,
    replicates: int = 99,
    rows: int = 5_000,
    n_init: int = 1,
    reg_covar: float | None = None,
    random_state: int = 0,
    client: Client | Executor | None = None,
    progress: Listener = ignore_progress,
) -> RatioTest:
    """Test K against K + 1 components by the bootstrap likelihood-ratio test (McLachlan 1987), on a uniform sample.

    Parameters
    ----------
    data
        Rows, as in :func:`fit`.
    n_components, covariance_type
        K of the null hypothesis, and the covariance structure of both.
    replicates
        Data sets to simulate: the smallest p-value is ``1 / (1 + replicates)``.
    rows
        Rows of the sample. With more rows, the test detects smaller departures from K components.
    n_init, reg_covar, random_state, client, progress
        As in :func:`fit`.

    Returns
    -------
    RatioTest
        ``p_value``, ``statistic``, ``simulated``.

    Raises
    ------
    ConfigError, InputDataError
        See their descriptions.
    """
    settings = Settings(n_init=n_init, reg_covar=reg_covar, random_state=random_state, sample_rows=rows)
    source, executor = as_source(data), executor_for(client)
    profile = profile_source(source, settings, executor, progress)
    return ratio_test(
        profile, n_components, family_named(covariance_type).name, settings, executor,
        replicates=replicates, rows=rows, listener=progress,
    )  # fmt: skip
