"""Coordinates for the kernels: an affine map of the rows, chosen once for all candidates and passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_gmm.core.model.moments import Array

# Beyond this condition number of the correlation matrix its Cholesky factor means little.
_SINGULAR = 1e10


@dataclass(frozen=True)
class Scaling:
    """The map ``z = root^-1 ((x - shift) / scale)``, with ``root`` the identity if it is None.

    Without a root it centres and scales each column. With one (the Cholesky factor of the
    correlation matrix) it also *spheres* the rows: their covariance becomes the identity, and the
    components of a mixture are about as well conditioned as they can be in common coordinates.
    """

    shift: Array
    scale: Array
    root: Array | None = None

    @classmethod
    def identity(cls, n_features: int) -> Scaling:
        """Return the map that changes nothing."""
        return cls(np.zeros(n_features), np.ones(n_features))

    @classmethod
    def from_moments(cls, mean: Array, covariance: Array) -> Scaling:
        """Return the map for rows of this mean ``(D,)`` and covariance ``(D, D)``, with its root.

        A constant column is only centred. Collinear columns leave the root None.
        """
        sd = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
        scale = np.where(sd > 0.0, sd, 1.0)
        correlation = covariance / np.outer(scale, scale) + np.diag(np.where(sd > 0.0, 0.0, 1.0))
        return cls(np.array(mean), scale, _root(correlation))

    @classmethod
    def of_rows(cls, rows: Array) -> Scaling:
        """Return the map for rows ``(N, D)`` in memory."""
        return cls.from_moments(rows.mean(axis=0), np.atleast_2d(np.cov(rows, rowvar=False, bias=True)))

    @property
    def scaled(self) -> Scaling:
        """The same map without its root."""
        return Scaling(self.shift, self.scale)

    @property
    def isotropic(self) -> Scaling:
        """The map that centres, and scales all columns alike: balls stay balls."""
        common = float(np.sqrt(np.mean(self.scale**2)))
        return Scaling(self.shift, np.full_like(self.scale, common))

    @property
    def inverse_root(self) -> Array:
        """``root^-1 (D, D)``, or an empty array without a root."""
        return np.empty((0, 0)) if self.root is None else np.asarray(np.linalg.inv(self.root), np.float64)

    def apply(self, rows: Array) -> Array:
        """Return rows ``(N, D)`` in these coordinates."""
        z = (rows - self.shift) / self.scale
        return np.asarray(z if self.root is None else z @ self.inverse_root.T)

    def whitener(self, whitener: Array) -> Array:
        """Return the whitener of rows in these coordinates: ``U' (x - mean) = U_z' (z - mean_z)``."""
        if whitener.ndim == 2:
            return np.asarray(whitener * self.scale)
        scaled = whitener * self.scale[:, None]
        return np.asarray(scaled if self.root is None else np.swapaxes(self.root, 0, 1) @ scaled)

    def covariances(self, matrices: Array) -> Array:
        """Return covariances ``(K, D, D)`` or variances ``(K, D)`` in these coordinates."""
        if matrices.ndim == 2:
            return np.asarray(matrices / self.scale**2)
        scaled = matrices / np.outer(self.scale, self.scale)
        if self.root is None:
            return np.asarray(scaled)
        inverse = self.inverse_root
        return np.asarray(inverse @ scaled @ inverse.T)

    def restore_mean(self, mean: Array) -> Array:
        """Return means ``(K, D)`` of these coordinates in those of the rows."""
        unrooted = mean if self.root is None else mean @ self.root.T
        return np.asarray(self.shift + unrooted * self.scale)

    def restore_scatter(self, scatter: Array) -> Array:
        """Return scatter of these coordinates in those of the rows, in whatever shape it has."""
        if scatter.ndim == 2:
            # One value for all columns (an isotropic scatter) comes with one scale for all columns.
            return np.asarray(scatter * (self.scale**2)[: scatter.shape[1]])
        unrooted = scatter if self.root is None else self.root @ scatter @ self.root.T
        return np.asarray(unrooted * np.outer(self.scale, self.scale))


def _root(correlation: Array) -> Array | None:
    eigenvalues = np.linalg.eigvalsh(correlation)
    if not eigenvalues[0] * _SINGULAR > eigenvalues[-1]:
        return None
    return np.asarray(np.linalg.cholesky(correlation))
