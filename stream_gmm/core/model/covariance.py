"""Covariance structures: one small, final class for each; no code branches on the name of one.

The four types of scikit-learn keep its names and shapes. ``tied_diag`` and ``tied_spherical`` (EEI and EII in mclust)
are ``diag`` and ``spherical`` with one covariance for all components. The other eight have mclust's code for a name:
its letters say for volume, shape and orientation whether they are equal (E) in all components or vary (V), and I is
the orientation along the axes of the data. A new structure is one class, which implements
:class:`~stream_gmm.core.model.families.CovarianceFamily`, and one entry in ``FAMILIES``.

``estimate`` takes ``weight (K,)`` and the scatter about the means. For structures with a shared covariance, the
leading axis of the scatter may be 1 (pooled).
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from stream_gmm.core.model.decomposition import Letters
from stream_gmm.core.model.estimators import find_estimator
from stream_gmm.core.model.families import CovarianceFamily, MatrixFactors, VarianceFactors
from stream_gmm.core.model.features import DIAGONAL_FEATURES, ISOTROPIC_FEATURES, LINEAR_FEATURES, QUADRATIC_FEATURES
from stream_gmm.core.model.moments import DIAGONAL, FULL, ISOTROPIC, Array
from stream_gmm.errors import one_of


class Full(MatrixFactors):
    """Each component has its own matrix ``(K, D, D)``."""

    name, mclust, moments, features = "full", "VVV", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return np.asarray(scatter / weight[:, None, None])


class Tied(MatrixFactors):
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


class Diag(VarianceFactors):
    """Each component has its own variances ``(K, D)``."""

    name, mclust, moments, features = "diag", "VVI", DIAGONAL, DIAGONAL_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return np.asarray(scatter / weight[:, None])


class Spherical(VarianceFactors):
    """Each component has one variance ``(K,)``."""

    name, mclust, moments, features = "spherical", "VII", ISOTROPIC, ISOTROPIC_FEATURES

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


class TiedDiag(VarianceFactors):
    """All components share the variances ``(D,)``."""

    name, mclust, moments, features = "tied_diag", "EEI", DIAGONAL, LINEAR_FEATURES
    shared = True

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features,)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features

    def estimate(self, weight: Array, scatter: Array) -> Array:
        return np.asarray(scatter.sum(axis=0) / weight.sum())

    def expand(self, values: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(values, (n_components, n_features))


class TiedSpherical(VarianceFactors):
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


class Decomposed:
    """The M-step of a structure that is given by the three letters of its code."""

    mclust: ClassVar[str]
    before: Array | None = None

    def estimate(self, weight: Array, scatter: Array) -> Array:
        has_matrices = scatter.ndim == 3
        # A copy, since it is overwritten; and compiled code would differ for an array that is read-only.
        matrices = np.array(scatter if has_matrices else scatter[:, :, None] * np.eye(scatter.shape[1]), order="C")
        out = np.zeros_like(matrices) if self.before is None else np.array(self.before, order="C")
        letters = Letters.of(self.mclust)
        find_estimator(letters)(*letters, np.array(weight), matrices, out)
        return out if has_matrices else np.einsum("kjj->kj", out).copy()


class CommonAxes(Decomposed, MatrixFactors):
    """Matrices ``(K, D, D)`` with common axes, which are found by iteration: there are local optima.

    An M-step that starts from those of the step before, too, never lowers the likelihood.
    """

    def __init__(self, before: Array | None = None) -> None:
        self.before = before

    def continue_from(self, covariances: Array) -> Self:
        return type(self)(covariances)


class VEI(Decomposed, VarianceFactors):
    """Variances ``lambda_k A (K, D)``: equal shape along the axes of the data, varying volume."""

    name, mclust, moments, features = "VEI", "VEI", DIAGONAL, DIAGONAL_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components + n_features - 1


class EVI(Decomposed, VarianceFactors):
    """Variances ``lambda A_k (K, D)``: equal volume, varying shape along the axes of the data."""

    name, mclust, moments, features = "EVI", "EVI", DIAGONAL, DIAGONAL_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1 + n_components * (n_features - 1)


class VEE(Decomposed, MatrixFactors):
    """Matrices ``lambda_k C (K, D, D)`` with ``|C| = 1``: equal shape and orientation, varying volume."""

    name, mclust, moments, features = "VEE", "VEE", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components - 1 + n_features * (n_features + 1) // 2


class EVV(Decomposed, MatrixFactors):
    """Matrices ``lambda C_k (K, D, D)`` with ``|C_k| = 1``: equal volume, varying shape and orientation."""

    name, mclust, moments, features = "EVV", "EVV", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1 - n_components + n_components * n_features * (n_features + 1) // 2


class EEV(Decomposed, MatrixFactors):
    """Matrices ``lambda D_k A D_k' (K, D, D)``: equal volume and shape, varying orientation."""

    name, mclust, moments, features = "EEV", "EEV", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features + n_components * n_features * (n_features - 1) // 2


class VEV(Decomposed, MatrixFactors):
    """Matrices ``lambda_k D_k A D_k' (K, D, D)``: equal shape, varying volume and orientation."""

    name, mclust, moments, features = "VEV", "VEV", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components + n_features - 1 + n_components * n_features * (n_features - 1) // 2


class EVE(CommonAxes):
    """Matrices ``lambda D A_k D' (K, D, D)``: equal volume and orientation, varying shape."""

    name, mclust, moments, features = "EVE", "EVE", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return 1 + n_components * (n_features - 1) + n_features * (n_features - 1) // 2


class VVE(CommonAxes):
    """Matrices ``lambda_k D A_k D' (K, D, D)``: equal orientation, varying volume and shape."""

    name, mclust, moments, features = "VVE", "VVE", FULL, QUADRATIC_FEATURES

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features + n_features * (n_features - 1) // 2


FAMILIES: tuple[CovarianceFamily, ...] = (
    Full(), Tied(), Diag(), Spherical(), TiedDiag(), TiedSpherical(),
    VEI(), EVI(), VEE(), EVE(), VVE(), EEV(), VEV(), EVV(),
)  # fmt: skip
# mclust's codes for data with one column: equal or varying variances.
_ONE_COLUMN: dict[str, CovarianceFamily] = {"E": TiedSpherical(), "V": Spherical()}
_BY_NAME: dict[str, CovarianceFamily] = {f.name: f for f in FAMILIES} | {f.mclust: f for f in FAMILIES} | _ONE_COLUMN


def family_named(name: str) -> CovarianceFamily:
    """Return the structure with this name of scikit-learn or code of mclust (``"full"`` or ``"VVV"``).

    Raises
    ------
    ConfigError
        If no structure has that name; the message names the nearest one.
    """
    return _BY_NAME[one_of(name, _BY_NAME, "covariance_type")]
