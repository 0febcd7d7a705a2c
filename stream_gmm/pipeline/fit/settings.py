"""How to fit: the options that a fit, a sweep and the configuration share, each written and explained once.

``Settings`` holds the values inside the package. ``FitOptions`` are the same names as keywords of the public
functions; :func:`document_options` puts their explanations into the docstrings of those functions.
"""

from __future__ import annotations

import fnmatch
import inspect
import textwrap
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypedDict, TypeVar

import numpy as np

from stream_gmm.core.display import shorten_list
from stream_gmm.core.estep.kernel_choice import KernelPreference
from stream_gmm.core.fit.accelerate import METHODS
from stream_gmm.core.fit.em import StopRule
from stream_gmm.core.model.moments import Array
from stream_gmm.core.mstep.penalty import Penalty, PseudoRows, Ridge
from stream_gmm.core.mstep.prior import STRUCTURES, ConjugatePrior
from stream_gmm.core.rows.sampling import Sample
from stream_gmm.core.rows.transform_requests import AUTO as TRANSFORM_AUTO
from stream_gmm.core.rows.transform_requests import TransformRequest, assign_transforms, parse_transforms
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError, did_you_mean, one_of, refuse_unknown_keywords
from stream_gmm.io.source.cache import NONE
from stream_gmm.pipeline.passes.tasks import AUTO, CachePolicy

PROFILES = ("full", "sample")
ASIDE, FIT = "aside", "fit"
CONSTANTS = (ASIDE, FIT)
RESOLUTIONS = (AUTO, NONE)
DEFAULT_ACCEL: dict[str, str | None] = {AUTO: AUTO, "em": "none", "minibatch": None}
"""The algorithms, and the acceleration that each stands for; None: it has no full passes to accelerate."""
NAMED_COLUMNS = 100
ACCELERATIONS = (AUTO, *METHODS)
PRIORS: dict[str, Callable[[SuffStats], Penalty]] = {"mclust": ConjugatePrior.of}

F = TypeVar("F", bound=Callable[..., Any])


class FitOptions(TypedDict, total=False):
    """The keywords that :func:`stream_gmm.fit` and :func:`stream_gmm.sweep` share: the fields of ``Settings``."""

    algorithm: str
    accel: str | None
    n_init: int
    tol: float | None
    max_passes: int
    reg_covar: float | None
    random_state: int
    sample_rows: int
    profile: str
    outlier_quantile: float
    holdout: float
    kernel: str
    dtype: str
    cache: str
    cache_bytes: int | None
    prior: str | None
    noise: bool
    constants: str
    resolution: str | Mapping[str, float]
    transforms: str | Mapping[str, Any] | None


def _option(default: Any, text: str) -> Any:
    """Return a dataclass field with its explanation."""
    return field(default=default, metadata={"doc": text})


@dataclass(frozen=True)
class Settings:
    """Options of a fit, validated; every field carries its explanation (:func:`describe_option`).

    Raises
    ------
    ConfigError
        If a value is unknown or out of range, or two values contradict each other.
    """

    algorithm: str = _option(
        AUTO,
        "'auto': exact EM, accelerated so that a few passes suffice. 'em': exact EM as in scikit-learn, one pass a "
        "step. 'minibatch': stepwise EM over row groups in random order, several steps a pass",
    )
    accel: str | None = _option(
        None,
        "Acceleration of exact EM: 'auto' (Anderson acceleration of steps continued on the sample, with a SQUAREM "
        "cycle as fallback), 'anderson', 'squarem', 'lbfgs' or 'none'. None: as the algorithm says. The penalised "
        "log-likelihood of accepted points never falls",
    )
    n_init: int = _option(1, "Restarts on the sample; the best one goes on to the full data")
    tol: float | None = _option(
        None,
        "Predicted remaining gain of the mean log-likelihood at which to stop, nats per row. None: a tenth of the "
        "statistical error, 0.1 p / (2 N) for p parameters and N rows",
    )
    max_passes: int = _option(
        100,
        "Largest number of steps on the full data, or of epochs for mini-batches; one more pass evaluates the last",
    )
    reg_covar: float | None = _option(
        None,
        "Added to the diagonals of the covariances, in units of the data, as in scikit-learn. None: a scale-free "
        "penalty of 1e-8 pseudo-rows for each component instead",
    )
    random_state: int = _option(
        0, "Seed. The same seed and data give the same bits, whatever the executor and the number of workers"
    )
    sample_rows: int = _option(50_000, "Rows of the uniform sample on which fits start")
    profile: str = _option(
        "full",
        "First pass: 'full' reads everything; 'sample' reads leaves drawn at random, five times the rows of the "
        "sample, and reports what those rows are worth",
    )
    outlier_quantile: float = _option(
        0.01, "The outlier threshold is this quantile of the log-density of the sample's rows"
    )
    holdout: float = _option(
        0.0, "Share of the rows, by a hash of file and row number, that no fit uses; their likelihood is reported"
    )
    kernel: str = _option(
        AUTO,
        "E-step kernel: 'auto' (for each candidate and step the fastest whose rounding error is within the bound), "
        "'quadratic', 'sphered' or 'whitened'",
    )
    dtype: str = _option("float64", "'float64', or 'float32': used where its error stays below 1e-3 nats per row")
    cache: str = _option(
        AUTO,
        "Where decoded rows stay after the first pass: 'none', 'memory' or 'disk' of the workers, or 'auto' (memory "
        "for a little data, else disk). The results have the same bits",
    )
    cache_bytes: int | None = _option(
        None, "Largest number of bytes to cache. None: a quarter of the workers' memory, or what the disk has"
    )
    prior: str | None = _option(
        None,
        "'mclust': the conjugate prior of Fraley & Raftery (2007), as mclust's priorControl(), instead of reg_covar "
        "or the penalty; for the six structures with scikit-learn's names",
    )
    noise: bool = _option(
        False,
        "Add a component that is uniform in the bounding box of the data, for rows that belong to no cluster "
        "(Banfield & Raftery 1993); such rows have component -1",
    )
    constants: str = _option(
        ASIDE,
        "Columns with the same value in all rows to fit: 'aside' (they take no part in the fit; the model keeps "
        "their values, and a scored row with another one is an outlier) or 'fit' (like any column, as scikit-learn "
        "does: the outcome is degenerate)",
    )
    resolution: str | Mapping[str, float] = _option(
        NONE,
        "The step in which values were recorded: no component is narrower, so that one on a repeated value is an "
        "atom and not degenerate. 'auto': as the values of the sample show it (whole numbers, decimals, float32); or "
        "a step for each of some columns; 'none'. For the six structures with scikit-learn's names",
    )
    transforms: str | Mapping[str, Any] | None = _option(
        None,
        "What is fitted instead of the values of columns, by name or pattern: 'log1p', 'log', 'standardize', "
        "'asinh', 'yeo_johnson', 'clip', with parameters such as {asinh: {cofactor: 5}}, or 'auto' (what clearly "
        "gains on other rows); one of them alone is for all columns. Densities and criteria stay those of the values",
    )

    def __post_init__(self) -> None:
        accel = DEFAULT_ACCEL[one_of(self.algorithm, DEFAULT_ACCEL, "algorithm")]
        if self.accel is not None:
            one_of(self.accel, ACCELERATIONS, "accel")
        _ = self.preference, self.cache_policy
        one_of(self.profile, PROFILES, "profile")
        one_of(self.constants, CONSTANTS, "constants")
        if isinstance(self.resolution, str):
            one_of(self.resolution, RESOLUTIONS, "resolution")
        parse_transforms(self.transforms)
        steps = () if isinstance(self.resolution, str) else tuple(self.resolution.values())
        checks = (
            (self.accel is None or accel is not None, "accel is for exact EM: algorithm auto or em"),
            (self.profile == "full" or not self.holdout, "holdout needs profile: full"),
            (self.n_init >= 1, "n_init must be at least 1"),
            (self.tol is None or self.tol >= 0.0, "tol must not be negative"),
            (self.max_passes >= 0, "max_passes must not be negative"),
            (self.reg_covar is None or self.reg_covar >= 0.0, "reg_covar must not be negative"),
            (self.prior in (None, *PRIORS), f"prior must be none or {' or '.join(PRIORS)}, not {self.prior!r}"),
            (self.prior is None or self.reg_covar is None, "prior and reg_covar exclude each other"),
            (
                self.resolution == NONE or (self.prior is None and self.reg_covar is None),
                "resolution excludes prior and reg_covar",
            ),
            (all(0.0 <= step < float("inf") for step in steps), "a step of resolution must not be negative"),
            (self.random_state >= 0, "random_state must not be negative"),
            (self.sample_rows >= 1, "sample_rows must be at least 1"),
            (0.0 <= self.outlier_quantile < 1.0, "outlier_quantile must lie in [0, 1)"),
            (0.0 <= self.holdout < 1.0, "holdout must lie in [0, 1)"),
        )
        problems = [message for holds, message in checks if not holds]
        if problems:
            raise ConfigError("; ".join(problems) + ".")

    @classmethod
    def from_options(cls, options: FitOptions) -> Settings:
        """Return the settings of keyword arguments.

        Raises
        ------
        TypeError
            If a keyword is unknown; names the nearest known one.
        ConfigError
            As the constructor.
        """
        refuse_unknown_keywords(options, cls.__dataclass_fields__)
        return cls(**options)

    @property
    def decisive(self) -> dict[str, Any]:
        """The options that decide a fit: all but those of the cache and of the outlier threshold."""
        left_out = {
            "cache",
            "cache_bytes",
            "outlier_quantile",
            *(() if parse_transforms(self.transforms) else ("transforms",)),
        }
        return {k: v for k, v in asdict(self).items() if k not in left_out}

    @property
    def rule(self) -> StopRule:
        """The stop rule on the full data."""
        return StopRule(self.tol, self.max_passes)

    @property
    def acceleration(self) -> str | None:
        """The acceleration of exact EM in force, by name; None if there are no such passes."""
        return self.accel or DEFAULT_ACCEL[self.algorithm]

    @property
    def preference(self) -> KernelPreference:
        """Which kernels may be used."""
        return KernelPreference(self.kernel, self.dtype)

    @property
    def cache_policy(self) -> CachePolicy:
        """Where decoded rows stay between passes."""
        return CachePolicy(self.cache, self.cache_bytes)

    def penalty_of(self, moments: SuffStats) -> Penalty:
        """Return what keeps covariances away from singular ones, for rows of these moments."""
        if self.prior is not None:
            return PRIORS[self.prior](moments)
        return PseudoRows.of(moments) if self.reg_covar is None else Ridge(self.reg_covar)

    def find_steps(self, columns: Sequence[str], sample: Sample, transformed: Container[str] = ()) -> Array:
        """Return the recording steps ``(D,)`` of the columns of a sample; 0 where there is none.

        A column that is ``transformed`` has none: its values are not recorded in equal steps.

        Raises
        ------
        ConfigError
            If a step is given for a transformed column.
        """
        if isinstance(self.resolution, str):
            plain = np.array([c not in transformed for c in columns])
            return sample.steps * plain if self.resolution == AUTO else np.zeros(len(columns))
        for name in self.resolution:
            if name in transformed:
                raise ConfigError(
                    f"resolution gives a step for '{name}', which is transformed: leave one of them out."
                )
        return np.array([self.resolution.get(name, 0.0) for name in columns])

    def check_columns(self, columns: Sequence[str]) -> dict[str, TransformRequest]:
        """Refuse options for columns that are not among those to fit; return what is asked for each that is.

        Raises
        ------
        ConfigError
            Names all of them, each with the nearest column.
        """
        steps = () if isinstance(self.resolution, str) else tuple(self.resolution)
        requests = parse_transforms(self.transforms)
        wrong = [f"resolution names '{n}'{did_you_mean(n, columns)}" for n in steps if n not in columns]
        wrong += [
            f"transforms names '{n}'{did_you_mean(n, columns)}" for n in requests if not fnmatch.filter(columns, n)
            and n not in columns
        ]  # fmt: skip
        if wrong:
            raise ConfigError(f"{' '.join(wrong)} The columns to fit are {shorten_list(columns, NAMED_COLUMNS)}.")
        found = assign_transforms(requests, columns)
        both = [n for n in steps if n in found and found[n].kind != TRANSFORM_AUTO]
        if both:
            raise ConfigError(f"resolution gives steps for columns that are transformed: {', '.join(both)}.")
        return found

    def check_structures(self, names: Sequence[str]) -> None:
        """Refuse structures for which the prior or the resolution is not defined.

        Raises
        ------
        ConfigError
            If there is one.
        """
        unknown = [n for n in names if n not in STRUCTURES]
        what = "resolution" if self.resolution != NONE else f"prior {self.prior!r}" if self.prior is not None else ""
        if what and unknown:
            raise ConfigError(f"{what} is defined for {', '.join(STRUCTURES)}, and not for {', '.join(unknown)}.")


def describe_option(name: str, options: type = Settings) -> str:
    """Return the explanation of an option of :class:`Settings`, or of another such class."""
    return str(options.__dataclass_fields__[name].metadata["doc"])  # type: ignore[attr-defined]


def document_options(function: F) -> F:
    """Complete a function that takes ``**options: Unpack[FitOptions]``.

    The options appear one by one in its signature, and ``{options}`` in its docstring becomes their explanations.
    """
    return document_fields(Settings)(function)


def document_fields(options: Any) -> Callable[[F], F]:
    """Return a decorator that does the same for a function which takes the fields of another dataclass."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        explicit = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        added, entries = [], []
        for f in fields(options):
            added.append(
                inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
            )
            text = textwrap.fill(f"{f.metadata['doc']}.", 100, break_on_hyphens=False)
            entries.append(f"{f.name}\n{textwrap.indent(text, '    ')}")
        # cleandoc: from Python 3.13 on the compiler removes the indentation, before that nobody does.
        function.__doc__ = inspect.cleandoc(function.__doc__ or "").replace("{options}", "\n".join(entries))
        function.__signature__ = signature.replace(parameters=[*explicit, *added])  # type: ignore[attr-defined]
        return function

    return decorate
