"""Transforms of columns: what is fitted is a function of a column's values, and densities stay those of the values.

The density of x is that of the transform's value z(x), times the slope dz/dx. Of a row, the logarithms of all slopes
add up to the *log-Jacobian*, which is added to every log-density; it does not depend on the parameters of a mixture.

Terms: ``kinds`` are the functions there are (``KINDS``); a ``ColumnTransform`` is a function with its parameters, for
one column. Every kind but ``clip`` maps its domain one to one onto the real line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stream_gmm.core.model.moments import Array
from stream_gmm.core.rows.frames import LARGEST
from stream_gmm.errors import ConfigError, InputDataError, explain

LAMBDAS = (0.0, 2.0)
"""Exponents of Yeo & Johnson (2000) for which the transform maps the real line onto itself; others bound it."""
QUANTILES = (0.001, 0.999)
"""Where ``clip`` cuts off if nothing else is said."""


@dataclass(frozen=True)
class ColumnFacts:
    """What a profile knows about a column: its mean, its standard deviation, a sample ``(n,)`` and its weights."""

    mean: float
    sd: float
    values: Array
    weights: Array

    def find_quantile(self, level: float) -> float:
        """Return the quantile of the sample at ``level`` (0 to 1), one of its values."""
        weights = self.weights if len(self.weights) else None
        return float(np.quantile(self.values, level, weights=weights, method="inverted_cdf"))


@dataclass(frozen=True)
class Kind:
    """A kind of transform. Its functions take values ``(n,)`` and then the parameters, one number each.

    Attributes
    ----------
    apply
        The transform; NaN outside its domain.
    invert
        Its inverse.
    log_slope
        Logarithm of the slope dz/dx, as a function of z.
    describe
        The transform in words.
    parameters
        Names of the parameters.
    options
        Names of what the configuration may give instead of parameters.
    domain
        Where the transform is defined, in words; empty: everywhere.
    estimate
        Returns the parameters from the facts of a column and the options given.
    """

    apply: Callable[..., Array]
    invert: Callable[..., Array]
    log_slope: Callable[..., Array]
    describe: str
    parameters: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    domain: str = ""
    estimate: Callable[[ColumnFacts, Mapping[str, float]], tuple[float, ...]] = lambda _facts, _given: ()


def _apply_yeo_johnson(x: Array, lam: float) -> Array:
    logs = np.log1p(np.abs(x))
    return np.where(x >= 0.0, _power(logs, lam), -_power(logs, 2.0 - lam))


def _power(logs: Array, exponent: float) -> Array:
    """Return the Box-Cox transform of exp(logs)."""
    return logs if exponent == 0.0 else np.expm1(exponent * logs) / exponent


def _inverse_power(z: Array, exponent: float) -> Array:
    """Return the logarithms whose Box-Cox transform is ``z``, of at least 0."""
    return z if exponent == 0.0 else np.log1p(exponent * z) / exponent


def _yeo_johnson_logs(z: Array, lam: float) -> Array:
    """Return ``ln(1 + |x|)`` of the values ``x`` that give ``z``."""
    size = np.abs(z)
    return np.where(z >= 0.0, _inverse_power(size, lam), _inverse_power(size, 2.0 - lam))


def _estimate_exponent(facts: ColumnFacts, given: Mapping[str, float]) -> tuple[float, ...]:
    """Return the exponent of largest likelihood under one normal distribution, to four decimals."""
    del given
    x = facts.values
    weights = facts.weights if len(facts.weights) else np.ones(len(x))
    slopes = float(np.average(np.sign(x) * np.log1p(np.abs(x)), weights=weights))

    def loss(lam: float) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            z = _apply_yeo_johnson(x, lam)
            variance = float(np.average((z - np.average(z, weights=weights)) ** 2, weights=weights))
        if not 0.0 < variance < np.inf:
            return float("inf")
        return 0.5 * float(np.log(variance)) - (lam - 1.0) * slopes

    from scipy.optimize import minimize_scalar

    grid = np.linspace(*LAMBDAS, 9)
    losses = [loss(lam) for lam in grid]
    if not np.isfinite(min(losses)):
        return (1.0,)
    best = int(np.argmin(losses))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, 8)])
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x
    exponent = min((float(found), float(bounds[0]), float(bounds[1])), key=loss)
    return (round(exponent, 4),)


def _estimate_standard(facts: ColumnFacts, given: Mapping[str, float]) -> tuple[float, ...]:
    sd = given.get("sd", facts.sd)
    return given.get("mean", facts.mean), sd if sd > 0.0 else 1.0


def _estimate_cofactor(facts: ColumnFacts, given: Mapping[str, float]) -> tuple[float, ...]:
    """Return the median of the absolute values that are not zero."""
    del given
    sizes = np.abs(facts.values)
    some = sizes > 0.0
    weights = facts.weights[some] if len(facts.weights) else np.empty(0)
    return (ColumnFacts(0.0, 1.0, sizes[some], weights).find_quantile(0.5) if some.any() else 1.0,)


def _estimate_limits(facts: ColumnFacts, given: Mapping[str, float]) -> tuple[float, ...]:
    levels = given.get("lower_quantile", QUANTILES[0]), given.get("upper_quantile", QUANTILES[1])
    lower = given["lower"] if "lower" in given else facts.find_quantile(levels[0])
    return lower, given["upper"] if "upper" in given else facts.find_quantile(levels[1])


KINDS: Mapping[str, Kind] = {
    "none": Kind(lambda x: x, lambda z: z, np.zeros_like, "{name}"),
    "standardize": Kind(
        lambda x, mean, sd: (x - mean) / sd,
        lambda z, mean, sd: mean + sd * z,
        lambda z, mean, sd: np.full(z.shape, -np.log(sd)),
        "({name} - {mean:.6g}) / {sd:.6g}",
        ("mean", "sd"),
        estimate=_estimate_standard,
    ),
    "log": Kind(lambda x: np.log(np.where(x > 0.0, x, np.nan)), np.exp, np.negative, "log({name})", domain="above 0"),
    "log1p": Kind(
        lambda x: np.log1p(np.where(x > -1.0, x, np.nan)), np.expm1, np.negative, "log1p({name})", domain="above -1"
    ),
    "asinh": Kind(
        lambda x, cofactor: np.arcsinh(x / cofactor),
        lambda z, cofactor: cofactor * np.sinh(z),
        lambda z, cofactor: -np.log(cofactor) - np.logaddexp(z, -z) + np.log(2.0),
        "asinh({name} / {cofactor:.6g})",
        ("cofactor",),
        estimate=_estimate_cofactor,
    ),
    "yeo_johnson": Kind(
        _apply_yeo_johnson,
        lambda z, lam: np.copysign(np.expm1(_yeo_johnson_logs(z, lam)), z),
        lambda z, lam: (lam - 1.0) * np.copysign(_yeo_johnson_logs(z, lam), z),
        "yeo_johnson({name}, lambda {lambda:.6g})",
        ("lambda",),
        estimate=_estimate_exponent,
    ),
    "clip": Kind(
        np.clip,
        lambda z, lower, upper: z,
        lambda z, lower, upper: np.zeros_like(z),
        "clip({name}, {lower:.6g}, {upper:.6g})",
        ("lower", "upper"),
        ("lower_quantile", "upper_quantile"),
        estimate=_estimate_limits,
    ),
}
"""All kinds, by their name in the configuration."""
CLIP = "clip"


@dataclass(frozen=True)
class ColumnTransform:
    """A transform of one column: a kind (a key of ``KINDS``) with all of its parameters."""

    name: str
    kind: str
    parameters: tuple[float, ...] = ()

    def __str__(self) -> str:
        kind = KINDS[self.kind]
        return kind.describe.format(name=self.name, **self.named_parameters)

    @property
    def named_parameters(self) -> dict[str, float]:
        """The parameters by name."""
        return dict(zip(KINDS[self.kind].parameters, self.parameters, strict=True))

    def apply(self, values: Array) -> Array:
        """Return the transformed values ``(n,)``; NaN outside the domain."""
        with np.errstate(over="ignore"):
            return np.asarray(KINDS[self.kind].apply(values, *self.parameters))

    def invert(self, transformed: Array) -> Array:
        """Return the values ``(n,)`` that give these transformed ones; for ``clip`` these themselves."""
        with np.errstate(over="ignore"):
            return np.asarray(KINDS[self.kind].invert(transformed, *self.parameters))

    def log_slope(self, transformed: Array) -> Array:
        """Return the logarithm of the slope ``(n,)``, in nats, where the transform has these values."""
        return np.asarray(KINDS[self.kind].log_slope(transformed, *self.parameters))


Transforms = tuple[ColumnTransform, ...]


def _pair(columns: Sequence[str], transforms: Transforms) -> list[tuple[int, ColumnTransform]]:
    places = {name: j for j, name in enumerate(columns)}
    return [(places[t.name], t) for t in transforms if t.name in places]


def transform_rows(rows: Array, columns: Sequence[str], transforms: Transforms) -> Array:
    """Return rows ``(N, D)`` with their columns transformed; the same array if none is."""
    pairs = _pair(columns, transforms)
    if not pairs:
        return rows
    out = np.array(rows, dtype=np.float64, order="F")
    for j, transform in pairs:
        out[:, j] = transform.apply(out[:, j])
    return out


def refuse_untransformed(rows: Array, columns: Sequence[str], given: Array) -> None:
    """Refuse transformed ``rows (N, D)`` of which a value has no transform, or one beyond 1e150.

    ``given (N, D)`` are the rows before; what is missing there (NaN) may be missing.

    Raises
    ------
    InputDataError
        Names row and column.
    """
    usable = (np.abs(rows) <= LARGEST) | np.isnan(given)
    if not usable.all():
        row, column = (int(i) for i in np.argwhere(~usable)[0])
        raise InputDataError(
            explain(
                f"row {row}: the value has no {columns[column]} ({int((~usable).sum())} such values)",
                why="it is outside the domain of the transform, or the result is too large",
                remedy="leave these rows out, or choose another transform (yeo_johnson and asinh take every number)",
            )
        )


def refuse_imputation(transforms: Transforms) -> None:
    """Refuse to fill in missing values where columns are transformed.

    Raises
    ------
    ConfigError
        If they are: the mean of a transformed column is not the transform of the column's mean.
    """
    if transforms:
        raise ConfigError(
            explain(
                f"missing values are not imputed by a model of {', '.join(map(str, transforms))}",
                why="the mean of a transformed column is not the transform of a mean",
                remedy="set score.impute to false, or fit without transforms",
            )
        )


def restore_rows(rows: Array, columns: Sequence[str], transforms: Transforms) -> Array:
    """Return transformed rows ``(N, D)`` in the units of the columns; the same array if none is transformed."""
    pairs = _pair(columns, transforms)
    if not pairs:
        return rows
    out = np.array(rows, dtype=np.float64)
    for j, transform in pairs:
        out[:, j] = transform.invert(out[:, j])
    return out


def log_jacobians(rows: Array, columns: Sequence[str], transforms: Transforms) -> Array:
    """Return the log-Jacobian ``(N,)`` of transformed rows ``(N, D)``, in nats; a missing value (NaN) has none."""
    out = np.zeros(len(rows))
    for j, transform in _pair(columns, transforms):
        slopes = transform.log_slope(np.ascontiguousarray(rows[:, j]))
        out += np.where(np.isnan(rows[:, j]), 0.0, slopes)
    return out


def label_columns(columns: Sequence[str], transforms: Transforms) -> tuple[str, ...]:
    """Return the names of the columns as they are fitted, such as ``log1p(x)``."""
    named = {t.name: str(t) for t in transforms}
    return tuple(named.get(c, c) for c in columns)


def sum_log_jacobians(rows: Array, weights: Array, columns: Sequence[str], transforms: Transforms) -> float:
    """Return the sum of the log-Jacobians of transformed ``rows (N, D)``, times their weights ``(N,)`` if any."""
    if not transforms or not len(rows):
        return 0.0
    values = log_jacobians(rows, columns, transforms)
    return float(values @ weights) if len(weights) else float(values.sum())


def describe_transformation(transforms: Transforms) -> list[str]:
    """Return what a reader of a result must know about its transforms, in sentences."""
    if not transforms:
        return []
    out = [
        f"columns are transformed: {', '.join(map(str, transforms))}. Means, covariances and distances are those of "
        "the transformed columns, densities and criteria those of the columns themselves."
    ]
    clipped = [t.name for t in transforms if t.kind == CLIP]
    if clipped:
        out.append(
            f"columns {clipped} are clipped: densities and criteria are those of the clipped values, and not "
            "comparable with those of a fit without."
        )
    return out
