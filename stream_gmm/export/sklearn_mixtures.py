"""Models as fitted ``sklearn.mixture.GaussianMixture``, and the other way round."""

from __future__ import annotations

from typing import Any

import numpy as np

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.frames import as_rows, column_names
from stream_gmm.core.rows.histogram import LogDensityHistogram
from stream_gmm.errors import ConfigError, InputDataError, explain

SHARED = ("full", "tied", "diag", "spherical")
"""The structures that scikit-learn has, too."""


def to_sklearn(model: FitResult) -> Any:
    """Return a fitted ``sklearn.mixture.GaussianMixture`` with the parameters of a model.

    Its ``predict``, ``predict_proba`` and ``score_samples`` agree with those of the model to 1e-9, for columns that
    are not far from the origin compared with their spread (scikit-learn does not centre rows). A structure that
    scikit-learn does not have becomes ``"full"``, or ``"diag"`` if its covariances are diagonal. What scikit-learn
    cannot hold is left behind: the outlier threshold, and the constant columns (the mixture takes the features alone,
    in the order of ``model.columns``).

    Raises
    ------
    ConfigError
        If the model has a noise component or transforms: a Gaussian mixture cannot express them.
    """
    from sklearn.mixture import GaussianMixture

    refuse_inexpressible(model, "a scikit-learn GaussianMixture")
    params, (k, d) = model.params, model.means_.shape
    if model.covariance_type in SHARED:
        kind, covariances, factors = model.covariance_type, model.covariances_, model.precisions_cholesky_
    else:
        covariances = np.array(params.dense_covariances)
        factors = np.array(params.family.expand(params.precisions_cholesky, k, d))
        kind = "full"
        if not params.family.matrices:
            kind, covariances = "diag", np.array(np.einsum("kdd->kd", covariances))
    out = GaussianMixture(k, covariance_type=kind)
    out.weights_, out.means_ = np.array(model.weights_), np.array(model.means_)
    out.covariances_ = np.array(covariances)
    out.precisions_cholesky_ = np.array(factors)
    out.precisions_ = np.array(factors) ** 2
    if kind in ("full", "tied"):
        out.precisions_ = factors @ np.swapaxes(factors, -1, -2)
    out.converged_, out.n_iter_ = model.converged_, max(model.n_iter, 1)
    out.lower_bounds_ = list(model.history)
    out.lower_bound_ = model.history[-1] if model.history else float("-inf")
    out.n_features_in_ = d
    if model.columns:
        out.feature_names_in_ = model.feature_names_in_
    return out


def refuse_inexpressible(model: FitResult, target: str) -> None:
    """Refuse a model with more than a Gaussian mixture of its columns.

    Raises
    ------
    ConfigError
        If it has a noise component or transforms.
    """
    parts = {"a noise component": model.params.noise is not None, "transforms of columns": bool(model.transforms)}
    found = [name for name, there in parts.items() if there]
    if found:
        raise ConfigError(
            explain(
                f"the model cannot become {target}",
                why=f"it has {' and '.join(found)}, which that cannot express",
                remedy="fit without them (noise: false, no transforms), or use the model as it is "
                "(predict_proba, 'stream-gmm score', JSON)",
            )
        )


def from_sklearn(mixture: Any, rows: Any = None, *, outlier_quantile: float = 0.01) -> FitResult:
    """Return the model of a fitted ``sklearn.mixture.GaussianMixture``.

    Parameters
    ----------
    mixture
        The fitted mixture. Its ``feature_names_in_`` become the columns of the model; without them these are ``x0``,
        ``x1``, ...
    rows
        Rows ``(N, D)`` that it was fitted to, an array or a data frame: they give the outlier threshold,
        log-likelihood and criteria, and what ``monitor`` and ``log_density_rank`` compare with. None: the model has
        none of these, and no row is an outlier.
    outlier_quantile
        The outlier threshold is this quantile of the log-density of ``rows``.

    Returns
    -------
    FitResult
        A model with the parameters of the mixture.

    Raises
    ------
    ConfigError
        If it is not a fitted Gaussian mixture of scikit-learn. Its BayesianGaussianMixture scores rows by the
        posterior and not by one mixture, and is refused.
    InputDataError
        If the rows cannot be used.
    """
    from sklearn.mixture import GaussianMixture

    if not isinstance(mixture, GaussianMixture) or not hasattr(mixture, "weights_"):
        raise ConfigError(
            explain(
                f"from_sklearn takes a fitted sklearn.mixture.GaussianMixture, not {type(mixture).__name__}"
                f"{' before fit' if isinstance(mixture, GaussianMixture) else ''}"
            )
        )
    if not 0.0 <= outlier_quantile < 1.0:
        raise ConfigError(f"outlier_quantile must lie in [0, 1), not {outlier_quantile}.")
    family = family_named(mixture.covariance_type)
    weights = np.asarray(mixture.weights_, np.float64)
    params = MixtureParams(weights, mixture.means_, mixture.covariances_, family)
    d = params.n_features
    columns = tuple(str(c) for c in getattr(mixture, "feature_names_in_", [f"x{j}" for j in range(d)]))
    nothing = Criteria(0.0, params.n_parameters, 0.0, 0.0, 0.0)
    bounds = getattr(mixture, "lower_bounds_", [mixture.lower_bound_])
    model = FitResult(
        params, Outcome.CONVERGED if mixture.converged_ else Outcome.MAX_PASSES, nothing,
        tuple(float(v) for v in bounds), int(mixture.n_iter_), columns=columns,
        provenance={"made_from": "sklearn.mixture.GaussianMixture"},
    )  # fmt: skip
    if rows is None:
        return model
    values = as_rows(rows, columns if column_names(rows) else ())
    if values.shape[1] != d or not len(values):
        raise InputDataError(f"the mixture has {d} features, and the rows have the shape {values.shape}.")
    log_density = model.score_samples(values)
    threshold = float(np.quantile(log_density, outlier_quantile)) if outlier_quantile else float("-inf")
    return FitResult(
        params, model.outcome, model.evaluate_criteria(values), (*model.history[:-1], float(log_density.mean())),
        model.n_iter, columns=columns, threshold=threshold, outlier_quantile=outlier_quantile,
        training=LogDensityHistogram.of(log_density), provenance=model.provenance,
    )  # fmt: skip
