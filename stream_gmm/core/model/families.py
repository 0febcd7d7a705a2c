"""What a covariance structure is, and the arithmetic on factors that structures share."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from stream_gmm.core.model.features import Features
from stream_gmm.core.model.moments import Array, Moments
from stream_gmm.errors import SingularCovarianceError, explain


class CovarianceFamily(Protocol):
    """A covariance structure: its shape, its M-step and its parameter count."""

    @property
    def name(self) -> str:
        """scikit-learn's name, or one after its fashion."""

    @property
    def mclust(self) -> str:
        """Mclust's code."""

    @property
    def moments(self) -> Moments:
        """The kind of scatter that the M-step needs."""

    @property
    def features(self) -> Features:
        """The features in which the log-densities are linear, up to what all components share."""

    @property
    def matrices(self) -> bool:
        """True if the expanded covariances are matrices; else they are variances."""

    @property
    def shared(self) -> bool:
        """True if all components have one and the same covariance."""

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of ``covariances_`` (scikit-learn's)."""

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Return the number of free covariance parameters."""

    def estimate(self, weight: Array, scatter: Array) -> Array:
        """Maximise the expected log-likelihood given ``n_k (K,)`` and scatter about the means."""

    def ridge(self, covariances: Array, amount: Array) -> Array:
        """Add ``amount (D,)`` to the diagonal."""

    def expand(self, values: Array, n_components: int, n_features: int) -> Array:
        """Repeat a shared or isotropic value for every component and feature (moments' shape)."""

    def precisions_cholesky(self, covariances: Array) -> Array:
        """Return upper factors U with precision ``U U'`` in scikit-learn's shape."""

    def precisions(self, precisions_cholesky: Array) -> Array:
        """Return the precision matrices in scikit-learn's shape."""

    def from_precisions(self, precisions: Array) -> Array:
        """Return covariances from precisions (``precisions_init``)."""


def _upper_factors(covariances: Array) -> Array:
    """Return U with ``inverse(C) = U U'`` for each matrix on the last two axes."""
    try:
        lower = np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError as error:
        raise SingularCovarianceError(
            explain(
                "some components have ill-defined empirical covariance",
                why="a component has collapsed onto too few distinct rows, or columns are collinear",
                remedy="use fewer components, drop a collinear column, or leave reg_covar unset",
            )
        ) from error
    identity = np.broadcast_to(np.eye(lower.shape[-1]), lower.shape)
    return np.triu(np.swapaxes(np.linalg.solve(lower, identity), -1, -2))


def _inverse_deviations(variances: Array) -> Array:
    if not np.all(variances > 0.0):
        raise SingularCovarianceError(
            explain(
                "some components have a variance that is not positive",
                why="a component has collapsed onto repeated values",
                remedy="use fewer components, drop the column, or leave reg_covar unset",
            )
        )
    return np.asarray(1.0 / np.sqrt(variances))


class MatrixFactors:
    """Factor arithmetic of structures that hold matrices on the last two axes; one for each component by default."""

    matrices, shared = True, False

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def expand(self, values: Array, n_components: int, n_features: int) -> Array:
        return values

    def precisions_cholesky(self, covariances: Array) -> Array:
        return _upper_factors(covariances)

    def precisions(self, precisions_cholesky: Array) -> Array:
        return np.asarray(precisions_cholesky @ np.swapaxes(precisions_cholesky, -1, -2))

    def from_precisions(self, precisions: Array) -> Array:
        upper = self.precisions_cholesky(np.asarray(precisions, dtype=np.float64))
        return np.asarray(upper @ np.swapaxes(upper, -1, -2))

    def ridge(self, covariances: Array, amount: Array) -> Array:
        return np.asarray(covariances + np.diag(amount))


class VarianceFactors:
    """Factor arithmetic of structures that hold variances only; ``(K, D)`` by default."""

    matrices, shared = False, False

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def expand(self, values: Array, n_components: int, n_features: int) -> Array:
        return values

    def precisions_cholesky(self, covariances: Array) -> Array:
        return _inverse_deviations(covariances)

    def precisions(self, precisions_cholesky: Array) -> Array:
        return np.asarray(precisions_cholesky**2)

    def from_precisions(self, precisions: Array) -> Array:
        return np.asarray(_inverse_deviations(np.asarray(precisions, dtype=np.float64)) ** 2)

    def ridge(self, covariances: Array, amount: Array) -> Array:
        return np.asarray(covariances + amount)
