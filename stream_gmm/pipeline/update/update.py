"""Follow the files: read what is new, decide whether the parameters move, and compare the models on new rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

from stream_gmm.core.display import count_noun
from stream_gmm.core.drift import predict_chance_gain
from stream_gmm.core.file_stats import FileId, KeptStats, SampledRows
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.sampling import Sample
from stream_gmm.errors import InputDataError, SingularCovarianceError, explain
from stream_gmm.execute.protocol import Executor
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.source.memory import require_complete_rows
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress
from stream_gmm.pipeline.update.evidence import (
    RivalEvidence,
    compare_rivals,
    grow_and_shrink,
    judge_challenger,
    score_log_density,
)
from stream_gmm.pipeline.update.files import FileChanges, compare_files, select_window
from stream_gmm.pipeline.update.move import Move, Mover, join_evidence
from stream_gmm.pipeline.update.result import Finding
from stream_gmm.pipeline.update.rule import EVIDENCE, STEPWISE, UpdateRule
from stream_gmm.pipeline.update.statistics import (
    Gathered,
    find_obstacle,
    gather_statistics,
    identify_files,
    make_stats_rule,
)

LINEAGE = "updated_from"
MOST_ANCESTORS = 400
"""Models whose scores an updated model can keep, the newest ones."""


@dataclass(frozen=True)
class UpdateJob:
    """All that decides an update: data, champion, statistics kept so far, options; and who listens.

    Parameters
    ----------
    by_evidence
        Whether rows of new files are set apart to compare the new model with the champion.
    seen
        The files that the champion was fitted to; None if that is not known.
    rivals
        Other candidates of the champion's sweep, by name.
    """

    dataset: Dataset
    champion: FitResult
    kept: KeptStats | None
    settings: Settings
    rule: UpdateRule
    executor: Executor
    by_evidence: bool = False
    seen: frozenset[FileId] | None = None
    rivals: Mapping[str, MixtureParams] = field(default_factory=dict)
    listener: Listener = ignore_progress

    @property
    def wanted(self) -> list[str]:
        """Names of the files in the window."""
        return select_window([f.relative for f in self.dataset.files], self.rule.window)

    def find_changes(self) -> FileChanges:
        """Return what became of the files of the window since the statistics were kept."""
        files, wanted = identify_files(self.dataset), set(self.wanted)
        before = self.kept.files if self.kept is not None else ()
        gone = [f for f in before if f.name in wanted or f.name not in files]
        return compare_files(
            gone, [f for n, f in files.items() if n in wanted], [n for n in files if n not in wanted]
        )

    @property
    def is_up_to_date(self) -> bool:
        """True if the statistics are those of the files as they are, and of the champion's columns and structure."""
        kept = self.kept
        if kept is None or self._obstacle:
            return False
        wanted = {f for n, f in identify_files(self.dataset).items() if n in set(self.wanted)}
        return set(kept.files) == wanted

    @property
    def _obstacle(self) -> str:
        return find_obstacle(self.kept, self.champion, self.dataset, stepwise=self.rule.mode == STEPWISE)

    def run(self) -> tuple[Finding, KeptStats]:
        """Read, decide and compare; return what was found, and the statistics to keep.

        Raises
        ------
        InputDataError
            If the files cannot be read, or have no usable row.
        """
        require_complete_rows(self.dataset.missing, "an update")
        self.dataset.refuse_unusable(not_yet=[t.name for t in self.champion.transforms])
        changes, obstacle = self.find_changes(), self._obstacle
        reusable = None if obstacle or self.kept is None else self.kept
        stepwise = self.rule.mode == STEPWISE
        anchor = self.champion.params if stepwise or reusable is None else reusable.anchor
        gathered = self._gather(reusable, anchor, "statistics")
        if not sum(e.rows_complete for e in gathered.kept.entries):
            raise InputDataError(explain("the files have no usable row", remedy="check data.paths and update.last"))
        reads, new = [gathered.rows_read], self._find_new_files(gathered)
        kept = _settle_all_but(gathered.kept, new)

        def read_all(params: MixtureParams) -> KeptStats:
            every = self._gather(None, params, "exact")
            reads.append(every.rows_read)
            return _settle_all_but(every.kept, new)

        n_new = float(sum(e.rows_complete for e in kept.entries if set(e.files) <= new))
        rows = float(sum(e.rows_complete for e in kept.entries))
        chance = predict_chance_gain(self.champion.params.n_parameters, n_new, rows) if n_new < rows else 0.0
        mover = Mover(self.champion, self.settings, self.rule, not self.by_evidence, chance, read_all)
        why = [_describe_changes(changes, gathered, obstacle)]
        try:
            move = mover.propose(kept)
            rivals = self._compare_rivals(mover, move, kept, new)
            # A sweep that follows makes passes of its own.
            sweeps = rivals is not None and rivals.crosses and self.rule.new_sweep == EVIDENCE
            move = move if sweeps else mover.complete(move)
        except SingularCovarianceError as error:
            why.append(f"the parameters stay: no step can be made ({error})")
            return Finding(changes, None, False, self.champion, tuple(why), sum(reads)), self._settle(kept)
        why.append(self._describe_gain(move, mover))
        moves = mover.is_worth_while(move) and not sweeps
        model = self.champion
        if moves:
            model = mover.make_model(move, self._describe_provenance(move))
            if model.outcome is Outcome.DEGENERATE:
                why.append(f"the parameters stay: at the new ones {model.reason}.")
                moves, model = False, self.champion
        verdict = None
        if moves and self.by_evidence:
            apart = join_evidence([e for e in kept.entries if set(e.files) <= new])
            old, now = (score_log_density(m.params, apart.rows) for m in (self.champion, model))
            verdict = judge_challenger(old, now, apart.weights, self.rule.z)
            why.append(verdict.describe())
        why += [rivals.describe()] if rivals is not None else []
        finding = Finding(changes, move, moves, model, tuple(why), sum(reads), verdict, rivals, self.dataset.warnings)
        return finding, self._settle(move.kept)

    def _gather(self, reusable: KeptStats | None, anchor: MixtureParams, stage: str) -> Gathered:
        share = None if self.kept is None else self.kept.share
        rule = make_stats_rule(self.dataset, self.settings, self.rule.apart, share)
        return gather_statistics(
            self.dataset, self.wanted, reusable, anchor, self.champion, rule, self.executor, self.listener,
            stage,
        )  # fmt: skip

    def _find_new_files(self, gathered: Gathered) -> set[FileId]:
        """Return the files, among those that were read, to which the champion was not fitted."""
        seen = self.seen
        if seen is None:  # an earlier release did not record them
            seen = frozenset(gathered.kept.files if self.kept is None else self.kept.files)
        return {f for e in gathered.fresh for f in e.files} - seen

    def _settle(self, kept: KeptStats) -> KeptStats:
        """Return the statistics as they are kept."""
        return replace(_settle_all_but(kept, set()), stepwise=self.rule.mode == STEPWISE)

    def _compare_rivals(self, mover: Mover, move: Move, kept: KeptStats, new: set[FileId]) -> RivalEvidence | None:
        """Compare the model with candidates of its sweep, and with neighbours fitted on the sample, on new rows."""
        old = [e.sample for e in kept.entries if not set(e.files) <= new]
        if not new or not old:
            return None
        apart = join_evidence([e for e in kept.entries if set(e.files) <= new])
        joined = SampledRows.join(old)
        before = Sample(joined.rows, joined.hashes, len(joined.rows), joined.weights)
        bound, z = self.rule.sweep_gain, self.rule.z
        stored = compare_rivals(self.champion.params, self.rivals, apart, before, bound, z)
        neighbours = grow_and_shrink(move.params, mover.describe_rows(move.total), self.settings)
        near = compare_rivals(move.params, neighbours, apart, before, bound, z)
        return max((stored, near), key=lambda e: (e.crosses, e.now))

    def _describe_gain(self, move: Move, mover: Mover) -> str:
        by_chance = f", {mover.chance:.1g} of it by chance" if mover.chance else ""
        enough = mover.is_worth_while(move)
        what = "the free energy" if self.rule.mode == STEPWISE else "the log-likelihood"
        text = (
            f"moving the parameters raises {what} of all rows by {move.gain:.3g} nats per row{by_chance}: "
            f"{'enough' if enough else 'too little'}, as {self.rule.min_gain:g} are asked for"
        )
        if move.why_exact:
            return f"{text}; {count_noun(move.passes, 'pass', 'passes')} over all files were made: {move.why_exact}."
        if self.rule.mode == STEPWISE or not enough or move.error > self.rule.max_error:
            return f"{text}."
        return f"{text}; against a full refit an estimated {move.error:.2g} nats per row are lost."

    def _describe_provenance(self, move: Move) -> dict[str, Any]:
        dataset = self.dataset.with_columns(self.champion.columns)
        return {
            **self.champion.provenance,
            "data_fingerprint": dataset.fingerprint,
            "rows": int(move.total.rows_read),
            "sample_rows": len(move.total.sample.rows),
            "version": version("stream-gmm"),
            LINEAGE: [*self.champion.provenance.get(LINEAGE, ()), self.champion.digest][-MOST_ANCESTORS:],
            "update": {
                "mode": self.rule.mode, "gain": move.gain, "error": None if move.error != move.error else move.error,
                "passes": move.passes, "measured": move.measured,
            },
        }  # fmt: skip


def _settle_all_but(kept: KeptStats, new: set[FileId]) -> KeptStats:
    """Return statistics that have rows set apart in the new files only."""
    return replace(kept, entries=tuple(e if set(e.files) <= new else e.settle() for e in kept.entries))


def _describe_changes(changes: FileChanges, gathered: Gathered, obstacle: str) -> str:
    counts = [
        (len(changes.new), "new"), (len(changes.changed), "changed"), (len(changes.gone), "gone"),
        (len(changes.unchanged), "unchanged"), (len(changes.outside), "outside of the window"),
    ]  # fmt: skip
    files = ", ".join(f"{n} {what}" for n, what in counts if n)
    if obstacle:
        return f"all {gathered.rows_read:,} rows were read, because {obstacle}."
    return f"files: {files or 'none'}; {gathered.rows_read:,} rows were read for their statistics."
