"""BayesianGaussianMixture: variational inference with the interface of scikit-learn, also for data on disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np

from stream_gmm import api
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.stats import SuffStats
from stream_gmm.core.variational import WEIGHT_PRIORS, VariationalPrior, VariationalState
from stream_gmm.errors import ConfigError, check_number, check_whole_number, one_of
from stream_gmm.estimator_base import (
    MixtureEstimator,
    columns_of,
    draw_seed,
    open_to_fit,
    warn_unless_converged,
)
from stream_gmm.estimator_start import INITIALISATIONS, draw_start_stats
from stream_gmm.io.source.memory import as_source, require_complete_rows
from stream_gmm.pipeline.fit.settings import FIT, Settings
from stream_gmm.pipeline.fit.variational import VariationalFit, fit_variational

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
_POSITIVE = ("weight_concentration_prior", "mean_precision_prior", "degrees_of_freedom_prior")


class BayesianGaussianMixture(MixtureEstimator):
    """Gaussian mixture with priors on all parameters, fitted by variational inference as in scikit-learn.

    Components that the data do not need get weights near zero, so that ``n_components`` is an upper bound. From the
    same random state follow scikit-learn's numbers, for rows in memory and, with starts from a uniform sample, for
    files of any size; every step is one pass over the data.

    Parameters
    ----------
    n_components, tol, reg_covar, max_iter, n_init, init_params, warm_start, verbose, verbose_interval, \
weight_concentration_prior_type, weight_concentration_prior, mean_precision_prior, mean_prior, \
degrees_of_freedom_prior, covariance_prior
        As in scikit-learn.
    covariance_type
        ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
    random_state, sample_rows, outlier_quantile, kernel, dtype, cache, client
        As in :class:`stream_gmm.GaussianMixture`.

    Attributes
    ----------
    weights_ : (K,)
    means_ : (K, D)
    covariances_, precisions_, precisions_cholesky_ : full (K, D, D), tied (D, D), diag (K, D), spherical (K,)
    weight_concentration_ : (K,), or two of them for the Dirichlet process
    mean_precision_ : (K,)
    degrees_of_freedom_ : (K,), or one number for tied
    weight_concentration_prior_, mean_precision_prior_, mean_prior_, degrees_of_freedom_prior_, covariance_prior_
    converged_, n_iter_, lower_bound_, lower_bounds_, n_features_in_, feature_names_in_

    Examples
    --------
    >>> import numpy as np, stream_gmm as sg
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 2)) + 9.0 * rng.integers(0, 2, size=(400, 1))
    >>> gm = sg.BayesianGaussianMixture(5, weight_concentration_prior=1e-3, max_iter=500, random_state=0).fit(X)
    >>> int((gm.weights_ > 0.05).sum())
    2
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weight_concentration_prior_type: str = "dirichlet_process",
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        sample_rows: int = 50_000,
        outlier_quantile: float = 0.01,
        kernel: str = "auto",
        dtype: str = "float64",
        cache: str = "auto",
        client: Any = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.sample_rows = sample_rows
        self.outlier_quantile = outlier_quantile
        self.kernel = kernel
        self.dtype = dtype
        self.cache = cache
        self.client = client

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to the rows of ``X``.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`stream_gmm.GaussianMixture.fit`.

        Returns
        -------
        self

        Raises
        ------
        ConfigError
            If a parameter is unknown, malformed or out of range.
        InputDataError
            If the rows cannot be used; names row and column.

        Warns
        -----
        ConvergenceWarning
            If the lower bound still changed by ``tol`` or more after ``max_iter`` steps.
        """
        del y
        self._check_parameters()
        source, executor = open_to_fit(X, sample_weight), api.executor_for(self.client)
        require_complete_rows(source.missing, "variational inference")
        state = self.random_state
        rng = state if isinstance(state, np.random.RandomState) else np.random.RandomState(draw_seed(state))
        settings = Settings(
            algorithm="em", n_init=int(self.n_init), max_passes=int(self.max_iter), reg_covar=self.reg_covar,
            random_state=0 if rng is state else draw_seed(state), sample_rows=int(self.sample_rows),
            outlier_quantile=self.outlier_quantile, kernel=self.kernel, dtype=self.dtype, cache=self.cache,
            constants=FIT,
        )  # fmt: skip
        family, k = family_named(self.covariance_type), int(self.n_components)
        make_prior = partial(self._make_prior, family)
        starts: Sequence[SuffStats] | VariationalState
        if self.warm_start and hasattr(self, "_state"):
            starts, start_rows = self._state, 1.0
            source = as_source(source, columns_of(self._tilted))
        else:
            starts, moments = draw_start_stats(source, k, family, self.init_params, settings, executor, rng)
            start_rows = moments.rows
        fit = fit_variational(
            source, starts, start_rows, family, make_prior, self.tol, settings, executor, self._print_steps
        )
        self._take_fit(fit, family)
        self._remember_columns(X, columns_of(fit.tilted), fit.tilted.n_features_in_)
        if self.max_iter:
            warn_unless_converged(fit.tilted)
        return self

    def _check_parameters(self) -> None:
        for name, least in (("n_components", 1), ("max_iter", 0), ("n_init", 1), ("sample_rows", 1)):
            check_whole_number(name, getattr(self, name), least)
        check_whole_number("verbose_interval", self.verbose_interval, 1)
        for name in ("tol", "reg_covar", "outlier_quantile"):
            check_number(name, getattr(self, name))
            if getattr(self, name) is None:
                raise ConfigError(f"{name} must be a number.")
        for name in _POSITIVE:
            check_number(name, getattr(self, name))
            if getattr(self, name) == 0.0:
                raise ConfigError(f"{name} must be positive.")
        one_of(self.init_params, INITIALISATIONS, "init_params")
        one_of(self.covariance_type, COVARIANCE_TYPES, "covariance_type")
        one_of(self.weight_concentration_prior_type, WEIGHT_PRIORS, "weight_concentration_prior_type")

    def _make_prior(self, family: CovarianceFamily, moments: SuffStats) -> VariationalPrior:
        """Return the prior; what is not given comes from the moments of all rows, as in scikit-learn."""
        d = moments.mean.shape[1]
        freedom = d if self.degrees_of_freedom_prior is None else self.degrees_of_freedom_prior
        if freedom <= d - 1:
            raise ConfigError(
                f"The parameter 'degrees_of_freedom_prior' should be greater than {d - 1}, but got {freedom:.3f}."
            )
        if self.covariance_prior is None:
            scatter = family.moments.condense(moments.scatter / max(moments.rows - 1.0, 1.0))
        else:
            scatter = _check_covariance(self.covariance_prior, family, d)
        mean = moments.mean[0] if self.mean_prior is None else np.asarray(self.mean_prior, dtype=np.float64)
        if mean.shape != (d,) or not np.isfinite(mean).all():
            raise ConfigError(f"The parameter 'means' should have the shape of {(d,)}, but got {mean.shape}")
        concentration, precision = self.weight_concentration_prior, self.mean_precision_prior
        return VariationalPrior(
            WEIGHT_PRIORS[self.weight_concentration_prior_type],
            1.0 / self.n_components if concentration is None else concentration,
            mean, 1.0 if precision is None else precision, freedom, scatter, self.reg_covar,
        )  # fmt: skip

    def _take_fit(self, fit: VariationalFit, family: CovarianceFamily) -> None:
        posterior, prior, result = fit.state.posterior, fit.prior, fit.tilted
        self._state, self._tilted, self._log_scale = fit.state, result, fit.log_scale
        concentration = posterior.concentration
        self.weight_concentration_ = tuple(concentration) if concentration.ndim > 1 else concentration
        self.weights_ = prior.weights.mean_weights(concentration)
        self.mean_precision_, self.means_ = posterior.mean_precision, posterior.means
        self.degrees_of_freedom_ = (
            float(posterior.degrees_of_freedom[0]) if family.shared else posterior.degrees_of_freedom
        )
        self.covariances_, self.precisions_ = result.covariances_, result.precisions_
        self.precisions_cholesky_ = result.precisions_cholesky_
        self.weight_concentration_prior_, self.mean_prior_ = prior.concentration, prior.mean
        self.mean_precision_prior_, self.degrees_of_freedom_prior_ = prior.mean_precision, prior.degrees_of_freedom
        self.covariance_prior_ = family.estimate(np.ones(1), prior.scatter)[... if family.shared else 0]
        self.converged_, self.n_iter_ = fit.state.converged, len(fit.state.bounds)
        self.lower_bound_, self.lower_bounds_ = fit.state.bound, list(fit.state.bounds)

    def _print_steps(self, states: Sequence[VariationalState]) -> None:
        step = max(len(s.bounds) for s in states)
        if self.verbose and not step % self.verbose_interval:
            bound = f"\t lower bound {max(s.bound for s in states):.6f}" if self.verbose > 1 else ""
            print(f"  Iteration {step}{bound}")

    @property
    def result_(self) -> FitResult:  # type: ignore[override]
        """The mixture that scores rows: its responsibilities are those of the posterior."""
        return self._tilted

    def score_samples(self, X: Any) -> Array:
        """Return the expected log-density of each row ``(N,)`` under the posterior, as in scikit-learn; nats."""
        return super().score_samples(X) + self._log_scale

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the mean of :meth:`score_samples`; weights as in :meth:`stream_gmm.GaussianMixture.score`."""
        return super().score(X, y, sample_weight) + self._log_scale

    def sample(self, n_samples: int = 1) -> tuple[Array, np.ndarray[Any, Any]]:
        """Draw rows ``(n, D)`` and their components ``(n,)`` from the mixture at ``weights_`` and the means."""
        params = self._model.params
        mean = MixtureParams(self.weights_, params.means, params.covariances, params.family)
        return self._draw(mean, n_samples)


def _check_covariance(covariance: Any, family: CovarianceFamily, n_features: int) -> Array:
    """Return a prior covariance in the shape of one component's scatter, with a leading axis of 1."""
    shape = family.shape(1, n_features)[0 if family.shared else 1 :]
    try:
        values = np.asarray(covariance, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError("covariance_prior cannot be read as numbers.") from error
    if values.shape != shape:
        raise ConfigError(
            f"The parameter '{family.name} covariance_prior' should have the shape of {shape}, but got {values.shape}"
        )
    if values.ndim == 2:
        positive = np.allclose(values, values.T) and bool(np.all(np.linalg.eigvalsh(values) > 0.0))
    else:
        positive = bool(np.all(values > 0.0))
    if not positive:
        raise ConfigError(f"'{family.name} covariance_prior' should be symmetric, positive-definite")
    return values.reshape(family.moments.shape(1, n_features))
