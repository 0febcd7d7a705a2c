"""Chooses the kernel of a candidate.

A kernel is a way to compute log-densities and statistics. *quadratic*: one matrix product with features of the
standardised rows. *sphered*: the same in coordinates in which all rows together are uncorrelated with unit variance.
*whitened*: every component whitens the rows with its own factor. The first two are fast, but lose digits by
cancellation when a component is small compared with its distance from the centre; the third never does. For each
candidate and step, the choice is the kernel with the lowest predicted cost of those whose rounding error is below the
limit ``ALLOWED``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stream_gmm.core.estep.cost import feature_cost, whitened_cost
from stream_gmm.core.model.density import Density
from stream_gmm.core.model.features import ISOTROPIC_ORDER, Features
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.errors import one_of

QUADRATIC, SPHERED, WHITENED, AUTO = "quadratic", "sphered", "whitened", "auto"
KERNELS = (AUTO, QUADRATIC, SPHERED, WHITENED)
DTYPES = ("float64", "float32")

ALLOWED = {"float64": 1e-8, "float32": 1e-3}
"""Largest rounding error of a log-density, in nats, that a kernel may have."""
ERROR_RATIO = 6.0
"""Bound on the ratio of an error to ``magnitude * eps``. The largest one measured is 5.3, over 200 rows each of 4,500
components, with D up to 30, condition numbers up to 1e6, and distances up to 1e3 standard deviations."""


@dataclass(frozen=True)
class KernelChoice:
    """A kernel for one candidate: its name, floating-point type and coordinates, and its cost in nanoseconds per row.

    ``coordinates`` is None for the whitened kernel, which works in those of the data.
    """

    kernel: str
    dtype: str
    coordinates: Scaling | None
    cost: float


@dataclass(frozen=True)
class KernelPreference:
    """The user's choice of a kernel: ``"auto"`` or a name; float64, or float32 where its error is below the limit.

    Raises
    ------
    ConfigError
        If there is no such kernel or type.
    """

    kernel: str = AUTO
    dtype: str = "float64"

    def __post_init__(self) -> None:
        one_of(self.kernel, KERNELS, "kernel")
        one_of(self.dtype, DTYPES, "dtype")


ANY_KERNEL = KernelPreference()


def _feature_coordinates(
    params: MixtureParams, scaling: Scaling, features: Features | None = None
) -> Iterator[tuple[str, Scaling]]:
    """Return the feature kernels of a structure, with the coordinates in which its features keep their form."""
    if (features or params.features).order == ISOTROPIC_ORDER:
        yield QUADRATIC, scaling.isotropic
        return
    yield QUADRATIC, scaling.scaled
    if params.family.matrices and scaling.root is not None:
        yield SPHERED, scaling


def bound_rounding_error(
    params: MixtureParams, density: Density, coordinates: Scaling, dtype: str, features: Features | None = None
) -> float:
    """Return a bound on the rounding error of log-densities computed by features, in nats.

    ``features`` are by default those of the structure.
    """
    family, (k, d) = params.family, params.means.shape
    means = coordinates.apply(density.means)
    covariances = coordinates.transform_covariances(np.array(family.expand(params.covariances, k, d)))
    features = features or params.features
    magnitude = features.magnitude(means, covariances, coordinates.transform_whitener(density.whitener))
    terms = magnitude + np.where(params.weights > 0.0, np.abs(density.log_norm), 0.0) + d
    return float(ERROR_RATIO * np.max(terms) * np.finfo(dtype).eps)


def choose_kernel(
    params: MixtureParams,
    density: Density,
    scaling: Scaling,
    preference: KernelPreference = ANY_KERNEL,
    features: Features | None = None,
) -> KernelChoice:
    """Return the cheapest kernel of those that are precise enough, or the one that the user prefers by name.

    ``features`` are by default those of the structure.

    A kernel that the structure does not have cannot be forced: the choice is then as for ``"auto"``.
    """
    k, d = params.means.shape
    features = features or params.features
    n_features = features.count(d)
    choices = [KernelChoice(WHITENED, "float64", None, whitened_cost(k, d, params.family.matrices))]
    for kernel, coordinates in _feature_coordinates(params, scaling, features):
        for dtype in dict.fromkeys(("float64", preference.dtype)):
            cost = feature_cost(k, d, n_features, coordinates.root is not None, dtype)
            choices.append(KernelChoice(kernel, dtype, coordinates, cost))
    # The bound takes longer than a step on few rows: it is computed for the cheapest first.
    for choice in sorted(choices, key=lambda c: (c.kernel != preference.kernel, c.cost)):
        forced = choice.kernel == preference.kernel and choice.dtype == preference.dtype
        if choice.coordinates is None or forced:
            return choice
        if bound_rounding_error(params, density, choice.coordinates, choice.dtype, features) <= ALLOWED[choice.dtype]:
            return choice
    raise AssertionError("the whitened kernel is always precise enough")  # pragma: no cover
