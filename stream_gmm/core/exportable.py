"""The methods of a model that turn it into something for other programs."""

from __future__ import annotations

import importlib
from typing import Any


class Exportable:
    """Adds ``to_sklearn``, ``to_json`` and ``to_onnx``; the work is done in the room ``stream_gmm.export``."""

    def to_sklearn(self) -> Any:
        """Return a fitted ``sklearn.mixture.GaussianMixture`` with the same parameters.

        A structure that scikit-learn does not have becomes ``"full"``, or ``"diag"`` if its covariances are diagonal.
        The outlier threshold and constant columns are left behind; :func:`stream_gmm.from_sklearn` is the way back.

        Raises
        ------
        ConfigError
            If the model has a noise component or transforms, which scikit-learn cannot express.
        """
        return _import_export("sklearn_mixtures").to_sklearn(self)

    def to_json(self) -> str:
        """Return the whole model as JSON; :func:`stream_gmm.from_json` gives back the same bits."""
        return str(_import_export("json_models").to_json(self))

    def to_onnx(self) -> bytes:
        """Return an ONNX file of standard operators: ``X (N, D)`` to label, probabilities and log-density in nats.

        Raises
        ------
        ConfigError
            If the package ``onnx`` is not installed, or the columns are transformed.
        """
        return bytes(_import_export("onnx_models").to_onnx(self))


def _import_export(name: str) -> Any:
    """Return a module of a room that is above this one: a method may reach it, the import order stays."""
    return importlib.import_module(f"stream_gmm.export.{name}")
