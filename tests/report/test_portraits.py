"""The words of a portrait are right for mixtures whose components are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stream_gmm.core.criteria import Criteria
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.transforms import ColumnTransform
from stream_gmm.report.portraits import contrast_columns, describe_components


def make_model(weights, means, covariances, columns):
    params = MixtureParams(
        np.array(weights), np.array(means, float), np.array(covariances, float), family_named("full")
    )
    criteria = Criteria(0.0, params.n_parameters, 1000.0, 0.0, 0.0)
    return FitResult(params, Outcome.CONVERGED, criteria, (0.0,), 1, columns=tuple(columns))


@pytest.fixture(scope="module")
def model():
    correlated = [[4.0, 3.6, 0.0], [3.6, 4.0, 0.0], [0.0, 0.0, 9.0]]
    return make_model(
        [0.5, 0.3, 0.2], [[0, 0, 10], [40, 0, 10], [0, 0, 90]],
        [np.diag([4.0, 4.0, 9.0]), np.diag([4.0, 64.0, 9.0]), correlated], ["height", "width", "grams"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(model):
    return model.sample(4000, random_state=1)[0]


def test_contrasts_are_those_of_drawn_rows(model):
    rows, component = model.sample(400_000, random_state=0)
    for k in range(3):
        own, rest = rows[component == k], rows[component != k]
        for contrast in contrast_columns(model, k):
            j = model.columns.index(contrast.name)
            sd = rows[:, j].std()
            assert contrast.mean == pytest.approx(own[:, j].mean(), abs=0.02 * sd)
            assert contrast.rest_mean == pytest.approx(rest[:, j].mean(), abs=0.02 * sd)
            assert contrast.rest_sd == pytest.approx(rest[:, j].std(), rel=0.02)
            assert contrast.shift == pytest.approx((own[:, j].mean() - rest[:, j].mean()) / sd, abs=0.02)
            assert contrast.low == pytest.approx(np.quantile(own[:, j], 0.05), abs=0.03 * own[:, j].std())
            assert contrast.high == pytest.approx(np.quantile(own[:, j], 0.95), abs=0.03 * own[:, j].std())


def test_separation_is_one_minus_the_overlap_of_two_normal_densities(model):
    contrast = contrast_columns(model, 1)[0]
    grid = np.linspace(-300.0, 300.0, 400_001)

    def density(mean, sd):
        return np.exp(-0.5 * ((grid - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))

    overlap = np.sqrt(density(contrast.mean, contrast.sd) * density(contrast.rest_mean, contrast.rest_sd))
    assert contrast.separation == pytest.approx(1.0 - overlap.sum() * (grid[1] - grid[0]), abs=1e-6)


def test_the_words_say_what_sets_a_component_apart(model, rows):
    plain, high, heavy = describe_components(model, rows)
    assert high.headline == "very high height, rather low grams, scattered width"
    assert high.sentences[0].startswith(
        "height is far above the rest: mean 40, 90 % between 36.71 and 43.29; the rest 0"
    )
    assert "width varies much more than the rest (sd 8 against 2)." in high.sentences
    assert heavy.headline.startswith("very high grams")
    assert "Within it, height and width rise together (correlation +0.90; over all rows" in " ".join(heavy.sentences)
    assert "grams is far above the rest" in heavy.sentences[0]
    assert set(plain.headline.split(", ")) == {"low height", "rather low grams", "steady width"}
    assert all("It overlaps with no other component." in p.sentences for p in (plain, high, heavy))


def test_a_transformed_column_is_described_in_its_own_units(model, rows):
    logs = model.params.means.copy()
    logs[:, 2] = np.log([10.0, 10.0, 90.0])
    covariances = np.array([np.diag([4.0, 4.0, 0.01])] * 3)
    params = MixtureParams(model.params.weights, logs, covariances, family_named("full"))
    rows = np.column_stack([rows[:, :2], np.maximum(rows[:, 2], 1.0)])
    fitted = replace(model, params=params, transforms=(ColumnTransform("grams", "log"),))
    heavy = describe_components(fitted, rows)[2]
    assert heavy.headline.startswith("very high grams")
    low, high = 90.0 * np.exp([-0.16449, 0.16449])
    assert f"median 90, 90 % between {low:.4g} and {high:.4g}; the rest 10" in heavy.sentences[0]


def test_components_with_the_same_marks_are_told_apart_by_a_mean():
    model = make_model([0.35, 0.35, 0.3], [[0.0], [0.02], [9.0]], [[[0.1]]] * 3, ["a"])
    first, second, third = describe_components(model, model.sample(500, random_state=0)[0])
    assert [first.headline, second.headline] == ["low a (a 0)", "low a (a 0.02)"]
    assert third.headline == "very high a"


def test_typical_rows_are_the_nearest_to_the_centre_of_their_component(model, rows):
    for portrait in describe_components(model, rows):
        k = portrait.number
        own = rows[model.predict(rows) == k]
        offset = own - model.means_[k]
        distance = np.einsum("ni,ij,nj->n", offset, np.linalg.inv(model.params.dense_covariances[k]), offset)
        nearest = own[np.argsort(distance)[:3]]
        order = [model.columns.index(c.name) for c in portrait.contrasts]
        np.testing.assert_array_equal(portrait.typical, nearest[:, order])


def test_neighbours_repeated_values_and_flat_components_are_named():
    flat = [[1.0, 1.0 - 1e-8], [1.0 - 1e-8, 1.0]]
    model = make_model(
        [0.4, 0.4, 0.2], [[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]], [np.eye(2), np.eye(2), flat], ["a", "b"]
    )
    rows = np.random.default_rng(0).normal(size=(500, 2))
    rows[:200, 0] = 0.25
    first, _, last = describe_components(model, rows, [300, 200, 0])
    words = " ".join(first.sentences)
    # Between equal unit covariances the coefficient is exp(-|difference of means|^2 / 8).
    assert f"It overlaps with component 1 ({np.exp(-0.25):.2f}); of a row assigned to it, " in words
    assert first.neighbour == f"1 (overlap {np.exp(-0.25):.2f})"
    assert "Repeated values: a = 0.25 in " in words
    assert first.rows == 300
    assert any("It is nearly flat" in s for s in last.sentences)


def test_a_component_inside_another_one_is_not_said_to_be_alone():
    model = make_model([0.999, 0.001], [[0.0, 0.0], [0.0, 0.0]], [np.eye(2), 4e-4 * np.eye(2)], ["a", "b"])
    rows = 0.02 * np.random.default_rng(0).normal(size=(300, 2))
    _, narrow = describe_components(model, rows)
    words = " ".join(narrow.sentences)
    assert "Its shape is like no other, but it shares rows with component 0: of a row assigned to it, " in words
    shared = 1.0 - model.predict_proba(rows)[model.predict(rows) == 1, 1].mean()
    assert f"{shared:.1%} belong to others on average" in words


def test_a_single_component_has_no_rest_to_differ_from(rows):
    model = make_model([1.0], [rows.mean(axis=0)], [np.cov(rows.T)], ["a", "b", "c"])
    (portrait,) = describe_components(model, rows)
    assert portrait.headline == "near the middle of all rows"
    assert all(c.shift == 0.0 and c.separation == pytest.approx(0.0, abs=1e-12) for c in portrait.contrasts)
