"""Every error a caller can cause: what happened, where, why, and what to do about it; and how secrets stay out of it.

One base class, one subclass per documented exit code. This module imports nothing else of the package.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

# Greedy up to the last '@' of a word: secret keys contain '/', ':' and '@', although they should be escaped.
_USER_AND_SECRET = re.compile(r"://[^\s'\"<>]*:[^\s'\"<>]*@")
_USER = re.compile(r"(?<!abfs)(?<!abfss)://[^\s'\"<>/@]*@")  # in abfs://container@account it is no user
_SECRET_OPTION = re.compile(r"(?i)([?&;][\w.-]*(?:secret|token|passw|sig|key|credential)[\w.-]*=)[^&;\s'\"<>]+")
_SECRET_NAME = re.compile(r"(?i)secret|token|passw|credential|api_?key|private|access_?key|account_?key|sas|auth")
HIDDEN = "***"


def redact_text(text: str) -> str:
    """Return a text without the credentials of the URIs in it: ``s3://key:secret@bucket`` -> ``s3://***@bucket``."""
    text = _USER_AND_SECRET.sub(f"://{HIDDEN}@", text)
    text = _USER.sub(f"://{HIDDEN}@", text)
    return _SECRET_OPTION.sub(rf"\1{HIDDEN}", text)


def remove_credentials(uri: str) -> str:
    """Return a URI as it is when the credentials are elsewhere: ``s3://key:secret@bucket`` -> ``s3://bucket``."""
    redacted = redact_text(uri)
    if redacted == uri:
        return uri
    place, _, options = redacted.replace(f"://{HIDDEN}@", "://").partition("?")
    kept = [option for option in re.split("[&;]", options) if option and not option.endswith(f"={HIDDEN}")]
    return f"{place}?{'&'.join(kept)}" if kept else place


def redact_value(value: Any) -> Any:
    """Return a value of JSON or YAML without credentials: in URIs, and below keys that are named like a secret."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {k: HIDDEN if _SECRET_NAME.search(str(k)) and v else redact_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(v) for v in value]
    return value


def redact_error(error: BaseException) -> None:
    """Remove credentials from the messages of an exception and of those it was raised from, in place."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        current.args = tuple(redact_text(a) if isinstance(a, str) else a for a in current.args)
        if isinstance(current, OSError) and isinstance(current.filename, str):
            current.filename = redact_text(current.filename)
        waiting += [current.__cause__, current.__context__]


class StreamGMMError(ValueError):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line returns.

    The message never holds credentials: they are removed from every URI in it.
    """

    exit_code = 1

    def __init__(self, *args: Any) -> None:
        super().__init__(*(redact_text(a) if isinstance(a, str) else a for a in args))


class ConfigError(StreamGMMError):
    """A setting is unknown, malformed, or contradicts another."""

    exit_code = 2


class MissingPackageError(ConfigError, ImportError):
    """A package is needed that only an extra of ``stream-gmm`` installs."""


class InputDataError(StreamGMMError):
    """The data cannot be read, or cannot be used as asked."""

    exit_code = 3


class InputTypeError(InputDataError, TypeError):
    """The data are of a type that cannot be used."""


class ModelFileError(StreamGMMError):
    """A model file is damaged, foreign, or from a newer version."""

    exit_code = 4


class DamagedResultError(StreamGMMError):
    """Published files are not as they were written."""

    exit_code = 4


class FolderInUseError(StreamGMMError):
    """Another run holds the output folder; nothing was written."""

    exit_code = 5


class StorageError(StreamGMMError):
    """The output cannot be written or published; what was there before is untouched."""

    exit_code = 6


class ClusterError(StreamGMMError):
    """The Dask cluster cannot be reached, or lost the work for good."""

    exit_code = 7


class DriftError(StreamGMMError):
    """The rows have drifted from the model, over the threshold; what was published before stays as it is."""

    exit_code = 11


class NoAdmissibleModelError(StreamGMMError):
    """Every candidate of a sweep failed or is degenerate."""

    exit_code = 8


class SingularCovarianceError(NoAdmissibleModelError):
    """A covariance is not positive definite, and no lower bound could repair it."""


class ConvergenceWarning(UserWarning):
    """A fit ended without having converged; its ``outcome`` says how, and the message what to do."""


class NotFittedError(StreamGMMError, AttributeError):
    """A method that needs a fitted model was called before ``fit``."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or a full stop."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else "."


def refuse_unknown_keywords(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keyword arguments that a function does not have.

    Raises
    ------
    TypeError
        If one is unknown; names the nearest known one.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise TypeError(f"unexpected keyword argument {name!r}{did_you_mean(name, known)}")


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


def check_whole_number(name: str, value: Any, least: int) -> None:
    """Refuse what is not a whole number of at least ``least``.

    Raises
    ------
    ConfigError
        Names the parameter.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}.")


def check_number(name: str, value: Any, least: float = 0.0) -> None:
    """Refuse what is neither None nor a finite number of at least ``least``.

    Raises
    ------
    ConfigError
        Names the parameter.
    """
    if value is None:
        return
    if not isinstance(value, Real) or isinstance(value, bool) or not least <= float(value) < math.inf:
        raise ConfigError(f"{name} must be None or a finite number of at least {least:g}, not {value!r}.")


def explain(what: str, *, why: str = "", remedy: str = "") -> str:
    """Join the three parts of a message: what happened, why, and how to go on."""
    return " ".join(part if part.endswith("?") else part.rstrip(".") + "." for part in (what, why, remedy) if part)
