"""The ledger of a sweep: finished candidates are not fitted again, and a killed sweep resumes from its last pass.

One file for each combination of data, columns, seed, settings, version and format, replaced atomically after the
profile, after the fits on the sample, and after every pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
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
from stream_gmm.core.search.sample_search import SampleFit
from stream_gmm.core.search.transform_gain import TransformGain
from stream_gmm.core.stats import SuffStats
from stream_gmm.errors import ModelFileError, explain
from stream_gmm.io.source.protocols import Source
from stream_gmm.io.store.codec import decode, encode
from stream_gmm.io.store.container import pack, read, unpack, write_atomically
from stream_gmm.pipeline.fit.grid import CandidateSpec
from stream_gmm.pipeline.fit.sample import SampleOutcome
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.profile import Profile

MAGIC = b"STREAM-GMM LEDGER\n"
FORMAT = 3
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
    """

    profile: Profile | None = None
    outcomes: dict[CandidateSpec, SampleOutcome] = field(default_factory=dict)
    states: dict[CandidateSpec, EMState] = field(default_factory=dict)
    pruning: str = ""
    grid: tuple[CandidateSpec, ...] = ()
    reads: int = 0
    done: bool = True

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
        return Entries(self.profile, outcomes, states, pruning, tuple(grid), reads, done=False)


class Ledger:
    """The ledger in a file; without a path nothing is stored."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

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
            path.unlink(missing_ok=True)
        others = sorted((p for p in folder.glob("*.gmm") if p != path), key=lambda p: -p.stat().st_mtime)
        for old in others[KEPT_FILES:]:
            with contextlib.suppress(OSError):
                old.unlink()
        return cls(path)

    def read(self) -> Entries:
        """Return the entries; none if there is no such file.

        Raises
        ------
        ModelFileError
            If the file is damaged; ``--fresh`` starts over.
        """
        if self.path is None or not self.path.exists():
            return Entries()
        try:
            return read(
                self.path, "ledger", lambda content: unpack(content, MAGIC, FORMAT, "ledger", _decode_entries)
            )
        except ModelFileError as error:
            raise ModelFileError(explain(str(error).rstrip("."), remedy="start over with --fresh")) from error

    def write(self, entries: Entries) -> None:
        """Replace the entries.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        if self.path is None:
            return
        arrays: dict[str, Any] = {}
        header = {
            "written_by": version("stream-gmm"),
            "profile": encode(entries.profile, arrays),
            "outcomes": [[*spec, encode(e, arrays)] for spec, e in entries.outcomes.items()],
            "states": [[*spec, encode(s, arrays)] for spec, s in entries.states.items()],
            "pruning": entries.pruning,
            "grid": [list(spec) for spec in entries.grid],
            "reads": entries.reads,
            "done": entries.done,
        }
        write_atomically(self.path, pack(MAGIC, FORMAT, header, arrays))


NO_LEDGER = Ledger()


def _decode_entries(header: dict[str, Any], arrays: dict[str, Any]) -> Entries:
    def decode_by_spec(key: str) -> dict[CandidateSpec, Any]:
        return {CandidateSpec(k, name): decode(tree, arrays, KNOWN) for k, name, tree in header[key]}

    return Entries(
        profile=decode(header["profile"], arrays, KNOWN),
        outcomes=decode_by_spec("outcomes"),
        states=decode_by_spec("states"),
        pruning=header["pruning"],
        grid=tuple(CandidateSpec(*spec) for spec in header["grid"]),
        reads=header["reads"],
        done=header["done"],
    )


def compute_key(source: Source, settings: Settings) -> str:
    """Return the identity of all that decides a fit: data, columns, weights, settings, seed, version and format."""
    parts = [
        FORMAT,
        source.fingerprint, list(source.columns), source.missing, source.weight, settings.decisive,
        version("stream-gmm"),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
