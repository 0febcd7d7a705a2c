"""A plugin of pytest that puts our class in the place of ``sklearn.mixture.GaussianMixture`` before tests import it.

The environment variable ``SHIM`` says which: ``own``, with our defaults, or ``sklearn``, with those of scikit-learn.
"""

from __future__ import annotations

import os
from typing import Any

import sklearn.mixture

import stream_gmm as sg


class GaussianMixture(sg.GaussianMixture):
    """Our mixture with scikit-learn's defaults."""

    def __init__(
        self, n_components: int = 1, *, covariance_type: str = "full", tol: float = 1e-3, reg_covar: float = 1e-6,
        max_iter: int = 100, n_init: int = 1, init_params: str = "kmeans", weights_init: Any = None,
        means_init: Any = None, precisions_init: Any = None, random_state: Any = None, warm_start: bool = False,
        verbose: int = 0, verbose_interval: int = 10,
    ) -> None:  # fmt: skip
        super().__init__(
            n_components, covariance_type=covariance_type, tol=tol, reg_covar=reg_covar, max_iter=max_iter,
            n_init=n_init, init_params=init_params, weights_init=weights_init, means_init=means_init,
            precisions_init=precisions_init, random_state=random_state, warm_start=warm_start, verbose=verbose,
            verbose_interval=verbose_interval, algorithm="em",
        )  # fmt: skip


if "SHIM" in os.environ:
    sklearn.mixture.GaussianMixture = {"own": sg.GaussianMixture, "sklearn": GaussianMixture}[os.environ["SHIM"]]
    sklearn.mixture.BayesianGaussianMixture = sg.BayesianGaussianMixture
