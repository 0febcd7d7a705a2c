"""The public verbs: any data, any executor, and then the pipeline."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.transform_requests import describe_transforms
from stream_gmm.errors import ConfigError, ConvergenceWarning, InputDataError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.execute.threads import ThreadsExecutor
from stream_gmm.io.sink.objects.checkpoints import Checkpoints
from stream_gmm.io.sink.objects.run_folders import open_run_prefix
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.source.files import is_uri
from stream_gmm.io.source.memory import as_source
from stream_gmm.pipeline import monitor as _monitor
from stream_gmm.pipeline import score as _score
from stream_gmm.pipeline.drift_rule import DriftRule
from stream_gmm.pipeline.fit import fit as _fit
from stream_gmm.pipeline.fit.settings import FitOptions, Settings, document_fields, document_options
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress
from stream_gmm.pipeline.sweep import sweep as _sweep
from stream_gmm.pipeline.sweep.choice import ELBOW, SelectionRule
from stream_gmm.pipeline.sweep.ledger import NO_LEDGER, Ledger
from stream_gmm.pipeline.sweep.result import SweepResult
from stream_gmm.pipeline.table_options import TableKeywords, TableOptions

if TYPE_CHECKING:
    from distributed import Client


def executor_for(client: Client | Executor | None) -> Executor:
    """Return the executor for a Dask client, for an executor (itself), or for this process."""
    if client is None:
        return ThreadsExecutor()
    if hasattr(client, "map_reduce"):
        return client
    from stream_gmm.execute.dask import DaskExecutor
    from stream_gmm.execute.dask_workers import WorkerCheck
    from stream_gmm.pipeline.passes.known_answer import answer_known_question

    return DaskExecutor(client, check=WorkerCheck.of(answer_known_question))


def warn_unless_converged(result: FitResult) -> None:
    """Raise a :class:`ConvergenceWarning`, where the caller of the public verb stands, if a fit stopped short."""
    if not result.converged_:
        reason = f" ({result.reason})" if result.reason else ""
        warnings.warn(f"{result.outcome.value}{reason}.", ConvergenceWarning, stacklevel=3)


@document_options
def fit(
    data: Any,
    n_components: int = 1,
    covariance_type: str = "full",
    *,
    weight: Any = None,
    missing: str = "error",
    init: MixtureParams | FitResult | None = None,
    client: Client | Executor | None = None,
    progress: Listener = ignore_progress,
    **options: Unpack[FitOptions],
) -> FitResult:
    """Fit one Gaussian mixture.

    Parameters
    ----------
    data
        A data set from :func:`open_dataset`, a path, an array ``(N, D)``, a data frame (one of Dask: of files).
    n_components
        Number of components K.
    covariance_type
        ``"full"``, ``"tied"``, ``"diag"``, ``"spherical"``, ``"tied_diag"``, ``"tied_spherical"``, or any of
        mclust's fourteen codes (``"VVV"``, ``"EEE"``, ``"VEV"``, ...; ``"E"`` and ``"V"`` for one column).
    weight
        Weights of the rows: the name of a column of files, or an array ``(N,)`` for rows in memory. A row of
        weight 2 counts as two rows, one of weight 0 as none; BIC and the other criteria take the sum of the
        weights for the number of rows.
    missing
        Policy for missing values of a path or of rows in memory, see :func:`open_dataset`; a data set has its own.
    init
        Parameters to start from, or a model, whose transforms are then taken over; None: the best of ``n_init``
        starts on a uniform sample.
    client
        A ``distributed.Client``; None: the threads of this process.
    progress
        Called with a :class:`~stream_gmm.pipeline.passes.progress.Progress` while the fit runs.
    {options}

    Returns
    -------
    FitResult
        Parameters whose log-likelihood on the full data is known exactly, under scikit-learn's names:
        ``weights_``, ``means_``, ``covariances_``, ``converged_``, ``n_iter_`` and so on.

    Raises
    ------
    ConfigError, InputDataError, ClusterError
        See their descriptions.
    SingularCovarianceError
        If a covariance cannot be estimated.

    Warns
    -----
    ConvergenceWarning
        If the fit has not converged: ``outcome`` and ``reason`` say why.

    Examples
    --------
    >>> import numpy as np, stream_gmm as sg
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 1)) + 10.0 * rng.integers(0, 2, size=(400, 1))
    >>> sorted(sg.fit(X, 2).means_.round().astype(int).ravel().tolist())
    [0, 10]
    """
    settings, source = Settings.from_options(options), as_source(data, (), missing, weight)
    if isinstance(init, FitResult):
        source = as_source(source, init.input_columns)
        if settings.transforms:
            raise ConfigError("init brings its own transforms: give either a model to start from, or transforms.")
        settings, init = replace(settings, transforms=describe_transforms(init.transforms)), init.params
    result = _fit.fit(
        source, n_components, covariance_type, settings, executor_for(client), init=init, listener=progress
    )
    warn_unless_converged(result)
    return result


@document_options
def sweep(
    data: Any,
    n_components: int | Iterable[int] = range(1, 9),
    covariance_type: str | Iterable[str] = ("spherical", "diag", "tied", "full"),
    *,
    weight: Any = None,
    missing: str = "error",
    criterion: str = "bic",
    elbow: float = ELBOW,
    prune: bool = True,
    ledger: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    match_to: FitResult | None = None,
    client: Client | Executor | None = None,
    progress: Listener = ignore_progress,
    **options: Unpack[FitOptions],
) -> SweepResult:
    """Fit every combination of K and covariance structure in shared passes, and choose one.

    Where there are several K, K = 1 is always among them.

    Parameters
    ----------
    data, n_components, covariance_type, weight, missing, client, progress
        As in :func:`fit`; several values of K and several structures.
    criterion
        ``"bic"``, ``"aic"`` or ``"icl"``; ``"heldout"``: the likelihood of the held-out rows (``holdout``);
        ``"one_se"``: the smallest model that is less than one standard error worse than the best on those rows;
        ``"elbow"``: the smallest K that no larger K beats by more than ``elbow`` nats per row.
    elbow
        Gain in nats per row (natural logarithms) below which more components are not worth having.
    prune
        Drop candidates that are clearly worse on validation rows, which their fits on the sample have not used,
        and in the full passes those that can no longer win with three times their predicted gain. They stay in the
        table with the reason. False: every candidate is fitted to the end.
    ledger
        Folder, or prefix in an object store, that stores what is finished: another sweep of the same data with the
        same settings fits only new candidates, and an interrupted one resumes from its last pass.
    fresh
        Start over, whatever the ledger holds.
    match_to
        An earlier model: components of the chosen model that match one of its components (optimal assignment by
        Bhattacharyya distance) keep that number; new, lost, split and merged ones are listed in the warnings.
    {options}

    Returns
    -------
    SweepResult
        ``result.table`` (an Arrow table, one row a candidate), ``result.best`` (a :class:`FitResult`),
        ``result.why`` (sentences), ``result.warnings``, ``result.passes``.

    Raises
    ------
    NoAdmissibleModelError
        If every candidate failed or is degenerate; and as :func:`fit`.

    Warns
    -----
    ConvergenceWarning
        If the chosen candidate has not converged.

    Examples
    --------
    >>> import numpy as np, stream_gmm as sg
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 1)) + 10.0 * rng.integers(0, 2, size=(400, 1))
    >>> sg.sweep(X, range(1, 4), "full").best.n_components
    2
    """
    settings, source = Settings.from_options(options), as_source(data, (), missing, weight)
    book = NO_LEDGER
    if ledger:
        prefix = open_run_prefix(os.fspath(ledger)) if is_uri(os.fspath(ledger)) else None
        folder, mirror = (prefix.copy, Checkpoints(prefix.place)) if prefix else (Path(ledger), None)
        book = Ledger.open(folder, source, settings, fresh, mirror)
    result = _sweep.sweep(
        source, n_components, covariance_type, settings, executor_for(client),
        choice=SelectionRule(criterion, elbow), prune=prune,
        ledger=book, match_to=match_to, listener=progress,
    )  # fmt: skip
    warn_unless_converged(result.best)
    return result


@document_fields(TableOptions)
def score(
    model: FitResult | Any,
    data: Dataset | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    client: Client | Executor | None = None,
    missing: str | None = None,
    wait: float = 0.0,
    progress: Listener = ignore_progress,
    **options: Unpack[TableKeywords],
) -> _score.ScoreResult:
    """Write the scored Parquet: one file for each input part, published in one atomic step.

    Each score column explains itself in the metadata of its field (``description``). A row that differs from a
    column that was constant in the fit has no scores, is an outlier, and says why; rows that do not match the filter
    of the data set are not written.

    Parameters
    ----------
    model
        What :func:`fit` or :func:`load_model` returned, or a fitted :class:`GaussianMixture`.
    data
        A data set from :func:`open_dataset`, or a path (opened with the model's columns).
    output
        A folder; an earlier result in it is replaced, anything else is refused. Or a prefix in an object store
        (``s3://``, ``gs://``, ``abfs://``), where :func:`open_scored` finds the current version.
    missing
        Policy for rows with missing values if ``data`` is a path; see :func:`open_dataset`. None: as the model was
        fitted if that was ``"marginalise"``, else ``"error"``.
    wait
        Seconds to wait while another process writes to ``output``.
    client, progress
        As in :func:`fit`.
    {options}

    Returns
    -------
    ScoreResult
        ``path`` of the published folder, and its ``manifest``: rows in and out, outliers, the model's digest.

    Raises
    ------
    FolderInUseError
        If it still does then; says who it is.
    ConfigError, InputDataError, StorageError, ClusterError
        See their descriptions.
    """
    result = model if isinstance(model, FitResult) else model.result_
    source = _score.open_path(result, data, missing) if isinstance(data, str | os.PathLike) else data
    if not isinstance(source, Dataset):
        what = "score writes Parquet beside Parquet, and was given rows in memory"
        raise InputDataError(explain(what, remedy="use predict, predict_proba or score_samples of the model"))
    return _score.score(
        result, source, os.fspath(output), executor_for(client),
        table=TableOptions.from_keywords(options), wait=wait, listener=progress,
    )  # fmt: skip


def monitor(
    model: FitResult | Any,
    data: Dataset | str | os.PathLike[str],
    *,
    scored: str | os.PathLike[str] | None = None,
    max_gain: float = DriftRule.max_gain,
    max_psi: float = DriftRule.max_psi,
    false_alarm_rate: float = DriftRule.false_alarm_rate,
    missing: str = "error",
    client: Client | Executor | None = None,
    progress: Listener = ignore_progress,
) -> _monitor.MonitorResult:
    """Compare the rows of files with those that a model was fitted to, file by file and all together.

    Parameters
    ----------
    model
        What :func:`fit` or :func:`load_model` returned, or a fitted :class:`GaussianMixture`.
    data
        A data set from :func:`open_dataset`, or a path (opened with the model's columns).
    scored
        Folder that :func:`score` wrote; read instead of the data if it was made by this model from this data and
        holds the columns and the responsibilities.
    max_gain
        Largest gain of a refit, nats per row and beyond what chance explains, that is no drift.
    max_psi
        Largest population stability index of the log-density, beyond what chance explains, that is no drift.
    false_alarm_rate
        How often unchanged rows may count as changed.
    missing
        Policy for rows with missing values if ``data`` is a path; see :func:`open_dataset`.
    client, progress
        As in :func:`fit`.

    Returns
    -------
    MonitorResult
        ``drifted``; ``rows``: a mapping for each file, and ``total`` for all together, with the ``status`` ``same``,
        ``changed``, ``drifted`` or ``too few rows``, ``refit_gain`` (predicted gain per row of a fit from the
        model's parameters),
        ``chance_gain`` (its mean where nothing has changed), ``p_value``, mean log-density with standard error,
        ``psi``, ``ks``, outlier rate, and shifts of weights, means and covariances.

    Raises
    ------
    ConfigError, InputDataError, ClusterError
        See their descriptions.
    """
    result = model if isinstance(model, FitResult) else model.result_
    source = as_source(data, result.columns, missing)
    if not isinstance(source, Dataset):
        raise InputDataError(
            explain("monitor compares files, and was given rows in memory", remedy="write them to a Parquet file")
        )
    rule = DriftRule(max_gain, max_psi, false_alarm_rate)
    where = None if scored is None else os.fspath(scored)
    return _monitor.monitor(result, source, executor_for(client), rule, scored=where, listener=progress)


def params_from(weights: Any, means: Any, precisions: Any, covariance_type: str) -> MixtureParams:
    """Return parameters from weights, means and precisions (scikit-learn's ``*_init``)."""
    import numpy as np

    family = family_named(covariance_type)
    return MixtureParams(weights, means, family.from_precisions(np.asarray(precisions, float)), family)
