"""The options of a fit are written once: signatures, configuration and docstrings agree with ``Settings``."""

from __future__ import annotations

import dataclasses
import inspect
import typing

import pytest

import stream_gmm as sg
from stream_gmm.core.online_rule import OnlineRule
from stream_gmm.pipeline.fit.settings import FitOptions, Settings, describe_option
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.repeat import config_keys
from stream_gmm.pipeline.job.sections import DataConfig, EMConfig

FIELDS = {f.name: f for f in dataclasses.fields(Settings)}


def test_the_keywords_are_the_fields_of_the_settings_with_their_types():
    assert typing.get_type_hints(FitOptions) == typing.get_type_hints(Settings)


@pytest.mark.parametrize("function", [sg.fit, sg.sweep])
def test_signature_and_docstring_show_every_option_with_its_default(function):
    parameters = inspect.signature(function).parameters
    for name, field in FIELDS.items():
        assert parameters[name].default == field.default, name
        assert f"\n{name}\n" in (inspect.getdoc(function) or ""), name
    assert "{options}" not in function.__doc__


def test_the_configuration_has_the_same_options_and_explains_them_alike():
    own = EMConfig.model_fields

    assert set(own) == set(FIELDS) - {"outlier_quantile"}  # that one is in the section score
    for name, field in own.items():
        assert field.description == describe_option(name), name
        if name != "n_init":  # a job is patient
            assert field.default == FIELDS[name].default, name


def test_the_estimators_share_names_and_defaults():
    theirs = dict(inspect.signature(sg.GaussianMixture).parameters)
    for name in set(theirs) & set(FIELDS) - {"random_state"}:
        assert theirs[name].default == FIELDS[name].default, name
    assert theirs["max_iter"].default == FIELDS["max_passes"].default
    online = dict(inspect.signature(sg.OnlineGaussianMixture).parameters)
    for field in dataclasses.fields(OnlineRule):
        if field.name in online and field.default is not dataclasses.MISSING:
            assert online[field.name].default == field.default, field.name


def test_an_unknown_option_names_the_nearest_one():
    with pytest.raises(TypeError, match="'sample_row'; did you mean 'sample_rows'"):
        sg.fit([[0.0], [1.0]], sample_row=10)  # type: ignore[call-arg]


def test_the_section_data_has_the_keywords_of_open_dataset_and_passes_them_on(monkeypatch):
    open_dataset = sg.open_dataset
    keywords = inspect.signature(open_dataset).parameters
    assert set(DataConfig.model_fields) == set(keywords)
    given = {
        "paths": ["a"], "columns": ["x*"], "exclude_columns": ["x9"], "filter": "k > 1", "exclude": ["b"],
        "weight": "w", "missing": "drop", "table_version": 3, "sentinel": {"x1": [-200.0]},
    }  # fmt: skip
    assert set(given) == set(keywords)
    seen: dict[str, object] = {}

    def note(*args, **kwargs):
        seen.update(inspect.signature(open_dataset).bind(*args, **kwargs).arguments)

    monkeypatch.setattr("stream_gmm.io.source.dataset.open_dataset", note)
    RunConfig(data=DataConfig(**given)).open()  # type: ignore[arg-type]
    assert seen == given
    for name, parameter in keywords.items():
        assert f"data.{name}" in config_keys()
        assert f"\n{name}\n" in (inspect.getdoc(open_dataset) or ""), name
        default = DataConfig.model_fields[name].default
        if name != "paths":
            assert default == (list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default)
