"""Predicts the cost of a kernel in nanoseconds per row, by a model fitted with ``benchmarks/cost_model.py``.

The constants are part of the code and not measured at run time: the choice of a kernel decides how results round,
and must not depend on the load of the machine.
"""

from __future__ import annotations

# Nanoseconds for: a row; the exponential of a component; a feature; a floating-point operation of a matrix product.
FEATURES = {
    "float64": (2.89, 0.957, 0.35, 0.00732),
    "float32": (3.22, 0.365, 0.177, 0.00425),
}
# The same where negligible components are skipped: a row; a feature; an operation of labels and bounds; a component
# that is evaluated; an operation of it.
ACTIVE = (9.57, 0.266, 0.006, 1.09, 0.0076)
# Nanoseconds for the tables of a screen: for each pair of components, and for each product in it.
SCREEN = (50.0, 3.0)
# Nanoseconds for: a row; a component; a whitened value (centred, squared, weighted); a floating-point operation.
WHITENED = (6.79, 0.932, 0.872, 0.026)


def feature_terms(k: int, d: int, n_features: int, sphered: bool) -> tuple[float, ...]:
    """Return how often each constant of ``FEATURES`` applies, for K components, D columns and F features."""
    flops = 4 * n_features * k + (2 * d * d if sphered else 0)
    return 1.0, float(k), float(n_features), float(flops)


def active_terms(k: int, d: int, n_features: int, sphered: bool, active: float) -> tuple[float, ...]:
    """Return how often each constant of ``ACTIVE`` applies, if ``active`` of K components are evaluated for a row."""
    flops = 4 * n_features * active + (2 * d * d if sphered else 0)
    return 1.0, float(n_features), 4.0 * (1 + d) * k, active, flops


def whitened_terms(k: int, d: int, matrices: bool) -> tuple[float, ...]:
    """Return how often each constant of ``WHITENED`` applies, for K components and D columns."""
    flops = 4 * d * (d + 1) * k if matrices else 0
    return 1.0, float(k), float(k * d), float(flops)


def feature_cost(k: int, d: int, n_features: int, sphered: bool, dtype: str) -> float:
    """Return the cost of a candidate evaluated by features, in nanoseconds per row."""
    return sum(a * b for a, b in zip(FEATURES[dtype], feature_terms(k, d, n_features, sphered), strict=True))


def whitened_cost(k: int, d: int, matrices: bool) -> float:
    """Return the cost of a candidate evaluated by the whitened kernel, in nanoseconds per row."""
    return sum(a * b for a, b in zip(WHITENED, whitened_terms(k, d, matrices), strict=True))


def active_cost(k: int, d: int, n_features: int, sphered: bool, active: float) -> float:
    """Return the cost of a candidate with ``active`` of K components evaluated for a row, in nanoseconds per row."""
    return sum(a * b for a, b in zip(ACTIVE, active_terms(k, d, n_features, sphered, active), strict=True))


def screen_cost(k: int, d: int) -> float:
    """Return the cost of the tables of a screen, in nanoseconds."""
    return SCREEN[0] * k * k + SCREEN[1] * k * k * d * d
