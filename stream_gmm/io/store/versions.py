"""The catalog of a run folder: which versions there are, where their files are, and which one is in use.

Every state (:mod:`.generations`) holds the catalog that was valid when it became current, so that the one link that
names the current state also decides about versions and aliases. The files of the *champion*, the version in use, are
the current state itself; those of the others are earlier states, which stay as long as the catalog names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stream_gmm.errors import ConfigError, InputDataError, did_you_mean, explain
from stream_gmm.io.store.container import seal, unseal, write_atomically

CATALOG = "versions.json"
CHAMPION, CHALLENGER = "champion", "challenger"
ALIASES = (CHAMPION, CHALLENGER)


@dataclass(frozen=True)
class Version:
    """One published run; its model, tables and configuration never change.

    Attributes
    ----------
    name
        Short and unique in the folder: ``v1``, ``v2`` ...
    created
        When it was published, ISO 8601 in UTC.
    chosen
        The chosen candidate, such as ``full-3``.
    rows
        Rows of the data set.
    model_digest, data_fingerprint
        Identities of the model and of the data it was fitted to.
    origin
        The champion at that time, which it was to follow; None for the first.
    state
        Name of the state that holds its files; empty in a folder without states.
    note
        Why it became champion or challenger, in words; empty where that was not a matter of evidence.
    """

    name: str
    created: str
    chosen: str
    rows: int
    model_digest: str
    data_fingerprint: str
    origin: str | None = None
    state: str = ""
    note: str = ""


@dataclass(frozen=True)
class Catalog:
    """All versions of a run folder, oldest first, and the aliases; a value that is replaced and never changed.

    Attributes
    ----------
    champion, challenger
        Names of versions: the one in use, and the one that may follow it.
    earlier
        The champions before, the last one last: where a rollback leads.
    made
        Number of versions that there have ever been; names are not used twice.
    """

    champion: str | None = None
    challenger: str | None = None
    earlier: tuple[str, ...] = ()
    versions: tuple[Version, ...] = ()
    made: int = 0

    def find(self, name: str) -> Version:
        """Return a version by its name or alias.

        Raises
        ------
        ConfigError
            If there is none; names those that there are.
        """
        wanted = {CHAMPION: self.champion, CHALLENGER: self.challenger}.get(name, name)
        for version in self.versions:
            if version.name == wanted:
                return version
        known = [v.name for v in self.versions]
        missing = f"there is no version {name!r}" + did_you_mean(name, [*known, *ALIASES]).rstrip("?")
        raise ConfigError(
            explain(
                f"there is no {name}" if name in ALIASES else missing,
                why=f"the folder has the versions {', '.join(known)}" if known else "the folder has no versions",
                remedy="'stream-gmm history RUN' lists them",
            )
        )

    def add(self, version: Version, *, challenger: bool, keep: int) -> Catalog:
        """Return the catalog with a new version as champion or challenger, and only so many versions."""
        versions, made = (*self.versions, version), self.made + 1
        if challenger:
            out = replace(self, challenger=version.name, versions=versions, made=made)
        else:
            out = replace(self._succeed(version.name), versions=versions, made=made)
        return out._forget(keep)

    def promote(self, name: str) -> Catalog:
        """Return the catalog with another champion; a challenger that became champion is challenger no more."""
        return replace(self._succeed(name), challenger=None if self.challenger == name else self.challenger)

    def roll_back(self) -> Catalog:
        """Return the catalog with the champion before.

        Raises
        ------
        ConfigError
            If there is none.
        """
        if not self.earlier:
            raise ConfigError(
                explain(
                    "there is no earlier champion to roll back to",
                    why="the folder has had one only, or the earlier ones are no longer kept",
                    remedy="'stream-gmm history RUN' lists the versions, and 'promote' chooses one",
                )
            )
        return replace(self, champion=self.earlier[-1], earlier=self.earlier[:-1])

    def place(self, name: str, state: str) -> Catalog:
        """Return the catalog with the files of a version in another state."""
        return replace(self, versions=tuple(replace(v, state=state) if v.name == name else v for v in self.versions))

    def _succeed(self, name: str) -> Catalog:
        if name == self.champion:
            return self
        return replace(self, champion=name, earlier=(*self.earlier, self.champion) if self.champion else ())

    def _forget(self, keep: int) -> Catalog:
        """Return the catalog with the newest versions only; champion and challenger stay in any case."""
        named = {self.champion, self.challenger}
        others = [v.name for v in self.versions if v.name not in named]
        room = max(keep - len(named - {None}), 0)
        kept = named | set(others[max(len(others) - room, 0) :])
        return replace(
            self,
            versions=tuple(v for v in self.versions if v.name in kept),
            earlier=tuple(n for n in self.earlier if n in kept),
        )


def write_catalog(state: Path, catalog: Catalog) -> None:
    """Write the catalog of a state.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    write_atomically(state / CATALOG, seal(asdict(catalog)))


def load_catalog(state: Path) -> Catalog | None:
    """Return the catalog of a state; None if it has none, as before there were versions.

    Raises
    ------
    InputDataError
        If it is damaged.
    """
    try:
        content: Mapping[str, Any] = unseal((state / CATALOG).read_bytes())
        versions = tuple(Version(**v) for v in content["versions"])
        return Catalog(**{**content, "versions": versions, "earlier": tuple(content["earlier"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputDataError(
            explain(
                f"the catalog {state / CATALOG} is damaged",
                why=str(error),
                remedy="remove it: the current results become version v1, and the others are given up",
            )
        ) from error


def list_states(state: Path) -> list[str]:
    """Return the names of the states that the catalog of a state refers to."""
    catalog = load_catalog(state)
    return [v.state for v in catalog.versions if v.state] if catalog else []
