"""The candidates of a sweep: which numbers of components with which covariance structures."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stream_gmm.core.model.covariance import family_named
from stream_gmm.errors import ConfigError

CandidateSpec = tuple[int, str]
"""K and the name of the covariance structure."""


def parse_grid(n_components: int | Iterable[int], covariance_type: str | Iterable[str]) -> list[CandidateSpec]:
    """Return the cells ``(K, structure)`` of a grid, by structure and then by K, each once.

    Where there are several K, a single component is one of them: it is what any other has to be better than.

    Raises
    ------
    ConfigError
        If a K is not a positive whole number, a structure is unknown, or there is no cell.
    """
    ks = [n_components] if isinstance(n_components, int | np.integer) else list(n_components)
    names = [covariance_type] if isinstance(covariance_type, str) else list(covariance_type)
    for k in ks:
        if not isinstance(k, int | np.integer) or k < 1:
            raise ConfigError(f"n_components must be whole numbers of at least 1, not {k!r}.")
    ks = [1, *ks] if len(set(ks)) > 1 else ks
    grid = [(int(k), family_named(n).name) for n in names for k in sorted(ks)]
    if not grid:
        raise ConfigError("the sweep has no candidate: give n_components and covariance_type.")
    return list(dict.fromkeys(grid))
