"""Every error a caller can cause: what happened, where, why, and what to do about it.

One base class, one leaf per documented exit code. This module imports nothing of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StreamGMMError(ValueError):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class ConfigError(StreamGMMError):
    """A setting is unknown, malformed, or contradicts another."""

    exit_code = 2


class InputDataError(StreamGMMError):
    """The data cannot be read, or cannot be used as asked."""

    exit_code = 3


class ModelFileError(StreamGMMError):
    """A model file is damaged, foreign, or from a newer version."""

    exit_code = 4


class StorageError(StreamGMMError):
    """The output cannot be written or published; what was there before is untouched."""

    exit_code = 6


class ClusterError(StreamGMMError):
    """The Dask cluster cannot be reached, or lost the work for good."""

    exit_code = 7


class NoAdmissibleModelError(StreamGMMError):
    """Every candidate of a sweep failed or is degenerate."""

    exit_code = 8


class SingularCovarianceError(NoAdmissibleModelError):
    """A covariance is not positive definite, and no floor could mend it."""


class ConvergenceWarning(UserWarning):
    """A fit ended without having converged; its ``outcome`` says how, and the message what to do."""


class NotFittedError(StreamGMMError, AttributeError):
    """A method that needs a fitted model was called before ``fit``."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def one_of(name: str, known: Iterable[str], what: str) -> str:
    """Return ``name`` if it is known.

    Raises
    ------
    ConfigError
        If not; the message gives the nearest known one, and all of them.
    """
    known = list(known)
    if name not in known:
        raise ConfigError(f"unknown {what} {name!r}{did_you_mean(str(name), known)} Known: {', '.join(known)}.")
    return name


def explain(what: str, *, why: str = "", remedy: str = "") -> str:
    """Join the three parts of a message: what happened, why, and how to go on."""
    return " ".join(part.rstrip(".") + "." for part in (what, why, remedy) if part)
