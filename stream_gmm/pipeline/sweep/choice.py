"""Which candidate is chosen, and why: in sentences that a reader can check against the sweep table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_gmm.core.criteria import (
    CRITERIA,
    HELDOUT,
    RULES,
    base_criterion,
    difference_format,
    display_name,
    penalty_per_parameter,
    value_format,
)
from stream_gmm.core.fit.em import Outcome
from stream_gmm.core.model.moments import Array
from stream_gmm.core.result import FitResult
from stream_gmm.core.search.evidence import compare_paired
from stream_gmm.errors import NoAdmissibleModelError, explain
from stream_gmm.pipeline.fit.penalty import ATOMS
from stream_gmm.pipeline.passes.profile import Profile
from stream_gmm.pipeline.sweep.result import ADMISSIBLE, Candidate, SweepResult, compare_with_chosen

ELBOW = 0.01
NAMED_REASONS = 3


@dataclass(frozen=True)
class SelectionRule:
    """A criterion or rule; and for ``elbow`` the gain below which more components are not worth it, nats per row."""

    criterion: str = "bic"
    elbow: float = ELBOW


LOWEST_BIC = SelectionRule()


@dataclass(frozen=True)
class AdmissibleCandidates:
    """The candidates that may be chosen, by their position."""

    results: Mapping[int, FitResult]
    values: Sequence[Array | None]
    """For each candidate its values ``(2, n)`` on the validation rows (see :func:`.result.compare_with_chosen`)."""
    weights: Array
    choice: SelectionRule

    def rank(self, criterion: str, among: Sequence[int] | None = None) -> list[int]:
        """Return positions, best first by a criterion; ties go to the smaller model."""
        value = CRITERIA[criterion]
        places = self.results if among is None else among
        return sorted(places, key=lambda i: (value(self.results[i].criteria), self.results[i].params.n_parameters, i))

    def pick_elbow(self) -> int:
        """Return the best by BIC with the smallest K that no larger K exceeds by more than ``elbow`` nats per row."""
        ks = sorted({r.n_components for r in self.results.values()})
        curve = [self.rank("bic", [i for i, r in self.results.items() if r.n_components == k])[0] for k in ks]
        logliks = np.array([self.results[i].criteria.loglik / self.results[i].criteria.n_rows for i in curve])
        later = np.maximum.accumulate(logliks[::-1])[::-1]
        return curve[int(np.argmax(later - logliks <= self.choice.elbow))]

    def pick_one_se(self) -> int:
        """Return the smallest model within one standard error of the best on the held-out rows."""
        ranking = self.rank(HELDOUT)
        best = ranking[0]
        top = self.results[best].criteria
        within = [
            i for i in ranking if top.heldout - self.results[i].criteria.heldout <= self._standard_error(i, best)
        ]
        return min(within, key=lambda i: (self.results[i].n_components, self.results[i].params.n_parameters, i))

    def _standard_error(self, i: int, best: int) -> float:
        a, b = self.values[i], self.values[best]
        if a is None or b is None:
            return 0.0
        return compare_paired(a[0], b[0], self.weights).sd / float(np.sqrt(self.results[best].criteria.heldout_rows))

    def pick(self, criterion: str) -> int:
        """Return the position that a criterion or rule chooses."""
        rules: dict[str, Callable[[], int]] = {"elbow": self.pick_elbow, "one_se": self.pick_one_se}
        return rules[criterion]() if criterion in rules else self.rank(criterion)[0]


def choose(
    candidates: Sequence[Candidate],
    values: Sequence[Array | None],
    choice: SelectionRule,
    profile: Profile,
    weights: Array,
    passes: int = 0,
) -> SweepResult:
    """Choose among the admissible candidates; ``values`` are those of each on the validation rows.

    Raises
    ------
    NoAdmissibleModelError
        If there is none.
    """
    results = {i: c.result for i, c in enumerate(candidates) if c.admissible and c.result is not None}
    if not results:
        raise NoAdmissibleModelError(
            explain(
                f"none of the {len(candidates)} candidates is admissible ({_list_reasons(candidates)})",
                remedy="use fewer components, or drop the columns or rows with repeated values, or set resolution to "
                "auto if values were recorded in steps",
            )
        )
    admissible = AdmissibleCandidates(results, values, weights, choice)
    chosen = admissible.pick(choice.criterion)
    out = SweepResult(
        tuple(candidates), chosen, choice.criterion, profile, passes,
        compare_with_chosen(candidates, chosen, values, weights),
        {c: candidates[admissible.pick(c)].name for c in _usable_criteria(profile)},
    )  # fmt: skip
    return replace(out, why=_explain_choice(out), warnings=_collect_warnings(out))


def _list_reasons(candidates: Sequence[Candidate]) -> str:
    """Return the reasons why candidates cannot be chosen, each once, with the first candidates that it concerns."""
    names: dict[str, list[str]] = {}
    for c in candidates:
        names.setdefault((c.reason or c.outcome.value).rstrip("."), []).append(c.name)
    groups = []
    for reason, own in list(names.items())[:NAMED_REASONS]:
        more = f" and {len(own) - NAMED_REASONS} more" if len(own) > NAMED_REASONS else ""
        groups.append(f"{', '.join(own[:NAMED_REASONS])}{more}: {reason}")
    others = [f"and {len(names) - NAMED_REASONS} other reasons"] if len(names) > NAMED_REASONS else []
    return "; ".join([*groups, *others])


def _usable_criteria(profile: Profile) -> list[str]:
    names = [*CRITERIA, *RULES]
    return names if profile.heldout.rows else [n for n in names if base_criterion(n) != HELDOUT]


def _collect_warnings(result: SweepResult) -> tuple[str, ...]:
    best, candidates = result.candidates[result.chosen], result.candidates
    out = list(result.profile.warnings)
    ks = sorted({c.n_components for c in candidates})
    if len(ks) > 1 and best.n_components == ks[-1]:
        out.append(f"the chosen number of components, {ks[-1]}, is the largest tried: {_describe_gain_curve(result)}")
    if best.outcome is not Outcome.CONVERGED:
        out.append(f"the chosen model {best.name} {best.outcome.value}.")
    out += [warning for warning in result.best.warnings if warning.startswith(ATOMS)]
    rejected = [c.name for c in candidates if not c.admissible and c.outcome is not Outcome.PRUNED]
    if rejected:
        out.append(f"{len(rejected)} candidates are not admissible: {', '.join(rejected)}.")
    return tuple(out)


def _describe_gain_curve(result: SweepResult) -> str:
    """Return the gains from component to component of the chosen structure, and what BIC requires of one."""
    best = result.candidates[result.chosen]
    gains = [
        f"K = {c.n_components} {e.gain.mean:+.4f} ({e.gain.standard_error:.1g})"
        for c, e in zip(result.candidates, result.evidence, strict=True)
        if c.family.name == best.family.name and e.gain
    ]
    if not gains:
        return "a larger one may be better."
    asked = penalty_per_parameter("bic", result.best.criteria.n_rows) * result.best.params.n_parameters
    return (
        f"a larger one may be better. Gains in nats per row (standard error): {', '.join(gains[-5:])}. BIC requires "
        f"no more than {asked / best.n_components:.2g} of a component with so many rows; 'elbow' would choose "
        f"{result.alternatives['elbow']}, ICL {result.alternatives['icl']}."
    )


def _explain_choice(result: SweepResult) -> tuple[str, ...]:
    sentences = (
        _describe_winner(result),
        _describe_runner_up(result),
        _describe_gains(result),
        _describe_dropped(result),
        _describe_alternatives(result),
    )
    return tuple(sentence for sentence in sentences if sentence)


def _describe_winner(result: SweepResult) -> str:
    best, n = result.candidates[result.chosen].name, len(result.candidates)
    if n == 1:
        return f"{best} is the only candidate."
    if result.criterion == "elbow":
        return f"{best} was chosen: more components than {result.best.n_components} gain too little per row."
    if result.criterion == "one_se":
        return f"{best} was chosen: the smallest model within a standard error of the best on the held-out rows."
    what = "gives the held-out rows the highest likelihood" if result.criterion == HELDOUT else "has the lowest "
    name = "" if result.criterion == HELDOUT else display_name(result.criterion)
    return f"{best} was chosen: it {what}{name} of {n} candidates."


def _describe_runner_up(result: SweepResult) -> str:
    """Return how far the runner-up is behind, and whether the difference exceeds chance."""
    deltas = [(result.delta(i)[0], i) for i, c in enumerate(result.candidates) if c.admissible or _was_pruned(c)]
    rivals = [(d, i) for d, i in deltas if d is not None and i != result.chosen]
    if not rivals:
        return ""
    delta, index = min(rivals)
    error = result.delta(index)[1]
    size = difference_format(result.criterion).format(delta)
    plus = f" (standard error {value_format(result.criterion).format(error)})" if error else ""
    name = result.candidates[index].name
    if result.criterion in RULES:
        return f"By {display_name(base_criterion(result.criterion))}, the best of the others is {name}, {size}{plus}."
    text = f"{name} comes next, {size}{plus}"
    if _was_pruned(result.candidates[index]):
        return f"{text} when it was pruned: the largest gain still to be expected would not have been enough."
    near = [result.candidates[i].name for i in result.near_ties()]
    if near:
        best = result.candidates[result.chosen].name
        return (
            f"{text}. {', '.join(near)} cannot be distinguished from {best}: other data of the same "
            "kind might choose them."
        )
    return f"{text}{_describe_strength(result, delta)}."


def _was_pruned(candidate: Candidate) -> bool:
    return candidate.on_full_data and candidate.outcome is Outcome.PRUNED


def _describe_strength(result: SweepResult, lead: float) -> str:
    if result.criterion != "bic":
        return ""
    strength = "weak" if lead < 2 else "positive" if lead < 6 else "strong" if lead < 10 else "very strong"
    return f": {strength} evidence on the scale of Kass and Raftery (1995)"


def _describe_gains(result: SweepResult) -> str:
    """Return what the last component of the chosen model gains, and what one more would gain."""
    best = result.candidates[result.chosen]
    by_k = {
        c.n_components: e.gain
        for c, e in zip(result.candidates, result.evidence, strict=True)
        if c.family.name == best.family.name and e.gain
    }
    own, more = by_k.get(best.n_components), by_k.get(best.n_components + 1)
    parts = []
    if own:
        parts.append(f"component {best.n_components} gains {own.mean:.4f} nats per row ({own.standard_error:.1g})")
    if more:
        parts.append(f"K = {best.n_components + 1} would gain {more.mean:.4f} more ({more.standard_error:.1g})")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}; standard errors in brackets." if text else ""


def _describe_dropped(result: SweepResult) -> str:
    counts = (
        (sum(not c.on_full_data for c in result.candidates), "were pruned on the sample"),
        (sum(_was_pruned(c) for c in result.candidates), "in the full passes"),
        (sum(c.outcome not in (*ADMISSIBLE, Outcome.PRUNED) for c in result.candidates), "are not admissible"),
    )
    counted = [f"{n} {what}" for n, what in counts if n]
    return f"Of the other candidates {', '.join(counted)}; the table says why." if counted else ""


def _describe_alternatives(result: SweepResult) -> str:
    best = result.candidates[result.chosen].name
    others = [f"{display_name(c)} {name}" for c, name in result.alternatives.items() if name != best]
    if sum(c.admissible for c in result.candidates) < 2:
        return ""
    if not others:
        return "The other criteria would choose the same among the candidates fitted to the end."
    return f"Others would choose differently among the candidates fitted to the end: {', '.join(others)}."
