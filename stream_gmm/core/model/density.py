"""Parameters compiled for scoring: made once per step, centrally, then shipped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import NO_BACKGROUND, MixtureParams


@dataclass(frozen=True)
class Density:
    """One mixture, ready for scoring.

    The log-density of component k is ``log_norm_k - |y|^2 / 2`` with ``y = U_k' (x - mean_k)``;
    ``whitener`` holds U as ``(K, D, D)``, or its diagonal as ``(K, D)``.
    """

    log_norm: Array
    means: Array
    whitener: Array
    background: float = NO_BACKGROUND
    """Weighted log-density of the noise."""

    @property
    def noisy(self) -> bool:
        """True if there is a noise component."""
        return self.background > NO_BACKGROUND

    @property
    def lower(self) -> Array:
        """``U'``, contiguous."""
        return np.ascontiguousarray(np.swapaxes(self.whitener, 1, 2))


def compile_density(params: MixtureParams) -> Density:
    """Compile one mixture.

    Raises
    ------
    SingularCovarianceError
        If a covariance is not positive definite.
    """
    family, (k, d) = params.family, params.means.shape
    whitener = np.array(family.expand(params.precisions_cholesky, k, d))
    diagonal = whitener if whitener.ndim == 2 else np.einsum("kjj->kj", whitener)
    with np.errstate(divide="ignore"):
        log_weights = np.log(params.weights)
    log_norm = log_weights + np.log(diagonal).sum(axis=1) - 0.5 * d * np.log(2.0 * np.pi)
    # A component of weight zero: -inf would make 0 * inf in the features' product.
    return Density(np.maximum(log_norm, -1e300), np.array(params.means), whitener, params.background)
