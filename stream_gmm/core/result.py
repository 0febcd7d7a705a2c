"""The result of a fit: parameters, outcome, criteria and provenance. It never holds data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.estep.scores import Scores, score_rows
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.density import Density, compile_density
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.matching import trace_components
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.constants import Constant, insert_constants, split_columns
from stream_gmm.errors import ConfigError, InputDataError, explain

LARGEST = 1e150
"""Largest absolute value that can be used: a sum of the squares of larger ones overflows."""


def column_names(data: Any) -> tuple[str, ...]:
    """Return the names of the columns of a data frame or Arrow table; none for anything else."""
    names = data.column_names if hasattr(data, "column_names") else getattr(data, "columns", ())
    return tuple(str(name) for name in names)


def as_rows(data: Any, columns: tuple[str, ...] = (), missing: str = "error") -> Array:
    """Return an array, a data frame or an Arrow table as float64 rows ``(N, D)``.

    The columns of frames and tables go by name; those that are not in ``columns`` are left out. With ``missing``
    ``"drop"``, rows with a value that cannot be used are left out.

    Raises
    ------
    InputDataError
        If a column is missing, there twice or not numeric, the shape is wrong, or a value is NaN, infinite or
        beyond 1e150.
    """
    rows = _to_float64(_select_by_name(data, columns))
    if rows.ndim != 2:
        raise InputDataError(
            explain(
                f"expected rows of shape (N, D), found an array of shape {rows.shape}",
                remedy="reshape a single column with .reshape(-1, 1)",
            )
        )
    usable = np.abs(rows) <= LARGEST
    if missing == "drop":
        return rows[usable.all(axis=1)]
    bad = np.argwhere(~usable)
    if len(bad):
        row, column = (int(i) for i in bad[0])
        value = rows[row, column]
        oversized = bool(np.isfinite(value))
        raise InputDataError(
            explain(
                f"row {row}, column {column} is {f'{value:.6g}' if oversized else 'NaN or infinite'} "
                f"({len(bad)} such values)",
                why=f"squares of values beyond {LARGEST:g} overflow" if oversized else "",
                remedy="drop or fill these rows, or pass a data set opened with missing='drop'",
            )
        )
    return rows


def _select_by_name(data: Any, columns: tuple[str, ...]) -> Any:
    names = column_names(data)
    if not names:
        return data
    wanted = columns or names
    wrong = [c for c in wanted if names.count(c) != 1]
    if wrong:
        raise InputDataError(
            explain(
                f"the frame lacks columns {wrong}, or has them twice",
                why=f"the model has {list(wanted)}",
                remedy=f"pass a frame with these columns; this one has {list(names)}",
            )
        )
    if hasattr(data, "column_names"):
        arrays = [np.asarray(data.column(names.index(c))) for c in wanted]
    elif hasattr(data, "iloc"):
        arrays = [np.asarray(data.iloc[:, names.index(c)]) for c in wanted]
    else:
        arrays = [np.asarray(data[c]) for c in wanted]
    return np.column_stack([_to_float64(a, f"column '{c}'") for a, c in zip(arrays, wanted, strict=True)])


def _to_float64(values: Any, where: str = "the rows") -> Array:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputDataError(
            explain(f"{where} cannot be read as numbers", why=str(error), remedy="leave out what is not a number")
        ) from error


@dataclass(frozen=True)
class FitResult:
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
    threshold, outlier_quantile
        Rows with a log-density below ``threshold`` (nats) are outliers; it is the ``outlier_quantile`` of the
        log-density of the uniform sample.
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
    warnings: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[Constant, ...] = ()

    @property
    def input_columns(self) -> tuple[str, ...]:
        """All columns that the fit has read, in order: the features and the constants."""
        return insert_constants(self.columns, self.constants)

    def match_to(self, reference: FitResult) -> FitResult:
        """Return the same model with its components numbered as the matching ones of an earlier model.

        Components that are new, lost, split or merged are listed in ``events`` and in ``provenance["identity"]``.

        Raises
        ------
        ConfigError
            If the models have different columns.
        """
        if self.columns != reference.columns or self.n_features_in_ != reference.n_features_in_:
            raise ConfigError(
                f"cannot match a model of columns {list(self.columns)} to one of {list(reference.columns)}."
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
        noise = () if self.params.noise is None else (self.params.noise,)
        for values in (self.weights_, self.means_, self.covariances_, np.array(self.threshold), *noise):
            sha.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
        return sha.hexdigest()

    def scores(self, rows: Any) -> Scores:
        """Return all scores of rows in memory (an array or a data frame).

        The rows have the columns of the fit (``input_columns``), or only the features (``columns``).

        Raises
        ------
        InputDataError
            If the rows have other columns than the model, or a value is NaN or infinite.
        """
        features, unlike = self._split_columns(rows)
        scores = score_rows(self.density, features)
        return replace(scores, log_density=np.where(unlike, -np.inf, scores.log_density)) if unlike.any() else scores

    def _split_columns(self, rows: Any) -> tuple[Array, np.ndarray[Any, Any]]:
        """Return the features ``(N, D)``, and which rows differ from a constant ``(N,)``."""
        wanted = self.input_columns if set(self.input_columns) <= set(column_names(rows)) else self.columns
        return split_columns(as_rows(rows, wanted), self.n_features_in_, self.constants)

    def predict(self, rows: Any) -> np.ndarray[Any, Any]:
        """Return the component of highest responsibility ``(N,)``; -1 for noise."""
        return self.scores(rows).component

    def predict_proba(self, rows: Any) -> Array:
        """Return responsibilities ``(N, K)``."""
        return self.scores(rows).proba

    def score_samples(self, rows: Any) -> Array:
        """Return the log-density of each row ``(N,)``, in nats."""
        return self.scores(rows).log_density

    def score(self, rows: Any) -> float:
        """Return the mean log-density, in nats per row."""
        return float(self.score_samples(rows).mean())

    def is_outlier(self, rows: Any) -> np.ndarray[Any, Any]:
        """Return which rows have a log-density below the threshold, or differ from a constant: ``(N,)`` booleans."""
        features, unlike = self._split_columns(rows)
        return np.asarray((score_rows(self.density, features).log_density < self.threshold) | unlike)

    def evaluate_criteria(self, rows: Any, weights: Array | None = None) -> Criteria:
        """Return the criteria of this model on other rows; ``weights (N,)``: how often each row counts."""
        scores = self.scores(rows)
        proba = scores.shares
        plogp = proba * np.log(np.maximum(proba, 1e-300))
        log_max = np.log(scores.max_proba)
        loglik, n_rows = scores.log_density, float(len(proba))
        if weights is not None:
            some = weights > 0.0  # a row of weight 0 is none, even where its density is 0
            loglik, plogp, log_max = ((values[some].T * weights[some]).T for values in (loglik, plogp, log_max))
            n_rows = float(weights.sum())
        return Criteria(
            float(loglik.sum()), self.params.n_parameters, n_rows, -float(np.sum(plogp)), float(log_max.sum())
        )

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
        return draw_rows(self.params, n_samples, np.random.default_rng(random_state))
