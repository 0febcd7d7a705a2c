"""The parameters of a mixture: a frozen, validated value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.families import CovarianceFamily
from stream_gmm.core.model.features import LINEAR_FEATURES, WHOLE_FEATURES, Features
from stream_gmm.core.model.moments import Array
from stream_gmm.errors import ConfigError

_WEIGHT_SUM_SLACK = 1e-6
_NO_WEIGHT = 1e-300
NO_BACKGROUND = -1e300


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
    """Weights ``(K,)``, means ``(K, D)`` and covariances in the family's own shape.

    Array-likes are copied into read-only float64 arrays.

    Raises
    ------
    ConfigError
        If shapes disagree, a value is not finite, the weights are not a distribution, or the box has no volume.
    """

    weights: Array
    means: Array
    covariances: Array
    family: CovarianceFamily
    noise: Array | None = None
    """Corners ``(2, D)`` of the box in which a noise component is uniform, with the weight that is left of 1; or
    None: there is none (Banfield & Raftery 1993)."""

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        family: CovarianceFamily,
        noise: ArrayLike | None = None,
    ) -> None:
        given = {
            "weights": freeze_array(weights),
            "means": freeze_array(means),
            "covariances": freeze_array(covariances),
        }
        box = None if noise is None else freeze_array(noise)
        for name, value in (given | {"family": family, "noise": box}).items():
            object.__setattr__(self, name, value)
        self._validate()

    @classmethod
    def from_matrices(
        cls, weights: Array, means: Array, matrices: Array, family: CovarianceFamily, noise: Array | None = None
    ) -> MixtureParams:
        """Return the mixture of a structure that is nearest to covariances ``(K, D, D)`` or variances ``(K, D)``.

        Nearest as the M-step sees it: covariances that have the structure are kept as they are.
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
        """K."""
        return int(self.means.shape[0])

    @property
    def n_features(self) -> int:
        """D."""
        return int(self.means.shape[1])

    @property
    def n_parameters(self) -> int:
        """Free parameters: K - 1 weights, K D means, and the covariances; as in mclust, two more for noise."""
        k, d = self.means.shape
        return int(k - 1 + k * d + self.family.n_parameters(k, d)) + (0 if self.noise is None else 2)

    @property
    def noise_weight(self) -> float:
        """Mixing weight of the noise; 0 if there is none."""
        return 0.0 if self.noise is None else max(1.0 - float(self.weights.sum()), 0.0)

    @property
    def background(self) -> float:
        """Weighted log-density of the noise, the same for every row; ``NO_BACKGROUND`` if there is none."""
        if self.noise is None:
            return NO_BACKGROUND
        return float(np.log(max(self.noise_weight, _NO_WEIGHT)) - np.log(self.noise[1] - self.noise[0]).sum())

    @property
    def features(self) -> Features:
        """The features in which its log-densities are linear, up to what all components share.

        With noise there is nothing that all of them share.
        """
        own = self.family.features
        return own if self.noise is None or own is not LINEAR_FEATURES else WHOLE_FEATURES[self.family.moments]

    def with_noise(self, box: Array, weight: float) -> MixtureParams:
        """Return the same mixture with a noise component of this weight."""
        return MixtureParams(self.weights * (1.0 - weight), self.means, self.covariances, self.family, box)

    @cached_property
    def precisions_cholesky(self) -> Array:
        """Upper factors U, precision = U U', in scikit-learn's shape."""
        return freeze_array(self.family.precisions_cholesky(self.covariances))

    @cached_property
    def dense_covariances(self) -> Array:
        """Covariance matrices ``(K, D, D)`` whatever the structure."""
        moments = self.family.moments
        return freeze_array(moments.dense(self.family.expand(self.covariances, self.n_components, self.n_features)))

    def reorder(self, order: Any) -> MixtureParams:
        """Return the same mixture with its components in another order."""
        covariances = self.covariances if self.family.shared else self.covariances[order]
        return MixtureParams(self.weights[order], self.means[order], covariances, self.family, self.noise)

    def sort_by_weight(self) -> MixtureParams:
        """Return the components by falling weight (ties by their means)."""
        keys = (*self.means.T[::-1], -self.weights)
        return self.reorder(np.lexsort(keys))


def _rebuild_params(
    weights: Array, means: Array, covariances: Array, family: str, noise: Array | None
) -> MixtureParams:
    return MixtureParams(weights, means, covariances, family_named(family), noise)
