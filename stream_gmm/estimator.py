"""GaussianMixture: the scikit-learn shaped face over the pipeline."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from stream_gmm import api
from stream_gmm.core.criteria import Criteria
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.errors import (
    ConfigError,
    ConvergenceWarning,
    InputDataError,
    NotFittedError,
    did_you_mean,
    explain,
)
from stream_gmm.io.source.chunks import Chunk
from stream_gmm.io.source.memory import as_source
from stream_gmm.io.source.protocols import Source, read_completely

NOT_SCORED = -2
"""Label of a row that ``missing="drop"`` leaves out; -1 is noise."""

_FITTED = (
    "weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "converged_", "n_iter_",
    "lower_bound_", "lower_bounds_", "n_features_in_",
)  # fmt: skip


class GaussianMixture:
    """Gaussian mixture with scikit-learn's parameters, attributes and methods.

    ``fit`` and the methods take an array ``(N, D)``, a data frame, an Arrow table, a path to Parquet, or a data set
    from :func:`stream_gmm.open_dataset`; files are read in chunks and never held whole. Whatever has column names is
    taken by name; the columns of an array must be in the order of the fit.

    Parameters
    ----------
    n_components, covariance_type, n_init, weights_init, means_init, precisions_init
        As in scikit-learn.
    reg_covar
        As in scikit-learn if it is given; None: a penalty that knows no units, see :func:`stream_gmm.fit`.
    tol
        Stop when the predicted remaining gain of the mean log-likelihood is below this; None: a tenth
        of the statistical error.
    max_iter
        Largest number of steps on the full data.
    random_state
        Seed.
    warm_start
        Start ``fit`` from the previous solution.
    algorithm, accel, sample_rows, outlier_quantile, kernel, dtype, cache, prior, noise, client
        As in :func:`stream_gmm.fit`.

    Attributes
    ----------
    weights_ : (K,)
    means_ : (K, D)
    covariances_, precisions_, precisions_cholesky_ : full (K, D, D), tied (D, D), diag (K, D), spherical (K,)
    converged_, n_iter_, lower_bound_, lower_bounds_, n_features_in_, feature_names_in_
    result_ : FitResult

    Examples
    --------
    >>> import numpy as np, stream_gmm as sg
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
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
    n_features_in_: int
    feature_names_in_: np.ndarray[Any, Any]
    result_: FitResult

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float | None = None,
        reg_covar: float | None = None,
        max_iter: int = 100,
        n_init: int = 1,
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: int | None = None,
        warm_start: bool = False,
        algorithm: str = "auto",
        accel: str | None = None,
        sample_rows: int = 50_000,
        outlier_quantile: float = 0.01,
        kernel: str = "auto",
        dtype: str = "float64",
        cache: str = "auto",
        prior: str | None = None,
        noise: bool = False,
        client: Any = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.algorithm = algorithm
        self.accel = accel
        self.sample_rows = sample_rows
        self.outlier_quantile = outlier_quantile
        self.kernel = kernel
        self.dtype = dtype
        self.cache = cache
        self.prior = prior
        self.noise = noise
        self.client = client

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's parameters."""
        del deep
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> GaussianMixture:
        """Set constructor parameters; returns self."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ConfigError(f"unknown parameter {name!r}{did_you_mean(name, known)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = {n: p.default for n, p in inspect.signature(type(self)).parameters.items()}
        shown = [f"{n}={v!r}" for n, v in self.get_params().items() if v is not defaults[n]]
        return f"GaussianMixture({', '.join(shown)})"

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> GaussianMixture:
        """Fit to rows ``X``, with weights ``(N,)`` if there are any; ``y`` is ignored. Returns self."""
        del y
        source = as_source(X, weight=sample_weight)
        start: MixtureParams | FitResult | None
        if self.warm_start and hasattr(self, "result_"):
            start = self.result_
            source = as_source(source, start.input_columns)
        else:
            start = self._start_params(source)
        self.result_ = api.fit(
            source,
            self.n_components,
            self.covariance_type,
            algorithm=self.algorithm,
            accel=self.accel,
            init=start,
            n_init=self.n_init,
            tol=self.tol,
            max_passes=self.max_iter,
            reg_covar=self.reg_covar,
            random_state=self.random_state or 0,
            sample_rows=self.sample_rows,
            outlier_quantile=self.outlier_quantile,
            kernel=self.kernel,
            dtype=self.dtype,
            cache=self.cache,
            prior=self.prior,
            noise=self.noise,
            # An array keeps its columns, as in scikit-learn.
            constants="fit" if isinstance(X, np.ndarray | list) else "aside",
            client=self.client,
        )
        for name in _FITTED:
            setattr(self, name, getattr(self.result_, name))
        if not isinstance(X, np.ndarray | list):
            self.feature_names_in_ = self.result_.feature_names_in_
        return self

    def _start_params(self, source: Source) -> MixtureParams | None:
        """Return the parameters to start from; what is not given of them comes from a fit on the sample."""
        given = (self.weights_init, self.means_init, self.precisions_init)
        if all(v is None for v in given):
            return None
        if all(v is not None for v in given):
            return api.params_from(*given, self.covariance_type)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a start need not have converged
            start = api.fit(
                source, self.n_components, self.covariance_type,
                n_init=self.n_init, max_passes=1, reg_covar=self.reg_covar, prior=self.prior,
                random_state=self.random_state or 0, sample_rows=self.sample_rows, constants="fit",
                client=self.client,
            ).params  # fmt: skip
        changes: dict[str, Any] = {}
        if self.weights_init is not None:
            changes["weights"] = self.weights_init
        if self.means_init is not None:
            changes["means"] = self.means_init
        if self.precisions_init is not None:
            family = family_named(self.covariance_type)
            changes["covariances"] = family.from_precisions(np.asarray(self.precisions_init, float))
        return replace(start, **changes)

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray[Any, Any]:
        """Fit, and return the component of each row."""
        return self.fit(X, y).predict(X)

    @property
    def _model(self) -> FitResult:
        if not hasattr(self, "result_"):
            raise NotFittedError("this GaussianMixture is not fitted yet; call fit first.")
        return self.result_

    def _chunks(self, X: Any, sample_weight: Any = None) -> Iterator[Chunk]:
        """Read ``X`` in the columns of the model: by name, if it has names."""
        for leaf in as_source(X, self._model.input_columns, weight=sample_weight).leaves():
            yield from read_completely(leaf)

    def _score_each(self, X: Any, score: Callable[[Array], Any], not_scored: Any) -> np.ndarray[Any, Any]:
        """Score every row of ``X``; rows that ``missing="drop"`` leaves out get ``not_scored``."""
        out = []
        for chunk in self._chunks(X):
            values = score(chunk.features)
            if chunk.keep is not None:
                usable = values
                values = np.full((chunk.size, *usable.shape[1:]), not_scored, usable.dtype)
                values[chunk.keep] = usable
            out.append(values)
        return np.concatenate(out) if out else score(np.empty((0, self._model.n_features_in_)))

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """Return the component of highest responsibility ``(N,)``, for every row of ``X``.

        -1 is noise; -2 a row that a data set opened with ``missing="drop"`` leaves out.

        Raises
        ------
        InputDataError
            If ``X`` lacks a column of the model, or a value is missing.
        """
        return self._score_each(X, self._model.predict, NOT_SCORED)

    def predict_proba(self, X: Any) -> Array:
        """Return responsibilities ``(N, K)``; NaN for rows that ``missing="drop"`` leaves out."""
        return self._score_each(X, self._model.predict_proba, np.nan)

    def score_samples(self, X: Any) -> Array:
        """Return the log-density of each row ``(N,)``, in nats; NaN for rows that ``missing="drop"`` leaves out."""
        return self._score_each(X, self._model.score_samples, np.nan)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the mean log-density per row, in nats.

        Parameters
        ----------
        y
            Ignored.
        sample_weight
            Weights ``(N,)`` of rows in memory. A data set that was opened with weights is weighted by them.
        """
        del y
        criteria = self._criteria(X, sample_weight)
        return criteria.loglik / criteria.n_rows

    def _criteria(self, X: Any, sample_weight: Any) -> Criteria:
        parts = [
            self._model.evaluate_criteria(chunk.features, chunk.rows[:, -1] if chunk.weighted else None)
            for chunk in self._chunks(X, sample_weight)
        ]
        total = Criteria(
            sum(p.loglik for p in parts),
            self._model.params.n_parameters,
            sum(p.n_rows for p in parts),
            sum(p.entropy for p in parts),
            sum(p.log_max for p in parts),
        )
        if not total.n_rows:
            raise InputDataError(
                explain(
                    "there is no row to judge the model by",
                    why="the data are empty, every row has a missing value, or every weight is 0",
                    remedy="pass other rows",
                )
            )
        return total

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Return the BIC on ``X``, lower is better; weights as in :meth:`score`, their sum is the number of rows."""
        return self._criteria(X, sample_weight).bic

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Return the AIC on ``X``, lower is better; weights as in :meth:`score`."""
        return self._criteria(X, sample_weight).aic

    def icl(self, X: Any, sample_weight: Any = None) -> float:
        """Return the ICL on ``X``, lower is better; weights as in :meth:`score`."""
        return self._criteria(X, sample_weight).icl

    def sample(self, n_samples: int = 1) -> tuple[Array, np.ndarray[Any, Any]]:
        """Draw rows ``(n, D)`` and their components ``(n,)``."""
        return self._model.sample(n_samples, self.random_state)
