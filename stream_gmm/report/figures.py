"""The pictures of the report: charts whose axes :mod:`stream_gmm.plot` draws on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stream_gmm import plot
from stream_gmm.core.criteria import difference_format, display_name
from stream_gmm.core.display import count_noun
from stream_gmm.pipeline.drift_rule import DriftRule
from stream_gmm.plot.components import find_best_pairs
from stream_gmm.plot.inputs import column_name
from stream_gmm.plot.passes import draw_history, draw_remaining_gains
from stream_gmm.plot.rows import UNSURE
from stream_gmm.report.contents import RunContents
from stream_gmm.report.svg import Chart, make_axes, make_chart

DRAWN_ROWS = 1_500
"""Rows of a scatter plot; each is an element of the page."""
PAIRS = 4


def draw_charts(run: RunContents) -> dict[str, list[Chart]]:
    """Return the charts of a run by the section of the page that shows them."""
    sections: dict[str, Callable[[RunContents], list[Chart]]] = {
        "choice": _draw_choice,
        "criteria": _draw_criteria,
        "components": _draw_components,
        "assignments": _draw_assignments,
        "outliers": _draw_outliers,
        "convergence": _draw_convergence,
        "drift": _draw_drift,
    }
    return {name: draw(run) for name, draw in sections.items()}


def _draw_choice(run: RunContents) -> list[Chart]:
    table, criterion, chosen = run.table, run.record["criterion"], run.record["chosen"]
    name, out = display_name(criterion), []
    others = [r for r in table if r["delta"] is not None and not r["chosen"] and r["outcome"] in _COMPARED]
    if others:
        nearest = min(others, key=lambda r: float(r["delta"]))
        ax = plot.rivals(table, criterion, ax=make_axes(5.4, 3.6))
        out.append(make_chart(
            ax, "rivals", "What decided",
            f"{name} of the candidates nearest to {chosen}, as difference from it with two standard errors. The "
            f"nearest is {nearest['candidate']}, {difference_format(criterion).format(nearest['delta'])}.",
            "The nearest candidates on an axis of their own: how much worse each is than the chosen one (ringed), "
            "with two standard errors. A bar that touches the dotted line is a draw.",
        ))  # fmt: skip
    if len(table) > 1:
        ax = plot.differences(table, criterion, ax=make_axes(5.4, 3.6))
        out.append(make_chart(
            ax, "differences", "All candidates, as differences",
            f"Difference of {name} from that of {chosen} against K, one line for each covariance structure, on an "
            "axis that is logarithmic but near zero.",
            "All candidates. The vertical axis is logarithmic but near zero. Hollow marks are estimates from the "
            "sample, of candidates that were beaten there.",
        ))  # fmt: skip
    if any(row["gain"] is not None for row in table):
        ax = plot.gains(table, ax=make_axes(5.4, 3.6))
        out.append(make_chart(
            ax, "gains", "What each further component gains",
            "Gain in mean log-likelihood over one component less, nats per row, against K, with two standard errors.",
            "The gain of one component more, in nats per row, on rows that no fit on the sample has used (if there "
            "are such). Where the line meets zero, more components gain nothing.",
        ))  # fmt: skip
    return out


_COMPARED = ("CONVERGED", "MAX_PASSES", "PRUNED")


def _draw_criteria(run: RunContents) -> list[Chart]:
    out = []
    for key in ("bic", "aic", "icl") if len(run.table) > 1 else ():
        name = display_name(key)
        ax = plot.criteria(run.table, key, ax=make_axes())
        out.append(make_chart(
            ax, f"criterion-{key}", f"{name} of every candidate",
            f"{name} against the number of components, one line for each covariance structure; the chosen candidate, "
            f"{run.record['chosen']}, is ringed.",
            f"{name}: lower is better. A ring marks the chosen model, a cross a degenerate fit.",
        ))  # fmt: skip
    return out


def _draw_components(run: RunContents) -> list[Chart]:
    model, out = run.model, []
    pairs: list[tuple[int, int] | None] = list(find_best_pairs(model, PAIRS)) if model.n_features_in_ > 1 else [None]
    for number, pair in enumerate(pairs):
        ax = plot.ellipses(model, run.rows, pair, ax=make_axes(4.6, 3.8))
        what = column_name(model, 0) if pair is None else " and ".join(column_name(model, j) for j in pair)
        out.append(make_chart(
            ax, f"ellipses-{number}", f"The components in {what}",
            f"{count_noun(model.n_components, 'component')} over the density of {len(run.rows):,} sample rows.",
            f"{'The pair of columns that tells the components apart best' if not number else 'The next best pair'}: "
            f"{what}. Ellipses at 1 and 2 standard deviations hold 39 % and 86 % of a component."
            if pair else f"{what}: the rows as a histogram, and every component.",
        ))  # fmt: skip
    k, d = model.means_.shape
    many = d > 8
    ax = plot.profiles(model, ax=make_axes(min(11.0, 2.4 + 0.3 * d) if many else 5.2, max(2.8, 1.3 + 0.3 * k)))
    out.append(make_chart(
        ax, "profiles", "What marks every component",
        "Means of the components, standardised by mean and standard deviation of all rows; one row a component, one "
        "field a column. The portraits say the same in words.",
        "Means in standard deviations from the mean of all rows.", wide=many,
    ))  # fmt: skip
    if k > 1:
        side = max(3.4, 1.6 + 0.34 * k)
        ax = plot.overlap(model, ax=make_axes(side + 1.0, side))
        out.append(make_chart(
            ax, "overlap", "How much the components overlap",
            "Bhattacharyya coefficient of every two components; the portraits name the neighbours of each.",
            "Overlap of every two components (Bhattacharyya coefficient): 1 for equal ones, 0 for distant ones.",
        ))  # fmt: skip
    return out


def _draw_assignments(run: RunContents) -> list[Chart]:
    model, rows = run.model, run.rows[:DRAWN_ROWS]
    unsure = float((model.scores(run.rows).max_proba < UNSURE).mean())
    hard = plot.assignment(model, rows, ax=make_axes(4.8, 4.0))
    soft = plot.assignment(model, rows, soft=True, ax=make_axes(4.8, 4.0))
    doubt = plot.uncertainty(model, rows, ax=make_axes(4.8, 3.6))
    weights = plot.weights(model, ax=make_axes(4.8, 3.6))
    return [
        make_chart(
            hard, "hard", "Hard assignment",
            f"{len(rows):,} sample rows, each in the colour and with the marker of its most likely component.",
            "Hard: every row belongs to its most likely component, and to no other.",
        ),
        make_chart(
            soft, "soft", "Soft assignment",
            f"The same rows with mixed colours; {unsure:.1%} of the sample have no responsibility above {UNSURE}.",
            f"Soft: colours are mixed in proportion to the responsibilities. Large ringed marks are rows of which no "
            f"component has {UNSURE:.0%}: {unsure:.1%} of the sample.",
        ),
        make_chart(
            doubt, "uncertainty", "Where the assignment is unsure",
            "The same rows, darker and larger the less sure their component is.",
            "Uncertainty: 1 minus the largest responsibility of a row.",
        ),
        make_chart(
            weights, "weights", "Mixing weights",
            "Weights: " + ", ".join(f"component {i} {w:.3f}" for i, w in enumerate(model.weights_)) + ".",
            "The share of all rows that every component stands for.",
        ),
    ]  # fmt: skip


def _draw_outliers(run: RunContents) -> list[Chart]:
    ax = plot.log_density(run.model, run.rows, ax=make_axes(5.4, 3.4))
    share = float(np.mean(run.model.score_samples(run.rows) < run.model.threshold))
    return [make_chart(
        ax, "log-density", "Log-density of the sample, with the threshold for outliers",
        f"Histogram of the log-density of {len(run.rows):,} sample rows. Below the threshold "
        f"{run.model.threshold:.4g} are {share:.2%} of them.",
        "How well the model expects every row: the further to the left, the stranger. Left of the line rows are "
        "flagged as outliers.",
    )]  # fmt: skip


def _draw_convergence(run: RunContents) -> list[Chart]:
    histories, chosen = run.record["histories"], run.record["chosen"]
    return [
        make_chart(
            draw_remaining_gains(histories, chosen, make_axes()), "remaining", "What was still to be gained",
            "Remaining gain of every candidate at each accepted point, on a logarithmic axis.",
            "Every candidate: what it had still to gain until its last accepted point.",
        ),
        make_chart(
            draw_history(histories[chosen], make_axes()), "history", f"Log-likelihood of {chosen}",
            f"Mean log-likelihood of {chosen} at each accepted point; the last is {histories[chosen][-1]:.6g}.",
            f"The chosen one, {chosen}: mean log-likelihood at each accepted point.",
        ),
    ]  # fmt: skip


def _draw_drift(run: RunContents) -> list[Chart]:
    if not run.monitored:
        return []
    limits = run.config["monitor"]
    ax = plot.drift(
        list(run.monitored), DriftRule(**{k: limits[k] for k in _LIMITS if k in limits}), ax=make_axes(5.4)
    )
    last = run.monitored[-1]
    return [make_chart(
        ax, "drift", "What a refit would gain",
        f"Gain of a refit on new rows, one mark for each of {count_noun(len(run.monitored), 'period')}; on "
        f"{last['period']} it was {last['refit_gain']:.3g} nats per row, {last['chance_gain']:.3g} of it by chance.",
        "How much better a new model would describe the rows of a period. Dashes: what chance alone would gain.",
    )]  # fmt: skip


_LIMITS = ("max_gain", "max_psi", "false_alarm_rate")
