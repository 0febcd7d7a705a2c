"""The candidates of a sweep: which numbers of components with which covariance structures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from stream_gmm.core.model.covariance import family_named
from stream_gmm.errors import ConfigError


class CandidateSpec(NamedTuple):
    """What is asked of a candidate: the number of components K, and the name of the covariance structure."""

    n_components: int
    covariance_type: str

    @property
    def name(self) -> str:
        """Short name, such as ``full-5``."""
        return f"{self.covariance_type}-{self.n_components}"


def parse_grid(n_components: int | Iterable[int], covariance_type: str | Iterable[str]) -> list[CandidateSpec]:
    """Return the candidates of a grid, by structure and then by K, each once.

    Where there are several K, K = 1 is always among them: the single Gaussian that every other candidate has to
    be better than.

    Raises
    ------
    ConfigError
        If a K is not a positive whole number, a structure is unknown, or the grid is empty.
    """
    ks = [n_components] if isinstance(n_components, int | np.integer) else list(n_components)
    names = [covariance_type] if isinstance(covariance_type, str) else list(covariance_type)
    for k in ks:
        if not isinstance(k, int | np.integer) or k < 1:
            raise ConfigError(f"n_components must be whole numbers of at least 1, not {k!r}.")
    ks = [1, *ks] if len(set(ks)) > 1 else ks
    grid = [CandidateSpec(int(k), family_named(n).name) for n in names for k in sorted(ks)]
    if not grid:
        raise ConfigError("the sweep has no candidate: give n_components and covariance_type.")
    return list(dict.fromkeys(grid))
