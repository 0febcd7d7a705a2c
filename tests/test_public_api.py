"""The public names: there, documented (complete by numpydoc's checks), with examples that run."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator

import pytest
from numpydoc.validate import validate

import stream_gmm as sg
from stream_gmm import errors

LEFT_OUT = {
    "SA01", "ES01", "EX01",  # see also, longer text and example: where they help
    "PR03",  # parameters are in the order of what they mean; some share an explanation
    "PR04",  # types are annotations
    "RT03",  # "Axes" or "self" says it all
    "GL01", "GL02",  # where the text begins beside the quotes
}  # fmt: skip
ONE_SENTENCE_IS_ENOUGH = {"PR01", "RT01"}
"""Of methods and properties, whose sentence names the parameter and the shape of what it returns."""


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


def _public() -> Iterator[tuple[str, bool]]:
    """Yield the public objects by path, and whether their parameters and results need sections of their own."""
    named = {n: getattr(sg, n) for n in sg.__all__ if n != "plot"} | {n: getattr(sg.plot, n) for n in sg.plot.__all__}
    for thing in named.values():
        if inspect.isclass(thing):
            path = f"{thing.__module__}.{thing.__qualname__}"
            yield path, hasattr(thing, "set_params")  # other objects are made by functions
            for name, member in vars(thing).items():
                if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    yield f"{path}.{name}", False
        elif inspect.isfunction(thing):
            yield f"{thing.__module__}.{thing.__qualname__}", True


@pytest.mark.parametrize(("path", "in_sections"), list(_public()), ids=lambda v: str(v).removeprefix("stream_gmm."))
def test_a_public_docstring_is_complete(path, in_sections):
    allowed = LEFT_OUT if in_sections else LEFT_OUT | ONE_SENTENCE_IS_ENOUGH
    findings = [f"{code}: {text}" for code, text in validate(path)["errors"] if code not in allowed]

    assert not findings


@pytest.mark.slow
def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = 0
    for name in {getattr(sg, n).__module__ for n in sg.__all__ if n not in ("plot", "FAMILIES")}:
        done = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
        assert done.failed == 0, name
        run += done.attempted
    assert run > 20
