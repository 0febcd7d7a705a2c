"""Which kernel a candidate takes.

*quadratic*: one matrix product with features of the standardised rows. *sphered*: the same in
coordinates in which the whole data is uncorrelated. *whitened*: every component whitens the rows.
The first two are fast and cancel when a component is small beside its distance from the centre;
the third never cancels. The choice is made here, centrally, for each candidate and step: of the
kernels whose rounding error is bounded by the contract, the one that should be fastest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stream_gmm.core.estep.cost import feature_cost, whitened_cost
from stream_gmm.core.model.density import Density
from stream_gmm.core.model.features import ISOTROPIC_ORDER
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.errors import one_of

QUADRATIC, SPHERED, WHITENED, AUTO = "quadratic", "sphered", "whitened", "auto"
KERNELS = (AUTO, QUADRATIC, SPHERED, WHITENED)
DTYPES = ("float64", "float32")

# The error of a log-density that the contract allows; and the largest ratio of an error to
# ``magnitude * eps`` that was measured (5.3 over 200 rows each of 4,500 components, D to 30, condition
# numbers to 1e6, distances to 1e3 sd; tests/core/test_routes.py checks it).
ALLOWED = {"float64": 1e-8, "float32": 1e-3}
ERROR_RATIO = 6.0


@dataclass(frozen=True)
class KernelChoice:
    """A kernel for one candidate: its name, the type it computes in, and the coordinates."""

    kernel: str
    dtype: str
    coordinates: Scaling | None
    cost: float


@dataclass(frozen=True)
class KernelPreference:
    """What the user wants of the kernels: ``"auto"`` or one by name; float64, or float32 where it may be."""

    kernel: str = AUTO
    dtype: str = "float64"

    def __post_init__(self) -> None:
        one_of(self.kernel, KERNELS, "kernel")
        one_of(self.dtype, DTYPES, "dtype")


ANY_KERNEL = KernelPreference()


def _feature_coordinates(params: MixtureParams, scaling: Scaling) -> Iterator[tuple[str, Scaling]]:
    """Return the coordinates in which the structure's features keep their form."""
    if params.features.order == ISOTROPIC_ORDER:
        yield QUADRATIC, scaling.isotropic
        return
    yield QUADRATIC, scaling.scaled
    if params.family.matrices and scaling.root is not None:
        yield SPHERED, scaling


def bound_rounding_error(params: MixtureParams, density: Density, coordinates: Scaling, dtype: str) -> float:
    """Bound the rounding error of the log-densities by features, in nats."""
    family, (k, d) = params.family, params.means.shape
    means = coordinates.apply(density.means)
    covariances = coordinates.covariances(np.array(family.expand(params.covariances, k, d)))
    magnitude = params.features.magnitude(means, covariances, coordinates.whitener(density.whitener))
    terms = magnitude + np.where(params.weights > 0.0, np.abs(density.log_norm), 0.0) + d
    return float(ERROR_RATIO * np.max(terms) * np.finfo(dtype).eps)


def choose_kernel(
    params: MixtureParams, density: Density, scaling: Scaling, preference: KernelPreference = ANY_KERNEL
) -> KernelChoice:
    """Return the cheapest kernel among those that hold the contract, or the one that is forced."""
    k, d = params.means.shape
    n_features = params.features.count(d)
    choices = [KernelChoice(WHITENED, "float64", None, whitened_cost(k, d, params.family.matrices))]
    for kernel, coordinates in _feature_coordinates(params, scaling):
        for dtype in dict.fromkeys(("float64", preference.dtype)):
            cost = feature_cost(k, d, n_features, coordinates.root is not None, dtype)
            forced = preference.kernel == kernel and dtype == preference.dtype
            if forced or bound_rounding_error(params, density, coordinates, dtype) <= ALLOWED[dtype]:
                choices.append(KernelChoice(kernel, dtype, coordinates, cost))
    wanted = [c for c in choices if c.kernel == preference.kernel]
    return min(wanted or choices, key=lambda c: c.cost)
