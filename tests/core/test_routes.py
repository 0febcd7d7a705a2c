from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_gmm.core.estep.batch import compile_batch
from stream_gmm.core.estep.kernel_choice import (
    ALLOWED,
    DTYPES,
    QUADRATIC,
    SPHERED,
    WHITENED,
    KernelPreference,
    _feature_coordinates,
    bound_rounding_error,
    choose_kernel,
)  # fmt: skip
from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.density import compile_density
from stream_gmm.core.model.draw import draw_rows
from stream_gmm.core.model.features import DIAGONAL_ORDER, ISOTROPIC_ORDER, LINEAR_ORDER, QUADRATIC_ORDER
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.rows.scaling import Scaling
from stream_gmm.errors import ConfigError
from tests.strategies import families, random_params, seeds


def _features(family, coordinates, rows, dtype):
    """The features of the rows in their type, as products that are rounded one by one."""
    z = coordinates.apply(rows).T.astype(dtype)
    i, j = np.triu_indices(len(z))
    further = {
        LINEAR_ORDER: z[:0], ISOTROPIC_ORDER: (z * z).sum(0, keepdims=True), DIAGONAL_ORDER: z * z,
        QUADRATIC_ORDER: z[i] * z[j],
    }  # fmt: skip
    return np.vstack([np.ones((1, len(rows)), dtype), z, further[family.features.order]])


def _log_density(params, density, coordinates, rows, k, dtype):
    """Log-density of component k by features, as the kernel computes it."""
    family = params.family
    pack_candidates = family.features.pack(
        density.log_norm, coordinates.apply(density.means), coordinates.transform_whitener(density.whitener)
    )
    out = (pack_candidates[k].astype(dtype) @ _features(family, coordinates, rows, dtype)).astype(np.longdouble)
    if family.features.order == LINEAR_ORDER:
        y = _whiten(density, rows - coordinates.shift.astype(np.longdouble), k)
        out = out - 0.5 * (y * y).sum(1)
    return out


def _whiten(density, centred, k):
    u = density.whitener[k] if density.whitener.ndim == 3 else np.diag(density.whitener[k])
    return np.asarray(centred, np.longdouble) @ u.astype(np.longdouble)


def _exact(density, rows, k):
    y = _whiten(density, rows.astype(np.longdouble) - density.means[k].astype(np.longdouble), k)
    return density.log_norm[k] - 0.5 * (y * y).sum(1)


def _harsh(seed, d, family):
    """Components that are small, far apart and ill conditioned, by up to six orders of magnitude."""
    rng = np.random.default_rng(seed)
    size, distance, condition = 10.0 ** rng.uniform([-4, -1, 0], [0, 3, 6])
    turns = np.linalg.qr(rng.normal(size=(3, d, d)))[0]
    spread = size**2 * condition ** -rng.uniform(size=(3, d))
    scatter = family.moments.condense((turns * spread[:, None, :]) @ turns.transpose(0, 2, 1))
    covariances = family.estimate(np.ones(3), scatter)
    return MixtureParams(np.full(3, 1 / 3), rng.normal(scale=distance * size, size=(3, d)), covariances, family), rng


@pytest.mark.parametrize("dtype", DTYPES)
@given(seeds, st.integers(1, 30), families)
@settings(max_examples=60)
def test_the_bound_on_the_rounding_error_holds(dtype, seed, d, family):
    params, rng = _harsh(seed, d, family)
    density = compile_density(params)
    factors = np.linalg.cholesky(params.dense_covariances)
    own = [params.means[k] + rng.normal(size=(100, d)) @ factors[k].T for k in range(3)]
    for _, coordinates in _feature_coordinates(params, Scaling.of_rows(np.vstack(own))):
        bound = bound_rounding_error(params, density, coordinates, dtype)
        errors = [
            np.abs(_log_density(params, density, coordinates, own[k], k, dtype) - _exact(density, own[k], k)).max()
            for k in range(3)
        ]
        assert float(max(errors)) <= bound


def _pair(distance, sd, name="full"):
    """Two components, one of them small, in one column or two."""
    family = family_named(name)
    covariances = family.estimate(np.ones(2), family.moments.condense(np.array([np.eye(2), sd**2 * np.eye(2)])))
    return MixtureParams([0.5, 0.5], [[0.0, 0.0], [distance, distance]], covariances, family)


def test_the_guard_refuses_features_where_they_would_be_wrong():
    scaling = Scaling.identity(2)

    assert compile_batch([_pair(1.0, 1e-5)], scaling).kernels_used == (WHITENED,)
    assert compile_batch([_pair(1.0, 1e-1)], scaling).kernels_used == (QUADRATIC,)


def test_correlated_columns_are_sphered(rng):
    """Columns that nearly say the same: no scaling of single columns helps, decorrelating does."""
    mixing = np.array([[1.0, 1.0], [0.0, 1e-4]])
    covariance = mixing.T @ mixing
    params = MixtureParams([0.5, 0.5], [[0.0, 0.0], [2.0, 2.0]], [covariance, covariance], family_named("full"))
    rows = draw_rows(params, 2000, rng)[0]

    assert compile_batch([params], Scaling.of_rows(rows)).kernels_used == (SPHERED,)


def test_collinear_columns_leave_no_root(rng):
    x = rng.normal(size=(500, 1))

    assert Scaling.of_rows(np.hstack([x, 2.0 * x])).root is None
    assert Scaling.of_rows(np.hstack([x, rng.normal(size=(500, 1))])).root is not None


def test_float32_is_chosen_only_where_its_error_bound_allows():
    preference = KernelPreference(dtype="float32")

    assert compile_batch([_pair(1.0, 0.5)], Scaling.identity(2), preference).choices == ((QUADRATIC, "float32"),)
    assert compile_batch([_pair(1.0, 1e-2)], Scaling.identity(2), preference).choices == ((QUADRATIC, "float64"),)


@pytest.mark.parametrize("kernel", [QUADRATIC, SPHERED, WHITENED])
def test_a_kernel_can_be_forced(kernel, rng):
    params = random_params(rng, 3, 2, family_named("full"))
    rows = draw_rows(params, 100, rng)[0]

    assert compile_batch([params], Scaling.of_rows(rows), KernelPreference(kernel)).kernels_used == (kernel,)


def test_many_columns_and_one_component_are_whitened():
    """81 x 82 / 2 features and one component: there are more features than there is work to do."""
    d, family = 80, family_named("full")
    params = MixtureParams([1.0], np.eye(1, d), np.eye(d)[None], family)
    density = compile_density(params)

    assert bound_rounding_error(params, density, Scaling.identity(d), "float64") < ALLOWED["float64"]
    assert choose_kernel(params, density, Scaling.identity(d)).kernel == WHITENED


@pytest.mark.parametrize("wrong", [{"kernel": "quadradic"}, {"dtype": "float16"}])
def test_an_unknown_preference_is_refused(wrong):
    with pytest.raises(ConfigError, match="did you mean"):
        KernelPreference(**wrong)
