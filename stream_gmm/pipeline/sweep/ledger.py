"""The ledger of a sweep: finished candidates are not fitted again, and a killed sweep resumes from its last pass.

One file for each combination of data, columns, seed, settings, version and format, replaced atomically after the
profile, after each stage of the fits on the sample, and after every pass; the one before is kept, in case that the
newest is damaged. The profile, which has the sample and is by far the largest part, is written once, beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stream_gmm.core.fit.accelerate import Secants, SquaremCycle
from stream_gmm.core.fit.coordinates import Chart
from stream_gmm.core.fit.em import EMState, Outcome
from stream_gmm.core.fit.quasi_newton import Curvature
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.mstep import MStepReport
from stream_gmm.core.rows.constants import Constant
from stream_gmm.core.rows.oddities import RowOrder
from stream_gmm.core.rows.sampling import Sample
from stream_gmm.core.rows.transforms import ColumnTransform
from stream_gmm.core.search.sample_fit import SampleFit
from stream_gmm.core.search.transform_gain import TransformGain
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ModelFileError, explain
from stream_gmm.faults import fault_site
from stream_gmm.io.source.protocols import Source
from stream_gmm.io.store.codec import decode, encode
from stream_gmm.io.store.container import pack, read, unpack, write_atomically
from stream_gmm.pipeline.fit.grid import CandidateSpec
from stream_gmm.pipeline.fit.sample import SampleOutcome
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.profile import Profile

log = logging.getLogger(__name__)

MAGIC, PROFILE_MAGIC = b"STREAM-GMM LEDGER\n", b"STREAM-GMM PROFILE\n"
FORMAT = 5
KEPT_FILES = 3
"""Ledgers of other data or settings that stay in the folder; older ones are removed."""
_TYPES = (
    Chart, Constant, Curvature, SquaremCycle, EMState, SampleOutcome, MStepReport, MixtureParams, RowOrder, Outcome,
    Profile, Sample, SampleFit, Secants, SuffStats, ColumnTransform, TransformGain,
)  # fmt: skip
KNOWN = {t.__name__: t for t in _TYPES}


@dataclass(frozen=True)
class Entries:
    """What a ledger holds.

    Attributes
    ----------
    profile
        Profile of the data.
    outcomes
        Fits on the sample, by candidate.
    states
        Fits on the full data, by candidate.
    pruning, grid
        The criterion by which candidates were pruned (empty: none was), and the grid they competed in. In another
        grid, or by another criterion, a pruned candidate may win.
    reads
        Reads of the data by the last sweep.
    done
        False if the last sweep was interrupted.
    sample_stage, unfinished
        The last stage of the fits on the sample that is finished, if that is not the last one; and how the new
        candidates stand after it.
    restarts, rounds
        Fits on the full data from further starts, while a sweep is not done; and how often there were to be any.
    """

    profile: Profile | None = None
    outcomes: dict[CandidateSpec, SampleOutcome] = field(default_factory=dict)
    states: dict[CandidateSpec, EMState] = field(default_factory=dict)
    pruning: str = ""
    grid: tuple[CandidateSpec, ...] = ()
    reads: int = 0
    done: bool = True
    sample_stage: str = ""
    unfinished: dict[CandidateSpec, SampleOutcome] = field(default_factory=dict)
    restarts: dict[CandidateSpec, tuple[EMState, ...]] = field(default_factory=dict)
    rounds: dict[CandidateSpec, int] = field(default_factory=dict)

    def prepare_for(self, pruning: str, grid: Sequence[CandidateSpec]) -> Entries:
        """Return the entries for a sweep over ``grid``; candidates that were pruned for other reasons start again."""
        same = pruning == self.pruning and set(self.grid) <= set(grid)
        states = {
            spec: EMState(s.params, events=s.events) if s.outcome is Outcome.PRUNED and not same else s
            for spec, s in self.states.items()
        }
        # A pruned candidate outside this grid would have to be compared anew.
        states = {c: s for c, s in states.items() if c in grid or not s.live}
        outcomes = {c: e for c, e in self.outcomes.items() if same or not e.is_unfinished}
        reads = 0 if self.done else self.reads
        stage = self.sample_stage if pruning == self.pruning and set(self.grid) == set(grid) else ""
        unfinished = self.unfinished if stage else {}
        restarts = self.restarts if pruning == self.pruning and set(self.grid) == set(grid) else {}
        return Entries(
            self.profile, outcomes, states, pruning, tuple(grid), reads, False, stage, unfinished,
            restarts, self.rounds if same else {},
        )  # fmt: skip


class Ledger:
    """The ledger in a file; without a path nothing is stored.

    ``notes`` says what was damaged when it was read, and what was done about it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        self._profile_digest = ""
        self._is_damaged = False

    @classmethod
    def open(cls, folder: Path, source: Source, settings: Settings, fresh: bool = False) -> Ledger:
        """Return the ledger of this data and these settings in a folder; with ``fresh``, an empty one.

        Raises
        ------
        StorageError
            If the folder cannot be written.
        """
        path = folder / f"{compute_key(source, settings)}.gmm"
        if fresh:
            _remove_files(path)
        others = sorted((p for p in folder.glob("*.gmm") if p != path), key=lambda p: -p.stat().st_mtime)
        for old in others[KEPT_FILES:]:
            with contextlib.suppress(OSError):
                _remove_files(old)
        return cls(path)

    def read(self) -> Entries:
        """Return the entries; none if there is no such file. From a damaged one, those of the one before it.

        Raises
        ------
        ModelFileError
            If both are damaged; ``--fresh`` starts over.
        """
        if self.path is None:
            return Entries()
        places = [p for p in (self.path, self.path.with_suffix(".previous")) if p.exists()]
        damage: ModelFileError | None = None
        for place in places:
            try:
                entries = self._read_file(place)
            except ModelFileError as error:
                damage = damage or error
                continue
            if damage is not None:
                self._is_damaged = True
                self._note(f"{str(damage).rstrip('.')}: the sweep went on from the one before it.")
            return entries
        if damage is None:
            return Entries()
        raise ModelFileError(explain(str(damage).rstrip("."), remedy="start over with --fresh")) from damage

    def find_damage(self) -> list[tuple[Path, str]]:
        """Return the damaged files of the ledger, and what is wrong with each; :meth:`read` can do without some."""
        assert self.path is not None
        found = []
        for path in (self.path, self.path.with_suffix(".previous")):
            reader = Ledger(path)
            try:
                if path.exists():
                    reader._read_file(path)
                found += [(path.with_suffix(".profile"), note) for note in reader.notes if path == self.path]
            except ModelFileError as error:
                found.append((path, str(error)))
        return found

    def _read_file(self, path: Path) -> Entries:
        entries, digest = read(
            path, "ledger", lambda content: unpack(content, MAGIC, FORMAT, "ledger", _decode_entries)
        )
        place = path.with_suffix(".profile")
        if not digest:
            return entries
        try:
            content = read(place, "profile", bytes)
            if hashlib.sha256(content).hexdigest() != digest:
                raise ModelFileError(f"{place}: it belongs to another ledger, or is damaged.")
            profile = unpack(content, PROFILE_MAGIC, FORMAT, "profile", _decode_profile)
        except ModelFileError as error:
            self._note(f"{str(error).rstrip('.')}: the data were read once more.")
            return entries
        self._profile_digest = digest
        return replace(entries, profile=profile)

    def _note(self, note: str) -> None:
        log.warning(note)
        self.notes = (*self.notes, note)

    def write(self, entries: Entries) -> None:
        """Replace the entries.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        if self.path is None:
            return
        if entries.profile is not None and not self._profile_digest:
            arrays: dict[str, Any] = {}
            header = {"profile": encode(entries.profile, arrays)}
            content = pack(PROFILE_MAGIC, FORMAT, header, arrays)
            write_atomically(self.path.with_suffix(".profile"), content)
            self._profile_digest = hashlib.sha256(content).hexdigest()
        arrays = {}
        header = {
            "written_by": version("stream-gmm"),
            "profile": self._profile_digest,
            "outcomes": [[*spec, encode(e, arrays)] for spec, e in entries.outcomes.items()],
            "states": [[*spec, encode(s, arrays)] for spec, s in entries.states.items()],
            "pruning": entries.pruning,
            "grid": [list(spec) for spec in entries.grid],
            "reads": entries.reads,
            "done": entries.done,
            "sample_stage": entries.sample_stage,
            "unfinished": [[*spec, encode(e, arrays)] for spec, e in entries.unfinished.items()],
            "restarts": [[*spec, encode(s, arrays)] for spec, s in entries.restarts.items()],
            "rounds": [[*spec, n] for spec, n in entries.rounds.items()],
        }
        content = pack(MAGIC, FORMAT, header, arrays)
        if not self._is_damaged:
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.path, self.path.with_suffix(".previous"))
        fault_site("ledger")
        write_atomically(self.path, content)
        self._is_damaged = False


NO_LEDGER = Ledger()


def _remove_files(path: Path) -> None:
    for suffix in (".gmm", ".previous", ".profile"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def _decode_profile(header: dict[str, Any], arrays: dict[str, Any]) -> Profile:
    profile = decode(header["profile"], arrays, KNOWN)
    if not isinstance(profile, Profile):
        raise TypeError(f"it holds a {type(profile).__name__}, not a profile")
    return profile


def _decode_entries(header: dict[str, Any], arrays: dict[str, Any]) -> tuple[Entries, str]:
    """Return the entries without their profile, and the digest of its file."""

    def decode_by_spec(key: str) -> dict[CandidateSpec, Any]:
        return {CandidateSpec(k, name): decode(tree, arrays, KNOWN) for k, name, tree in header[key]}

    entries = Entries(
        outcomes=decode_by_spec("outcomes"),
        states=decode_by_spec("states"),
        pruning=header["pruning"],
        grid=tuple(CandidateSpec(*spec) for spec in header["grid"]),
        reads=header["reads"],
        done=header["done"],
        sample_stage=header["sample_stage"],
        unfinished=decode_by_spec("unfinished"),
        restarts=decode_by_spec("restarts"),
        rounds=decode_by_spec("rounds"),
    )
    return entries, header["profile"]


def compute_key(source: Source, settings: Settings) -> str:
    """Return the identity of all that decides a fit: data, columns, weights, settings, seed, version and format."""
    parts = [
        FORMAT,
        source.fingerprint, list(source.columns), source.missing, source.weight, settings.decisive,
        version("stream-gmm"),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
