from __future__ import annotations

import json

import joblib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as SklearnMixture

import stream_gmm as sg
from stream_gmm.cli.commands import cli
from stream_gmm.core.criteria import Criteria
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.covariance import FAMILIES
from stream_gmm.core.rows.constants import Constant
from stream_gmm.errors import ConfigError, InputDataError, ModelFileError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def _make_model(family, d=3, noise=None, far=0.0, **given):
    rng = np.random.default_rng(3)
    k, weights = 3, np.array([0.5, 0.3, 0.2])
    shapes = rng.normal(size=(k, d, d))
    matrices = shapes @ shapes.transpose(0, 2, 1) + 0.3 * np.eye(d)
    if not family.matrices:
        matrices = np.einsum("kdd->kd", matrices)
    weights = weights * (0.9 if noise is not None else 1.0)
    params = sg.MixtureParams.from_matrices(weights, far + 4.0 * rng.normal(size=(k, d)), matrices, family, noise)
    columns = tuple(f"x{j}" for j in range(d))
    return sg.FitResult(
        params, Outcome.CONVERGED, Criteria(-10.0, 5, 4.0, 0.1, 0.1), (-3.0, -2.5), 1, columns=columns,
        threshold=-8.0, **given,
    )  # fmt: skip


def _rows(model, n=400):
    rows, _ = model.sample(n, random_state=1)
    return pd.DataFrame(rows, columns=list(model.columns))


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name not in ("E", "V")], ids=lambda f: f.name)
@pytest.mark.parametrize("far", [0.0, 1e5])
def test_scikit_learn_gives_the_same_scores_for_every_structure(family, far):
    model = _make_model(family, far=far)
    rows = _rows(model)
    theirs = model.to_sklearn()
    # Far from the origin scikit-learn itself loses digits: it does not centre the rows before it whitens them.
    atol = 1e-9 if far == 0.0 else 1e-3

    np.testing.assert_allclose(theirs.predict_proba(rows), model.predict_proba(rows), atol=atol)
    np.testing.assert_allclose(theirs.score_samples(rows), model.score_samples(rows), atol=atol)
    assert theirs.covariance_type in ("full", "tied", "diag", "spherical")
    assert (theirs.covariance_type == "full") == (family.matrices and family.name != "tied")
    np.testing.assert_allclose(
        np.broadcast_to(_dense(theirs), (3, 3, 3)), np.broadcast_to(model.params.dense_covariances, (3, 3, 3))
    )
    back = sg.from_sklearn(theirs)
    np.testing.assert_allclose(back.score_samples(rows), model.score_samples(rows), atol=1e-9 * max(1.0, far))
    assert (back.columns, back.converged_) == (model.columns, True)


def _dense(mixture):
    c, d = mixture.covariances_, mixture.means_.shape[1]
    return {"full": lambda: c, "tied": lambda: c[None], "diag": lambda: c[:, :, None] * np.eye(d),
            "spherical": lambda: c[:, None, None] * np.eye(d)}[mixture.covariance_type]()  # fmt: skip


def test_a_mixture_of_scikit_learn_becomes_a_model_that_is_saved_scored_and_compared(tmp_path):
    X = np.random.default_rng(0).normal(size=(500, 2)) + 5.0 * np.repeat([[0, 0], [1, 0]], 250, axis=0)
    theirs = SklearnMixture(2, random_state=0).fit(X)
    model = sg.from_sklearn(theirs, X, outlier_quantile=0.02)

    assert (model.predict(X) == theirs.predict(X)).all()
    assert model.bic(X) == pytest.approx(theirs.bic(X), rel=1e-12)
    assert model.criteria.bic == pytest.approx(theirs.bic(X), rel=1e-12)
    assert model.is_outlier(X).mean() == pytest.approx(0.02, abs=0.003)
    assert sg.load_model(sg.save_model(model, tmp_path / "m.gmm")).digest == model.digest
    with pytest.raises(ConfigError, match="before fit"):
        sg.from_sklearn(SklearnMixture(2))
    with pytest.raises(ConfigError, match="not BayesianGaussianMixture"):
        sg.from_sklearn(BayesianGaussianMixture(n_components=2).fit(X))
    with pytest.raises(InputDataError, match="2 features"):
        sg.from_sklearn(theirs, np.zeros((3, 5)))


def test_what_scikit_learn_cannot_express_is_refused():
    noisy = _make_model(_family("full"), noise=_BOX)
    with pytest.raises(ConfigError, match="noise component"):
        noisy.to_sklearn()


def _family(name):
    return next(f for f in FAMILIES if f.name == name)


_BOX = np.array([[-30.0] * 3, [30.0] * 3])


def test_json_gives_back_the_same_bits_and_shows_damage():
    model = _make_model(
        _family("tied"), noise=_BOX, constants=(Constant("flag", 1.0, 1),), provenance={"made": "here"}
    )
    text = model.to_json()
    again = sg.from_json(text)
    content = json.loads(text)

    assert again.digest == model.digest
    assert again.to_json() == text
    assert (again.constants, again.columns, again.provenance) == (model.constants, model.columns, model.provenance)
    assert content["means"] == model.means_.tolist()
    for change in ({"kind": "x"}, {"format": 99}, {"weights": [0.4, 0.3, 0.2]}, {"means": None}, {"columns": ["a"]}):
        with pytest.raises(ModelFileError):
            sg.from_json(json.dumps(content | change))
    for text in ("", "[]", "{}", '{"kind": "stream-gmm model"}'):
        with pytest.raises(ModelFileError):
            sg.from_json(text)


@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical", "VEV", "EVI"])
@pytest.mark.parametrize("noise", [None, _BOX], ids=["plain", "noise"])
def test_onnx_gives_the_same_scores(name, noise):
    model = _make_model(
        next(f for f in FAMILIES if name in (f.name, f.mclust)), noise=noise, far=1e4 if noise is None else 0.0
    )
    rows = np.vstack([_rows(model).to_numpy(), model.means_ + 25.0])
    session = onnxruntime.InferenceSession(model.to_onnx(), providers=["CPUExecutionProvider"])
    label, proba, log_density = session.run(None, {"X": rows})
    scores = model.scores(rows)

    np.testing.assert_array_equal(label, scores.component)
    np.testing.assert_allclose(proba, scores.proba, atol=1e-12)
    np.testing.assert_allclose(log_density, scores.log_density, rtol=1e-12)
    assert (label < 0).any() == (noise is not None)
    meta = session.get_modelmeta().custom_metadata_map
    assert json.loads(meta["columns"]) == list(model.columns)
    assert meta["digest"] == model.digest
    domains = {n.domain for n in onnx.load_from_string(model.to_onnx()).graph.node}
    assert domains == {""}


def test_the_command_export_writes_every_format(tmp_path):
    model = _make_model(_family("full"))
    path, rows = sg.save_model(model, tmp_path / "m.gmm"), _rows(model)
    for form, name in (("json", "m.json"), ("onnx", "m.onnx"), ("sklearn", "m.joblib")):
        done = CliRunner().invoke(cli, ["export", str(path), "--format", form])
        assert done.exit_code == 0, done.output
        assert done.output.strip() == str(tmp_path / name)
    assert sg.from_json((tmp_path / "m.json").read_text()).digest == model.digest
    np.testing.assert_allclose(joblib.load(tmp_path / "m.joblib").score_samples(rows), model.score_samples(rows))
    assert onnxruntime.InferenceSession(tmp_path / "m.onnx").get_inputs()[0].shape == ["N", 3]
