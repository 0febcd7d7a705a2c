"""Publishes what an update has found: a version, scores, a record, and the statistics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stream_gmm.core.estep.scores import score_rows
from stream_gmm.core.file_stats import KeptStats, SampledRows
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.transforms import restore_rows
from stream_gmm.execute.protocol import Executor
from stream_gmm.faults import fault_site
from stream_gmm.io.sink.targets import open_target
from stream_gmm.io.source.dataset import Dataset
from stream_gmm.io.store.generations import current_state, link_tree
from stream_gmm.io.store.models import save_model
from stream_gmm.io.store.statistics import STATISTICS, save_statistics
from stream_gmm.io.store.tables import write_rows
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.registry import Registry
from stream_gmm.pipeline.job.run_folder import (
    CANDIDATES,
    MODEL,
    PREVIOUS,
    SAMPLE,
    TABLE,
    TRUTH,
    publish_results,
    read_catalog,
    read_run,
    update_record,
    write_files,
    write_record,
)
from stream_gmm.pipeline.job.stages import sweep_stage
from stream_gmm.pipeline.passes.progress import Listener
from stream_gmm.pipeline.score import ScoreResult, find_kept_parts, score, with_model_columns
from stream_gmm.pipeline.table_layout import make_layout
from stream_gmm.pipeline.update.result import KEPT, MOVED, SWEPT, Finding, UpdateResult
from stream_gmm.pipeline.update.rule import ALL, EVIDENCE, NONE
from stream_gmm.pipeline.update.rule import MOVED as RESCORE_MOVED
from stream_gmm.pipeline.update.statistics import identify_files, keep_scored_statistics, make_stats_rule
from stream_gmm.pipeline.update.update import LINEAGE


@dataclass(frozen=True)
class Publisher:
    """Publishes what an update has found: a version, scores, a record, and the statistics."""

    config: RunConfig
    dataset: Dataset
    champion: FitResult
    state: Path
    executor: Executor
    listener: Listener

    @property
    def scores_are_complete(self) -> bool:
        """True if the scored table holds the files as they are, scored by the champion or a model before it."""
        if self.config.update.rescore == NONE:
            return True
        target = open_target(self.config.scored)
        manifest = target.read_manifest()
        layout = self._make_layout()
        kept = find_kept_parts(target, with_model_columns(self.dataset, self.champion), layout, self._ancestors)
        return manifest is not None and len(kept) == len(self.dataset.parts) == len(manifest.get("parts") or ())

    def _make_layout(self) -> Any:
        options, model = self.config.score.options(), self.champion
        return make_layout(self.dataset, model.n_components, model.density.noisy, options, model.columns)

    @property
    def _ancestors(self) -> set[str]:
        return {self.champion.digest, *self.champion.provenance.get(LINEAGE, ())}

    def publish(self, finding: Finding, kept: KeptStats) -> UpdateResult:
        """Publish a moved model, if it has moved, and the scores of what is new."""
        config, started = self.config, time.perf_counter()
        model, aside = self.champion, False
        version = str(read_catalog(config.folder).champion)
        note = ""
        fault_site("update")
        if finding.moves:
            verdict = finding.verdict
            aside = config.output.publish_as == "challenger" or (
                config.output.publish_as == EVIDENCE and (verdict is None or not verdict.wins)
            )
            note = verdict.describe() if verdict is not None else ""
            version = publish_results(
                config.folder, lambda staged: self._write_version(staged, finding),
                keep=config.output.keep_versions, challenger=aside, note=note,
            ).name  # fmt: skip
            model = self.champion if aside else finding.model
        scored, kept = self._score(model, finding, kept)
        decision = MOVED if finding.moves else KEPT
        result = self._make_result(decision, finding, version, scored)
        self._complete(result, model, scored, time.perf_counter() - started)
        fault_site("statistics")
        save_statistics(kept, config.folder / STATISTICS)
        return result

    def sweep_again(self, finding: Finding, kept: KeptStats) -> UpdateResult:
        """Search for a model among all candidates, and score all rows if it becomes champion."""
        config, started = self.config, time.perf_counter()
        fault_site("update")
        matched = config.sweep.model_copy(update={"match_to": config.sweep.match_to or PREVIOUS})
        changed: dict[str, Any] = {"sweep": matched}
        if config.output.publish_as == EVIDENCE and not config.em.holdout:
            changed["em"] = config.em.model_copy(update={"holdout": config.update.apart})
        swept = sweep_stage(config.model_copy(update=changed), self.executor, self.listener)
        _, _, model = read_run(config.folder)
        catalog = read_catalog(config.folder)
        moved = model.digest != self.champion.digest
        found = replace(
            finding, model=swept.best, moves=moved, verdict=None,
            why=(*finding.why, "a new sweep was made: " + " ".join(swept.why)),
            rows_read=finding.rows_read + swept.passes * self.dataset.num_rows,
        )  # fmt: skip
        publisher = replace(self, champion=model, state=current_state(config.folder)) if moved else self
        scored, kept = publisher._score(model, found, kept, afresh=moved)
        version = str(catalog.champion if moved else catalog.challenger or catalog.champion)
        result = replace(
            self._make_result(SWEPT, found, version, scored), passes=swept.passes, warnings=swept.warnings
        )
        self._complete(result, model, scored, time.perf_counter() - started)
        fault_site("statistics")
        save_statistics(kept, config.folder / STATISTICS)
        return result

    def _make_result(self, decision: str, finding: Finding, version: str, scored: ScoreResult | None) -> UpdateResult:
        move = finding.move
        n_scored = 0 if scored is None else scored.scored_parts
        return UpdateResult(
            decision, finding.why, finding.files, finding.model, version,
            str(read_catalog(self.config.folder).champion), self.dataset.num_rows,
            finding.rows_read + (0 if scored is None else scored.scored_rows),
            0 if move is None else move.passes, None if move is None else move.gain,
            None if move is None else move.guaranteed,
            None if move is None or np.isnan(move.error) else move.error,
            finding.verdict, finding.rivals, n_scored,
            0 if scored is None else len(scored.manifest["parts"]) - n_scored,
            finding.warnings,
        )  # fmt: skip

    def _write_version(self, staged: Path, finding: Finding) -> None:
        assert finding.move is not None
        link_tree(self.state, staged, [TABLE, CANDIDATES, TRUTH])
        total, config = finding.move.total, self.config
        columns, rows = self.champion.columns, total.sample.rows[: config.output.report_rows]
        write_rows(restore_rows(rows, columns, self.champion.transforms), columns, staged / SAMPLE)
        save_model(finding.model, staged / MODEL)
        write_files(staged, identify_files(self.dataset).values())
        _, before, _ = read_run(self.state)
        moments = total.moments
        data = {
            **before["data"],
            "rows": self.dataset.num_rows,
            "used": int(finding.move.stats.rows),
            "sample_rows": len(total.sample.rows),
            "mean": moments.mean[0].tolist(),
            "sd": np.sqrt(np.diagonal(moments.scatter[0]) / moments.rows).tolist(),
            "low": total.low.tolist(),
            "high": total.high.tolist(),
            "bad": total.bad.tolist(),
        }
        record = {
            **before, "name": config.name, "config": config.model_dump(mode="json"),
            "model_digest": finding.model.digest, "passes": finding.move.passes, "reused": 0,
            "why": list(finding.why), "warnings": list(dict.fromkeys((*finding.model.warnings, *finding.warnings))),
            "seconds": {}, "data": data,
        }  # fmt: skip
        record.pop("scored", None)
        write_record(staged, record)

    def _score(
        self, model: FitResult, finding: Finding, kept: KeptStats, *, afresh: bool = False
    ) -> tuple[ScoreResult | None, KeptStats]:
        """Score what has no scores yet; return the statistics, of this pass if it has scored all rows."""
        config, moved = self.config, model.digest != self.champion.digest
        if config.update.rescore == NONE:
            return None, kept
        keep: set[str] = set() if afresh or (moved and config.update.rescore == ALL) else self._ancestors
        if moved and config.update.rescore == RESCORE_MOVED:
            keep = self._find_near_models(model, kept)
        dataset = config.open(model)
        rule = config.update.rule()
        everything = not keep and rule.window is None and dataset.weight is None
        stats_rule = make_stats_rule(dataset, config.settings(), rule.apart) if everything else None
        scored = score(
            model, dataset, config.scored, self.executor,
            table=config.score.options(), wait=config.output.wait, listener=self.listener, stats_rule=stats_rule,
            keep_scores=keep | ({model.digest} if keep else set()),
        )  # fmt: skip
        if stats_rule is not None:
            kept = keep_scored_statistics(dataset, model, scored.statistics, stats_rule.share) or kept
        return scored, kept

    def _find_near_models(self, model: FitResult, kept: KeptStats) -> set[str]:
        """Return the models whose log-densities of the sampled rows are near those of the new one."""
        rows = SampledRows.join([e.sample for e in kept.entries]).rows
        new = score_rows(model.density, rows).log_density
        manifest = open_target(self.config.scored).read_manifest() or {}
        wanted = {str(part.get("model", "")) for part in manifest.get("parts") or ()}
        known = {self.champion.digest: self.champion}
        registry = Registry(self.config.folder)
        for version in registry.history:
            if version.model_digest in wanted & self._ancestors - set(known):
                known[version.model_digest] = registry.load(version.name)
        near = set()
        for digest, old in known.items():
            shift = float(np.mean(np.abs(new - score_rows(old.density, rows).log_density))) if len(rows) else 0.0
            if shift <= self.config.update.rescore_shift:
                near.add(digest)
        return near

    def _complete(self, result: UpdateResult, model: FitResult, scored: ScoreResult | None, seconds: float) -> None:
        """Add the update to the record of the champion."""
        manifest: Mapping[str, Any] = {} if scored is None else scored.manifest

        def change(record: dict[str, Any]) -> None:
            record["update"] = result.as_record() | {"seconds": seconds}
            if scored is not None:
                record["scored"] = {k: v for k, v in manifest.items() if k != "parts"}

        update_record(self.config.folder, model.digest, change)
