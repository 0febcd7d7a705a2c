from __future__ import annotations

import doctest
import inspect

import pytest

import stream_gmm as sg
from stream_gmm import errors, estimator, estimator_bayesian, estimator_selector


def test_every_public_name_is_there_and_documented():
    for name in sg.__all__:
        thing = getattr(sg, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, name
    assert sorted(sg.__all__) == sorted(sg._WHERE)
    assert sg.__version__
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = sg.fitt


def test_exit_codes_are_those_of_the_documentation():
    codes = {e.__name__: e.exit_code for e in errors.StreamGMMError.__subclasses__()}

    assert codes == {
        "ConfigError": 2, "InputDataError": 3, "ModelFileError": 4, "DamagedResultError": 4, "FolderInUseError": 5,
        "StorageError": 6, "ClusterError": 7, "DriftError": 11, "NoAdmissibleModelError": 8, "NotFittedError": 1,
    }  # fmt: skip


def test_the_examples_of_the_estimators_run():
    for module in (estimator, estimator_bayesian, estimator_selector):
        assert doctest.testmod(module).failed == 0
