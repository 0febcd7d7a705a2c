"""Paired differences, and who is beaten after the sample."""

from __future__ import annotations

import numpy as np
import pytest

from stream_gmm.core.search.evidence import SampleCandidate, SamplePruning, compare_paired

UNWEIGHTED = np.empty(0)


def _make_candidate(name, k, p, values, in_sample=None, is_sound=True):
    return SampleCandidate(name, k, p, float(values.mean()) if in_sample is None else in_sample, values, is_sound)


def _field(rng, leads, n=4_000, k=2, p=10):
    """Candidates that are ``leads`` nats per row ahead of the first, with a row-wise noise of 0.1."""
    common = rng.normal(-5.0, 2.0, n)
    return [_make_candidate(f"c{i}", k, p, common + d + 0.1 * rng.normal(size=n)) for i, d in enumerate(leads)]


def test_a_paired_difference_is_that_of_the_rows(rng):
    a, b = rng.normal(size=(2, 500))
    found = compare_paired(a, b, UNWEIGHTED)

    assert found.mean == pytest.approx((a - b).mean())
    assert found.standard_error == pytest.approx((a - b).std() / np.sqrt(500))


def test_weights_count_as_rows(rng):
    a, b = rng.normal(size=(2, 50))
    twice = compare_paired(np.repeat(a, 2), np.repeat(b, 2), UNWEIGHTED)
    weighted = compare_paired(a, b, np.full(50, 2.0))

    assert weighted.mean == pytest.approx(twice.mean)
    assert weighted.sd == pytest.approx(twice.sd)
    assert weighted.rows == pytest.approx(50)  # equal weights are worth as many rows as there are


def test_candidates_far_behind_are_pruned_with_a_reason_and_near_ones_are_kept(rng):
    field = _field(rng, [0.0, -0.001, -0.002, -0.003, -1.0, -2.0])
    reasons = SamplePruning("bic", 1e6, 10_000, 0.0, UNWEIGHTED).find_reasons(field)

    assert reasons[:4] == ["", "", "", ""]
    assert reasons[4].startswith("clearly worse on the sample than c")
    assert "nats per row behind, standard error" in reasons[5]


def test_a_single_component_the_best_few_and_those_behind_a_degenerate_fit_are_kept(rng):
    one = _make_candidate("one", 1, 5, rng.normal(-9.0, 1.0, 4_000))
    field = [*_field(rng, [0.0, -1.0, -2.0, -3.0]), one]
    reasons = SamplePruning("bic", 1e6, 10_000, 0.0, UNWEIGHTED).find_reasons(field)
    assert [bool(r) for r in reasons] == [False, False, False, True, False]

    degenerate = _make_candidate("degenerate", 2, 10, field[0].values + 5.0, is_sound=False)
    reasons = SamplePruning("bic", 1e6, 10_000, 0.0, UNWEIGHTED).find_reasons(
        [degenerate, *_field(rng, [0.0, 0.0, 0.0, 0.0])]
    )
    assert not any(reasons)


def test_for_the_elbow_only_candidates_of_one_k_compete(rng):
    small, large = _field(rng, [0.0, -1.0], k=2), _field(rng, [3.0, 2.0], k=3)
    reasons = SamplePruning("elbow", 1e6, 10_000, 0.0, UNWEIGHTED).find_reasons([*small, *large])

    assert [bool(r) for r in reasons] == [False, True, False, True]


@pytest.mark.parametrize("criterion", ["bic", "aic", "heldout", "one_se"])
def test_with_noise_alone_nothing_is_pruned(rng, criterion):
    """The risk is one in a hundred for a whole sweep; of 30 sweeps of equals at most a few may lose somebody."""
    lost = sum(
        any(SamplePruning(criterion, 1e6, 10_000, 1e5, UNWEIGHTED).find_reasons(_field(rng, [0.0] * 12)))
        for _ in range(30)
    )

    assert lost <= 2


def test_the_penalty_of_the_criterion_counts(rng):
    values = rng.normal(-5.0, 1.0, 4_000)
    field = [_make_candidate(f"c{i}", 2, 10, values) for i in range(3)] + [
        _make_candidate("large", 50, 5_000, values)
    ]
    # BIC asks 4,990 ln N / 2N = 1.24 nats per row; it is granted 3 p / 2n.
    assert SamplePruning("bic", 20_000, 10_000, 0.0, UNWEIGHTED).find_reasons(field)[3]
    assert not any(SamplePruning("bic", 20_000, 5_000, 0.0, UNWEIGHTED).find_reasons(field))
