"""Transforms of columns: inverses, slopes, estimates, and what the option ``transforms`` may ask for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from stream_gmm.core.rows.transform_requests import (
    assign_transforms,
    describe_transforms,
    parse_transforms,
)
from stream_gmm.core.rows.transforms import KINDS, ColumnFacts, ColumnTransform, log_jacobians
from stream_gmm.core.search.transform_gain import ColumnTrial, propose_transform
from stream_gmm.errors import ConfigError

TRANSFORMS = [
    ColumnTransform("x", "standardize", (3.0, 2.5)),
    ColumnTransform("x", "log"),
    ColumnTransform("x", "log1p"),
    ColumnTransform("x", "asinh", (5.0,)),
    *(ColumnTransform("x", "yeo_johnson", (lam,)) for lam in (0.0, 0.3, 1.0, 1.7, 2.0)),
]


def _facts(values, weights=None):
    weights = np.empty(0) if weights is None else weights
    return ColumnFacts(float(values.mean()), float(values.std()), values, weights)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_the_inverse_and_the_slope_are_those_of_the_transform(transform, rng):
    x = np.concatenate([rng.normal(0.0, 3.0, 500), [0.0, 1e-9, 40.0, 1e6]])
    if transform.kind.startswith("log"):
        x = np.abs(x) + 1e-3
    z, step = transform.apply(x), 1e-5 * np.maximum(np.abs(x), 1.0) ** 0.5
    if transform.kind == "log":
        step = 1e-5 * x

    np.testing.assert_allclose(transform.invert(z), x, rtol=1e-9, atol=1e-12)
    slope = (transform.apply(x + step) - transform.apply(x - step)) / (2.0 * step)
    np.testing.assert_allclose(np.exp(transform.log_slope(z)), slope, rtol=1e-4)
    assert np.all(np.diff(transform.apply(np.sort(x))) >= 0.0)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_exponent_is_that_of_scipy(weighted, rng):
    x = rng.gamma(2.0, 2.0, 3000) - 1.0
    weights = rng.integers(1, 4, len(x)).astype(float) if weighted else None
    repeated = np.repeat(x, weights.astype(int)) if weights is not None else x

    found = parse_transforms({"x": "yeo_johnson"})["x"].complete("x", _facts(x, weights))

    assert found.parameters[0] == pytest.approx(stats.yeojohnson_normmax(repeated), abs=2e-3)
    np.testing.assert_allclose(found.apply(x), stats.yeojohnson(x, lmbda=found.parameters[0]), rtol=1e-12)


def test_log_jacobians_add_up_over_the_columns(rng):
    transforms = (ColumnTransform("b", "log"), ColumnTransform("a", "standardize", (0.0, 4.0)))
    z = rng.normal(size=(5, 3))
    np.testing.assert_allclose(log_jacobians(z, ("a", "b", "c"), transforms), -np.log(4.0) - z[:, 1])


def test_clip_estimates_its_limits_from_quantiles(rng):
    x = rng.normal(size=1000)
    request = parse_transforms({"x": {"clip": {"lower_quantile": 0.1, "upper": 1.5}}})["x"]
    found = request.complete("x", _facts(x))
    assert found.parameters == (np.quantile(x, 0.1, method="inverted_cdf"), 1.5)
    assert found.apply(np.array([-9.0, 0.0, 9.0])).tolist() == [found.parameters[0], 0.0, 1.5]


def test_a_column_goes_by_its_name_before_a_pattern_and_by_the_first_pattern():
    requests = parse_transforms({"x*": "log1p", "x2": "none", "*": {"asinh": {"cofactor": 5}}})
    found = assign_transforms(requests, ["x1", "x2", "y"])
    assert {name: r.complete(name).kind for name, r in found.items()} == {"x1": "log1p", "y": "asinh"}


def test_what_describes_transforms_asks_for_them():
    made = tuple(ColumnTransform(f"{t.name}{i}", t.kind, t.parameters) for i, t in enumerate(TRANSFORMS))
    requests = assign_transforms(parse_transforms(describe_transforms(made)), [t.name for t in made])
    assert tuple(r.complete(name) for name, r in requests.items()) == made
    assert all(r.is_complete for r in requests.values())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("sqrt", "unknown transform of \\* 'sqrt'.*log1p"),
        ({"x": "log1"}, "did you mean 'log1p'"),
        ({"x": {"asinh": {"cofacter": 5}}}, "no parameter 'cofacter'; did you mean 'cofactor'"),
        ({"x": {"asinh": {"cofactor": 0}}}, "cofactor of asinh must be above 0"),
        ({"x": {"asinh": {"cofactor": "5"}}}, "finite number, not '5'"),
        ({"x": {"log1p": {"base": 2}}}, "no parameter 'base'.*It has none"),
        ({"x": {"yeo_johnson": {"lambda": 3}}}, r"must lie in \[0, 2\]"),
        ({"x": {"clip": {"lower": 2, "upper": 1}}}, "lower < upper"),
        ({"x": {"clip": {"lower_quantile": 1.5}}}, "quantiles of clip"),
        ({"x": {"standardize": {"sd": -1}}}, "sd of standardize must be above 0"),
        ({"x": {"log": {}, "log1p": {}}}, "must be the name of a transform"),
        ({"x": 3}, "must be the name of a transform"),
        ([1], "must map columns"),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_met_is_refused(value, message):
    with pytest.raises(ConfigError, match=message):
        parse_transforms(value)


def test_a_pattern_without_a_column_is_refused():
    with pytest.raises(ConfigError, match="transforms names 'lenght'.*did you mean 'length'"):
        assign_transforms(parse_transforms({"lenght": "log"}), ["length", "mass"])


def _propose(x):
    half = len(x) // 2
    return propose_transform(ColumnTrial("x", _facts(x[:half]), x[half:], (x.min(), x.max())), 0)


def test_the_logarithm_is_proposed_for_lognormal_values_and_gains(rng):
    found = _propose(rng.lognormal(0.0, 1.0, 4000))
    assert (found.transform.kind, found.adopted) == ("log", True)
    assert found.gain > 3 * found.standard_error


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.normal(size=3000),
        lambda rng: rng.permutation(np.concatenate([rng.normal(0, 1, 2000), rng.normal(12, 1, 600)])),
        lambda rng: rng.integers(0, 30, 3000).astype(float),
        lambda rng: rng.lognormal(size=150),
    ],
    ids=["normal", "two clusters", "few values", "few rows"],
)
def test_nothing_is_adopted_without_a_clear_gain(draw, rng):
    found = _propose(draw(rng))
    assert found is None or not found.adopted


def test_every_kind_has_words_for_its_parameters():
    for name, kind in KINDS.items():
        assert str(ColumnTransform("x", name, (1.0, 2.0)[: len(kind.parameters)]))
