"""The ledger of a sweep: finished candidates are not fitted again, and a killed sweep resumes from its last pass.

One file for each combination of data, columns, seed, settings, version and format, replaced atomically after the
profile, after each stage of the fits on the sample, and after every pass; the one before is kept, in case that the
newest is damaged. The profile, which has the sample and is by far the largest part, is written once, beside it. A
*mirror* keeps both elsewhere, for a machine that does not have them.
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
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from stream_gmm.io.sink.objects.checkpoints import Checkpoints

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
    """The ledger in a file, and in a mirror if there is one; without a path nothing is stored.

    ``notes`` says what was damaged when it was read, and what was done about it.
    """

    def __init__(self, path: Path | None = None, mirror: Checkpoints | None = None) -> None:
        self.path = path
        self.mirror = mirror
        self.notes: tuple[str, ...] = ()
        self._number = 0
        self._profile_digest = ""
        self._is_damaged = False
        self._is_profile_sent = False

    @classmethod
    def open(
        cls, folder: Path, source: Source, settings: Settings, fresh: bool = False, mirror: Checkpoints | None = None
    ) -> Ledger:
        """Return the ledger of this data and these settings in a folder; with ``fresh``, an empty one.

        Of the one in the folder and the one in the mirror, that which was written more often counts.

        Raises
        ------
        StorageError
            If the folder cannot be written, or the mirror does not answer.
        """
        path = folder / f"{compute_key(source, settings)}.gmm"
        if fresh:
            _remove_files(path)
            if mirror is not None:
                mirror.remove(path.name)
        others = sorted((p for p in folder.glob("*.gmm") if p != path), key=lambda p: -p.stat().st_mtime)
        for old in others[KEPT_FILES:]:
            with contextlib.suppress(OSError):
                _remove_files(old)
        ledger = cls(path, mirror)
        if mirror is not None:
            ledger._take_from(mirror)
            for name in [n for n in mirror.list_newest(".gmm") if n != path.name][KEPT_FILES:]:
                mirror.remove(name)
                mirror.remove(Path(name).with_suffix(".profile").name)
        return ledger

    def _take_from(self, mirror: Checkpoints) -> None:
        """Put what the mirror holds in place of what is here, if it is further on."""
        assert self.path is not None
        fetched = self.path.with_suffix(".fetched")
        try:
            if mirror.fetch(self.path.name, fetched) and _read_number(fetched) > self._find_number():
                with contextlib.suppress(FileNotFoundError):
                    os.replace(self.path, self.path.with_suffix(".previous"))
                os.replace(fetched, self.path)
        except ModelFileError as error:
            self._note(f"{str(error).rstrip('.')}: the checkpoint that was sent from elsewhere is not used.")
        finally:
            fetched.unlink(missing_ok=True)
        profile = self.path.with_suffix(".profile")
        if self.path.exists() and not profile.exists():
            mirror.fetch(profile.name, profile)

    def _find_number(self) -> int:
        """Return how often the ledger in the folder was written; -1 if there is none that can be read."""
        assert self.path is not None
        try:
            return _read_number(self.path) if self.path.exists() else -1
        except ModelFileError:
            return -1

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
        entries, digest, self._number = read(
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
        self._number += 1
        header = {
            "written_by": version("stream-gmm"),
            "number": self._number,
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
        if self.mirror is not None:
            profile = self.path.with_suffix(".profile")
            known = self._is_profile_sent or not self._profile_digest or self.mirror.has(profile)
            note = self.mirror.send(*([] if known else [profile]), self.path, at_once=entries.done or not known)
            self._is_profile_sent = known or not note
            self.notes = (*self.notes, *([note] if note else []))


NO_LEDGER = Ledger()


def _remove_files(path: Path) -> None:
    for suffix in (".gmm", ".previous", ".profile"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def _decode_profile(header: dict[str, Any], arrays: dict[str, Any]) -> Profile:
    profile = decode(header["profile"], arrays, KNOWN)
    if not isinstance(profile, Profile):
        raise TypeError(f"it holds a {type(profile).__name__}, not a profile")
    return profile


def _read_number(path: Path) -> int:
    """Return how often a ledger was written, with what went before on other machines."""
    return read(
        path, "ledger", lambda c: unpack(c, MAGIC, FORMAT, "ledger", lambda header, _: int(header.get("number", 0)))
    )


def _decode_entries(header: dict[str, Any], arrays: dict[str, Any]) -> tuple[Entries, str, int]:
    """Return the entries without their profile, the digest of its file, and how often the ledger was written."""

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
    return entries, header["profile"], int(header.get("number", 0))


def compute_key(source: Source, settings: Settings) -> str:
    """Return the identity of all that decides a fit: data, columns, weights, settings, seed, version and format."""
    parts = [
        FORMAT,
        source.fingerprint, list(source.columns), source.missing, source.weight, settings.decisive,
        version("stream-gmm"),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
