"""The tiles against products of numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_gmm.core.estep.tiles.products import (
    add_products,
    allocate,
    count_lanes,
    multiply_group,
    pad_columns,
    transpose_group,
)
from tests.strategies import seeds

DTYPES = (np.float64, np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@given(seeds, st.integers(1, 40), st.integers(1, 30))
@settings(max_examples=40)
def test_log_densities_of_chosen_components_are_those_of_a_matrix_product(dtype, seed, n_features, n_components):
    rng, like = np.random.default_rng(seed), np.empty(0, dtype)
    lanes = count_lanes(like.itemsize)
    weights = rng.normal(size=(n_components, n_features)).astype(dtype)
    group = allocate(pad_columns(n_features, like.itemsize), 2 * lanes, like)
    group[:] = rng.normal(size=group.shape)
    count = int(rng.integers(0, n_components + 1))
    chosen = rng.permutation(n_components)[:count]
    out = np.full((n_components, 6 * lanes), 7.0, dtype)
    multiply_group(weights, chosen, count, group, out, 2 * lanes)

    expected = weights[chosen].astype(float) @ group[:n_features].astype(float)
    np.testing.assert_allclose(out[:count, 2 * lanes : 4 * lanes], expected, atol=200 * np.finfo(dtype).eps)
    untouched = np.ones(out.shape, bool)
    untouched[:count, 2 * lanes : 4 * lanes] = False
    assert (out[untouched] == 7.0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@given(seeds, st.integers(1, 60), st.integers(1, 30), st.integers(0, 50))
@settings(max_examples=40)
def test_sums_over_rows_go_to_the_chosen_components_only(dtype, seed, n_features, n_components, n_rows):
    rng, like = np.random.default_rng(seed), np.empty(0, dtype)
    wide = pad_columns(n_features, like.itemsize)
    features, totals = allocate(n_rows + 1, wide, like), allocate(n_components, wide, like)
    features[:], totals[:] = rng.normal(size=features.shape), rng.normal(size=totals.shape)
    count = int(rng.integers(0, n_components + 1))
    chosen, shares = rng.permutation(n_components)[:count], rng.random((n_components, n_rows + 1)).astype(dtype)
    expected = totals.astype(float)
    expected[chosen] += shares[:count, :n_rows].astype(float) @ features[:n_rows].astype(float)
    add_products(shares, chosen, count, features, n_rows, totals)

    np.testing.assert_allclose(totals, expected, atol=400 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_group_is_transposed(dtype, rng):
    like = np.empty(0, dtype)
    lanes = count_lanes(like.itemsize)
    group, target = allocate(3 * lanes, 2 * lanes, like), allocate(4 * lanes, 3 * lanes, like)
    group[:] = rng.normal(size=group.shape)
    transpose_group(group, target, lanes)

    np.testing.assert_array_equal(target[lanes : 3 * lanes], group.T)
    assert not target[:lanes].any()
    assert not target[3 * lanes :].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_begins_at_a_line_of_the_cache(dtype):
    for n in range(1, 20):
        assert allocate(n, 16, np.empty(0, dtype)).ctypes.data % 64 == 0
