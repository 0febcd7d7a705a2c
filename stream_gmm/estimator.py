"""GaussianMixture: one mixture, fitted and used as scikit-learn's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from stream_gmm import api
from stream_gmm.core.fit.em import EMState
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.transform_requests import describe_transforms, parse_transforms
from stream_gmm.errors import ConfigError, check_number, check_whole_number, explain, one_of
from stream_gmm.estimator_base import (
    CriteriaMixin,
    MixtureEstimator,
    columns_of,
    draw_seed,
    open_to_fit,
    warn_unless_converged,
)
from stream_gmm.estimator_start import (
    AUTO,
    INITIALISATIONS,
    check_enough_rows,
    check_given,
    draw_starts,
    replace_given,
)
from stream_gmm.io.source.memory import ArrayDataset, as_source
from stream_gmm.io.source.protocols import Source
from stream_gmm.pipeline.fit import fit as _fit
from stream_gmm.pipeline.fit.settings import FIT, Settings

_FITTED = (
    "weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "converged_",
    "lower_bound_", "lower_bounds_",
)  # fmt: skip


class GaussianMixture(CriteriaMixin, MixtureEstimator):
    """Gaussian mixture with scikit-learn's parameters, attributes and methods, for pipelines and searches.

    ``fit`` and the methods take an array ``(N, D)``, a data frame, an Arrow table, a path to Parquet, or a data set
    from :func:`stream_gmm.open_dataset`; files are read in chunks and never held whole. Whatever has column names is
    taken by name, in any order; the columns of an array must be in the order of the fit.

    Parameters
    ----------
    n_components, covariance_type, n_init, weights_init, means_init, precisions_init
        As in scikit-learn; and :func:`stream_gmm.fit` lists the other covariance structures.
    tol
        Stop when the predicted remaining gain of the mean log-likelihood is below this; None: a tenth
        of the statistical error. scikit-learn stops earlier, when the last step has gained less than ``tol``.
    reg_covar
        As in scikit-learn if it is given; None: a penalty that knows no units, see :func:`stream_gmm.fit`.
    max_iter
        Largest number of steps on the full data; 0: the start is evaluated, and is the result.
    init_params
        ``"auto"``: the best of several kinds of start, fitted on a uniform sample. ``"kmeans"``, ``"k-means++"``,
        ``"random"`` and ``"random_from_data"``: as in scikit-learn, from all rows in memory or a uniform sample of
        files; the ``n_init`` starts share every pass, and the best fit is kept.
    random_state
        A number, a ``RandomState`` or a ``Generator``. None is the seed 0 for ``fit``: unlike in scikit-learn, the
        same call gives the same bits.
    warm_start
        Start ``fit`` from the previous solution.
    verbose, verbose_interval
        Print every ``verbose_interval``-th step if ``verbose`` is positive, from 2 on with the log-likelihood.
    transforms
        As in :func:`stream_gmm.fit`: ``"log1p"``, ``{"x*": "log1p"}``, ``"auto"`` and so on. Rows are given as they
        are, and densities are theirs; means and covariances are those of the transformed columns. Only with
        ``init_params="auto"``.
    missing
        ``"error"``, or ``"marginalise"``: rows in memory may have missing values (NaN), and are fitted and scored by
        the values that they have, as :func:`stream_gmm.open_dataset` says; a data set keeps its own policy.
    algorithm, accel, sample_rows, outlier_quantile, kernel, dtype, cache, prior, noise, client
        As in :func:`stream_gmm.fit`. ``algorithm="em"`` makes the steps of scikit-learn, one pass each.

    Attributes
    ----------
    weights_ : (K,)
    means_ : (K, D)
    covariances_, precisions_, precisions_cholesky_ : full (K, D, D), tied (D, D), diag (K, D), spherical (K,)
    converged_, lower_bound_, n_features_in_
    lower_bounds_
        Mean log-likelihood of every accepted point, nats per row: first the start, last the result.
    n_iter_
        Steps made; at least 1, because the step that shows that the start is a fixed point counts.
    feature_names_in_
        Names of the columns, if they had names.
    result_ : FitResult

    Examples
    --------
    >>> import numpy as np, stream_gmm as sg
    >>> X = np.array([[1, 2], [1.5, 4], [0.5, 0], [10, 2], [10.5, 4], [9.5, 0]])
    >>> gm = sg.GaussianMixture(n_components=2, covariance_type="tied_diag").fit(X)
    >>> sorted(gm.means_.round().tolist())
    [[1.0, 2.0], [10.0, 2.0]]
    """

    weights_: Array
    means_: Array
    covariances_: Array
    precisions_: Array
    precisions_cholesky_: Array
    converged_: bool
    n_iter_: int
    lower_bound_: float
    lower_bounds_: list[float]

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float | None = None,
        reg_covar: float | None = None,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = AUTO,
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
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
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
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
        """Fit to the rows of ``X``.

        Parameters
        ----------
        X
            Rows ``(N, D)`` in memory, a path to Parquet, or a data set.
        y
            Ignored.
        sample_weight
            Weights ``(N,)`` of rows in memory; for a path, the name of the column that holds them. A row of weight 2
            counts as two rows, one of weight 0 as none.

        Returns
        -------
        self

        Raises
        ------
        ConfigError
            If a parameter is unknown, malformed or out of range.
        InputDataError
            If the rows cannot be used; names row and column.
        SingularCovarianceError
            If a covariance cannot be estimated.

        Warns
        -----
        ConvergenceWarning
            If the fit has not converged; it is one of scikit-learn's, too.
        """
        del y
        self._check_parameters()
        source = open_to_fit(X, sample_weight, self.missing)
        if self.warm_start and hasattr(self, "result_"):
            source = as_source(source, columns_of(self.result_))
            starts: Sequence[MixtureParams] = [self.result_.params]
            settings = self._make_settings(draw_seed(self.random_state))
            settings = replace(settings, transforms=describe_transforms(self.result_.transforms))
        else:
            starts, settings = self._make_starts(source)
        result = _fit.fit(
            source, int(self.n_components), self.covariance_type, settings, api.executor_for(self.client),
            init=starts or None, on_pass=self._print_steps,
        )  # fmt: skip
        self._take_result(result)
        self._remember_columns(X, columns_of(result), result.n_features_in_)
        if self.max_iter:
            warn_unless_converged(result)
        return self

    def _check_parameters(self) -> None:
        check_whole_number("n_components", self.n_components, 1)
        check_whole_number("max_iter", self.max_iter, 0)
        check_whole_number("n_init", self.n_init, 1)
        check_whole_number("sample_rows", self.sample_rows, 1)
        check_whole_number("verbose", int(self.verbose) if isinstance(self.verbose, bool) else self.verbose, 0)
        check_whole_number("verbose_interval", self.verbose_interval, 1)
        check_number("tol", self.tol)
        check_number("reg_covar", self.reg_covar)
        one_of(self.init_params, [AUTO, *INITIALISATIONS], "init_params")
        if not isinstance(self.covariance_type, str):
            raise ConfigError(f"covariance_type must be the name of a structure, not {self.covariance_type!r}.")
        family_named(self.covariance_type)
        given = (self.weights_init, self.means_init, self.precisions_init)
        if parse_transforms(self.transforms) and (self.init_params != AUTO or any(v is not None for v in given)):
            raise ConfigError(
                explain(
                    "transforms need init_params='auto', without weights_init, means_init and precisions_init",
                    why="a start is one of the transformed columns, whose transforms are found by the fit",
                    remedy="leave the start to the fit",
                )
            )

    def _make_settings(self, seed: int) -> Settings:
        return Settings(
            algorithm=self.algorithm,
            accel=self.accel,
            n_init=int(self.n_init),
            tol=self.tol,
            max_passes=int(self.max_iter),
            reg_covar=self.reg_covar,
            random_state=seed,
            sample_rows=int(self.sample_rows),
            outlier_quantile=self.outlier_quantile,
            kernel=self.kernel,
            dtype=self.dtype,
            cache=self.cache,
            prior=self.prior,
            noise=self.noise,
            transforms=self.transforms,
            constants=FIT,  # attributes have the shapes of scikit-learn, with a mean for every column
        )

    def _make_starts(self, source: Source) -> tuple[Sequence[MixtureParams], Settings]:
        """Return the parameters to start from, none if the fit is to find them; and the settings."""
        k, executor = int(self.n_components), api.executor_for(self.client)
        if isinstance(source, ArrayDataset):
            check_enough_rows(source.num_rows, k)
        given = check_given(
            k, len(source.columns), self.covariance_type, self.weights_init, self.means_init, self.precisions_init
        )
        family = family_named(self.covariance_type)
        if all(v is not None for v in given):
            return [replace_given(None, *given, family)], self._make_settings(draw_seed(self.random_state))
        if self.init_params != AUTO:
            # The stream of scikit-learn: from the same random state follow the same starts.
            state = self.random_state
            rng = state if isinstance(state, np.random.RandomState) else np.random.RandomState(draw_seed(state))
            settings = self._make_settings(0)
            starts = draw_starts(source, k, self.covariance_type, self.init_params, settings, executor, rng)
            settings = replace(settings, random_state=draw_seed(rng) if rng is state else draw_seed(state))
            return [replace_given(start, *given, family) for start in starts], settings
        settings = self._make_settings(draw_seed(self.random_state))
        if all(v is None for v in given):
            return [], settings
        on_sample = replace(settings, max_passes=0, noise=False)
        start = _fit.fit(source, k, self.covariance_type, on_sample, executor).params
        return [replace_given(start, *given, family)], settings

    def _take_result(self, result: FitResult) -> None:
        self.result_ = result
        for name in _FITTED:
            setattr(self, name, getattr(result, name))
        self.n_iter_ = max(result.n_iter_, min(int(self.max_iter), 1))

    def _print_steps(self, states: Sequence[EMState]) -> None:
        step = max((s.passes for s in states), default=0)
        if not self.verbose or step % self.verbose_interval:
            return
        best = max(s.history[-1] for s in states if s.history)
        print(f"  Iteration {step}" + (f"\t log-likelihood {best:.6f}" if self.verbose > 1 else ""))
