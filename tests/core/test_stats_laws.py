from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_gmm.core.stats import SuffStats
from tests.strategies import families, random_stats, seeds

sizes = st.integers(1, 5)


def _close(a: SuffStats, b: SuffStats, rtol: float = 1e-9) -> None:
    for name in ("rows", "loglik", "entropy", "log_max"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=rtol)
    size = max(np.abs(a.scatter).max(), np.abs(a.mean).max() ** 2 * a.rows, 1e-9)
    np.testing.assert_allclose(a.weight, b.weight, rtol=rtol)
    np.testing.assert_allclose(a.mean, b.mean, rtol=rtol, atol=rtol * (np.abs(a.mean).max() + 1e-9))
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=1e-7, atol=rtol * size)


def _same(a: SuffStats, b: SuffStats) -> None:
    for name in ("weight", "mean", "scatter"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.rows, a.loglik, a.entropy, a.log_max) == (b.rows, b.loglik, b.entropy, b.log_max)


@given(seeds, sizes, sizes, families)
def test_zero_is_an_exact_identity(seed, k, d, family):
    stats = random_stats(np.random.default_rng(seed), k, d, family)
    zero = SuffStats.zero(k, d, family.moments)

    _same(stats.merge(zero), stats)
    _same(zero.merge(stats), stats)
    _same(zero.merge(zero), zero)


@given(seeds, sizes, sizes, families)
def test_merge_is_commutative_to_the_bit(seed, k, d, family):
    rng = np.random.default_rng(seed)
    a, b = random_stats(rng, k, d, family), random_stats(rng, k, d, family)

    _same(a.merge(b), b.merge(a))


@given(seeds, sizes, sizes, families)
def test_merge_is_associative(seed, k, d, family):
    rng = np.random.default_rng(seed)
    a, b, c = (random_stats(rng, k, d, family) for _ in range(3))

    _close(a.merge(b).merge(c), a.merge(b.merge(c)))


@given(seeds, sizes, sizes, families, st.floats(0.01, 100.0))
def test_scale_distributes_over_merge(seed, k, d, family, factor):
    rng = np.random.default_rng(seed)
    a, b = random_stats(rng, k, d, family), random_stats(rng, k, d, family)

    _close(a.merge(b).scale(factor), a.scale(factor).merge(b.scale(factor)))


@given(seeds, sizes, sizes, families)
def test_a_merge_of_valid_statistics_is_valid(seed, k, d, family):
    rng = np.random.default_rng(seed)
    merged = random_stats(rng, k, d, family).merge(random_stats(rng, k, d, family))

    smallest = family.moments.smallest_variance(merged.scatter)
    assert np.all(smallest >= -1e-9 * np.abs(merged.scatter).max() - 1e-12)


def test_no_digits_are_lost_far_from_zero(rng):
    """64 merged chunks at offset 1e8: raw moments would have no correct digit left."""
    from stream_gmm.core.model.moments import FULL

    rows = rng.normal(size=(6400, 1)) + 1e8
    out = SuffStats.zero(1, 1, FULL)
    for chunk in rows.reshape(64, 100, 1):
        centred = chunk - chunk.mean(0)
        scatter = (centred.T @ centred)[None]
        out = out.merge(SuffStats(100.0, 0, 0, 0, np.array([100.0]), chunk.mean(0)[None], scatter, FULL))

    assert out.scatter[0, 0, 0] / 6400 == pytest.approx(np.var(rows - 1e8), rel=1e-7)
    assert out.pooled_variances()[0] == pytest.approx(np.var(rows - 1e8), rel=1e-7)
