"""Models as ONNX graphs of standard operators in float64."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import numpy as np

from stream_gmm.core.result import FitResult
from stream_gmm.errors import ConfigError, explain
from stream_gmm.extras import import_extra

OPSET = 18
IR_VERSION = 10


def to_onnx(model: FitResult) -> bytes:
    """Return a model as an ONNX file: input ``X (N, D)``, float64, in the order of ``model.columns``.

    Outputs: ``label (N,)`` (int64; -1 for noise), ``probabilities (N, K)``, and ``log_density (N,)`` in nats,
    float64. They agree with the model to rounding. The metadata name the columns, the digest and the outlier
    threshold; a constant column is not an input, and is not compared.

    Raises
    ------
    MissingPackageError
        If the package ``onnx`` is not installed.
    ConfigError
        If the columns are transformed.
    """
    onnx = import_extra("onnx", "a model as ONNX")
    from onnx import TensorProto, helper, numpy_helper

    if model.transforms:
        raise ConfigError(
            explain("a model with transforms of columns cannot become ONNX", remedy="fit without transforms")
        )
    density = model.density
    k, d = density.means.shape
    matrices = density.whitener.ndim == 3
    constants = {
        "means": density.means[:, None, :],
        "whitener": density.whitener if matrices else density.whitener[:, None, :],
        "log_norm": density.log_norm[:, None],
        "half": np.array(-0.5),
        "background": np.array([[density.background]]),
        "columns_axis": np.array([2], np.int64),
        "components_axis": np.array([0], np.int64),
        "no_label": np.array(-1, np.int64),
    }
    node = helper.make_node
    # Centred before it is multiplied, so that no digits cancel: (K, N, D).
    nodes = [
        node("Unsqueeze", ["X", "components_axis"], ["rows"]),
        node("Sub", ["rows", "means"], ["centred"]),
        node("MatMul" if matrices else "Mul", ["centred", "whitener"], ["whitened"]),
        node("ReduceSumSquare", ["whitened", "columns_axis"], ["squared"], keepdims=0),
        node("Mul", ["squared", "half"], ["exponent"]),
        node("Add", ["exponent", "log_norm"], ["joint"]),
        node("ArgMax", ["joint"], ["best"], axis=0, keepdims=0),
    ]
    if density.noisy:
        nodes += [
            node("ReduceMax", ["joint", "components_axis"], ["highest"], keepdims=1),
            node("Sub", ["highest", "highest"], ["zeros"]),
            node("Add", ["zeros", "background"], ["noise"]),
            node("Concat", ["joint", "noise"], ["all"], axis=0),
            node("ReduceMax", ["joint", "components_axis"], ["top"], keepdims=0),
            node("Squeeze", ["noise", "components_axis"], ["noise_row"]),
            node("Less", ["top", "noise_row"], ["is_noise"]),
            node("Where", ["is_noise", "no_label", "best"], ["label"]),
        ]
    else:
        nodes += [node("Identity", ["joint"], ["all"]), node("Identity", ["best"], ["label"])]
    nodes += [
        node("ReduceLogSumExp", ["all", "components_axis"], ["total"], keepdims=1),
        node("Squeeze", ["total", "components_axis"], ["log_density"]),
        node("Sub", ["joint", "total"], ["log_proba"]),
        node("Exp", ["log_proba"], ["proba"]),
        node("Transpose", ["proba"], ["probabilities"], perm=[1, 0]),
    ]

    def info(name: str, kind: int, *shape: Any) -> Any:
        return helper.make_tensor_value_info(name, kind, list(shape))

    graph = helper.make_graph(
        nodes, "gaussian_mixture", [info("X", TensorProto.DOUBLE, "N", d)],
        [
            info("label", TensorProto.INT64, "N"), info("probabilities", TensorProto.DOUBLE, "N", k),
            info("log_density", TensorProto.DOUBLE, "N"),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in constants.items()],
    )  # fmt: skip
    out = helper.make_model(
        graph, producer_name="stream-gmm", producer_version=version("stream-gmm"),
        opset_imports=[helper.make_opsetid("", OPSET)],
    )  # fmt: skip
    out.ir_version = IR_VERSION
    helper.set_model_props(
        out,
        {
            "columns": json.dumps(list(model.columns)),
            "digest": model.digest,
            "outlier_threshold": repr(model.threshold),
            "covariance_type": model.covariance_type,
        },
    )
    onnx.checker.check_model(out)
    return bytes(out.SerializeToString(deterministic=True))
