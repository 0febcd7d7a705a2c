"""GaussianMixtureSelector: the sweep over K and covariance structure as an estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any, Self

from stream_gmm import api
from stream_gmm.errors import ConfigError, check_number, check_whole_number
from stream_gmm.estimator import GaussianMixture
from stream_gmm.estimator_base import (
    CriteriaMixin,
    MixtureEstimator,
    columns_of,
    draw_seed,
    open_to_fit,
    warn_unless_converged,
)
from stream_gmm.pipeline.fit.settings import FIT, Settings
from stream_gmm.pipeline.sweep import sweep as _sweep
from stream_gmm.pipeline.sweep.choice import ELBOW, SelectionRule
from stream_gmm.pipeline.sweep.result import SweepResult

_SHARED = (
    "tol", "reg_covar", "max_iter", "n_init", "random_state", "algorithm", "accel", "sample_rows", "outlier_quantile",
    "kernel", "dtype", "cache", "prior", "noise", "transforms", "missing", "client",
)  # fmt: skip
"""Parameters that a single mixture has, too."""


class GaussianMixtureSelector(CriteriaMixin, MixtureEstimator):
    """Gaussian mixture with as many components, and the covariance structure, as a criterion chooses.

    ``fit`` is :func:`stream_gmm.sweep`: all candidates share every pass over the data. After it, the methods are
    those of the chosen mixture.

    Parameters
    ----------
    n_components
        Numbers of components to try, or a single one. Where there are several, 1 is always among them.
    covariance_type
        Names of structures to try, or a single one.
    criterion, elbow, prune, holdout
        As in :func:`stream_gmm.sweep`.
    tol, reg_covar, max_iter, n_init, random_state, algorithm, accel, sample_rows, outlier_quantile, kernel, dtype, \
cache, prior, noise, transforms, missing, client
        As in :class:`stream_gmm.GaussianMixture`.

    Attributes
    ----------
    results_ : SweepResult
        All candidates; ``results_.table`` compares them.
    best_estimator_ : GaussianMixture
        The chosen mixture, as an estimator of its own.
    n_components_, covariance_type_
        Of the chosen mixture.
    n_iter_, n_features_in_, feature_names_in_
        As in :class:`stream_gmm.GaussianMixture`.
    result_ : FitResult
        The chosen mixture.

    Examples
    --------
    >>> import numpy as np, stream_gmm as sg
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2)) + np.repeat([[0.0, 0.0], [9.0, 9.0], [0.0, 9.0]], 100, axis=0)
    >>> selector = sg.GaussianMixtureSelector(range(1, 5), covariance_type=["spherical", "full"]).fit(X)
    >>> selector.n_components_, selector.covariance_type_
    (3, 'spherical')
    """

    results_: SweepResult
    best_estimator_: GaussianMixture
    n_components_: int
    covariance_type_: str
    n_iter_: int

    def __init__(
        self,
        n_components: int | Iterable[int] = (1, 2, 3, 4, 5, 6, 7, 8),
        *,
        covariance_type: str | Iterable[str] = ("spherical", "diag", "tied", "full"),
        criterion: str = "bic",
        elbow: float = ELBOW,
        prune: bool = True,
        holdout: float = 0.0,
        tol: float | None = None,
        reg_covar: float | None = None,
        max_iter: int = 100,
        n_init: int = 1,
        random_state: Any = None,
        algorithm: str = "auto",
        accel: str | None = None,
        sample_rows: int = 50_000,
        outlier_quantile: float = 0.01,
        kernel: str = "auto",
        dtype: str = "float64",
        cache: str = "auto",
        prior: str | None = None,
        noise: bool = False,
        transforms: Any = None,
        missing: str = "error",
        client: Any = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.criterion = criterion
        self.elbow = elbow
        self.prune = prune
        self.holdout = holdout
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.algorithm = algorithm
        self.accel = accel
        self.sample_rows = sample_rows
        self.outlier_quantile = outlier_quantile
        self.kernel = kernel
        self.dtype = dtype
        self.cache = cache
        self.prior = prior
        self.noise = noise
        self.transforms = transforms
        self.missing = missing
        self.client = client

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit every candidate to the rows of ``X``, and choose one.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`stream_gmm.GaussianMixture.fit`.

        Returns
        -------
        self

        Raises
        ------
        ConfigError, InputDataError
            As :meth:`stream_gmm.GaussianMixture.fit`.
        NoAdmissibleModelError
            If every candidate failed or is degenerate.

        Warns
        -----
        ConvergenceWarning
            If the chosen candidate has not converged; it is one of scikit-learn's, too.
        """
        del y
        for name in ("n_components", "covariance_type"):
            if not isinstance(value := getattr(self, name), Iterable | Integral):
                raise ConfigError(f"{name} must be one value or several to choose from, not {value!r}.")
        check_whole_number("max_iter", self.max_iter, 0)
        check_whole_number("n_init", self.n_init, 1)
        check_whole_number("sample_rows", self.sample_rows, 1)
        check_number("tol", self.tol)
        check_number("reg_covar", self.reg_covar)
        check_number("elbow", self.elbow)
        shared = {name: getattr(self, name) for name in _SHARED}
        options = {n: v for n, v in shared.items() if n not in ("client", "max_iter", "missing", "random_state")}
        settings = Settings(
            **options, random_state=draw_seed(self.random_state), max_passes=self.max_iter, holdout=self.holdout,
            constants=FIT,
        )  # fmt: skip
        self.results_ = _sweep.sweep(
            open_to_fit(X, sample_weight, self.missing), self.n_components, self.covariance_type, settings,
            api.executor_for(self.client), choice=SelectionRule(self.criterion, self.elbow), prune=self.prune,
        )  # fmt: skip
        self.result_ = self.results_.best
        self.n_components_ = self.result_.n_components
        self.covariance_type_ = self.result_.covariance_type
        best = GaussianMixture(self.n_components_, covariance_type=self.covariance_type_, **shared)
        for each in (self, best):
            each._remember_columns(X, columns_of(self.result_), self.result_.n_features_in_)
        best._take_result(self.result_)
        self.best_estimator_ = best
        self.n_iter_ = best.n_iter_
        warn_unless_converged(self.result_)
        return self
