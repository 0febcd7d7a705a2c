"""The result of a fit: parameters, outcome, criteria and provenance. It never holds data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.display import count_noun, make_html_table, shorten_list
from stream_gmm.core.estep.scores import Scores, impute_rows, score_rows, score_transformed, summarise_scores
from stream_gmm.core.exportable import Exportable
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.density import Density, compile_density
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.matching import trace_components
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.constants import Constant, insert_constants, split_columns
from stream_gmm.core.rows.frames import as_rows, column_names
from stream_gmm.core.rows.histogram import LogDensityHistogram
from stream_gmm.core.rows.transforms import (
    Transforms,
    label_columns,
    refuse_imputation,
    refuse_untransformed,
    restore_rows,
    transform_rows,
)
from stream_gmm.errors import ConfigError


@dataclass(frozen=True, repr=False)
class FitResult(Exportable):
    """A fitted mixture, with scikit-learn's attribute names and in-memory methods.

    Attributes
    ----------
    params
        The parameters at which the log-likelihood is ``criteria.loglik``, exactly.
    outcome, reason
        How the fit ended, and for some outcomes why.
    criteria
        Log-likelihood, BIC and the other criteria over all rows of the fit.
    history
        Mean log-likelihood, in nats per row, of every point that was accepted on the full data. Together with the
        penalty (about 1e-6 of it) it never falls; with ``reg_covar`` a plain EM step can lower it slightly.
    n_iter
        Number of steps from one accepted point to the next.
    passes, rejected
        Number of passes over the full data in which this candidate took part, and those of them (counted from 1)
        whose point was rejected.
    columns
        Names of the features, in the order of the model.
    constants
        Columns that had a single value in all rows of the fit and are no features. A row with another value has the
        log-density ``-inf`` and is an outlier.
    transforms
        Transforms of columns. ``params``, and so means, covariances and distances, are those of the transformed
        columns; rows are given as they are, and log-densities, criteria and the threshold are those of the columns.
    threshold, outlier_quantile
        Rows with a log-density below ``threshold`` (nats) are outliers; it is the ``outlier_quantile`` of the
        log-density of the uniform sample.
    training
        Histogram of the log-densities of the uniform sample, to which those of later rows are compared; None in a
        model file of an earlier release, and where there was no sample.
    warnings
        Cautions about the result, in sentences.
    events
        What happened during the fit beyond its formulas, with the pass and the component: rejected points, and
        components on the variance floor, without rows, or moved.
    provenance
        Data fingerprint, settings and versions; JSON values only.
    """

    params: MixtureParams
    outcome: Outcome
    criteria: Criteria
    history: tuple[float, ...]
    n_iter: int
    passes: int = 0
    rejected: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    reason: str = ""
    threshold: float = float("-inf")
    outlier_quantile: float = 0.0
    training: LogDensityHistogram | None = None
    warnings: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[Constant, ...] = ()
    transforms: Transforms = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the features as they were fitted: those of the columns, or of their transforms (``log1p(x)``)."""
        return label_columns(self.columns, self.transforms)

    @property
    def marginalises(self) -> bool:
        """True if the model was fitted with ``missing="marginalise"``; then rows to score may lack values, too."""
        return self.provenance.get("missing") == "marginalise"

    @property
    def input_columns(self) -> tuple[str, ...]:
        """All columns that the fit has read, in order: the features and the constants."""
        return insert_constants(self.columns, self.constants)

    def __repr__(self) -> str:
        n, c = self.n_components, self.criteria
        return (
            f"FitResult({self.covariance_type}, {n} component{'s' * (n != 1)}, columns {shorten_list(self.columns)}: "
            f"{self.outcome.name}, {c.n_rows:,.9g} rows, mean log-likelihood {self.lower_bound_:.6g}, "
            f"BIC {c.bic:.6g}, {count_noun(self.n_iter, 'step')}, {count_noun(self.passes, 'pass', 'passes')})"
        )

    def _repr_html_(self) -> str:
        rows = [(k, self.weights_[k], *mean) for k, mean in enumerate(self.means_)]
        names = self.labels or [f"x{j}" for j in range(self.n_features_in_)]
        return make_html_table(repr(self), ["component", "weight", *(f"mean {n}" for n in names)], rows)

    def match_to(self, reference: FitResult) -> FitResult:
        """Return the same model with its components numbered as the matching ones of an earlier model.

        Components that are new, lost, split or merged are listed in ``events`` and in ``provenance["identity"]``.

        Raises
        ------
        ConfigError
            If the models have different columns or transforms.
        """
        if self.columns != reference.columns or self.n_features_in_ != reference.n_features_in_:
            raise ConfigError(
                f"cannot match a model of columns {list(self.columns)} to one of {list(reference.columns)}."
            )
        if self.transforms != reference.transforms:
            raise ConfigError(
                f"cannot match a model of {list(self.labels)} to one of {list(reference.labels)}: their transforms "
                "differ."
            )
        components = trace_components(self.params, reference.params)
        identity = {"model": reference.digest, **{k: v for k, v in asdict(components).items() if k != "order"}}
        return replace(
            self,
            params=self.params.reorder(list(components.order)),
            events=(*self.events, *components.describe()),
            provenance={**self.provenance, "identity": identity},
        )

    @property
    def n_components(self) -> int:
        """Number of components K, without the noise."""
        return self.params.n_components

    @property
    def covariance_type(self) -> str:
        """Name of the covariance structure."""
        return self.params.family.name

    @property
    def weights_(self) -> Array:
        """Mixing weights ``(K,)``."""
        return self.params.weights

    @property
    def noise_weight_(self) -> float:
        """Mixing weight of the noise component; 0 if there is none."""
        return self.params.noise_weight

    @property
    def means_(self) -> Array:
        """Means ``(K, D)``."""
        return self.params.means

    @property
    def medians_(self) -> Array:
        """Medians ``(K, D)`` of the components in the units of the columns: the means, with transforms undone."""
        return restore_rows(self.means_, self.columns, self.transforms)

    @property
    def covariances_(self) -> Array:
        """Covariances in the shape of scikit-learn, in squared units of the columns."""
        return self.params.covariances

    @property
    def precisions_cholesky_(self) -> Array:
        """Upper triangular factors U, with the precisions ``U U'``, in the shape of scikit-learn."""
        return self.params.precisions_cholesky

    @property
    def precisions_(self) -> Array:
        """Precisions (inverse covariances) in the shape of scikit-learn."""
        return self.params.family.precisions(self.params.precisions_cholesky)

    @property
    def converged_(self) -> bool:
        """True if the predicted remaining gain was below the tolerance."""
        return self.outcome is Outcome.CONVERGED

    @property
    def n_iter_(self) -> int:
        """Number of steps on the full data."""
        return self.n_iter

    @property
    def lower_bound_(self) -> float:
        """Mean log-likelihood at the parameters, in nats per row."""
        return self.history[-1]

    @property
    def lower_bounds_(self) -> list[float]:
        """Mean log-likelihood at every accepted point, in nats per row."""
        return list(self.history)

    @property
    def n_features_in_(self) -> int:
        """Number of features D."""
        return self.params.n_features

    @property
    def feature_names_in_(self) -> np.ndarray[Any, Any]:
        """Names of the features ``(D,)``."""
        return np.array(self.columns, dtype=object)

    @cached_property
    def density(self) -> Density:
        """The parameters compiled for evaluation."""
        return compile_density(self.params)

    @cached_property
    def digest(self) -> str:
        """Identity of the model: SHA-256, in hexadecimal, of its structure, columns, parameters and threshold."""
        sha = hashlib.sha256()
        sha.update(repr((self.covariance_type, self.columns, self.params.means.shape)).encode())
        if self.constants:
            sha.update(repr(self.constants).encode())
        if self.transforms:
            sha.update(repr(self.transforms).encode())
        noise = () if self.params.noise is None else (self.params.noise,)
        for values in (self.weights_, self.means_, self.covariances_, np.array(self.threshold), *noise):
            sha.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
        return sha.hexdigest()

    def scores(self, rows: Any) -> Scores:
        """Return all scores of rows in memory (an array or a data frame).

        The rows have the columns of the fit (``input_columns``), or only the features (``columns``). If the model was
        fitted with ``missing="marginalise"``, missing values (NaN) are left out of the scores.

        Raises
        ------
        InputDataError
            If the rows have other columns than the model, or a value is NaN or infinite, or has no transform.
        """
        scores, unlike = self._score(rows)
        return replace(scores, log_density=np.where(unlike, -np.inf, scores.log_density)) if unlike.any() else scores

    def _split_columns(self, rows: Any) -> tuple[Array, np.ndarray[Any, Any]]:
        """Return the features ``(N, D)``, and which rows differ from a constant ``(N,)``."""
        wanted = self.input_columns if set(self.input_columns) <= set(column_names(rows)) else self.columns
        values = as_rows(rows, wanted, "marginalise" if self.marginalises else "error", copy=False)
        return split_columns(values, self.n_features_in_, self.constants)

    def _score(self, rows: Any) -> tuple[Scores, np.ndarray[Any, Any]]:
        """Return the scores of rows, and which of them differ from a constant ``(N,)``."""
        features, unlike = self._split_columns(rows)
        return self.score_features(features), unlike

    def score_features(self, features: Array) -> Scores:
        """Return all scores of features ``(N, D)`` that have been checked: float64, and no value that is refused.

        Raises
        ------
        InputDataError
            If a value has no transform.
        """
        if self.transforms:
            given, features = features, transform_rows(features, self.columns, self.transforms)
            refuse_untransformed(features, self.labels, given)
        return score_transformed(self.density, features, self.columns, self.transforms)

    def predict(self, rows: Any) -> np.ndarray[Any, Any]:
        """Return the component of highest responsibility ``(N,)``; -1 for noise."""
        return self.scores(rows).component

    def predict_proba(self, rows: Any) -> Array:
        """Return responsibilities ``(N, K)``."""
        return self.scores(rows).proba

    def score_samples(self, rows: Any) -> Array:
        """Return the log-density of each row ``(N,)``, in nats; NaN for a row without any value."""
        return self.scores(rows).log_density

    def impute(self, rows: Any) -> tuple[Array, Array]:
        """Return the features ``(N, D)`` with conditional means in place of missing values, and their deviations.

        The standard deviations are those of the mixture, given the values that the row has; 0 for values that are
        there. It is for models that were fitted with ``missing="marginalise"``.

        Raises
        ------
        InputDataError, ConfigError
            If the rows have other columns than the model, or a value is infinite; if the model has transforms.
        """
        refuse_imputation(self.transforms)
        features, _ = self._split_columns(rows)
        return impute_rows(self.density, features, score_rows(self.density, features))

    def score(self, rows: Any) -> float:
        """Return the mean log-density, in nats per row."""
        log_density = self.score_samples(rows)
        return float((log_density[~np.isnan(log_density)] if self.marginalises else log_density).mean())

    def is_outlier(self, rows: Any) -> np.ndarray[Any, Any]:
        """Return which rows are below the threshold (their ``comparable`` log-density), or differ from a constant."""
        scores, unlike = self._score(rows)
        return np.asarray((scores.comparable < self.threshold) | unlike)

    def evaluate_criteria(self, rows: Any, weights: Array | None = None) -> Criteria:
        """Return the criteria of this model on other rows; ``weights (N,)``: how often each row counts."""
        return summarise_scores(self.scores(rows), self.params.n_parameters, weights)

    def bic(self, rows: Any) -> float:
        """Return the BIC on these rows; lower is better."""
        return self.evaluate_criteria(rows).bic

    def aic(self, rows: Any) -> float:
        """Return the AIC on these rows; lower is better."""
        return self.evaluate_criteria(rows).aic

    def icl(self, rows: Any) -> float:
        """Return the ICL on these rows; lower is better."""
        return self.evaluate_criteria(rows).icl

    def sample(self, n_samples: int = 1, random_state: int | None = None) -> tuple[Array, np.ndarray[Any, Any]]:
        """Draw rows ``(n_samples, D)`` and their components ``(n_samples,)``, grouped by component; -1 is noise.

        Raises
        ------
        InputDataError
            If ``n_samples`` is less than 1.
        """
        rows, components = draw_rows(self.params, n_samples, np.random.default_rng(random_state))
        return restore_rows(rows, self.columns, self.transforms), components
