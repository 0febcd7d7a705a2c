"""Packages that only a part needs: which extra installs them, and what is said where one is missing.

A module imports such a package where it is used, by :func:`import_extra`; what can do without asks
:func:`is_installed`.

May import: :mod:`stream_gmm.errors`; every room but core may import it. Where to begin: :func:`import_extra`.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from stream_gmm.errors import MissingPackageError, explain

EXTRAS = {
    "matplotlib": "plot",
    "prefect": "prefect",
    "deltalake": "delta",
    "pyiceberg": "iceberg",
    "onnx": "onnx",
    "mlflow": "mlflow",
    "bokeh": "dashboard",
}
"""The extra of ``stream-gmm`` that installs a package."""


def is_installed(package: str) -> bool:
    """Return True if a package can be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None


def import_extra(package: str, what: str) -> Any:
    """Return a package that ``what`` (the subject of the message) needs.

    Raises
    ------
    MissingPackageError
        If it is not installed; says which extra installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        why = "which is not installed" if missing else f"which cannot be imported ({error})"
        raise MissingPackageError(
            explain(f"{what} needs the package {package}, {why}", remedy=describe_installation(package))
        ) from error


def describe_installation(package: str) -> str:
    """Return the command that installs a package of an extra."""
    return f"pip install 'stream-gmm[{EXTRAS[package]}]'"
