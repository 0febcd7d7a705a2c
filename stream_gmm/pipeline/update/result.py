"""What an update has done, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stream_gmm.core.result import FitResult
from stream_gmm.pipeline.update.evidence import RivalEvidence, Verdict
from stream_gmm.pipeline.update.files import FileChanges
from stream_gmm.pipeline.update.move import Move

NOTHING, KEPT, MOVED, SWEPT = "nothing to do", "parameters kept", "parameters moved", "swept again"


@dataclass(frozen=True)
class UpdateResult:
    """What an update has done.

    Attributes
    ----------
    decision
        ``"nothing to do"``, ``"parameters kept"``, ``"parameters moved"`` or ``"swept again"``.
    why
        The reasons, in sentences.
    files
        Names of the files that are new, changed, gone, unchanged, or outside of the window.
    model
        The model that the update ended with; the champion where nothing moved.
    version, champion
        Names of the version of that model and of the champion now; empty outside of a run folder.
    rows, rows_read
        Rows of the data set, and rows that were read: for statistics, passes over all files, and scores.
    passes
        Passes over all files of the window, those of a sweep included.
    gain
        Predicted gain of the log-likelihood by the move, nats per row; None if there was nothing to compare.
    guaranteed
        What one step gains in any case, by the exact statistics; it may be negative.
    error
        Estimated loss against a full refit, nats per row.
    verdict
        Champion against challenger, where ``publish_as`` is ``evidence``.
    rivals
        Evidence for another K or structure.
    scored, kept_scores
        Files (or parts of large ones) that were scored now, and those that keep their scores.
    warnings
        What a reader of the result should know.
    """

    decision: str
    why: tuple[str, ...]
    files: FileChanges
    model: FitResult
    version: str = ""
    champion: str = ""
    rows: int = 0
    rows_read: int = 0
    passes: int = 0
    gain: float | None = None
    guaranteed: float | None = None
    error: float | None = None
    verdict: Verdict | None = None
    rivals: RivalEvidence | None = None
    scored: int = 0
    kept_scores: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def promoted(self) -> bool:
        """True if the model of this update is the champion."""
        return bool(self.version) and self.version == self.champion

    def as_record(self) -> dict[str, Any]:
        """Return the result as JSON values, without the model."""
        rivals = self.rivals
        return {
            "decision": self.decision,
            "why": list(self.why),
            "files": {
                "new": list(self.files.new), "changed": list(self.files.changed), "gone": list(self.files.gone),
                "unchanged": len(self.files.unchanged), "outside": len(self.files.outside),
            },
            "version": self.version,
            "champion": self.champion,
            "promoted": self.promoted,
            "rows": self.rows,
            "rows_read": self.rows_read,
            "passes": self.passes,
            "gain": self.gain,
            "guaranteed_gain": self.guaranteed,
            "error": self.error,
            "verdict": None if self.verdict is None else self.verdict.as_record(),
            "rivals": None if rivals is None or not rivals.name else {
                "name": rivals.name, "new_rows": rivals.now, "old_rows": rivals.before,
                "standard_error": rivals.standard_error,
                "crosses": rivals.crosses,
            },
            "scored": self.scored,
            "kept_scores": self.kept_scores,
            "warnings": list(self.warnings),
        }  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What the statistics of the files say, before anything is published.

    Attributes
    ----------
    files
        What became of the files.
    move
        Where the parameters move to; None if they cannot.
    moves
        Whether they do.
    model
        The model there; the champion if they stay.
    why
        Sentences.
    rows_read
        Rows that were read.
    verdict, rivals
        As in :class:`UpdateResult`.
    """

    files: FileChanges
    move: Move | None
    moves: bool
    model: FitResult
    why: tuple[str, ...]
    rows_read: int
    verdict: Verdict | None = None
    rivals: RivalEvidence | None = None
    warnings: tuple[str, ...] = field(default=())
