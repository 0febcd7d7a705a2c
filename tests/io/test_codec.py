"""Values to JSON and arrays, and back to the same bits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from stream_gmm.core.fit.em import EMState, Outcome
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ModelFileError
from stream_gmm.io.store.codec import decode, encode
from stream_gmm.pipeline.sweep.ledger import KNOWN
from tests.strategies import mixtures, random_stats, seeds


def _there_and_back(value):
    arrays: dict[str, Any] = {}
    return decode(json.loads(json.dumps(encode(value, arrays), allow_nan=False)), arrays, KNOWN)


@given(mixtures(max_k=3, max_d=3), seeds)
def test_a_state_comes_back_bit_for_bit(mixture, seed):
    params, _ = mixture
    stats = random_stats(np.random.default_rng(seed), params.n_components, params.n_features, params.family)
    state = EMState(
        params,
        3,
        (-1.5, -0.1 - 1e-17),
        params,
        stats,
        Outcome.PRUNED,
        "why",
        passes=4,
        predicted_gains=(np.inf, 1e-300),
    )
    back = _there_and_back(state)

    assert back.params.family is params.family
    assert isinstance(back.stats, SuffStats)
    assert back.stats.moments is stats.moments
    assert (back.history, back.predicted_gains, back.outcome) == (
        state.history,
        state.predicted_gains,
        Outcome.PRUNED,
    )
    for ours, expected in ((back.params.covariances, params.covariances), (back.stats.scatter, stats.scatter)):
        assert ours.tobytes() == expected.tobytes()


def test_arrays_keep_their_kind_and_their_order_in_memory(rng):
    arrays = (
        np.asfortranarray(rng.normal(size=(3, 4))), np.arange(5, dtype=np.uint64), np.empty((0, 2)),
        np.array([True, False]),
    )  # fmt: skip
    for value, back in zip(arrays, _there_and_back(arrays), strict=True):
        np.testing.assert_array_equal(back, value)
        assert (back.dtype, back.shape) == (value.dtype, value.shape)
        assert back.flags.f_contiguous == value.flags.f_contiguous


def test_what_is_not_known_is_refused():
    with pytest.raises(TypeError, match="cannot keep a set"):
        encode({1, 2}, {})
    with pytest.raises(ModelFileError, match="'Popen', which this version does not know"):
        decode({"type": "Popen", "fields": {}}, {}, KNOWN)
