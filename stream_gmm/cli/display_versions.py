"""Tables of versions and of their differences."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from stream_gmm.io.store.versions import Version
from stream_gmm.pipeline.job.registry import Registry, VersionDifference
from stream_gmm.pipeline.update.result import NOTHING, UpdateResult


def show_history(registry: Registry, console: Console) -> None:
    """Print the versions of a folder, newest first."""
    champion, challenger = registry.champion, registry.challenger
    aliases = {v.name: alias for v, alias in ((challenger, "challenger"), (champion, "champion")) if v}
    table = Table()
    for head in ("version", "alias", "published", "chosen", "rows", "BIC", "model", "data", "after"):
        table.add_column(head, justify="right" if head in ("rows", "BIC") else "left")
    for v in reversed(registry.history):
        table.add_row(
            v.name, aliases.get(v.name, ""), v.created, v.chosen, f"{v.rows:,}",
            f"{registry.load(v.name).criteria.bic:,.1f}", v.model_digest[:8], v.data_fingerprint[:8], v.origin or "",
        )  # fmt: skip
    console.print(table)
    for v in reversed(registry.history):
        if v.note:
            console.print(f"{v.name}: {v.note}", soft_wrap=True, markup=False)


def show_update(result: UpdateResult, console: Console) -> None:
    """Print what an update has done."""
    files = result.files
    console.print(f"update       {result.decision}")
    console.print(
        f"files        {len(files.new)} new, {len(files.changed)} changed, {len(files.gone)} gone, "
        f"{len(files.unchanged)} unchanged" + (f", {len(files.outside)} outside" if files.outside else "")
    )
    if result.decision != NOTHING:
        read = 100.0 * result.rows_read / max(result.rows, 1)
        console.print(
            f"rows read    {result.rows_read:,} for statistics, passes and scores: {read:.1f} % of {result.rows:,}; "
            f"passes over all rows: {result.passes}"
        )
        console.print(f"scored       {result.scored} files, {result.kept_scores} keep their scores")
    role = "in use" if result.promoted else f"not in use: {result.champion} is"
    console.print(f"version      {result.version}, {role}")
    for sentence in (*result.why, *result.warnings):
        console.print(f"  {sentence}", soft_wrap=True, markup=False)


def show_difference(difference: VersionDifference, console: Console) -> None:
    """Print how one version differs from another."""
    a, b = difference.first, difference.second
    table = Table(title=f"{a.name} ({a.chosen}, {a.created}) and {b.name} ({b.chosen}, {b.created})")
    heads = (
        f"component in {a.name}", f"in {b.name}", f"weight in {a.name}", f"in {b.name}", "mean shift, sd",
        "in column", "sd changes by", "Bhattacharyya distance",
    )  # fmt: skip
    for head in heads:
        table.add_column(head, justify="right")
    for c in difference.components:
        table.add_row(
            str(c.before), str(c.after), f"{c.weight_before:.4f}", f"{c.weight_after:.4f}", f"{c.mean_shift:.4f}",
            c.column, f"x {c.covariance_change:.4f}", f"{c.distance:.2e}",
        )  # fmt: skip
    console.print(table)
    for event in difference.events:
        console.print(event, soft_wrap=True)
    console.print(_describe_data(difference, a, b), soft_wrap=True)
    for name, (before, after) in difference.criteria.items():
        console.print(f"{name}: {before:,.6g} -> {after:,.6g}")
    for key, (was, now) in difference.config.items():
        console.print(f"{key}: {was!r} -> {now!r}", soft_wrap=True, markup=False)


def _describe_data(difference: VersionDifference, a: Version, b: Version) -> str:
    if difference.same_data:
        return f"the same data: {a.rows:,} rows"
    return f"other data: {a.rows:,} rows, then {b.rows:,}; their criteria cannot be compared"
