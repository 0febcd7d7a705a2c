"""The plots draw the right numbers, read back from what is on the axes."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

import stream_gmm as sg
from stream_gmm.core.model.matching import bhattacharyya_distances
from stream_gmm.errors import ConfigError, InputDataError
from stream_gmm.plot.components import find_best_pairs, standardise_means
from stream_gmm.plot.style import COLOURS

ROWS = np.random.default_rng(0).normal(size=(600, 3)) + np.repeat([[0, 0, 0], [5, 0, 1], [0, 5, 0]], 200, axis=0)
FRAME = pd.DataFrame(ROWS, columns=["a", "b", "c"])
TYPES = ["spherical", "diag", "tied", "full"]


@pytest.fixture(scope="module")
def sweep():
    return sg.sweep(FRAME, n_components=[1, 2, 3, 4], covariance_type=TYPES, prune=False, n_init=1)


@pytest.fixture(scope="module")
def model(sweep):
    return sweep.best


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_criteria_are_those_of_the_table_with_one_line_for_each_structure(sweep, ax):
    assert sg.plot.criteria(sweep, "icl", ax=ax) is ax
    table = sweep.to_pandas()

    for family in TYPES:
        (line,) = (line for line in ax.lines if line.get_label() == family)
        mine = table[table.covariance_type == family].sort_values("n_components")
        np.testing.assert_array_equal(line.get_xydata(), mine[["n_components", "icl"]])
    np.testing.assert_array_equal(ax.lines[-1].get_xydata(), table[table.chosen][["n_components", "icl"]])
    assert "ICL" in ax.get_ylabel()


def test_the_table_of_a_sweep_is_as_good_as_the_sweep(sweep, ax):
    sg.plot.criteria(sweep.table, "bic", ax=ax)
    other = sg.plot.criteria(sweep, ax=Figure().subplots())

    for one, two in zip(ax.lines, other.lines, strict=True):
        np.testing.assert_array_equal(one.get_xydata(), two.get_xydata())


def test_a_candidate_beaten_on_the_sample_is_a_hollow_estimate(sweep, ax):
    table = sweep.table.to_pylist()
    row = next(r for r in table if not r["chosen"])
    row |= {"bic": None, "bic_estimate": 123.0, "delta": None, "delta_se": None}
    sg.plot.criteria(table, "bic", ax=ax)

    (line,) = (line for line in ax.lines if line.get_label() == row["covariance_type"])
    assert [row["n_components"], 123.0] in line.get_xydata().tolist()
    assert line.get_markerfacecolor() == "white"
    assert not any(123.0 in other.get_ydata() for other in ax.lines if other is not line)


def test_differences_have_two_standard_errors(sweep, ax):
    sg.plot.differences(sweep, ax=ax)
    table = sweep.to_pandas()

    for container in ax.containers:
        mine = table[table.covariance_type == container.get_label()].sort_values("n_components")
        np.testing.assert_allclose(container[0].get_ydata().astype(float), mine.delta)
        bars = np.array([segment[:, 1] for segment in container[2][0].get_segments()], dtype=float)
        np.testing.assert_allclose(bars[:, 1] - bars[:, 0], 4.0 * mine.delta_se, atol=1e-9)
    assert len(ax.containers) == len(TYPES)


def test_rivals_are_the_nearest_candidates_on_a_linear_axis(sweep, ax):
    sg.plot.rivals(sweep, ax=ax)
    table = sweep.to_pandas()
    others = table[~table.chosen & table.delta.notna()].sort_values("delta")
    near = others[others.delta <= 10.0 * max(others.delta.iloc[0], 2.0 * others.delta_se.iloc[0])][:8]

    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [*table[table.chosen].candidate, *near.candidate]
    for container, (_, row) in zip(ax.containers[1:], near.iterrows(), strict=True):
        assert container[0].get_xdata()[0] == row.delta
        (bar,) = container[2][0].get_segments()
        assert bar[1, 0] - bar[0, 0] == pytest.approx(4.0 * row.delta_se, abs=1e-9)
    assert ax.get_xscale() == "linear"
    if len(near) < len(others):
        assert others.candidate.iloc[len(near)] in ax.get_title()
    alone = [row for row in sweep.table.to_pylist() if row["chosen"]]
    with pytest.raises(ConfigError, match="no other candidate"):
        sg.plot.rivals(alone)


def test_drift_has_a_mark_for_each_period_with_its_status(ax):
    gains = [0.001, 0.02, 0.5]
    rows = [
        {"file": "*", "period": str(i), "status": status, "refit_gain": gain, "chance_gain": 0.002}
        for i, (status, gain) in enumerate(zip(("same", "changed", "drifted"), gains, strict=True))
    ]
    sg.plot.drift([*rows, {**rows[0], "file": "part.parquet"}], ax=ax)

    marks = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    for i, row in enumerate(rows):
        assert marks[row["status"]] == [[i, gains[i]]]
    assert marks["by chance"] == [[i, 0.002] for i in range(3)]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2"]
    with pytest.raises(ConfigError, match=r"monitor\.parquet"):
        sg.plot.drift([])


def test_gains_are_those_of_the_table(sweep, ax):
    sg.plot.gains(sweep, ax=ax)
    table = sweep.to_pandas().dropna(subset="gain")

    for container in ax.containers:
        mine = table[table.covariance_type == container.get_label()].sort_values("n_components")
        np.testing.assert_allclose(container[0].get_ydata().astype(float), mine.gain)
        np.testing.assert_array_equal(np.round(container[0].get_xdata().astype(float)), mine.n_components)


def test_ellipses_are_one_and_two_standard_deviations_of_the_components(model, ax):
    sg.plot.ellipses(model, FRAME, columns=["a", 2], ax=ax)
    drawn = [p for p in ax.patches if isinstance(p, Ellipse)]

    assert len(drawn) == 2 * model.n_components
    for patch, (k, deviations) in zip(drawn, [(k, s) for k in range(3) for s in (1.0, 2.0)], strict=True):
        np.testing.assert_allclose(patch.center, model.means_[k, [0, 2]])
        turn = np.radians(patch.angle)
        axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        covariance = axes @ np.diag([(patch.width / 2) ** 2, (patch.height / 2) ** 2]) @ axes.T
        expected = model.params.dense_covariances[k][np.ix_([0, 2], [0, 2])]
        np.testing.assert_allclose(covariance, deviations**2 * expected, atol=1e-12)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a", "c")
    (cells,) = (c for c in ax.collections if isinstance(c, PolyCollection))
    assert 0.95 * len(FRAME) < np.sum(np.asarray(cells.get_array())) <= len(FRAME)


def test_the_pair_that_separates_the_components_most_comes_first(model):
    axes = sg.plot.pairs(model, FRAME)

    assert find_best_pairs(model)[0] == (0, 1)
    assert (axes[0].get_xlabel(), axes[0].get_ylabel()) == ("a", "b")
    assert len(axes) == 3


def test_one_column_shows_the_density_of_every_component(ax):
    model = sg.fit(ROWS[:, :1], 2)
    sg.plot.ellipses(model, ROWS[:, :1], ax=ax)
    *parts, total = ax.lines

    np.testing.assert_allclose(sum(p.get_ydata() for p in parts), total.get_ydata())
    np.testing.assert_allclose(np.log(total.get_ydata()), model.score_samples(total.get_xdata()[:, None]))


def test_covariance_types_are_shown_with_their_bic(sweep):
    axes = sg.plot.covariance_types(sweep, n_components=3)

    assert len(axes) == 4
    for ax, family in zip(axes, TYPES, strict=True):
        (candidate,) = (c for c in sweep.candidates if c.name == f"{family}-3")
        assert ax.get_title().startswith(f"{family}-3")
        assert f"BIC {candidate.result.criteria.bic:,.1f}" in ax.get_title()
    (chosen,) = (ax for ax in axes if "chosen" in ax.get_title())
    assert chosen.get_title().startswith(sweep.best.covariance_type)
    with pytest.raises(ConfigError, match="no candidate with K = 9"):
        sg.plot.covariance_types(sweep, n_components=9)


def test_hard_assignment_has_one_colour_and_marker_for_each_component(model, ax):
    sg.plot.assignment(model, FRAME, ax=ax)
    component = model.predict(FRAME)

    for k, points in enumerate(ax.collections):
        np.testing.assert_array_equal(points.get_offsets(), ROWS[component == k][:, [0, 1]])
        np.testing.assert_allclose(points.get_facecolor(), [to_rgba(COLOURS[k])])
    shapes = {points.get_paths()[0].vertices.tobytes() for points in ax.collections}
    assert len(shapes) == 3


def test_soft_assignment_mixes_the_colours_and_rings_unsure_rows(model, ax):
    sg.plot.assignment(model, FRAME, soft=True, ax=ax)
    (points,) = ax.collections
    proba = model.predict_proba(FRAME)
    order = np.argsort(1.0 - proba.max(axis=1), kind="stable")

    mixed = proba @ np.array([to_rgb(c) for c in COLOURS[:3]])
    np.testing.assert_allclose(points.get_facecolor()[:, :3], mixed[order])
    np.testing.assert_array_equal(points.get_edgecolor()[:, 3] > 0, (proba.max(axis=1) < 0.9)[order])
    assert (np.diff(points.get_sizes()) >= 0).all()
    assert f"{(proba.max(axis=1) < 0.9).mean():.1%}" in ax.get_title()


@pytest.mark.slow
def test_noise_has_a_colour_of_its_own(ax):
    remote = np.vstack([ROWS, np.random.default_rng(1).uniform(-40, 40, (40, 3))])
    model = sg.fit(remote, 3, noise=True, n_init=1)
    hard, soft = sg.plot.assignments(model, remote)

    assert (model.predict(remote) == -1).sum() > 0
    assert hard.collections[0].get_label() == "noise"
    assert len(soft.collections[0].get_offsets()) == len(remote)


def test_uncertainty_is_one_minus_the_largest_responsibility(model, ax):
    sg.plot.uncertainty(model, FRAME, ax=ax)

    unsure = 1.0 - model.predict_proba(FRAME).max(axis=1)
    np.testing.assert_allclose(ax.collections[0].get_array(), np.sort(unsure))


def test_profiles_are_standardised_by_moments_of_the_mixture(model, ax):
    sg.plot.profiles(model, ax=ax)

    drawn, _ = model.sample(200_000, random_state=0)
    expected = (model.means_ - drawn.mean(axis=0)) / drawn.std(axis=0)
    np.testing.assert_allclose(ax.images[0].get_array(), standardise_means(model))
    np.testing.assert_allclose(standardise_means(model), expected, atol=0.02)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b", "c"]


def test_overlap_is_the_bhattacharyya_coefficient(model, ax):
    sg.plot.overlap(model, ax=ax)
    values = np.asarray(ax.images[0].get_array())

    np.testing.assert_allclose(np.diag(values), 1.0)
    np.testing.assert_allclose(values, np.exp(-bhattacharyya_distances(model.params, model.params)))
    assert f"{values[0, 1]:.2f}" in [t.get_text() for t in ax.texts]


def test_weights_and_convergence_of_a_fit(model, ax):
    heights = [bar.get_height() for bar in sg.plot.weights(model, ax=ax).containers[0]]
    np.testing.assert_array_equal(heights, model.weights_)

    (line,) = sg.plot.convergence(model, ax=Figure().subplots()).lines
    np.testing.assert_array_equal(line.get_ydata(), model.history)


@pytest.mark.slow
def test_convergence_of_a_sweep_shows_what_was_left_to_gain(ax):
    slow = sg.sweep(FRAME, [2, 3], "diag", prune=False, algorithm="em", tol=1e-9, n_init=1, sample_rows=100)
    sg.plot.convergence(slow, ax=ax)

    histories = [c.result.history for c in slow.candidates if c.result and len(c.result.history) > 1]
    assert histories
    for line, history in zip(ax.lines, histories, strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.maximum(history[-1] - np.array(history[:-1]), 1e-12))


def test_the_histogram_counts_every_row_and_marks_the_threshold(model, ax):
    sg.plot.log_density(model, FRAME, ax=ax)

    assert sum(bar.get_height() for bar in ax.patches) == len(FRAME)
    assert set(ax.lines[0].get_xdata()) == {model.threshold}
    assert f"{model.is_outlier(FRAME).mean():.2%}" in ax.get_title()


def test_without_axes_a_new_figure_is_made_and_a_sweep_brings_its_sample(sweep):
    ax = sg.plot.ellipses(sweep)

    assert any(ax.figure is plt.figure(number) for number in plt.get_fignums())
    assert sg.plot.log_density(sweep) is not ax


def test_an_estimator_is_as_good_as_its_result(ax):
    gm = sg.GaussianMixture(2, random_state=0).fit(ROWS)
    heights = [bar.get_height() for bar in sg.plot.weights(gm, ax=ax).containers[0]]

    np.testing.assert_array_equal(heights, gm.weights_)


def test_what_is_missing_is_said(sweep, model):
    with pytest.raises(ConfigError, match="needs rows.*pass rows="):
        sg.plot.ellipses(model)
    with pytest.raises(ConfigError, match="takes a SweepResult"):
        sg.plot.criteria(model)
    with pytest.raises(ConfigError, match="takes a FitResult"):
        sg.plot.overlap(3)
    with pytest.raises(ConfigError, match="no values of 'heldout'; set holdout="):
        sg.plot.criteria(sweep, "heldout")
    with pytest.raises(ConfigError, match="unknown criterion 'bik'"):
        sg.plot.criteria(sweep, "bik")
    with pytest.raises(ConfigError, match="no column 'z'"):
        sg.plot.ellipses(model, FRAME, columns=["a", "z"])
    with pytest.raises(ConfigError, match="must name two columns"):
        sg.plot.ellipses(model, FRAME, columns=["a"])
    with pytest.raises(InputDataError, match="2 columns"):
        sg.plot.uncertainty(model, ROWS[:, :2])
    with pytest.raises(ConfigError, match="2 are needed and 1 were given"):
        sg.plot.assignments(model, FRAME, axes=Figure().subplots())


def test_every_plot_has_an_example_that_names_it():
    for name in sg.plot.__all__:
        text = inspect.getdoc(getattr(sg.plot, name)) or ""
        (example,) = doctest.DocTestParser().get_examples(text)
        assert f"sg.plot.{name}(" in example.source


def test_the_page_of_plots_shows_every_plot():
    """The page itself is run by tests/test_pages.py."""
    page = (Path(__file__).parents[2] / "docs/how-to/plots.md").read_text()

    assert {name for name in sg.plot.__all__ if f"sg.plot.{name}(" in page} == set(sg.plot.__all__)
