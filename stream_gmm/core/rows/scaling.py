"""The coordinates of the kernels: an affine map of the rows, chosen once for all candidates and passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_gmm.core.model.moments import Array

_MAX_CONDITION = 1e10
"""Largest condition number of a correlation matrix at which its Cholesky factor is accurate enough."""


@dataclass(frozen=True)
class Scaling:
    """The map ``z = root^-1 ((x - shift) / scale)`` of a row x, with ``root`` the identity if it is None.

    ``shift (D,)`` and ``scale (D,)`` are in units of the columns; z has no unit. Without a root, the map centres and
    scales each column. With one, the Cholesky factor ``(D, D)`` of the correlation matrix, it also *spheres* the
    rows: their covariance becomes the identity, and the components of a mixture are about as well conditioned as they
    can be in common coordinates.
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
        """Return the map that spheres rows of this mean ``(D,)`` and covariance ``(D, D)``.

        A constant column is only centred. If columns are collinear, the root is None.
        """
        sd = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
        scale = np.where(sd > 0.0, sd, 1.0)
        correlation = covariance / np.outer(scale, scale) + np.diag(np.where(sd > 0.0, 0.0, 1.0))
        eigenvalues = np.linalg.eigvalsh(correlation)
        regular = bool(eigenvalues[0] * _MAX_CONDITION > eigenvalues[-1])
        return cls(np.array(mean), scale, np.asarray(np.linalg.cholesky(correlation)) if regular else None)

    @classmethod
    def of_rows(cls, rows: Array) -> Scaling:
        """Return the map that spheres ``rows (N, D)``."""
        return cls.from_moments(rows.mean(axis=0), np.atleast_2d(np.cov(rows.T, bias=True)))

    @property
    def scaled(self) -> Scaling:
        """The same map without its root."""
        return Scaling(self.shift, self.scale)

    @property
    def isotropic(self) -> Scaling:
        """The map that centres and scales all columns by the same factor, so that spheres stay spheres."""
        common = float(np.sqrt(np.mean(self.scale**2)))
        return Scaling(self.shift, np.full_like(self.scale, common))

    @property
    def inverse_root(self) -> Array:
        """``root^-1 (D, D)``; empty ``(0, 0)`` without a root."""
        return np.empty((0, 0)) if self.root is None else np.asarray(np.linalg.inv(self.root), np.float64)

    def apply(self, rows: Array) -> Array:
        """Return ``rows (N, D)`` in these coordinates."""
        z = (rows - self.shift) / self.scale
        return np.asarray(z if self.root is None else z @ self.inverse_root.T)

    def transform_whitener(self, whitener: Array) -> Array:
        """Return the factors ``U_z`` for rows in these coordinates: ``U_z' (z - mean_z) = U' (x - mean)``.

        ``whitener`` holds U as ``(K, D, D)``, or its diagonal as ``(K, D)``; a diagonal one ignores the root.
        """
        if whitener.ndim == 2:
            return np.asarray(whitener * self.scale)
        scaled = whitener * self.scale[:, None]
        return np.asarray(scaled if self.root is None else np.swapaxes(self.root, 0, 1) @ scaled)

    def transform_covariances(self, covariances: Array) -> Array:
        """Return covariances ``(K, D, D)``, or variances ``(K, D)`` without the root, in these coordinates."""
        if covariances.ndim == 2:
            return np.asarray(covariances / self.scale**2)
        scaled = covariances / np.outer(self.scale, self.scale)
        if self.root is None:
            return np.asarray(scaled)
        inverse = self.inverse_root
        return np.asarray(inverse @ scaled @ inverse.T)

    def restore_mean(self, mean: Array) -> Array:
        """Return means ``(K, D)``, given in these coordinates, in those of the rows."""
        unrooted = mean if self.root is None else mean @ self.root.T
        return np.asarray(self.shift + unrooted * self.scale)

    def restore_scatter(self, scatter: Array) -> Array:
        """Return scatter of any kind of second moment, given in these coordinates, in those of the rows."""
        if scatter.ndim == 2:
            # An isotropic scatter (K, 1) comes with the same scale for all columns.
            return np.asarray(scatter * (self.scale**2)[: scatter.shape[1]])
        unrooted = scatter if self.root is None else self.root @ scatter @ self.root.T
        return np.asarray(unrooted * np.outer(self.scale, self.scale))
