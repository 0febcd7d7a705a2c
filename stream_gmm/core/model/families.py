"""The protocol of a covariance structure, and the arithmetic on Cholesky factors that structures share.

Covariances come in two shapes: that of ``covariances_`` in scikit-learn, which depends on the structure, and the
*expanded* one, with the covariance of every component: matrices ``(K, D, D)`` or variances ``(K, D)``.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.model.features import Features
from stream_gmm.core.model.moments import Array, Moments
from stream_gmm.errors import SingularCovarianceError, explain

SINGULAR_REMEDY = "use fewer components, or leave out a column that is constant or follows from the others"


class CovarianceFamily(Protocol):
    """A covariance structure: its shape, its M-step and its number of parameters."""

    @property
    def name(self) -> str:
        """Name in scikit-learn, or one formed like those, or the code of mclust."""

    @property
    def mclust(self) -> str:
        """Code of mclust: three letters, for volume, shape and orientation."""

    @property
    def moments(self) -> Moments:
        """The kind of second moment that the M-step needs."""

    @property
    def features(self) -> Features:
        """The features in which the log-densities are linear, up to a term that all components share."""

    @property
    def matrices(self) -> bool:
        """True if the expanded covariances are matrices ``(K, D, D)``, False if they are variances ``(K, D)``."""

    @property
    def shared(self) -> bool:
        """True if all components have the same covariance."""

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of ``covariances_`` in scikit-learn."""

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Return the number of free covariance parameters."""

    def estimate(self, weight: Array, scatter: Array) -> Array:
        """Return the covariances that maximise the expected log-likelihood.

        ``weight (K,)`` is the expected number of rows of each component, ``scatter`` that about the means in the
        shape of :attr:`moments`.
        """

    def continue_from(self, covariances: Array) -> CovarianceFamily:
        """Return the structure for an M-step after one that led to ``covariances``: iterations may start there."""

    def ridge(self, covariances: Array, amount: Array) -> Array:
        """Return the covariances with ``amount (D,)`` added to the diagonals, in squared units of the columns."""

    def expand(self, values: Array, n_components: int, n_features: int) -> Array:
        """Return the expanded covariances, or other values of the same shape such as Cholesky factors."""

    def precisions_cholesky(self, covariances: Array) -> Array:
        """Return upper triangular factors U, with the precisions ``U U'``, in the shape of scikit-learn.

        Raises
        ------
        SingularCovarianceError
            If a covariance is not positive definite.
        """

    def precisions(self, precisions_cholesky: Array) -> Array:
        """Return the precisions ``U U'`` in the shape of scikit-learn."""

    def from_precisions(self, precisions: Array) -> Array:
        """Return covariances from precisions (``precisions_init`` in scikit-learn).

        Raises
        ------
        SingularCovarianceError
            If a precision is not positive definite.
        """


@cache
def _mark_upper_triangle(d: int) -> NDArray[np.bool_]:
    return np.triu(np.ones((d, d), dtype=bool))


class MatrixFactors:
    """Arithmetic of structures with matrices on the last two axes; one matrix for each component by default."""

    matrices, shared = True, False

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def continue_from(self, covariances: Array) -> Self:
        return self

    def expand(self, values: Array, n_components: int, n_features: int) -> Array:
        return values

    def precisions_cholesky(self, covariances: Array) -> Array:
        try:
            lower = np.linalg.cholesky(covariances)
        except np.linalg.LinAlgError as error:
            raise SingularCovarianceError(
                explain(
                    "some components have ill-defined empirical covariance",
                    why="a component has collapsed onto too few distinct rows, or columns are collinear",
                    remedy=SINGULAR_REMEDY,
                )
            ) from error
        return np.where(_mark_upper_triangle(lower.shape[-1]), np.swapaxes(np.linalg.inv(lower), -1, -2), 0.0)

    def precisions(self, precisions_cholesky: Array) -> Array:
        return np.asarray(precisions_cholesky @ np.swapaxes(precisions_cholesky, -1, -2))

    def from_precisions(self, precisions: Array) -> Array:
        upper = self.precisions_cholesky(np.asarray(precisions, dtype=np.float64))
        return np.asarray(upper @ np.swapaxes(upper, -1, -2))

    def ridge(self, covariances: Array, amount: Array) -> Array:
        return np.asarray(covariances + np.diag(amount))


class VarianceFactors:
    """Arithmetic of structures with variances only; ``(K, D)`` by default. Their factors are ``1 / sd``."""

    matrices, shared = False, False

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def continue_from(self, covariances: Array) -> Self:
        return self

    def expand(self, values: Array, n_components: int, n_features: int) -> Array:
        return values

    def precisions_cholesky(self, covariances: Array) -> Array:
        if not np.all(covariances > 0.0):
            raise SingularCovarianceError(
                explain(
                    "some components have a variance that is not positive",
                    why="a component has collapsed onto repeated values",
                    remedy=SINGULAR_REMEDY,
                )
            )
        return np.asarray(1.0 / np.sqrt(covariances))

    def precisions(self, precisions_cholesky: Array) -> Array:
        return np.asarray(precisions_cholesky**2)

    def from_precisions(self, precisions: Array) -> Array:
        return np.asarray(self.precisions_cholesky(np.asarray(precisions, dtype=np.float64)) ** 2)

    def ridge(self, covariances: Array, amount: Array) -> Array:
        return np.asarray(covariances + amount)
