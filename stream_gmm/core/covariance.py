"""Covariance structures: one small, stateless, final class for each; nothing branches on a name.

scikit-learn's four types keep scikit-learn's names and shapes. ``tied_diag`` and
``tied_spherical`` (mclust's EEI and EII) are theirs restricted to one shared matrix.
A new structure is one class here and one entry in ``FAMILIES``.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from stream_gmm.core.features import (
    DIAGONAL_FEATURES,
    ISOTROPIC_FEATURES,
    LINEAR_FEATURES,
    QUADRATIC_FEATURES,
    Features,
)
from stream_gmm.core.moments import DIAGONAL, FULL, ISOTROPIC, Array, Moments
from stream_gmm.errors import ConfigError, SingularCovarianceError, did_you_mean, explain


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
                remedy="use fewer components, raise reg_covar, scale the columns or drop one",
            )
        ) from error
    identity = np.broadcast_to(np.eye(lower.shape[-1]), lower.shape)
    return np.triu(np.swapaxes(np.linalg.solve(lower, identity), -1, -2))


def _inverse_root(variances: Array) -> Array:
    if not np.all(variances > 0.0):
        raise SingularCovarianceError(
            explain(
                "some components have a variance that is not positive",
                why="a component has collapsed onto repeated values",
                remedy="use fewer components or raise reg_covar",
            )
        )
    return np.asarray(1.0 / np.sqrt(variances))


class _MatrixFactors:
    """Factor arithmetic of structures that hold matrices on the last two axes."""

    matrices = True

    def precisions_cholesky(self, covariances: Array) -> Array:
        return _upper_factors(covariances)

    def precisions(self, precisions_cholesky: Array) -> Array:
        return np.asarray(precisions_cholesky @ np.swapaxes(precisions_cholesky, -1, -2))

    def from_precisions(self, precisions: Array) -> Array:
        upper = self.precisions_cholesky(np.asarray(precisions, dtype=np.float64))
        return np.asarray(upper @ np.swapaxes(upper, -1, -2))

    def ridge(self, covariances: Array, amount: Array) -> Array:
        return np.asarray(covariances + np.diag(amount))


class _VarianceFactors:
    """Factor arithmetic of structures that hold variances only."""

    matrices = False

    def precisions_cholesky(self, covariances: Array) -> Array:
        return _inverse_root(covariances)

    def precisions(self, precisions_cholesky: Array) -> Array:
        return np.asarray(precisions_cholesky**2)

    def from_precisions(self, precisions: Array) -> Array:
        return np.asarray(_inverse_root(np.asarray(precisions, dtype=np.float64)) ** 2)


class Full(_MatrixFactors):
    """Each component has its own matrix ``(K, D, D)``."""

    name, mclust, moments, features = "full", "VVV", FULL, QUADRATIC_FEATURES
    shared = False

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return np.asarray(scatter / weight[:, None, None])

    def expand(self, values: Array, n_components: int, n_features: int) -> Array:
        return values


class Tied(_MatrixFactors):
    """All components share one matrix ``(D, D)``."""

    name, mclust, moments, features = "tied", "EEE", FULL, LINEAR_FEATURES
    shared = True

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return np.asarray(scatter.sum(axis=0) / weight.sum())

    def expand(self, values: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(values, (n_components, n_features, n_features))


class Diag(_VarianceFactors):
    """Each component has its own variances ``(K, D)``."""

    name, mclust, moments, features = "diag", "VVI", DIAGONAL, DIAGONAL_FEATURES
    shared = False

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return np.asarray(scatter / weight[:, None])

    def ridge(self, covariances: Array, amount: Array) -> Array:
        return np.asarray(covariances + amount)

    def expand(self, values: Array, n_components: int, n_features: int) -> Array:
        return values


class Spherical(_VarianceFactors):
    """Each component has one variance ``(K,)``."""

    name, mclust, moments, features = "spherical", "VII", ISOTROPIC, ISOTROPIC_FEATURES
    shared = False

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return np.asarray(scatter.mean(axis=1) / weight)

    def ridge(self, covariances: Array, amount: Array) -> Array:
        return np.asarray(covariances + amount.mean())

    def expand(self, values: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(values[:, None], (n_components, n_features))


class TiedDiag(_VarianceFactors):
    """All components share the variances ``(D,)``."""

    name, mclust, moments, features = "tied_diag", "EEI", DIAGONAL, LINEAR_FEATURES
    shared = True

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features,)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return np.asarray(scatter.sum(axis=0) / weight.sum())

    def ridge(self, covariances: Array, amount: Array) -> Array:
        return np.asarray(covariances + amount)

    def expand(self, values: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(values, (n_components, n_features))


class TiedSpherical(_VarianceFactors):
    """All components share one variance, a scalar array ``()``."""

    name, mclust, moments, features = "tied_spherical", "EII", ISOTROPIC, LINEAR_FEATURES
    shared = True

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return ()

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return np.asarray(scatter.sum() / (weight.sum() * scatter.shape[1]))

    def ridge(self, covariances: Array, amount: Array) -> Array:
        return np.asarray(covariances + amount.mean())

    def expand(self, values: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(values, (n_components, n_features))


FAMILIES: tuple[CovarianceFamily, ...] = (
    Full(), Tied(), Diag(), Spherical(), TiedDiag(), TiedSpherical(),
)  # fmt: skip
_BY_NAME = {f.name: f for f in FAMILIES} | {f.mclust: f for f in FAMILIES}


def family_named(name: str) -> CovarianceFamily:
    """Return the structure with scikit-learn's name or mclust's code (``"full"`` or ``"VVV"``).

    Raises
    ------
    ConfigError
        If no structure has that name; the message names the nearest one.
    """
    if name not in _BY_NAME:
        known = ", ".join(f.name for f in FAMILIES)
        raise ConfigError(f"unknown covariance_type {name!r}{did_you_mean(str(name), _BY_NAME)} Known: {known}.")
    return _BY_NAME[name]
