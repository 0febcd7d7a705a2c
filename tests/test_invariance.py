"""The unit, the origin and the order of columns, and how rows are divided into files, change nothing but rounding.

Clusters are clear, so that every representation of the rows leads to the same optimum; what is compared is computed
from the fit of the rows as they were drawn, by the rules of a linear map of the columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stream_gmm as sg

NAMES = ("a", "b", "c")
OPTIONS: Any = {"n_init": 2, "random_state": 3, "tol": 1e-10}


@dataclass(frozen=True)
class Representation:
    """The same rows in other units, with another origin, another order of columns and of rows, and other files."""

    scale: tuple[float, ...]
    shift: tuple[float, ...]
    order: tuple[int, ...]
    cuts: tuple[int, ...]
    reverse_files: bool
    row_group_size: int

    def write(self, rows, folder):
        columns = {NAMES[j]: rows[:, j] * self.scale[j] + self.shift[j] for j in self.order}
        table = pa.table({**columns, "row": np.arange(len(rows))})
        edges = [0, *self.cuts, len(rows)]
        parts = [table.slice(lo, hi - lo) for lo, hi in zip(edges, edges[1:], strict=False) if hi > lo]
        for i, part in enumerate(reversed(parts) if self.reverse_files else parts):
            pq.write_table(part, folder / f"part-{i}.parquet", row_group_size=self.row_group_size)
        return sg.open_dataset(folder, columns=[NAMES[j] for j in self.order])

    @property
    def log_volume(self):
        """Sum of the logarithms of the units: what every log-density loses."""
        return float(np.log(self.scale).sum())

    def map_means(self, means):
        return (means * np.array(self.scale) + np.array(self.shift))[:, self.order]

    def map_covariances(self, covariances):
        scaled = covariances * np.multiply.outer(self.scale, self.scale)
        return scaled[:, self.order][:, :, self.order]


@st.composite
def representations(draw):
    scale = tuple(10.0 ** draw(st.integers(-6, 6)) for _ in NAMES)
    shift = tuple(s * draw(st.sampled_from([0.0, 1.0, -1e3])) for s in scale)
    return Representation(
        scale, shift,
        order=tuple(draw(st.permutations(range(3)))),
        cuts=tuple(sorted(draw(st.lists(st.integers(1, 399), max_size=3, unique=True)))),
        reverse_files=draw(st.booleans()),
        row_group_size=draw(st.sampled_from([50, 177, 1000])),
    )  # fmt: skip


AS_DRAWN = Representation((1.0,) * 3, (0.0,) * 3, (0, 1, 2), (), False, 1000)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(8)
    one = rng.multivariate_normal([0.0] * 3, np.array([[1, 0.6, 0], [0.6, 1, 0], [0, 0, 0.3]]), 250)
    other = rng.multivariate_normal([8.0, -6.0, 1.0], np.array([[0.5, 0, 0.2], [0, 2, 0], [0.2, 0, 1]]), 150)
    return np.vstack([one, other])[rng.permutation(400)]


@pytest.fixture(scope="module")
def expected(rows, tmp_path_factory):
    data = AS_DRAWN.write(rows, tmp_path_factory.mktemp("as-drawn"))
    model = sg.fit(data, 2, **OPTIONS)
    scored = _score(model, data, tmp_path_factory.mktemp("as-drawn-scores") / "out")
    return model, sg.sweep(data, [1, 2, 3], ["full", "diag"], prune=False, **OPTIONS), scored


def _score(model, data, output):
    sg.score(model, data, output, passthrough=["row"])
    return pq.read_table(output).sort_by("row")


@given(representation=representations())
def test_a_fit_and_its_scores_follow_the_columns_and_ignore_the_files(
    representation, rows, expected, tmp_path_factory
):
    model, _, scored = expected
    data = representation.write(rows, tmp_path_factory.mktemp("in"))
    other = sg.fit(data, 2, **OPTIONS)
    n, unit = len(rows), np.sqrt(np.diagonal(representation.map_covariances(np.cov(rows.T)[None])[0]))

    np.testing.assert_allclose(other.weights_, model.weights_, rtol=1e-6)
    np.testing.assert_allclose(
        other.means_ / unit, representation.map_means(model.means_) / unit, rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(
        other.covariances_ / np.outer(unit, unit),
        representation.map_covariances(model.covariances_) / np.outer(unit, unit), atol=1e-6,
    )  # fmt: skip
    assert other.criteria.bic == pytest.approx(model.criteria.bic + 2 * n * representation.log_volume, abs=1e-3)

    theirs = _score(other, data, tmp_path_factory.mktemp("out") / "scores")
    assert theirs["component"].equals(scored["component"])
    assert theirs["is_outlier"].equals(scored["is_outlier"])
    for name in ("max_proba", "proba_0", "uncertainty", "mahalanobis_sq"):
        np.testing.assert_allclose(theirs[name], scored[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        theirs["log_density"].to_numpy() + representation.log_volume, scored["log_density"], atol=1e-4
    )
    table = pa.table({NAMES[j]: rows[:, j] * representation.scale[j] + representation.shift[j] for j in range(3)})
    np.testing.assert_array_equal(other.predict(table), scored["component"])


@pytest.mark.slow
@settings(max_examples=10)
@given(representation=representations())
def test_a_sweep_chooses_the_same_model_in_any_representation(representation, rows, expected, tmp_path_factory):
    sweep, n = expected[1], len(rows)
    data = representation.write(rows, tmp_path_factory.mktemp("in"))
    other = sg.sweep(data, [1, 2, 3], ["full", "diag"], prune=False, **OPTIONS)

    assert (other.best.n_components, other.best.covariance_type) == (2, "full")
    for a, b in zip(other.candidates, sweep.candidates, strict=True):
        assert (a.n_components, a.family.name) == (b.n_components, b.family.name)
        if a.n_components < 3:  # three components for two clusters have many optima
            shifted = b.result.criteria.bic + 2 * n * representation.log_volume
            assert a.result is not None
            assert a.result.criteria.bic == pytest.approx(shifted, abs=1e-3)


@pytest.mark.long
@given(representation=representations())
def test_standard_errors_of_the_bootstrap_follow_the_columns(representation, rows, expected, tmp_path_factory):
    """With the same rows in the same file a replicate weighs the same rows: only the columns may differ."""
    same_files = Representation(representation.scale, representation.shift, representation.order, (), False, 1000)
    data = same_files.write(rows, tmp_path_factory.mktemp("in"))
    ours = sg.bootstrap(expected[0], AS_DRAWN.write(rows, tmp_path_factory.mktemp("as-drawn")), 10)
    theirs = sg.bootstrap(sg.fit(data, 2, **OPTIONS), data, 10)

    scale = np.array(representation.scale)
    np.testing.assert_allclose(theirs.weights_se, ours.weights_se, rtol=1e-3)
    np.testing.assert_allclose(theirs.means_se, (ours.means_se * scale)[:, same_files.order], rtol=1e-3)
    np.testing.assert_allclose(theirs.loglik_se, ours.loglik_se, rtol=1e-2)
