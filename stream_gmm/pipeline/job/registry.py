"""The versions of a run folder: their history, how two of them differ, and which one is in use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import eigh

from stream_gmm.core.model.matching import ComponentHistory, trace_components
from stream_gmm.core.result import FitResult
from stream_gmm.io.sink.objects.run_folders import hold_run_folder, locate_run_folder
from stream_gmm.io.store.models import load_model
from stream_gmm.io.store.versions import CHALLENGER, CHAMPION, Catalog, Version
from stream_gmm.pipeline.job.run_folder import (
    MODEL,
    locate_version,
    read_catalog,
    read_record,
    set_champion,
)


@dataclass(frozen=True)
class ComponentChange:
    """How a component differs between two versions.

    Attributes
    ----------
    before, after
        Its number in the first and in the second version.
    weight_before, weight_after
        Its mixing weights.
    mean_shift
        Largest shift of its mean along a column, in its standard deviations of the first version.
    column
        The column of that shift.
    covariance_change
        Largest change of its standard deviation in any direction, as a factor of at least 1.
    distance
        Bhattacharyya distance of the two Gaussians.
    """

    before: int
    after: int
    weight_before: float
    weight_after: float
    mean_shift: float
    column: str
    covariance_change: float
    distance: float


@dataclass(frozen=True)
class VersionDifference:
    """How a second version differs from a first.

    Attributes
    ----------
    first, second
        The versions.
    components
        The components that both have.
    events
        Components that are new, lost, split, merged or renumbered, in words.
    criteria
        For each criterion its values in the first and in the second; those of different data are not comparable.
    same_data
        Whether both were fitted to the same data.
    config
        Keys of the configuration that differ, with their two values.
    """

    first: Version
    second: Version
    components: tuple[ComponentChange, ...]
    events: tuple[str, ...]
    criteria: Mapping[str, tuple[float, float]]
    same_data: bool
    config: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Registry:
    """The versions of a run folder. Every call reads the folder anew.

    Parameters
    ----------
    folder
        The folder of a run, which ``stream-gmm run`` or ``sweep`` has written; of one in an object store the copy.
    uri
        Where it lies in an object store; empty if it does not.
    """

    folder: Path
    uri: str = ""

    @property
    def history(self) -> tuple[Version, ...]:
        """All versions, oldest first."""
        return read_catalog(self.folder).versions

    @property
    def champion(self) -> Version | None:
        """The version in use."""
        name = read_catalog(self.folder).champion
        return None if name is None else self.find(name)

    @property
    def challenger(self) -> Version | None:
        """The version that may follow the champion."""
        name = read_catalog(self.folder).challenger
        return None if name is None else self.find(name)

    def find(self, name: str) -> Version:
        """Return a version by its name, or by ``champion`` or ``challenger``.

        Raises
        ------
        ConfigError
            If there is none.
        """
        return read_catalog(self.folder).find(name)

    def load(self, name: str = CHAMPION) -> FitResult:
        """Return the model of a version.

        Raises
        ------
        ConfigError
            If there is no such version.
        ModelFileError
            If its file is damaged.
        """
        return load_model(self.locate(name) / MODEL)

    def read_record(self, name: str = CHAMPION) -> dict[str, Any]:
        """Return the record (``run.json``) of a version: configuration, choice in words, data, scores.

        Raises
        ------
        ConfigError, InputDataError
            If there is no such version, or it is damaged.
        """
        return read_record(self.locate(name))

    def locate(self, name: str = CHAMPION) -> Path:
        """Return the folder with the files of a version."""
        return locate_version(self.folder, self.find(name))

    def diff(self, first: str, second: str) -> VersionDifference:
        """Return how the second version differs from the first, component by component.

        Raises
        ------
        ConfigError, ModelFileError, InputDataError
            If one does not exist or is damaged.
        """
        a, b = self.load(first), self.load(second)
        old, new = self.find(first), self.find(second)
        if (a.columns, a.transforms) == (b.columns, b.transforms):
            traced = trace_components(b.params, a.params)
            components, events = _compare_components(a, b, traced), traced.describe()
        else:
            components, events = (), (f"the columns were {list(a.labels)} and are {list(b.labels)}",)
        criteria = {
            "log-likelihood per row": (a.lower_bound_, b.lower_bound_),
            "BIC": (a.criteria.bic, b.criteria.bic),
            "AIC": (a.criteria.aic, b.criteria.aic),
            "ICL": (a.criteria.icl, b.criteria.icl),
        }
        configs = [_flatten(self.read_record(name)["config"]) for name in (first, second)]
        keys = sorted(configs[0].keys() | configs[1].keys())
        config = {k: pair for k in keys if (pair := (configs[0].get(k), configs[1].get(k)))[0] != pair[1]}
        return VersionDifference(
            old, new, components, events, criteria, old.data_fingerprint == new.data_fingerprint, config
        )

    def promote(self, name: str = CHALLENGER) -> Version:
        """Make a version the champion in one atomic step; the plain files of the folder follow.

        Raises
        ------
        ConfigError
            If there is no such version.
        StorageError
            If the folder cannot be written; the champion is the same as before.
        """
        self.find(name)  # before anything is written
        return self._set_champion(lambda catalog: catalog.promote(catalog.find(name).name))

    def roll_back(self) -> Version:
        """Make the champion before the champion again, in one atomic step; called again, the one before that.

        Raises
        ------
        ConfigError
            If there is none.
        StorageError
            If the folder cannot be written; the champion is the same as before.
        """
        read_catalog(self.folder).roll_back()
        return self._set_champion(lambda catalog: catalog.roll_back())

    def _set_champion(self, change: Callable[[Catalog], Catalog]) -> Version:
        """Change the champion; in an object store under the lease of the prefix."""
        with hold_run_folder(self.uri) if self.uri else contextlib.nullcontext():
            return set_champion(self.folder, change)


def open_registry(folder: str | os.PathLike[str]) -> Registry:
    """Return the versions of a run folder: history, differences, promotion, rollback.

    A folder of an earlier release has one version, ``v1``.

    Parameters
    ----------
    folder
        The folder of a run (``output.folder``); or its URI in an object store, of which a copy is made.

    Returns
    -------
    Registry
        Reads the folder anew for every question.

    Raises
    ------
    InputDataError
        If it is not the folder of a run.
    """
    given = os.fspath(folder)
    path = locate_run_folder(given, again=True)
    if not read_catalog(path).versions:
        read_record(path)  # says what is missing
    return Registry(path, given if "://" in given else "")


def _compare_components(a: FitResult, b: FitResult, traced: ComponentHistory) -> tuple[ComponentChange, ...]:
    renumbered = b.params.reorder(list(traced.order))
    before, after = a.params.dense_covariances, renumbered.dense_covariances
    out = []
    for now, then, distance in sorted(traced.kept, key=lambda pair: pair[1]):
        shifts = np.abs(renumbered.means[now] - a.means_[then]) / np.sqrt(np.diagonal(before[then]))
        ratios = np.sqrt(eigh(after[now], before[then], eigvals_only=True))
        largest = int(shifts.argmax())
        out.append(
            ComponentChange(
                then, traced.order[now], float(a.weights_[then]), float(renumbered.weights[now]),
                float(shifts[largest]), a.columns[largest] if a.columns else f"x{largest}",
                float(max(ratios.max(), 1.0 / ratios.min())), distance,
            )
        )  # fmt: skip
    return tuple(out)


def _flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with dotted keys."""
    out: dict[str, Any] = {}
    for name, section in config.items():
        if isinstance(section, dict):
            out |= {f"{name}.{key}": value for key, value in section.items()}
        else:
            out[name] = section
    return out
