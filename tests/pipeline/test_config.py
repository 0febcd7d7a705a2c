from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stream_gmm.cli.options import collect_overrides
from stream_gmm.errors import ConfigError
from stream_gmm.pipeline.job.config import RunConfig, load_config, validate_config
from stream_gmm.pipeline.job.repeat import config_keys

ROOT = Path(__file__).parents[2]
MINIMAL = {"data": {"paths": "x.parquet"}}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_configuration_is_valid(path):
    assert load_config(path).data.paths


def test_the_deployment_of_prefect_yaml_is_valid():
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())

    for deployment in content["deployments"]:
        validate_config(deployment["parameters"]["config"], "prefect.yaml")
        file, _, flow = deployment["entrypoint"].partition(":")
        assert f'__all__ = ["{flow}"]' in (ROOT / file).read_text()


def test_all_problems_are_reported_at_once_with_the_nearest_key():
    with pytest.raises(ConfigError) as error:
        validate_config(
            {
                "data": {"path": "x", "missing": "dorp"},
                "swep": {},
                "sweep": {"n_components": [0], "covariance_type": ["ful"], "criterion": "bicc"},
                "em": {"tol": -1, "n_inits": 3},
                "cluster": {"address": "tcp://a:1", "scheduler_file": "b", "scale": 3},
            },
            "f.yaml",
        )
    text = str(error.value)

    for part in (
        "f.yaml: 10 problems", "data.paths: is required", "data.path: unknown key; did you mean 'paths'?",
        "data.missing: Input should be 'error', 'drop' or 'marginalise' (found 'dorp')",
        "swep: unknown key; did you mean 'sweep'?",
        "sweep.n_components: must be at least 1", "did you mean 'full'?", "did you mean 'bic'?", "em.tol:",
        "em.n_inits: unknown key; did you mean 'n_init'?", "exclude each other",
    ):  # fmt: skip
        assert part in text


def test_a_key_of_another_section_is_sent_there():
    with pytest.raises(ConfigError, match=r"sweep.holdout: unknown key; it belongs to em; is 'em:' a comment\?"):
        validate_config(MINIMAL | {"sweep": {"n_components": [2], "holdout": 0.1}}, "f.yaml")


@pytest.mark.parametrize(
    ("given", "expected"),
    [(5, [5]), ("1:4", [1, 2, 3, 4]), ("1:2,8", [1, 2, 8]), ([1, "3:4"], [1, 3, 4]), (["2", 3], [2, 3])],
)
def test_numbers_of_components_can_be_written_as_ranges(given, expected):
    assert validate_config(MINIMAL | {"sweep": {"n_components": given}}, "x").sweep.n_components == expected


def test_a_malformed_range_is_refused_with_an_example():
    with pytest.raises(ConfigError, match="write it as '1:8'"):
        validate_config(MINIMAL | {"sweep": {"n_components": "a:b"}}, "x")


def test_mclust_codes_become_names():
    assert validate_config(MINIMAL | {"sweep": {"covariance_type": ["VVV", "EII"]}}, "x").sweep.covariance_type == [
        "full",
        "tied_spherical",
    ]


def test_files_that_cannot_be_read_are_configuration_errors(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(tmp_path / "no.yaml")
    (tmp_path / "bad.yaml").write_text("data: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="must hold sections"):
        load_config(tmp_path / "list.yaml")


def test_every_key_has_a_description_and_an_option():
    for key, field in config_keys().items():
        assert field.description, key
    assert "em.tol" in config_keys()
    assert set(RunConfig.model_fields) >= {"data", "sweep", "em", "score", "cluster", "output"}


def test_options_of_the_command_line_are_typed():
    arguments = {
        "cfg__em__tol": "1e-3",
        "cfg__em__n_init": "4",
        "cfg__data__columns": ("a,b", "c"),
        "cfg__data__paths": ("p,q",),
        "cfg__sweep__n_components": ("1:3,7",),
        "cfg__cluster__adapt": "{minimum: 1, maximum: 4}",
        "cfg__score__passthrough": ("none",),
        "cfg__output__truth": "none",
        "cfg__name": "123",
    }

    assert collect_overrides(arguments) == {
        "em.tol": 1e-3, "em.n_init": 4, "data.columns": ["a", "b", "c"], "data.paths": ["p,q"],
        "sweep.n_components": ["1:3", 7], "cluster.adapt": {"minimum": 1, "maximum": 4},
        "score.passthrough": "none", "output.truth": None, "name": "123",
    }  # fmt: skip


@pytest.mark.parametrize(("key", "wrong"), [("kernel", "quadratc"), ("dtype", "float46"), ("cache", "disc")])
def test_an_unknown_name_comes_with_the_nearest(key, wrong):
    with pytest.raises(ConfigError, match=f"em.{key}: unknown {key} '{wrong}'; did you mean"):
        validate_config({"data": {"paths": ["x"]}, "em": {key: wrong}}, "test")


def test_recording_steps_are_a_word_or_a_mapping():
    from stream_gmm.cli.options import collect_overrides
    from stream_gmm.pipeline.job.config import load_config

    def steps(text):
        overrides = collect_overrides({"cfg__em__resolution": text, "cfg__data__paths": ("a",)})
        return load_config(None, overrides).settings().resolution

    assert steps("auto") == "auto"
    assert steps("none") == "none"
    assert steps("{x5: 1, x7: 0.1}") == {"x5": 1.0, "x7": 0.1}
    with pytest.raises(ConfigError, match="resolution"):
        steps("{x5: fine}")
    with pytest.raises(ConfigError, match="unknown resolution 'atuo'; did you mean 'auto'"):
        steps("atuo")
