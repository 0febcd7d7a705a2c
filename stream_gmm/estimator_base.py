"""What every estimator has in common: scikit-learn's base classes, the reading of rows, the methods of a model.

scikit-learn is imported here and in the other ``estimator`` modules only.
"""

from __future__ import annotations

import os
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator
from copy import deepcopy
from numbers import Integral
from operator import attrgetter
from typing import Any, Self

import numpy as np
from sklearn import exceptions
from sklearn.base import BaseEstimator, DensityMixin, clone

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.estep.scores import Scores, summarise_scores
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.frames import as_rows, column_names
from stream_gmm.core.rows.transforms import restore_rows
from stream_gmm.errors import (
    ConfigError,
    ConvergenceWarning,
    InputDataError,
    NotFittedError,
    did_you_mean,
    explain,
    one_of,
)
from stream_gmm.io.source.chunks import Chunk
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.source.decode import MARGINALISE
from stream_gmm.io.source.memory import ArrayDataset, as_source
from stream_gmm.io.source.protocols import Source, read_completely

NOT_SCORED = -2
"""Label of a row that ``missing="drop"`` leaves out; -1 is noise."""
LARGEST_SEED = 2**31 - 1


class EstimatorConvergenceWarning(ConvergenceWarning, exceptions.ConvergenceWarning):  # type: ignore[misc]
    """A fit ended without having converged; a ``ConvergenceWarning`` of scikit-learn, too."""


class EstimatorNotFittedError(NotFittedError, exceptions.NotFittedError):  # type: ignore[misc]
    """A method that needs a fitted model was called before ``fit``; a ``NotFittedError`` of scikit-learn, too."""


def draw_seed(random_state: Any) -> int:
    """Return a seed from what scikit-learn takes for a random state; 0 for None, so that fits can be repeated.

    Raises
    ------
    ConfigError
        If it is something else.
    """
    if random_state is None:
        return 0
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(LARGEST_SEED))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(LARGEST_SEED))
    if isinstance(random_state, Integral) and not isinstance(random_state, bool) and int(random_state) >= 0:
        return int(random_state)
    raise ConfigError(
        f"random_state must be None, a whole number of at least 0, a RandomState or Generator, not {random_state!r}."
    )


def has_names(X: Any) -> bool:
    """Return True if the columns of ``X`` have names: those of files, data frames and Arrow tables."""
    return is_opened(X) or bool(column_names(X))


def columns_of(model: FitResult) -> tuple[str, ...]:
    """Return the columns that rows must have to be scored by a model."""
    return model.columns


def is_opened(X: Any) -> bool:
    """Return True for a path or a data set, False for rows in memory."""
    return isinstance(X, str | os.PathLike | Dataset | ArrayDataset)


class MixtureEstimator(DensityMixin, BaseEstimator, metaclass=ABCMeta):
    """A mixture with scikit-learn's methods; ``result_``, set by ``fit``, holds the fitted model."""

    result_: FitResult
    n_features_in_: int
    feature_names_in_: np.ndarray[Any, Any]
    _by_name = False
    """Whether the model was fitted to columns with names."""

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn asks of an estimator: it accepts NaN if missing values are marginalised."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = getattr(self, "missing", "error") == MARGINALISE
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "result_")

    def __sklearn_clone__(self) -> Self:
        """Return an unfitted copy for ``clone``; it shares the client, which cannot be copied."""
        params = self.get_params(deep=False)
        copied = type(self)(**{n: v if n == "client" else clone(v, safe=False) for n, v in params.items()})
        if hasattr(self, "_metadata_request"):
            copied._metadata_request = deepcopy(self._metadata_request)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: all but the client, which belongs to this process."""
        state = super().__getstate__()
        return {**state, "client": None} if "client" in state else state

    def set_params(self, **params: Any) -> Self:
        """Set constructor parameters; returns self.

        Raises
        ------
        ConfigError
            If there is none of that name; names the nearest one.
        """
        known = self.get_params()
        for name in params:
            if name.partition("__")[0] not in known:
                raise ConfigError(f"unknown parameter {name!r}{did_you_mean(name, known)}")
        super().set_params(**params)
        return self

    @abstractmethod
    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to the rows of ``X``; ``y`` is ignored. Returns self."""

    def fit_predict(self, X: Any, y: Any = None, **fit_params: Any) -> np.ndarray[Any, Any]:
        """Fit, with parameters of ``fit`` such as ``sample_weight``; return the component of each row ``(N,)``."""
        return self.fit(X, y, **fit_params).predict(X)

    @property
    def _model(self) -> FitResult:
        try:
            return self.result_
        except NotFittedError:
            raise
        except AttributeError:
            raise EstimatorNotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments "
                "before using this estimator."
            ) from None

    def _remember_columns(self, X: Any, columns: tuple[str, ...], n_features: int) -> None:
        """Set what scikit-learn says of the columns of a fit, and forget what was set before."""
        self.n_features_in_ = n_features
        self._by_name = has_names(X)
        if self._by_name and (is_opened(X) or _are_strings(X)):
            self.feature_names_in_ = np.array(columns, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _open(self, X: Any, sample_weight: Any = None) -> Source:
        """Return ``X`` in the columns of the model: by name, if both have names."""
        columns = columns_of(self._model)
        missing = MARGINALISE if self._model.marginalises else "error"
        if is_opened(X):
            return as_source(X, columns, missing, sample_weight)
        self._compare_names(X)
        if not (self._by_name and has_names(X)):
            X = X if isinstance(X, np.ndarray) and X.ndim == 2 else as_rows(X, missing=missing, copy=False)
            self._check_n_features(X.shape[1])
        return as_source(X, columns, missing, sample_weight, copy=False)

    def _check_n_features(self, found: int) -> None:
        if found != self.n_features_in_:
            raise InputDataError(
                f"X has {found} features, but {type(self).__name__} is expecting {self.n_features_in_} features as "
                "input."
            )

    def _compare_names(self, X: Any) -> None:
        fitted, given = hasattr(self, "feature_names_in_"), has_names(X) and _are_strings(X)
        name = type(self).__name__
        if fitted and not given:
            warnings.warn(
                f"X does not have valid feature names, but {name} was fitted with feature names", stacklevel=6
            )
        elif given and not self._by_name:
            warnings.warn(f"X has feature names, but {name} was fitted without feature names", stacklevel=6)

    def _chunks(self, X: Any, sample_weight: Any = None) -> Iterator[Chunk]:
        source = self._open(X, sample_weight)
        if isinstance(source, ArrayDataset):
            yield from source.cut_chunks(self._model.n_components + 5)
        else:
            yield from (chunk for leaf in source.leaves() for chunk in read_completely(leaf))

    def _score_each(self, X: Any, take: Callable[[Scores], Any], not_scored: Any) -> np.ndarray[Any, Any]:
        """Take scores of every row of ``X``; rows that ``missing="drop"`` leaves out get ``not_scored``."""
        out = []
        for chunk in self._chunks(X):
            usable = values = np.ascontiguousarray(take(self._model.score_features(chunk.features)))
            if chunk.keep is not None:
                values = np.full((chunk.size, *usable.shape[1:]), not_scored, usable.dtype)
                values[chunk.keep] = usable
            out.append(values)
        return np.concatenate(out) if out else take(self._model.score_features(np.empty((0, self.n_features_in_))))

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """Return the component of highest responsibility ``(N,)``, for every row of ``X``.

        -1 is noise; -2 a row that a data set opened with ``missing="drop"`` leaves out.

        Raises
        ------
        InputDataError
            If ``X`` lacks a column of the model, or a value is missing.
        """
        return self._score_each(X, attrgetter("component"), NOT_SCORED)

    def predict_proba(self, X: Any) -> Array:
        """Return responsibilities ``(N, K)``; NaN for rows that ``missing="drop"`` leaves out."""
        return self._score_each(X, attrgetter("proba"), np.nan)

    def score_samples(self, X: Any) -> Array:
        """Return the log-density of each row ``(N,)``, in nats; NaN for rows that are left out or have no value."""
        return self._score_each(X, attrgetter("log_density"), np.nan)

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
        model, p, parts = self._model, self._n_parameters(), []
        for chunk in self._chunks(X, sample_weight):
            weights = chunk.rows[:, -1] if chunk.weighted else None
            parts.append(summarise_scores(model.score_features(chunk.features), p, weights))
        names = ("loglik", "n_rows", "entropy", "log_max")
        loglik, n_rows, entropy, log_max = (sum(getattr(part, name) for part in parts) for name in names)
        total = Criteria(loglik, p, n_rows, entropy, log_max)
        if not total.n_rows:
            raise InputDataError(
                explain(
                    "there is no row to judge the model by",
                    why="the data are empty, every row has a missing value, or every weight is 0",
                    remedy="pass other rows",
                )
            )
        return total

    def sample(self, n_samples: int = 1) -> tuple[Array, np.ndarray[Any, Any]]:
        """Draw rows ``(n, D)`` and their components ``(n,)``, grouped by component.

        The same rows at every call if ``random_state`` is a number, as in scikit-learn; others if it is None.
        """
        rows, components = self._draw(self._model.params, n_samples)
        return restore_rows(rows, self._model.columns, self._model.transforms), components

    def _draw(self, params: MixtureParams, n_samples: int) -> tuple[Array, np.ndarray[Any, Any]]:
        seed = None if self.random_state is None else draw_seed(self.random_state)
        return draw_rows(params, n_samples, np.random.default_rng(seed))

    def _n_parameters(self) -> int:
        """Return the number of free parameters; scikit-learn has this method, and others call it."""
        return self._model.params.n_parameters


class CriteriaMixin:
    """Criteria of a fitted mixture on rows, for estimators with maximum-likelihood fits."""

    _criteria: Callable[[Any, Any], Criteria]

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Return the BIC on ``X``, lower is better; weights as in ``score``, their sum is the number of rows."""
        return self._criteria(X, sample_weight).bic

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Return the AIC on ``X``, lower is better; weights as in ``score``."""
        return self._criteria(X, sample_weight).aic

    def icl(self, X: Any, sample_weight: Any = None) -> float:
        """Return the ICL on ``X``, lower is better; weights as in ``score``."""
        return self._criteria(X, sample_weight).icl


def _are_strings(X: Any) -> bool:
    names = X.column_names if hasattr(X, "column_names") else X.columns
    return all(isinstance(name, str) for name in names)


def check_two_rows(n_rows: int) -> None:
    """Refuse fewer than two rows: they have no spread.

    Raises
    ------
    InputDataError
        If there are.
    """
    if n_rows < 2:
        raise InputDataError(
            explain(
                f"found {n_rows} sample{'s' * (n_rows != 1)} (rows) while a minimum of 2 is required",
                remedy="pass more rows",
            )
        )


def open_to_fit(X: Any, sample_weight: Any = None, missing: str = "error") -> Source:
    """Return rows to fit as a source.

    Raises
    ------
    InputDataError
        If there are fewer than two rows, or every weight is zero.
    """
    source = as_source(X, missing=one_of(missing, ("error", MARGINALISE), "missing"), weight=sample_weight)
    check_two_rows(source.num_rows)
    if isinstance(source, ArrayDataset) and source.weights is not None and not source.weights.any():
        raise InputDataError(explain("every sample weight is zero", remedy="pass weights of which some are positive"))
    return source


def warn_unless_converged(result: FitResult) -> None:
    """Warn, in a way that scikit-learn's filters catch, if a fit has not converged."""
    if result.converged_:
        return
    reason = f" ({result.reason})" if result.reason else ""
    outcome = result.outcome.value.replace("max_passes", "max_iter")
    warnings.warn(
        "Best performing initialization did not converge. Try different init parameters, or increase max_iter, tol, "
        f"or check for degenerate data. Outcome: {outcome}{reason}.",
        EstimatorConvergenceWarning,
        stacklevel=3,
    )
