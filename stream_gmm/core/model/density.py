"""Parameters compiled for evaluation: made once per step, in the process that drives the fit, and sent to workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_gmm.core.model.moments import Array
from stream_gmm.core.model.params import NO_BACKGROUND, MixtureParams


@dataclass(frozen=True)
class Density:
    """One mixture, ready for evaluation.

    The weighted log-density of component k, ``log(weight_k) + log N(x | k)``, is ``log_norm_k - |y|^2 / 2`` in nats,
    with the whitened row ``y = U_k' (x - mean_k)`` and the precision ``U_k U_k'``. ``log_norm (K,)`` holds the
    constants, ``means`` has shape ``(K, D)``, and ``whitener`` holds U as ``(K, D, D)``, or its diagonal as
    ``(K, D)``.
    """

    log_norm: Array
    means: Array
    whitener: Array
    background: float = NO_BACKGROUND
    """Weighted log-density of the noise in nats, the same for every row; ``NO_BACKGROUND`` without noise."""
    log_widths: Array | None = None
    """Logarithms ``(D,)`` of the widths of the box of the noise; None without noise."""

    @property
    def noisy(self) -> bool:
        """True if there is a noise component."""
        return self.background > NO_BACKGROUND

    @property
    def lower(self) -> Array:
        """``U' (K, D, D)``, contiguous."""
        return np.ascontiguousarray(np.swapaxes(self.whitener, 1, 2))


def compile_density(params: MixtureParams) -> Density:
    """Return the density of a mixture.

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
    # The constant of a component of weight zero is -inf, which would give 0 * inf in the product with the features.
    widths = None if params.noise is None else np.log(params.noise[1] - params.noise[0])
    return Density(np.maximum(log_norm, -1e300), np.array(params.means), whitener, params.background, widths)
