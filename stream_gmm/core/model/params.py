"""The parameters of a mixture: a frozen, validated value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.features import FEATURES_BY_MOMENTS, LINEAR_FEATURES, Features
from stream_gmm.core.model.moments import Array
from stream_gmm.errors import ConfigError

_WEIGHT_SUM_SLACK = 1e-6
_MIN_NOISE_WEIGHT = 1e-300
NO_BACKGROUND = -1e300
"""Stands for the weighted log-density of a noise component where there is none."""


def freeze_array(values: Any) -> Array:
    """Return a read-only float64 copy in C order."""
    out = np.array(values, dtype=np.float64, order="C")
    out.flags.writeable = False
    return out


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(f"these are not the parameters of a mixture: {message}.")


@dataclass(frozen=True, init=False)
class MixtureParams:
    """A Gaussian mixture: mixing weights ``(K,)``, means ``(K, D)``, and covariances in the shape of their structure.

    Array-likes are copied into read-only float64 arrays. Means are in units of the columns, covariances in squared
    units.

    Raises
    ------
    ConfigError
        If shapes disagree, a value is not finite, the weights are not a distribution, or the box of the noise has no
        volume.
    """

    weights: Array
    means: Array
    covariances: Array
    family: CovarianceFamily
    noise: Array | None = None
    """Lower and upper corner ``(2, D)`` of the box in which the noise component is uniform; its weight is what the
    weights of the components leave of 1. None: there is no noise component (Banfield & Raftery 1993)."""

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        family: CovarianceFamily,
        noise: ArrayLike | None = None,
    ) -> None:
        values = {
            "weights": freeze_array(weights),
            "means": freeze_array(means),
            "covariances": freeze_array(covariances),
            "family": family,
            "noise": None if noise is None else freeze_array(noise),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._validate()

    @classmethod
    def from_matrices(
        cls, weights: Array, means: Array, matrices: Array, family: CovarianceFamily, noise: Array | None = None
    ) -> MixtureParams:
        """Return the mixture of a structure that is nearest to matrices ``(K, D, D)`` or variances ``(K, D)``.

        Nearest in the sense of the M-step: covariances that have the structure stay as they are, up to rounding.
        """
        counts = np.maximum(weights, 1e-12)
        scatter = counts.reshape(-1, *[1] * (matrices.ndim - 1)) * matrices
        condensed = family.moments.condense(scatter)
        pooled = condensed.sum(axis=0, keepdims=True) if family.shared else condensed
        return cls(weights, means, family.estimate(counts, np.array(pooled)), family, noise)

    def _validate(self) -> None:
        _require(self.means.ndim == 2, f"means must have shape (K, D), not {self.means.shape}")
        k, d = self.means.shape
        _require(self.weights.shape == (k,), f"{self.weights.shape} weights for {k} means")
        expected = self.family.shape(k, d)
        _require(
            self.covariances.shape == expected,
            f"{self.family.name} covariances must have shape {expected}, not {self.covariances.shape}",
        )
        finite = all(np.isfinite(v).all() for v in (self.weights, self.means, self.covariances))
        _require(finite, "a value is NaN or infinite")
        _require(bool(np.all(self.weights >= 0.0)), "a weight is negative")
        total = float(self.weights.sum())
        if self.noise is None:
            _require(abs(total - 1.0) <= _WEIGHT_SUM_SLACK, f"the weights sum to {total:.6g}, not 1")
            return
        _require(total <= 1.0 + _WEIGHT_SUM_SLACK, f"the weights sum to {total:.6g}, and leave nothing for the noise")
        box = self.noise
        _require(box.shape == (2, d) and bool(np.all(box[1] > box[0])), "the box of the noise has no volume")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_params, (self.weights, self.means, self.covariances, self.family.name, self.noise)

    @property
    def n_components(self) -> int:
        """Number of components K, without the noise."""
        return int(self.means.shape[0])

    @property
    def n_features(self) -> int:
        """Number of columns D."""
        return int(self.means.shape[1])

    @property
    def n_parameters(self) -> int:
        """Number of free parameters: K - 1 weights, K D means, the covariances, and as in mclust two for noise."""
        k, d = self.means.shape
        return int(k - 1 + k * d + self.family.n_parameters(k, d)) + (0 if self.noise is None else 2)

    @property
    def noise_weight(self) -> float:
        """Mixing weight of the noise component; 0 if there is none."""
        return 0.0 if self.noise is None else max(1.0 - float(self.weights.sum()), 0.0)

    @property
    def background(self) -> float:
        """Weighted log-density of the noise in nats, the same for every row; ``NO_BACKGROUND`` if there is none."""
        if self.noise is None:
            return NO_BACKGROUND
        return float(np.log(max(self.noise_weight, _MIN_NOISE_WEIGHT)) - np.log(self.noise[1] - self.noise[0]).sum())

    @property
    def features(self) -> Features:
        """The features in which the log-densities are linear, up to a term that all components share.

        The density of noise has no such term, so with noise the features are complete.
        """
        return self.family.features if self.noise is None else self.complete_features

    @property
    def complete_features(self) -> Features:
        """The features in which the log-densities are linear, without a term that is left out."""
        features = self.family.features
        return FEATURES_BY_MOMENTS[self.family.moments] if features is LINEAR_FEATURES else features

    def with_noise(self, box: Array, weight: float) -> MixtureParams:
        """Return the mixture with a noise component of this weight in ``box (2, D)``; the others share the rest."""
        return MixtureParams(self.weights * (1.0 - weight), self.means, self.covariances, self.family, box)

    @cached_property
    def precisions_cholesky(self) -> Array:
        """Upper triangular factors U, with the precisions ``U U'``, in the shape of scikit-learn.

        Raises
        ------
        SingularCovarianceError
            If a covariance is not positive definite.
        """
        return freeze_array(self.family.precisions_cholesky(self.covariances))

    @cached_property
    def dense_covariances(self) -> Array:
        """Covariance matrices ``(K, D, D)``, whatever the structure."""
        moments = self.family.moments
        return freeze_array(moments.dense(self.family.expand(self.covariances, self.n_components, self.n_features)))

    def reorder(self, order: Any) -> MixtureParams:
        """Return the mixture with its components in another order: ``order (K,)`` holds their present numbers."""
        covariances = self.covariances if self.family.shared else self.covariances[order]
        return MixtureParams(self.weights[order], self.means[order], covariances, self.family, self.noise)

    def sort_by_weight(self) -> MixtureParams:
        """Return the mixture with its components by falling weight; ties are ordered by their means."""
        keys = (*self.means.T[::-1], -self.weights)
        return self.reorder(np.lexsort(keys))


def _rebuild_params(
    weights: Array, means: Array, covariances: Array, family: str, noise: Array | None
) -> MixtureParams:
    return MixtureParams(weights, means, covariances, family_named(family), noise)
