"""What the option ``transforms`` asks for: a transform for each of some columns, with all its parameters or not."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from stream_gmm.core.rows.transforms import KINDS, LAMBDAS, ColumnFacts, ColumnTransform, Transforms
from stream_gmm.errors import ConfigError, did_you_mean, explain, one_of

AUTO = "auto"
NOTHING = "none"


@dataclass(frozen=True)
class TransformRequest:
    """A kind of transform (``"auto"``: the one that gains most), and the parameters and options that are given."""

    kind: str
    given: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        given = ", ".join(f"{name} {value:g}" for name, value in self.given)
        if self.kind == AUTO:
            return "auto, chosen from a read of its own by what it gains on other rows"
        estimated = [p for p in KINDS[self.kind].parameters if p not in dict(self.given)]
        found = f"{', '.join(estimated)} from a read of its own" if estimated else ""
        return " ".join([self.kind, *(f"({text})" for text in [", ".join(t for t in (given, found) if t)] if text)])

    @property
    def is_complete(self) -> bool:
        """True if no parameter is to be estimated."""
        return self.kind != AUTO and set(KINDS[self.kind].parameters) <= dict(self.given).keys()

    def complete(self, name: str, facts: ColumnFacts | None = None) -> ColumnTransform:
        """Return the transform of a column; without ``facts`` every parameter must be given."""
        kind, given = KINDS[self.kind], dict(self.given)
        if set(kind.parameters) <= given.keys():
            return ColumnTransform(name, self.kind, tuple(given[p] for p in kind.parameters))
        assert facts is not None
        transform = ColumnTransform(name, self.kind, tuple(float(p) for p in kind.estimate(facts, given)))
        if problem := _find_problem(self.kind, transform.named_parameters):
            raise ConfigError(
                explain(
                    f"transforms: {name}: {problem}",
                    why=f"the data and the options give {transform}",
                    remedy="give the parameters of the transform, or leave it out",
                )
            )
        return transform


def parse_transforms(value: Any) -> dict[str, TransformRequest]:
    """Return the requests of the option ``transforms``, by name or pattern of columns.

    Raises
    ------
    ConfigError
        If a kind or a parameter is unknown, or a parameter is out of range.
    """
    if value is None or value == NOTHING:
        return {}
    if isinstance(value, str):
        return {"*": _parse_request("*", value)}
    if not isinstance(value, Mapping):
        raise ConfigError(f"transforms must map columns to transforms, or be the name of one, not {value!r}.")
    return {str(pattern): _parse_request(str(pattern), spec) for pattern, spec in value.items()}


def _parse_request(pattern: str, spec: Any) -> TransformRequest:
    name: Any = spec
    given: Any = {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((name, given),) = spec.items()
    if not isinstance(name, str) or not isinstance(given, Mapping):
        raise ConfigError(
            f"transforms: {pattern}: must be the name of a transform, or one with its parameters such as "
            f"{{asinh: {{cofactor: 5}}}}, not {spec!r}."
        )
    one_of(name, [AUTO, *KINDS], f"transform of {pattern}")
    known = () if name == AUTO else (*KINDS[name].parameters, *KINDS[name].options)
    for key, number in given.items():
        if key not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"transforms: {pattern}: {name} has no parameter '{key}'{did_you_mean(key, known)} "
                              f"{there[0].upper()}{there[1:]}.")  # fmt: skip
        if not isinstance(number, Real) or isinstance(number, bool) or not math.isfinite(number):
            raise ConfigError(f"transforms: {pattern}: {key} must be a finite number, not {number!r}.")
    numbers = {str(key): float(number) for key, number in given.items()}
    if problem := _find_problem(name, numbers):
        raise ConfigError(f"transforms: {pattern}: {problem}.")
    return TransformRequest(name, tuple(numbers.items()))


def _find_problem(kind: str, numbers: Mapping[str, float]) -> str:
    """Return what is wrong with parameters, or nothing."""
    if numbers.get("sd", 1.0) <= 0.0:
        return f"the sd of {kind} must be above 0"
    if numbers.get("cofactor", 1.0) <= 0.0:
        return f"the cofactor of {kind} must be above 0"
    if not LAMBDAS[0] <= numbers.get("lambda", 1.0) <= LAMBDAS[1]:
        return f"the lambda of {kind} must lie in [0, 2], where it has an inverse for every number"
    if not 0.0 <= numbers.get("lower_quantile", 0.0) < numbers.get("upper_quantile", 1.0) <= 1.0:
        return f"the quantiles of {kind} must lie in [0, 1], the lower one first"
    if not numbers.get("lower", -math.inf) < numbers.get("upper", math.inf):
        return f"{kind} needs lower < upper"
    return ""


def assign_transforms(
    requests: Mapping[str, TransformRequest], columns: Sequence[str]
) -> dict[str, TransformRequest]:
    """Return the request of each column that has one: that of its name, else that of the first pattern it matches.

    Raises
    ------
    ConfigError
        If a name or a pattern stands for no column.
    """
    for pattern in requests:
        if pattern not in columns and not any(fnmatch.fnmatchcase(c, pattern) for c in columns):
            raise ConfigError(
                f"transforms names '{pattern}', which is none of the columns to fit{did_you_mean(pattern, columns)} "
                f"There are: {', '.join(columns)}."
            )
    out = {}
    for column in columns:
        fitting = [p for p in requests if fnmatch.fnmatchcase(column, p)]
        chosen = column if column in requests else fitting[0] if fitting else None
        if chosen is not None and requests[chosen].kind != NOTHING:
            out[column] = requests[chosen]
    return out


def describe_transforms(transforms: Transforms) -> dict[str, dict[str, dict[str, float]]]:
    """Return transforms as the option ``transforms`` takes them, with every parameter."""
    return {t.name: {t.kind: t.named_parameters} for t in transforms}
