"""The report of a run: one HTML file that needs nothing else, and from which no request leaves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from stream_gmm.core.criteria import display_name
from stream_gmm.extras import describe_installation, is_installed
from stream_gmm.io.store.container import write_atomically
from stream_gmm.pipeline.job.repeat import make_command
from stream_gmm.pipeline.job.run_folder import REPORT, update_record
from stream_gmm.pipeline.uncertainty.words import describe_bootstrap
from stream_gmm.report.advice import give_advice, list_cautions
from stream_gmm.report.colours import make_colour_rules
from stream_gmm.report.contents import RunContents, read_contents
from stream_gmm.report.facts import collect_facts, list_outputs, write_sentence
from stream_gmm.report.portraits import describe_components, format_value
from stream_gmm.report.tables import (
    tabulate_candidates,
    tabulate_data,
    tabulate_drift,
    tabulate_means,
    tabulate_sizes,
    tabulate_strangest,
    tabulate_truth,
)

SHOWN_COLUMNS = 6
"""Columns that a portrait shows; the others, if they are more than two, are folded away."""
_TEMPLATES = ("report.html", "live.html", "macros.html")


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from the results in the folder of a run.

    Raises
    ------
    InputDataError
        If the folder is not that of a run.
    StorageError
        If it cannot be written.
    """
    run = read_contents(folder)
    content = render(run).encode()
    update_record(folder, run.model.digest, lambda _: None, lambda staged: write_atomically(staged / REPORT, content))
    return folder / REPORT


def render(run: RunContents) -> str:
    """Return the report as HTML. Names from the data are escaped."""
    record, model = run.record, run.model
    counts = run.scored["component_rows"] if run.scored else None
    portraits = describe_components(model, run.rows, counts)
    neighbours = [f"component {p.neighbour}" if p.neighbour else "none" for p in portraits]
    comparison, fits = tabulate_candidates(run)
    advice = give_advice(run)
    charts: Mapping[str, Sequence[Any]] = defaultdict(list)
    cautions = list_cautions(run, advice)
    if is_installed("matplotlib"):
        from stream_gmm.report.figures import draw_charts

        charts = draw_charts(run)
    else:
        cautions.append(
            f"There are no charts, because matplotlib is not installed ({describe_installation('matplotlib')}); "
            "'stream-gmm report' draws them later."
        )
    return render_page(
        "report.html",
        title=f"{record['name']}: {record['chosen']}",
        name=record["name"],
        sentence=write_sentence(run),
        facts=collect_facts(run),
        advice=advice,
        cautions=cautions,
        why=record["why"],
        criterion=display_name(record["criterion"]),
        sure=describe_bootstrap(record["bootstrap"], record["chosen"]) if "bootstrap" in record else (),
        charts=charts,
        comparison=comparison,
        fits=fits,
        portraits=portraits,
        shown_columns=SHOWN_COLUMNS if model.n_features_in_ > 2 + SHOWN_COLUMNS else model.n_features_in_,
        sizes=tabulate_sizes(run, [p.headline for p in portraits], neighbours),
        means=tabulate_means(run),
        truth=tabulate_truth(run),
        strangest=tabulate_strangest(run),
        threshold=model.threshold,
        monitor=tabulate_drift(run),
        data=tabulate_data(run),
        paths=run.config["data"]["paths"],
        outputs=list_outputs(run),
        config=yaml.safe_dump(dict(record["config"]), sort_keys=False),
        command=make_command("run" if run.scored else "sweep", run.config),
        seconds=record["seconds"],
        passes=record["passes"],
        digest=model.digest,
        version=version("stream-gmm"),
    )


def render_page(template: str, **values: Any) -> str:
    """Return a page with the style sheet and the scripts inside."""
    environment = _load_templates()
    style = Markup(make_colour_rules()) + Markup(_read("style.css"))
    return environment.get_template(template).render(style=style, script=Markup(_read("script.js")), **values)


@cache
def _load_templates() -> Environment:
    sources = {name: _read(name) for name in _TEMPLATES}
    environment = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["value"] = format_value
    return environment


def _read(name: str) -> str:
    return files("stream_gmm.report").joinpath("page", name).read_text()
