"""GaussianMixture: the scikit-learn shaped face over the pipeline."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from stream_gmm import api
from stream_gmm.core.criteria import Criteria
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.errors import ConfigError, ConvergenceWarning, NotFittedError, did_you_mean
from stream_gmm.io.source.memory import as_source
from stream_gmm.io.source.protocols import Source

_FITTED = (
    "weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "converged_", "n_iter_",
    "lower_bound_", "lower_bounds_", "n_features_in_",
)  # fmt: skip


class GaussianMixture:
    """Gaussian mixture with scikit-learn's parameters, attributes and methods.

    ``fit`` and the methods take an array ``(N, D)``, a data frame, a path to Parquet, or a data set
    from :func:`stream_gmm.open_dataset`; files are read in chunks and never held whole.

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
        self.result_ = api.fit(
            source,
            self.n_components,
            self.covariance_type,
            algorithm=self.algorithm,
            accel=self.accel,
            init=self._init(source),
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
            client=self.client,
        )
        for name in _FITTED:
            setattr(self, name, getattr(self.result_, name))
        if not isinstance(X, np.ndarray | list):
            self.feature_names_in_ = self.result_.feature_names_in_
        return self

    def _init(self, source: Source) -> MixtureParams | None:
        if self.warm_start and hasattr(self, "result_"):
            return self.result_.params
        given = (self.weights_init, self.means_init, self.precisions_init)
        if all(v is None for v in given):
            return None
        if all(v is not None for v in given):
            return api.params_from(*given, self.covariance_type)
        return self._completed(source)

    def _completed(self, source: Source) -> MixtureParams:
        """Fill in what of the start is not given from a fit on the sample."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is a start, and need not have converged
            start = api.fit(
                source, self.n_components, self.covariance_type,
                n_init=self.n_init, max_passes=1, reg_covar=self.reg_covar, prior=self.prior,
                random_state=self.random_state or 0, sample_rows=self.sample_rows, client=self.client,
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

    def _blocks(self, X: Any) -> Iterator[Array]:
        model = self._model
        columns = model.columns if not isinstance(X, np.ndarray | list) else ()
        source = as_source(X, columns)
        for leaf in source.leaves():
            for chunk in leaf.chunks():
                yield chunk.features

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """Return the component of highest responsibility ``(N,)``."""
        return np.concatenate([self._model.predict(b) for b in self._blocks(X)])

    def predict_proba(self, X: Any) -> Array:
        """Return responsibilities ``(N, K)``."""
        return np.concatenate([self._model.predict_proba(b) for b in self._blocks(X)])

    def score_samples(self, X: Any) -> Array:
        """Return the log-density of each row ``(N,)``."""
        return np.concatenate([self._model.score_samples(b) for b in self._blocks(X)])

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean log-density per row."""
        del y
        criteria = self._criteria(X)
        return criteria.loglik / criteria.n_rows

    def _criteria(self, X: Any) -> Criteria:
        parts = [self._model.evaluate_criteria(b) for b in self._blocks(X)]
        return Criteria(
            sum(p.loglik for p in parts),
            parts[0].n_parameters,
            sum(p.n_rows for p in parts),
            sum(p.entropy for p in parts),
            sum(p.log_max for p in parts),
        )

    def bic(self, X: Any) -> float:
        """Return the BIC on ``X``; lower is better."""
        return self._criteria(X).bic

    def aic(self, X: Any) -> float:
        """Return the AIC on ``X``; lower is better."""
        return self._criteria(X).aic

    def icl(self, X: Any) -> float:
        """Return the ICL on ``X``; lower is better."""
        return self._criteria(X).icl

    def sample(self, n_samples: int = 1) -> tuple[Array, np.ndarray[Any, Any]]:
        """Draw rows ``(n, D)`` and their components ``(n,)``."""
        return self._model.sample(n_samples, self.random_state)
