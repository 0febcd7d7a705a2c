"""Coordinates for extrapolation: affine-invariant, unconstrained, and scaled in nats.

A *chart* maps mixtures to vectors about a reference mixture (superscript r, factor ``L_k``), with
``a_k = sqrt(weight_k^r)`` and L the Cholesky factor of the covariance of a component::

    a_k [ log weight_k - log weight_k^r,  L_k^-1 (mean_k - mean_k^r),
          sqrt(2) log diag(L_k^-1 L),     strict lower triangle of L_k^-1 L ]

Half the squared length of a vector is, to second order, the Kullback-Leibler divergence in nats per row, with the
components known, between the mixture and the reference. So least squares weighs all directions alike, whatever the
units of the columns, and every vector is a valid mixture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.errors import SingularCovarianceError

SMALLEST_WEIGHT = 1e-12
MAX_LOG_STRETCH = 3.0
"""Largest change of the logarithm of a standard deviation."""
_MAX_HALVINGS = 60


def _scale_factors(params: MixtureParams) -> Array:
    """Return Cholesky factors ``(K, D, D)`` or standard deviations ``(K, D)``; with K = 1 where shared."""
    family, (k, d) = params.family, params.means.shape
    values = np.array(family.expand(params.covariances, k, d))
    values = values[:1] if family.shared else values
    return np.asarray(np.linalg.cholesky(values) if family.matrices else np.sqrt(values))


@lru_cache(maxsize=64)
def _list_lower_indices(n_features: int) -> tuple[Any, Any]:
    return np.tril_indices(n_features, -1)


def _weights_and_noise(params: MixtureParams) -> Array:
    """Return the mixing weights ``(K,)``, followed by that of the noise if there is a noise component."""
    return params.weights if params.noise is None else np.append(params.weights, params.noise_weight)


@dataclass(frozen=True)
class Chart:
    """The map between mixtures of one structure, with the same K and D, and vectors about a reference mixture."""

    reference: MixtureParams

    @cached_property
    def _reference_factors(self) -> Array:
        return _scale_factors(self.reference)

    @cached_property
    def _inverse_factors(self) -> Array:
        matrices = self.reference.family.matrices
        return np.asarray(
            np.linalg.inv(self._reference_factors) if matrices else 1.0 / self._reference_factors, np.float64
        )

    @cached_property
    def _root_weights(self) -> tuple[Array, Array]:
        """Square roots of the weights: of the components ``(K, 1)``; and of the covariances, 1 if they are shared."""
        a = np.sqrt(np.maximum(self.reference.weights, 1e-8))[:, None]
        return a, np.ones((1, 1)) if self.reference.family.shared else a

    @property
    def _lower_indices(self) -> tuple[Any, Any]:
        return _list_lower_indices(self.reference.n_features)

    def vector(self, params: MixtureParams) -> Array:
        """Return the coordinates of a mixture; zero for the reference."""
        a, b = self._root_weights
        weights, reference = _weights_and_noise(params), _weights_and_noise(self.reference)
        log_weights = np.log(np.maximum(weights, SMALLEST_WEIGHT)) - np.log(np.maximum(reference, SMALLEST_WEIGHT))
        log_weights = np.sqrt(np.maximum(reference, 1e-8)) * log_weights
        delta, spread = params.means - self.reference.means, _scale_factors(params)
        if not self.reference.family.matrices:
            parts = [delta * self._inverse_factors, np.sqrt(2.0) * np.log(spread * self._inverse_factors)]
            return np.concatenate([log_weights, (a * parts[0]).ravel(), (b * parts[1]).ravel()])
        change = self._inverse_factors @ spread
        # Not the diagonal of the product, which can round to a negative number where factors are ill-conditioned.
        stretch = np.einsum("kjj->kj", spread) / np.einsum("kjj->kj", self._reference_factors)
        diagonal = np.sqrt(2.0) * np.log(stretch)
        moved = np.einsum(
            "kij,kj->ki", np.broadcast_to(self._inverse_factors, (len(delta), *change.shape[1:])), delta
        )
        lower = change[:, self._lower_indices[0], self._lower_indices[1]]
        return np.concatenate([log_weights, (a * moved).ravel(), (b * diagonal).ravel(), (b * lower).ravel()])

    def params(self, vector: Array) -> MixtureParams:
        """Return the mixture at a vector, or one nearer to the reference if that is singular by rounding.

        Standard deviations change by a factor of ``exp(3)`` at most.
        """
        for _ in range(_MAX_HALVINGS):
            params = self._unpack(vector)
            try:
                _ = params.precisions_cholesky
                return params
            except SingularCovarianceError:
                vector = 0.5 * vector
        return self.reference

    def _unpack(self, vector: Array) -> MixtureParams:
        """Return the mixture at a vector; its covariances may be singular."""
        ref, (a, b) = self.reference, self._root_weights
        k, d = ref.means.shape
        blocks = len(self._reference_factors)
        reference = _weights_and_noise(ref)
        logs, moved, diagonal, lower = np.split(vector, np.cumsum([len(reference), k * d, blocks * d]))
        logits = np.log(np.maximum(reference, SMALLEST_WEIGHT)) + logs / np.sqrt(np.maximum(reference, 1e-8))
        weights = np.exp(logits - logits.max())
        weights = weights[:k] / weights.sum()
        stretch = np.exp(np.clip(diagonal.reshape(blocks, d) / b / np.sqrt(2.0), -MAX_LOG_STRETCH, MAX_LOG_STRETCH))
        moved = moved.reshape(k, d) / a
        if not ref.family.matrices:
            means, covariances = ref.means + moved * self._reference_factors, (self._reference_factors * stretch) ** 2
        else:
            change = stretch[:, :, None] * np.eye(d)
            change[:, self._lower_indices[0], self._lower_indices[1]] = lower.reshape(blocks, -1) / b
            spread = self._reference_factors @ change
            covariances = spread @ np.swapaxes(spread, 1, 2)
            means = ref.means + np.einsum("kij,kj->ki", np.broadcast_to(self._reference_factors, (k, d, d)), moved)
        expanded = np.broadcast_to(covariances, (k, *covariances.shape[1:]))
        return MixtureParams.from_matrices(weights, means, expanded, ref.family, ref.noise)
