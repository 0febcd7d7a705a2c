"""The public verbs: any data, any executor, and then the pipeline."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.errors import ConvergenceWarning, InputDataError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.source.memory import as_source
from stream_gmm.pipeline import score as _score
from stream_gmm.pipeline.fit import fit as _fit
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress
from stream_gmm.pipeline.sweep import sweep as _sweep
from stream_gmm.pipeline.sweep.choice import ELBOW, SelectionRule
from stream_gmm.pipeline.sweep.ledger import NO_LEDGER, Ledger
from stream_gmm.pipeline.sweep.result import SweepResult

if TYPE_CHECKING:
    from distributed import Client


def executor_for(client: Client | Executor | None) -> Executor:
    """Return the executor for a Dask client, for an executor (itself), or for this process."""
    if client is None:
        return ThreadsExecutor()
    if hasattr(client, "map_reduce"):
        return client
    from stream_gmm.execute.dask import DaskExecutor

    return DaskExecutor(client)


def fit(
    data: Any,
    n_components: int = 1,
    covariance_type: str = "full",
    *,
    weight: Any = None,
    algorithm: str = "auto",
    accel: str | None = None,
    init: MixtureParams | FitResult | None = None,
    n_init: int = 1,
    tol: float | None = None,
    max_passes: int = 100,
    reg_covar: float | None = None,
    random_state: int = 0,
    sample_rows: int = 50_000,
    profile: str = "full",
    outlier_quantile: float = 0.01,
    holdout: float = 0.0,
    kernel: str = "auto",
    dtype: str = "float64",
    cache: str = "auto",
    cache_bytes: int | None = None,
    prior: str | None = None,
    noise: bool = False,
    client: Client | Executor | None = None,
    progress: Listener = ignore_progress,
) -> FitResult:
    """Fit one Gaussian mixture.

    Parameters
    ----------
    data
        A data set from :func:`open_dataset`, a path, an array ``(N, D)`` or a data frame.
    n_components
        Number of components K.
    covariance_type
        ``"full"``, ``"tied"``, ``"diag"``, ``"spherical"``, ``"tied_diag"``, ``"tied_spherical"``, or any of
        mclust's fourteen codes (``"VVV"``, ``"EEE"``, ``"VEV"``, ...; ``"E"`` and ``"V"`` for one column).
    weight
        Weights of the rows: the name of a column of files, or an array ``(N,)`` beside rows in memory. A row of
        weight 2 is two rows, one of weight 0 is none; BIC and the rest take their sum for the number of rows.
    algorithm
        ``"auto"``: exact EM, accelerated so that a few passes do. ``"em"``: exact EM as in scikit-learn, a pass
        a step. ``"minibatch"``: stepwise EM, several steps a pass.
    accel
        How exact EM is accelerated: ``"auto"``, ``"anderson"``, ``"squarem"`` or ``"none"``; None: as ``algorithm``
        says. Whatever it is, the penalised log-likelihood of the points accepted never falls.
    init
        Parameters to start from; None: the best of ``n_init`` starts on a uniform sample.
    tol
        Stop when the predicted remaining gain of the mean log-likelihood is below this, in nats per
        row. None: a tenth of the statistical error, ``0.1 p / (2 N)``.
    max_passes
        Largest number of steps; the pass that evaluates the last one comes on top.
    reg_covar
        Added to the diagonals of the covariances, in units of the data, as in scikit-learn (1e-6 there). None: a
        penalty of 1e-8 pseudo-rows for each component, that varies as all the data do.
    random_state
        Seed. Same seed, same data: same bits, whatever the executor.
    sample_rows
        Rows of the uniform sample.
    profile
        ``"full"``: the first pass reads everything. ``"sample"``: it reads random leaves only, and reports what their
        rows are worth.
    outlier_quantile
        The outlier threshold is this quantile of the sample's log-density.
    holdout
        Share of the rows that no fit uses (by a hash of file and row); their mean log-likelihood is
        ``criteria.heldout``.
    kernel
        ``"auto"``: for each step the fastest kernel that holds the bound on rounding errors; or one by
        name: ``"quadratic"``, ``"sphered"``, ``"whitened"``.
    dtype
        ``"float64"``; ``"float32"``: computes in float32 where the error stays below 1e-3 nats a row.
    cache
        Where decoded rows stay after the first pass: ``"memory"`` or ``"disk"`` of the workers, ``"none"``,
        or ``"auto"``: memory for a little data, else disk. The result is the same bits.
    cache_bytes
        At most so many bytes are kept; None: a quarter of the workers' memory, or what the disk has.
    prior
        ``"mclust"``: modes under the conjugate prior of Fraley & Raftery (2007), as mclust's ``priorControl()``, for
        the six structures with scikit-learn's names; ``reg_covar`` must not be given with it.
    noise
        Add a component that is uniform in the box of the data, for rows that belong nowhere (Banfield & Raftery
        1993): ``noise_weight_`` tells its weight, and rows that are likelier noise than anything have component -1.
    client
        A ``distributed.Client``; None: the threads of this process.
    progress
        Called with a :class:`~stream_gmm.pipeline.passes.progress.Progress` as the work goes on.

    Returns
    -------
    FitResult
        Parameters whose log-likelihood on the full data is known exactly, under scikit-learn's
        names: ``weights_``, ``means_``, ``covariances_``, ``converged_``, ``n_iter_`` and so on.

    Warns
    -----
    ConvergenceWarning
        If the fit has not converged: ``outcome`` and ``reason`` say why.

    Raises
    ------
    ConfigError, InputDataError, ClusterError
        See their descriptions.
    SingularCovarianceError
        If a covariance cannot be estimated.
    """
    settings = Settings(
        algorithm, accel, n_init, tol, max_passes, reg_covar, random_state, sample_rows, profile, outlier_quantile,
        holdout, kernel, dtype, cache, cache_bytes, prior, noise,
    )  # fmt: skip
    start = init.params if isinstance(init, FitResult) else init
    result = _fit.fit(
        as_source(data, weight=weight), n_components, covariance_type, settings, executor_for(client),
        init=start, listener=progress,
    )  # fmt: skip
    if not result.converged_:
        reason = f" ({result.reason})" if result.reason else ""
        warnings.warn(f"{result.outcome.value}{reason}.", ConvergenceWarning, stacklevel=2)
    return result


def sweep(
    data: Any,
    n_components: int | Iterable[int] = range(1, 9),
    covariance_type: str | Iterable[str] = ("spherical", "diag", "tied", "full"),
    *,
    weight: Any = None,
    criterion: str = "bic",
    elbow: float = ELBOW,
    prune: bool = True,
    ledger: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    match_to: FitResult | None = None,
    algorithm: str = "auto",
    accel: str | None = None,
    n_init: int = 1,
    tol: float | None = None,
    max_passes: int = 100,
    reg_covar: float | None = None,
    random_state: int = 0,
    sample_rows: int = 50_000,
    profile: str = "full",
    outlier_quantile: float = 0.01,
    holdout: float = 0.0,
    kernel: str = "auto",
    dtype: str = "float64",
    cache: str = "auto",
    cache_bytes: int | None = None,
    prior: str | None = None,
    noise: bool = False,
    client: Client | Executor | None = None,
    progress: Listener = ignore_progress,
) -> SweepResult:
    """Fit every combination of K and covariance structure in shared passes, and choose one.

    Where there are several K, K = 1 is one of them. The parameters that are not here are those of :func:`fit`.

    Parameters
    ----------
    criterion
        ``"bic"``, ``"aic"``, ``"icl"``; ``"heldout"``, the likelihood of the rows held out (``holdout``);
        ``"one_se"``, the smallest model less than a standard error worse than the best on them; ``"elbow"``, the
        smallest K that no larger K beats by more than ``elbow`` nats per row.
    prune
        Give up candidates that are clearly beaten on rows that their fits on the sample have not seen, and, in the
        full passes, those that cannot win any more, granting them three times their predicted gain. They stay in the
        table with the reason. False: everything is fitted to the end.
    ledger
        Folder in which what is finished is kept: another sweep of the same data with the same settings fits only
        what is new in its grid, and one that was killed goes on from its last pass. None: nothing is kept.
    fresh
        Start over, whatever the ledger holds.
    match_to
        An earlier model: the components of the chosen one are numbered after those of it that they are (optimal
        assignment by Bhattacharyya distance); what is new, lost, split or merged is told in the warnings.

    Returns
    -------
    SweepResult
        ``result.table`` (an Arrow table, one row a candidate), ``result.best`` (a
        :class:`FitResult`), ``result.why`` (in sentences), ``result.warnings``, ``result.passes``.

    Raises
    ------
    NoAdmissibleModelError
        If every candidate failed or is degenerate; and as :func:`fit`.
    """
    settings = Settings(
        algorithm, accel, n_init, tol, max_passes, reg_covar, random_state, sample_rows, profile, outlier_quantile,
        holdout, kernel, dtype, cache, cache_bytes, prior, noise,
    )  # fmt: skip
    source = as_source(data, weight=weight)
    return _sweep.sweep(
        source, n_components, covariance_type, settings, executor_for(client),
        choice=SelectionRule(criterion, elbow), prune=prune,
        ledger=Ledger.open(Path(ledger), source, settings, fresh) if ledger else NO_LEDGER,
        match_to=match_to, listener=progress,
    )  # fmt: skip


def score(
    model: FitResult | Any,
    data: Dataset | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    client: Client | Executor | None = None,
    passthrough: str | Sequence[str] = "all",
    proba: str = "columns",
    prefix: str = "",
    missing: str = "error",
    progress: Listener = ignore_progress,
) -> _score.ScoreResult:
    """Write the scored Parquet: one file for each input part, published in one atomic step.

    Columns: the pass-through columns, ``component``, ``max_proba``, ``proba_0`` ..., ``log_density``,
    ``uncertainty``, ``mahalanobis_sq``, ``is_outlier``, ``not_scored_reason``.

    Parameters
    ----------
    model
        What :func:`fit` or :func:`load_model` returned, or a fitted :class:`GaussianMixture`.
    data
        A data set from :func:`open_dataset`, or a path (opened with the model's columns).
    output
        A folder; an earlier result in it is replaced, anything else is refused.
    passthrough
        ``"all"``, ``"none"`` or names of input columns to carry over.
    proba
        ``"columns"``, ``"list"`` or ``"none"``.
    prefix
        Put before the names of the score columns.
    missing
        Policy for rows with missing values if ``data`` is a path; see :func:`open_dataset`.

    Raises
    ------
    ConfigError, InputDataError, StorageError, ClusterError
        See their descriptions.
    """
    result = model if isinstance(model, FitResult) else model.result_
    source = as_source(data, result.columns, missing)
    if not isinstance(source, Dataset):
        raise InputDataError(
            explain(
                "score writes Parquet beside Parquet, and was given rows in memory",
                remedy="use predict, predict_proba or score_samples of the model",
            )
        )
    return _score.score(
        result, source, os.fspath(output), executor_for(client),
        passthrough=passthrough, proba=proba, prefix=prefix, listener=progress,
    )  # fmt: skip


def params_from(weights: Any, means: Any, precisions: Any, covariance_type: str) -> MixtureParams:
    """Return parameters from weights, means and precisions (scikit-learn's ``*_init``)."""
    import numpy as np

    family = family_named(covariance_type)
    return MixtureParams(weights, means, family.from_precisions(np.asarray(precisions, float)), family)
