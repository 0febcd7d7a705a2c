"""What to do next where a result calls for it: the reason, and the command to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_gmm.core.criteria import display_name
from stream_gmm.core.display import shorten_list
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.oddities import describe_tail, find_atoms, find_codes, find_collinear, find_limits
from stream_gmm.pipeline.drift_rule import DRIFTED
from stream_gmm.pipeline.job.config import RunConfig
from stream_gmm.pipeline.job.repeat import make_command
from stream_gmm.pipeline.limits import MOST_COMPONENTS
from stream_gmm.pipeline.sweep.result import NEAR_TIE
from stream_gmm.report.contents import RunContents

SHARED_VALUE = 0.05
HEAVY_TAIL = 1.5
"""From which kurtosis on, in units of that of a normal distribution (Mardia 1970), a component has heavy tails."""
MOSTLY = 0.5
"""From which share of outliers on a component is called one of outliers."""
LEAST_ROWS_PER_PARAMETER = 5.0
COPIED, COMMON = 0.98, 0.9
"""Components copy a column if so many of their rows share one value, and fewer than the second share of all rows."""
_LEAST_TAIL_ROWS = 200


_REPEATED = {
    "the chosen number of components": "More components may be better",
    "stopped at max_passes": "The chosen model has not converged",
    "few different whole numbers": "Components copy a column",
    "many rows share one value": "Many rows share one value",
    "long tails": "Heavy tails",
    "at the end of a range": "Values at the end of a range",
    "are collinear": "Columns follow from others",
}
"""Words of a warning, and the advice that says the same."""


@dataclass(frozen=True)
class Advice:
    """What is the matter, why it matters, and the command that goes on from here (empty: there is none)."""

    title: str
    text: str
    command: str = ""


def give_advice(run: RunContents) -> list[Advice]:
    """Return what a reader of the results should do next, the most important first."""
    rules = (
        _advise_on_drift, _advise_on_limits, _advise_on_convergence, _advise_on_copies, _advise_on_largest_k,
        _advise_on_ties, _advise_on_degenerate, _advise_on_atoms, _advise_on_outlying_components, _advise_on_tails,
        _advise_on_small_components, _advise_on_collinear, _advise_on_scoring,
    )  # fmt: skip
    return [advice for rule in rules for advice in rule(run)]


def list_cautions(run: RunContents, advice: Sequence[Advice]) -> list[str]:
    """Return the warnings of the run that no advice repeats."""
    given = {a.title for a in advice}
    return [w for w in run.record["warnings"] if not any(t in given and words in w for words, t in _REPEATED.items())]


def _run_with(run: RunContents, **changes: Any) -> str:
    return make_command(
        "run" if run.scored else "sweep",
        run.config,
        {key.replace("__", "."): value for key, value in changes.items()},
    )


def _advise_on_drift(run: RunContents) -> list[Advice]:
    last = run.monitored[-1] if run.monitored else None
    if last is None or last["status"] != DRIFTED:
        return []
    return [Advice(
        "The rows have drifted",
        f"On {last['period']} a refit would have gained {last['refit_gain']:.3g} nats per row, "
        f"{last['chance_gain']:.2g} of it by chance. Fit the model again on the new rows; as challenger it does not "
        "replace this one before 'stream-gmm promote'.",
        make_command("sweep", run.config, {"output.publish_as": "challenger", "sweep.match_to": "previous"}),
    )]  # fmt: skip


def _advise_on_convergence(run: RunContents) -> list[Advice]:
    if run.model.outcome is not Outcome.MAX_PASSES:
        return []
    passes = run.config["em"]["max_passes"]
    return [Advice(
        "The chosen model has not converged",
        f"It stopped after {passes} passes, so that log-likelihood and criteria are a little worse than they could "
        "be. What is finished is not fitted again.",
        _run_with(run, em__max_passes=3 * passes),
    )]  # fmt: skip


def _advise_on_copies(run: RunContents) -> list[Advice]:
    names, rows = tuple(run.record["data"]["columns"]), run.rows
    codes = find_codes(names, rows)
    if not codes:
        return []
    component = run.model.scores(rows).component
    copied = [name for name in codes if is_copied(component, rows[:, names.index(name)])]
    if not copied:
        return []
    named = [f"{name} has {codes[name]} different whole numbers" for name in copied]
    return [Advice(
        "Components copy a column",
        f"{shorten_list(named, 4)}, and nearly all rows of a component share one: the mixture finds again what is "
        "known already. If that is a label or a code, and no measurement, fit the other columns alone, and compare "
        "the components with it afterwards.",
        _run_with(run, data__exclude_columns=[*run.config["data"]["exclude_columns"], *copied]),
    )]  # fmt: skip


def is_copied(component: NDArray[np.integer[Any]], column: Array) -> bool:
    """Return True if almost all rows of a component share one value of a column that varies among all rows."""
    there = (component >= 0) & ~np.isnan(column)
    codes, which = np.unique(column[there], return_inverse=True)
    if not len(codes):
        return False
    counts = np.zeros((int(component.max()) + 1, len(codes)))
    np.add.at(counts, (component[there], which), 1)
    of_all, of_components = counts.sum(axis=0).max() / counts.sum(), counts.max(axis=1).sum() / counts.sum()
    return bool(of_all < COMMON and of_components >= COPIED)


def _advise_on_largest_k(run: RunContents) -> list[Advice]:
    ks = sorted({row["n_components"] for row in run.table})
    k = run.model.n_components
    if len(ks) < 2 or k != ks[-1]:
        return []
    larger = min(2 * k, MOST_COMPONENTS)
    own = next((w for w in run.record["warnings"] if w.startswith("the chosen number of components")), "")
    text = f"{own[0].upper()}{own[1:]}" if own else f"{k} is the largest number of components tried."
    return [Advice(
        "More components may be better",
        text + " Try more. Where the criterion keeps falling, the rows are no Gaussian mixture of few components: "
        "choose by the criterion 'elbow' or 'icl' then.",
        _run_with(run, sweep__n_components=list(range(max(k - 1, 1), larger + 1))),
    )]  # fmt: skip


def find_near_ties(run: RunContents) -> list[Mapping[str, Any]]:
    """Return the candidates that cannot be distinguished from the chosen one, the nearest first."""
    near = [
        row for row in run.table
        if not row["chosen"] and row["outcome"] in ("CONVERGED", "MAX_PASSES")
        and row["delta"] is not None and row["delta_se"] and abs(row["delta"]) <= NEAR_TIE * row["delta_se"]
    ]  # fmt: skip
    return sorted(near, key=lambda row: abs(row["delta"]) / row["delta_se"])


def _advise_on_ties(run: RunContents) -> list[Advice]:
    names = [row["candidate"] for row in find_near_ties(run)]
    if not names:
        return []
    return [Advice(
        "Other candidates are as good",
        f"{shorten_list(names, 4)} cannot be distinguished from {run.record['chosen']}: the difference in "
        f"{display_name(run.record['criterion'])} is within {NEAR_TIE:g} standard errors. A bootstrap shows how "
        "often other data of the same kind would choose each. Where it makes no difference, take the simplest.",
        make_command("bootstrap", run.config),
    )]  # fmt: skip


def _advise_on_degenerate(run: RunContents) -> list[Advice]:
    names = [row["candidate"] for row in run.table if row["outcome"] == "DEGENERATE"]
    if not names:
        return []
    return [Advice(
        "Components have collapsed",
        f"In {shorten_list(names, 4)} a component lies on repeated values, or has no rows, so that it cannot be "
        "chosen. With the resolution known, no component is narrower than the step in which values were recorded.",
        _run_with(run, em__resolution="auto"),
    )]  # fmt: skip


def _advise_on_atoms(run: RunContents) -> list[Advice]:
    names = run.record["data"]["columns"]
    if len(run.rows) < 100 or run.config["em"].get("resolution", "none") != "none":
        return []
    ends = find_pile_ups(run)
    shared = [
        f"{name} = {atom.value:g} ({atom.share:.0%} of the rows)"
        for name, atom in zip(names, find_atoms(run.rows), strict=True)
        if atom.share >= SHARED_VALUE and atom.value not in ends.get(name, ())
    ]
    if not shared:
        return []
    return [Advice(
        "Many rows share one value",
        f"{shorten_list(shared, 4)}. No normal distribution describes such a value, and a component may collapse "
        "onto it. Leave such columns out, or tell the fit in which steps values were recorded.",
        _run_with(run, em__resolution="auto"),
    )]  # fmt: skip


def find_pile_ups(run: RunContents) -> dict[str, list[float]]:
    """Return the ends of ranges at which rows pile up, by column; one that columns share counts where others end."""
    columns = dict(zip(run.record["data"]["columns"], run.rows.T, strict=True))
    found = {name: [value for value, _ in find_limits(column)] for name, column in columns.items()}
    counts = Counter(value for values in found.values() for value in values)
    common = [value for value, number in counts.items() if number > 1]
    for name, column in columns.items():
        found[name] += [v for v in common if v not in found[name] and v in (column.min(), column.max())]
    return {name: values for name, values in found.items() if values}


def _advise_on_limits(run: RunContents) -> list[Advice]:
    ends, columns = find_pile_ups(run), dict(zip(run.record["data"]["columns"], run.rows.T, strict=True))
    if not ends:
        return []
    mostly = [name for name, values in ends.items() if np.isin(columns[name], values).mean() >= MOSTLY]
    data, text = run.config["data"], [f"{name} = {value:g}" for name, values in ends.items() for value in values]
    whole = {name: [int(v) if v.is_integer() else v for v in values] for name, values in ends.items()}
    marks = {name: values[0] if len(values) == 1 else values for name, values in whole.items() if name not in mostly}
    dropped = f" In {shorten_list(mostly, 4)} most rows have it, so that the column says little." if mostly else ""
    changes: dict[str, Any] = {"data__exclude_columns": [*data["exclude_columns"], *mostly]}
    if marks:
        changes |= {"data__sentinel": {**(data.get("sentinel") or {}), **marks}, "data__missing": "marginalise"}
    return [Advice(
        "Values at the end of a range",
        f"{shorten_list(text, 6)}: rows pile up there, as at a limit of measurement, or where a number stands for a "
        f"missing value. They make components of their own, and then look usual.{dropped} If they stand for missing "
        "values, say so:",
        _run_with(run, **changes),
    )]  # fmt: skip


def _advise_on_outlying_components(run: RunContents) -> list[Advice]:
    scores = run.model.scores(run.rows)
    strange = scores.log_density < run.model.threshold
    shares = {k: float(strange[scores.component == k].mean()) for k in np.unique(scores.component).tolist() if k >= 0}
    outlying = [k for k, share in shares.items() if share >= MOSTLY]
    if not outlying or run.config["em"].get("noise"):
        return []
    names = shorten_list([str(k) for k in outlying], 6)
    return [Advice(
        "A component of outliers",
        f"Of component {names}, {min(shares[k] for k in outlying):.0%} of the sample rows are outliers: it is no "
        "group, but a wide cover of remote rows, such as errors of measurement. Look at these rows in the scored "
        "table; a noise component, uniform in the range of the data, holds them without taking the place of a group.",
        _run_with(run, em__noise=True),
    )]  # fmt: skip


def _advise_on_tails(run: RunContents) -> list[Advice]:
    skewed = [name for name, column in zip(run.model.labels, run.fitted_rows.T, strict=True) if describe_tail(column)]
    heavy = [str(k) for k, value in enumerate(measure_tails(run.model, run.rows)) if value >= HEAVY_TAIL]
    if not skewed and not heavy:
        return []
    what = [f"{shorten_list(skewed, 4)} reach{'es' * (len(skewed) == 1)} far to the right"] if skewed else []
    if heavy:
        where = f"component{'s' * (len(heavy) > 1)} {shorten_list(heavy, 6)}"
        what.append(f"{where} {'have' if len(heavy) > 1 else 'has'} more remote rows than a normal distribution")
    text, em = "; ".join(what) if skewed else what[0].capitalize(), run.config["em"]
    changes: dict[str, Any] = {"sweep__criterion": "icl"} if em.get("noise") else {"em__noise": True}
    if skewed and not em.get("transforms"):
        changes = {"em__transforms": "auto"}
    return [Advice(
        "Heavy tails",
        f"{text}. A mixture covers a tail with components that are no groups of their own. Fit the logarithm or "
        "another transform of such a column, give remote rows a component of their own (noise), or choose by ICL, "
        "which asks for separate components.",
        _run_with(run, **changes),
    )]  # fmt: skip


def measure_tails(model: FitResult, rows: Array) -> list[float]:
    """Return the kurtosis of the sample rows of every component, 1 for a normal distribution; 0 for too few rows.

    It is the mean of the squared Mahalanobis distance squared, over ``D (D + 2)`` (Mardia 1970).
    """
    scores, d = model.scores(rows), model.n_features_in_
    out = []
    for k in range(model.n_components):
        own = scores.mahalanobis_sq[scores.component == k]
        with np.errstate(over="ignore"):
            out.append(float(np.mean(own**2) / (d * (d + 2))) if len(own) >= _LEAST_TAIL_ROWS else 0.0)
    return out


def _advise_on_small_components(run: RunContents) -> list[Advice]:
    model = run.model
    own = model.params.n_parameters / model.n_components
    small = [k for k, w in enumerate(model.weights_) if w * model.criteria.n_rows < LEAST_ROWS_PER_PARAMETER * own]
    if not small or model.n_components == 1:
        return []
    tried, usual = run.config["sweep"]["covariance_type"], RunConfig.model_fields["sweep"].default.covariance_type
    more = list(dict.fromkeys([*tried, *usual]))
    return [Advice(
        "Very small components",
        f"Fewer than {LEAST_ROWS_PER_PARAMETER:g} rows stand for each parameter of component "
        f"{shorten_list([str(k) for k in small], 6)}. Look at the rows in the scored table before you give it a "
        "name; covariance structures with fewer parameters (tied, diag) need fewer rows.",
        "" if len(more) == len(tried) else _run_with(run, sweep__covariance_type=more),
    )]  # fmt: skip


def _advise_on_collinear(run: RunContents) -> list[Advice]:
    names, rows = tuple(run.record["data"]["columns"]), run.fitted_rows
    if len(rows) < 2 or len(names) < 2 or not np.all(np.ptp(rows, axis=0) > 0.0):
        return []
    dependent = find_collinear(names, np.cov(rows.T))
    if not dependent:
        return []
    return [Advice(
        "Columns follow from others",
        f"{shorten_list(dependent, 6)} are collinear: one of them is a sum or multiple of the others and adds "
        "nothing. Leave one out.",
        _run_with(run, data__exclude_columns=[*run.config["data"]["exclude_columns"], dependent[-1]]),
    )]  # fmt: skip


def _advise_on_scoring(run: RunContents) -> list[Advice]:
    if run.scored is not None:
        return []
    return [Advice(
        "The rows are not scored yet",
        "Scoring writes for every row its component, the responsibilities, the log-density, and whether it is an "
        "outlier.",
        make_command("score", run.config),
    )]  # fmt: skip
