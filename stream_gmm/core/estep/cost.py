"""What a kernel should cost, in nanoseconds a row: a model fitted by ``benchmarks/cost_model.py``.

The constants are part of the code and not measured at run time: a choice that depended on the
machine's mood would make results depend on it, too.
"""

from __future__ import annotations

CACHED_FEATURES = 500
"""A block of more features than this does not stay in the cache between its three uses."""

# Nanoseconds, of: the row; a component's exponential; a feature in the cache, and beyond; a
# floating-point operation of a matrix product.
FEATURES = {
    "float64": (3.71, 0.55, 0.382, 0.815, 0.0237),
    "float32": (3.68, 0.152, 0.203, 0.576, 0.013),
}
# The row; a component; a whitened value (centred, squared, weighted); a floating-point operation.
WHITENED = (6.36, 0.0, 1.22, 0.0201)


def feature_terms(k: int, d: int, n_features: int, sphered: bool) -> tuple[float, ...]:
    """Return how often each of ``FEATURES`` is spent on K components by F features of D columns."""
    cached, beyond = (n_features, 0) if n_features <= CACHED_FEATURES else (0, n_features)
    flops = 4 * n_features * k + (2 * d * d if sphered else 0)
    return 1.0, float(k), float(cached), float(beyond), float(flops)


def whitened_terms(k: int, d: int, matrices: bool) -> tuple[float, ...]:
    """Return how often each of ``WHITENED`` is spent on K components of D columns."""
    flops = 4 * d * (d + 1) * k if matrices else 0
    return 1.0, float(k), float(k * d), float(flops)


def feature_cost(k: int, d: int, n_features: int, sphered: bool, dtype: str) -> float:
    """Return the cost of a candidate by features, in nanoseconds a row."""
    return sum(a * b for a, b in zip(FEATURES[dtype], feature_terms(k, d, n_features, sphered), strict=True))


def whitened_cost(k: int, d: int, matrices: bool) -> float:
    """Return the cost of a candidate whose components whiten the rows, in nanoseconds a row."""
    return sum(a * b for a, b in zip(WHITENED, whitened_terms(k, d, matrices), strict=True))
