from __future__ import annotations

import hashlib
import pickle
import struct

import numpy as np
import pytest

import stream_gmm as sg
from stream_gmm.core.model.covariance import FAMILIES
from stream_gmm.errors import ModelFileError, StorageError
from stream_gmm.io.store.models import MAGIC, from_bytes, to_bytes
from tests.oracles import rows_of


@pytest.fixture(scope="module")
def model():
    return sg.fit(rows_of("faithful"), 2, "full", random_state=1)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.slow
def test_a_model_comes_back_as_it_was(tmp_path, family):
    model = sg.fit(rows_of("iris"), 3, family.name)
    path = sg.save_model(model, tmp_path / "deep" / "model.gmm")
    again = sg.load_model(path)

    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_", "precisions_"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    for name in ("outcome", "history", "n_iter", "columns", "threshold", "warnings", "criteria", "digest"):
        assert getattr(again, name) == getattr(model, name)
    assert dict(again.provenance) == dict(model.provenance)


def test_equal_models_give_equal_bytes(model):
    again = sg.fit(rows_of("faithful"), 2, "full", random_state=1)

    assert to_bytes(again) == to_bytes(model)


def test_every_truncation_is_refused(model):
    content = to_bytes(model)
    for size in range(0, len(content), 7):
        with pytest.raises(ModelFileError):
            from_bytes(content[:size])


def test_every_flipped_bit_is_refused(model):
    content = to_bytes(model)
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        with pytest.raises(ModelFileError):
            from_bytes(bytes(damaged))


def test_a_newer_format_is_refused_with_a_remedy(model):
    content = bytearray(to_bytes(model))
    content[len(MAGIC) : len(MAGIC) + 4] = struct.pack("<I", 99)
    with pytest.raises(ModelFileError, match="format 99.*upgrade"):
        from_bytes(bytes(content))


def test_a_pickle_is_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    path = tmp_path / "model.gmm"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelFileError, match=r"model\.gmm.*not a stream-gmm model file"):
        sg.load_model(path)
    assert not (tmp_path / "exploded").exists()


def test_parameters_that_are_no_mixture_are_refused_though_the_digest_fits(model):
    content = to_bytes(model)[:-32]
    weights = np.ascontiguousarray(model.weights_).tobytes()
    tampered = content.replace(weights, np.array([2.0, -1.0]).tobytes())
    assert tampered != content
    with pytest.raises(ModelFileError, match="does not hold a mixture.*negative"):
        from_bytes(tampered + hashlib.sha256(tampered).digest())


def test_a_missing_file_and_an_unwritable_folder_are_errors(model, tmp_path):
    with pytest.raises(ModelFileError, match="No such file"):
        sg.load_model(tmp_path / "no.gmm")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        sg.save_model(model, tmp_path / "file" / "model.gmm")
