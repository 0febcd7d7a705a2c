"""How to fit: the options that a fit and a sweep share, and the algorithms by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stream_gmm.core.estep.kernel_choice import KernelPreference
from stream_gmm.core.fit.accelerate import METHODS
from stream_gmm.core.fit.em import (
    StopRule,
)
from stream_gmm.core.mstep.penalty import Penalty, PseudoRows, Ridge
from stream_gmm.core.mstep.prior import STRUCTURES, ConjugatePrior
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ConfigError, one_of
from stream_gmm.pipeline.passes.tasks import AUTO, CachePolicy

PROFILES = ("full", "sample")
DEFAULT_ACCEL: dict[str, str | None] = {AUTO: AUTO, "em": "none", "minibatch": None}
"""The algorithms, and the acceleration that each stands for; None: it has no full passes to accelerate."""
ACCELERATIONS = (AUTO, *METHODS)
PRIORS: dict[str, Callable[[SuffStats], Penalty]] = {"mclust": ConjugatePrior.of}


@dataclass(frozen=True)
class Settings:
    """Options of a fit.

    Parameters
    ----------
    algorithm
        ``"auto"`` (exact EM, accelerated), ``"em"`` (exact EM, step by step as in scikit-learn) or
        ``"minibatch"`` (stepwise EM over row groups in random order).
    accel
        How exact EM is accelerated: ``"auto"`` (Anderson acceleration of steps continued on the sample, with a
        SQUAREM cycle as a fallback), ``"anderson"``, ``"squarem"`` or ``"none"``. None: what ``algorithm`` says.
    n_init
        Restarts on the sample; the best goes on.
    tol
        Predicted remaining gain at which to stop, nats per row; None: a tenth of the statistical
        error, ``0.1 p / (2 N)``.
    max_passes
        Largest number of steps on the full data (epochs, for mini-batches).
    reg_covar
        Added to the diagonals of the covariances, as in scikit-learn, in units of the data. None: a penalty of
        1e-8 pseudo-rows for each component instead, which knows no units.
    sample_rows
        Rows of the uniform sample on which fits are started.
    profile
        ``"full"``: the first pass reads everything. ``"sample"``: it reads leaves drawn at random, for five times
        the rows of the sample; what those are worth is estimated and reported.
    outlier_quantile
        Share of rows that the outlier threshold cuts off.
    holdout
        Share of the rows that no fit uses; their log-likelihood is reported for every candidate.
    kernel
        ``"auto"``: the fastest that holds the bound on rounding errors, for each candidate and step;
        or one by name: ``"quadratic"``, ``"sphered"``, ``"whitened"``.
    dtype
        ``"float64"``; ``"float32"``: where its rounding error stays below 1e-3 nats a row.
    cache
        Where decoded rows stay after the first pass: ``"none"``, ``"memory"`` and ``"disk"`` (of the
        workers), or ``"auto"``: memory for a little data, else disk.
    cache_bytes
        At most so many bytes are kept; None: a quarter of the workers' memory, or what the disk has.
    prior
        ``"mclust"``: the conjugate prior of Fraley & Raftery (2007) in place of a penalty or ridge.
    noise
        One more component, uniform in the box that holds the data: for rows that belong nowhere.
    """

    algorithm: str = "auto"
    accel: str | None = None
    n_init: int = 1
    tol: float | None = None
    max_passes: int = 100
    reg_covar: float | None = None
    random_state: int = 0
    sample_rows: int = 50_000
    profile: str = "full"
    outlier_quantile: float = 0.01
    holdout: float = 0.0
    kernel: str = AUTO
    dtype: str = "float64"
    cache: str = AUTO
    cache_bytes: int | None = None
    prior: str | None = None
    noise: bool = False

    def __post_init__(self) -> None:
        accel = DEFAULT_ACCEL[one_of(self.algorithm, DEFAULT_ACCEL, "algorithm")]
        if self.accel is not None:
            one_of(self.accel, ACCELERATIONS, "accel")
        _ = self.preference, self.cache_policy
        one_of(self.profile, PROFILES, "profile")
        checks = (
            (self.accel is None or accel is not None, "accel is for exact EM: algorithm auto or em"),
            (self.profile == "full" or not self.holdout, "holdout needs profile: full"),
            (self.n_init >= 1, "n_init must be at least 1"),
            (self.tol is None or self.tol >= 0.0, "tol must not be negative"),
            (self.max_passes >= 1, "max_passes must be at least 1"),
            (self.reg_covar is None or self.reg_covar >= 0.0, "reg_covar must not be negative"),
            (self.prior in (None, *PRIORS), f"prior must be none or {' or '.join(PRIORS)}, not {self.prior!r}"),
            (self.prior is None or self.reg_covar is None, "prior and reg_covar exclude each other"),
            (self.random_state >= 0, "random_state must not be negative"),
            (self.sample_rows >= 1, "sample_rows must be at least 1"),
            (0.0 <= self.outlier_quantile < 1.0, "outlier_quantile must lie in [0, 1)"),
            (0.0 <= self.holdout < 1.0, "holdout must lie in [0, 1)"),
        )
        wrong = [message for ok, message in checks if not ok]
        if wrong:
            raise ConfigError("; ".join(wrong) + ".")

    @property
    def decisive(self) -> dict[str, Any]:
        """The options that decide a fit; those of keeping rows and of the outlier threshold do not."""
        return {k: v for k, v in asdict(self).items() if k not in ("cache", "cache_bytes", "outlier_quantile")}

    @property
    def rule(self) -> StopRule:
        """The stop rule on the full data."""
        return StopRule(self.tol, self.max_passes)

    def penalty_of(self, moments: SuffStats) -> Penalty:
        """Return what keeps covariances away from singular ones, on rows of these moments."""
        if self.prior is not None:
            return PRIORS[self.prior](moments)
        return PseudoRows.of(moments) if self.reg_covar is None else Ridge(self.reg_covar)

    def check_structures(self, names: Sequence[str]) -> None:
        """Refuse structures that the prior is not defined for.

        Raises
        ------
        ConfigError
            If there is one.
        """
        unknown = [n for n in names if n not in STRUCTURES]
        if self.prior is not None and unknown:
            raise ConfigError(
                f"prior {self.prior!r} is there for {', '.join(STRUCTURES)}, and not for {', '.join(unknown)}."
            )

    @property
    def preference(self) -> KernelPreference:
        """What is wanted of the kernels."""
        return KernelPreference(self.kernel, self.dtype)

    @property
    def cache_policy(self) -> CachePolicy:
        """Where decoded rows stay."""
        return CachePolicy(self.cache, self.cache_bytes)
