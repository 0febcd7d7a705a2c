"""What a bootstrap says, as sentences and as figures with their standard errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_gmm.core.criteria import display_name
from stream_gmm.core.result import FitResult


def format_component(model: FitResult, k: int, record: Mapping[str, Any] | None) -> list[str]:
    """Return weight and means of a component as text, with standard errors if there is a bootstrap."""
    values = [f"{model.weights_[k]:.4f}", *(f"{v:.5g}" for v in model.means_[k])]
    if record is None:
        return values
    errors = (record["weights_se"][k], *record["means_se"][k])
    return [f"{v} ± {e:.1g}" for v, e in zip(values, errors, strict=True)]


def describe_bootstrap(record: Mapping[str, Any], chosen: str) -> tuple[str, ...]:
    """Return what a bootstrap of a run says, in sentences."""
    n = record["replicates"]
    others = ", ".join(f"{name} in {count}" for name, count in record["chosen"].items() if name != chosen)
    out = [
        f"In {n} bootstrap replicates of all rows, {chosen} would be chosen by "
        f"{display_name(record['criterion'])} in "
        f"{record['chosen'].get(chosen, 0)}"
        f"{', ' + others if others else ''}. The log-likelihood has a standard error of {record['loglik_se']:.4g} "
        "nats per row."
    ]
    for t in record["tests"]:
        k, p = t["n_components"], t["p_value"]
        verdict = "more are needed" if p <= 0.05 else "they may be enough"
        out.append(
            f"Likelihood-ratio test of {k} against {k + 1} components on {t['rows']:,} rows: p = {p:.3g}, {verdict}."
        )
    return tuple(out)
