"""Cells of mclust's BIC and ICL tables that a sweep reaches: 14 structures x K = 1 ... 9, defaults and n_init = 10.

``python -m benchmarks.mclust_tables``: faithful and iris, against the tables of mclust 6 (``tests/data/mclust.json``,
with the opposite sign) and the ICL table (integrated completed likelihood: BIC plus a penalty for overlapping
components) in the book of Scrucca et al. (2023). A cell is met if our value is at most 0.03 above (1e-6 for K = 1;
0.06 for ICL, whose table is rounded). ICL is that of the fit with the highest likelihood: a better optimum can have a
worse ICL.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import stream_gmm as sg
from benchmarks.harness import write_report
from stream_gmm.core.model.covariance import FAMILIES
from tests.oracles import rows_of

PUBLISHED = json.loads((Path(__file__).parent.parent / "tests" / "data" / "mclust.json").read_text())
HEADINGS = ("data", "criterion", "published", "met", "better by more than 0.03", "not met", "seconds")


def select_published_tables(name: str) -> dict[str, Any]:
    """Return the published tables of a data set, by criterion; each by structure code and number of components."""
    out = {"bic": PUBLISHED["computed_with_mclust_6"][name]["default_bic_mclust_table"]}
    for published in PUBLISHED["published"]:
        if published["dataset"] == name and "icl_mclust_table" in published:
            out["icl"] = published["icl_mclust_table"]
    return out


def allowed_excess(criterion: str, k: int) -> float:
    """Return by how much our value may be above the published one."""
    return 0.06 if criterion == "icl" else 1e-6 if k == 1 else 0.03


def compare_with_published(name: str) -> list[tuple[Any, ...]]:
    """Return one row of the report for every published table of a data set."""
    began = time.perf_counter()
    result = sg.sweep(rows_of(name), range(1, 10), [f.name for f in FAMILIES], n_init=10, prune=False)
    seconds = time.perf_counter() - began
    cells = {(r["mclust"], r["n_components"]): r for r in result.table.to_pylist()}
    out = []
    for criterion, table in select_published_tables(name).items():
        gaps = {
            (code, int(k)): cells[code, int(k)][criterion] + value
            for code, row in table.items() for k, value in row.items()
            if value is not None and (code, int(k)) in cells and cells[code, int(k)][criterion] is not None
        }  # fmt: skip
        missed = {f"{c},{k}": round(g, 3) for (c, k), g in gaps.items() if g > allowed_excess(criterion, k)}
        better = sum(g < -0.03 for g in gaps.values())
        out.append((name, criterion, len(gaps), len(gaps) - len(missed), better, json.dumps(missed), seconds))
    return out


def main() -> None:
    """Measure, print and write the tables."""
    write_report(
        "mclust_tables", HEADINGS, [row for name in ("faithful", "iris") for row in compare_with_published(name)]
    )


if __name__ == "__main__":
    main()
