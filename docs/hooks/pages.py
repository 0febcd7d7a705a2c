"""Pages of the site that the build makes: settings, commands, Python reference, gallery, pages from elsewhere.

mkdocs calls the functions named ``on_...``; ``mkdocs.yml`` names this file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ELSEWHERE = {
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
"""Pages of the site and where in the repository they are."""


def on_config(config: Any) -> Any:
    """Add pages that the navigation does not name: to their folder's section, or to the reference."""
    sections = {name: entry for item in config.nav for name, entry in item.items() if isinstance(entry, list)}
    named = re.findall(r"[\w/-]+\.md", str(config.nav))
    for path in sorted(DOCS.rglob("*.md")):
        page = str(path.relative_to(DOCS))
        if page not in named:
            folder = {"how-to": "How to", "explanation": "Explanation", "coming-from": "Coming from"}
            sections[folder.get(page.split("/")[0], "Reference")].append(page)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here."""
    pages: dict[str, str | bytes] = {
        "reference/settings.md": write_settings(),
        "reference/commands.md": write_commands(),
        "reference/python.md": write_reference(),
        **draw_gallery(),
        **{page: _mend_links((ROOT / source).read_text(), source) for page, source in ELSEWHERE.items()},
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Remove the comments that are for the tests."""
    return re.sub(r"^<!-- not run: .*? -->\n+", "", markdown, flags=re.MULTILINE)


def _mend_links(text: str, source: str) -> str:
    """Return a page of the repository with links as the site has them; what is not on the site is named only."""

    def mend(match: re.Match[str]) -> str:
        words, link = match.groups()
        target, _, anchor = link.partition("#")
        if "://" in link or not target:
            return match[0]
        there = str(((ROOT / source).parent / target).resolve().relative_to(ROOT))
        on_site = {v: k for k, v in ELSEWHERE.items()}
        page = on_site.get(there) or (there.removeprefix("docs/") if there.startswith("docs/") else None)
        if page is None:
            return words if words.startswith("`") else f"`{there}`"
        return f"[{words}]({page}{'#' + anchor if anchor else ''})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", mend, text)


def write_settings() -> str:
    """Return the page of all keys of the configuration, from the model that checks them."""
    from stream_gmm.pipeline.job.config import RunConfig
    from stream_gmm.pipeline.job.repeat import config_keys

    lines = [
        "# Settings",
        "",
        "Every key of a configuration (YAML or JSON) and option of the command line: `em.tol` in a file is",
        "`--em.tol`, and `--tol` where no other section has that name. The same names are keywords in Python, with",
        "Python's defaults where a second one is given. `stream-gmm init DATA` writes a file with all of them.",
    ]
    section = None
    for key, field in config_keys().items():
        name = key.split(".")[0] if "." in key else "general"
        if name != section:
            section = name
            model: Any = RunConfig.model_fields[name].annotation if "." in key else None
            about = (model.__doc__ or "").strip().splitlines()[0] if model else "The run as a whole."
            lines += ["", f"## {name}", "", about, "", "| key | default | meaning |", "| --- | --- | --- |"]
        lines.append(f"| `{key}` | {_show_default(key, field)} | {_escape(field.description or '')} |")
    return "\n".join(lines) + "\n"


def _show_default(key: str, field: Any) -> str:
    from stream_gmm.pipeline.fit.settings import Settings

    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    shown = "none" if default is None else f"`{default}`" if default not in ("", [], {}) else ""
    option = Settings.__dataclass_fields__.get(key.removeprefix("em.")) if key.startswith("em.") else None
    return f"{shown}; Python: `{option.default}`" if option and option.default != default else shown


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def write_commands() -> str:
    """Return the page of all commands, with their own options and examples."""
    import click

    from stream_gmm.cli.commands import cli
    from stream_gmm.cli.help import COMMANDS, EXAMPLES, ConfiguredCommand

    context = click.Context(cli, info_name="stream-gmm")
    known = {name for names in COMMANDS.values() for name in names}
    groups = {**COMMANDS, "Operate": tuple(n for n in cli.list_commands(context) if n not in known)}
    lines = [
        "# Commands",
        "",
        "`stream-gmm COMMAND --help` shows the same in a terminal. Commands that take a configuration also take",
        "every [setting](settings.md) as an option, such as `--n-components 1:6`; those are not repeated here.",
    ]
    for title, names in groups.items():
        lines += ["", f"## {title}"]
        for name in (n for n in names if n in cli.commands):
            command = cli.commands[name]
            usage = command.get_usage(click.Context(command, info_name=name, parent=context)).removeprefix("Usage: ")
            lines += ["", f"### {name}", "", f"```text\n{usage}\n```", "", _unwrap(command.help or "")]
            own = [p for p in command.params if isinstance(p, click.Option)]
            if own:
                lines += ["", "| option | meaning |", "| --- | --- |"]
                lines += [f"| `{', '.join(p.opts)}` | {_escape(p.help or '')} |" for p in own]
            if isinstance(command, ConfiguredCommand):
                lines += ["", "Takes every [setting](settings.md) as an option."]
            if examples := EXAMPLES.get(name):
                lines += ["", "```text", *examples, "```"]
    return "\n".join([*lines, *_write_exit_codes()]) + "\n"


def _unwrap(text: str) -> str:
    return "\n\n".join(" ".join(_escape(block).split()) for block in text.split("\n\n"))


def _write_exit_codes() -> list[str]:
    from stream_gmm.errors import StreamGMMError

    lines = ["", "## Exit codes", "", "| code | error in Python | meaning |", "| --- | --- | --- |", "| 0 | | done |"]
    lines.append("| 1 | | an error that is none of the following |")
    errors = [e for e in StreamGMMError.__subclasses__() if e.exit_code > 1]
    for error in sorted(errors, key=lambda e: e.exit_code):
        meaning = (error.__doc__ or "").strip().splitlines()[0]
        lines.append(f"| {error.exit_code} | `{error.__name__}` | {_escape(meaning)} |")
    return lines


REFERENCE = {
    "Data": ("open_dataset", "Dataset"),
    "Fit and choose": ("fit", "sweep", "FitResult", "SweepResult", "Outcome", "MixtureParams"),
    "How certain": ("bootstrap", "BootstrapResult", "likelihood_ratio_test", "RatioTest"),
    "Score and keep": ("score", "ScoreResult", "save_model", "load_model", "open_registry", "Registry"),
    "Drift": ("monitor", "MonitorResult"),
    "Estimators": ("GaussianMixture", "BayesianGaussianMixture", "GaussianMixtureSelector", "OnlineGaussianMixture"),
}
"""The public names by what they are for; the others come last."""


def write_reference() -> str:
    """Return the page of all public names; mkdocstrings fills it."""
    import stream_gmm as sg

    grouped = {name for names in REFERENCE.values() for name in names}
    rest = tuple(n for n in sg.__all__ if n not in grouped and n not in ("plot", "FAMILIES"))
    lines = ["# Python", "", "```text\nimport stream_gmm as sg\n```"]
    for title, names in {**REFERENCE, "More": rest}.items():
        lines += ["", f"## {title}"]
        for name in names:
            thing = getattr(sg, name)
            lines += ["", f"::: {thing.__module__}.{thing.__qualname__}"]
    lines += ["", "## Plots", "", "[Gallery](../gallery.md) shows them all.", ""]
    for name in sg.plot.__all__:
        lines.append(f"\n::: {getattr(sg.plot, name).__module__}.{name}")
    return "\n".join(lines) + "\n"


def draw_gallery() -> dict[str, str | bytes]:
    """Return the page of all plots, drawn from the penguins, and its pictures."""
    import inspect

    import matplotlib

    matplotlib.use("Agg")
    import stream_gmm as sg

    data = sg.open_dataset(DOCS / "data" / "penguins.parquet", missing="drop")
    sweep = sg.sweep(data, n_components=range(1, 6), n_init=3)
    lines = [
        "# Gallery",
        "",
        "Every plot of `sg.plot`, drawn when this site was built, from 342 penguins ([tutorial](tutorial.md));",
        "`drift` shows five files of the demo, the last of them moved by half a unit.",
        "",
        "```text",
        'data = sg.open_dataset("penguins.parquet", missing="drop")',
        "sweep = sg.sweep(data, n_components=range(1, 6), n_init=3)",
        "```",
    ]
    out: dict[str, str | bytes] = {}
    taken = {"drift": ("monitored", monitor_demo())}
    for name in sg.plot.__all__:
        function = getattr(sg.plot, name)
        variable, value = taken.get(name, ("sweep", sweep))
        out[f"gallery/{name}.png"] = _save(function(value))
        about = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
        lines += ["", f"## {name}", "", re.sub(r":\w+:`([^`]+)`", r"`\1`", about), ""]
        lines += [f"```text\nsg.plot.{name}({variable})\n```", "", f"![{name}](gallery/{name}.png)"]
    rows = data.with_columns(["bill_length_mm", "bill_depth_mm"])
    names = [f.name for f in sg.FAMILIES]
    structures = sg.sweep(rows, n_components=[2], covariance_type=names, n_init=3, prune=False)
    out["gallery/structures.png"] = _save(sg.plot.covariance_types(structures, n_components=2, types=names))
    return {"gallery.md": "\n".join(lines) + "\n", **out}


def monitor_demo() -> Any:
    """Return what the monitor finds in five files, the last of which has drifted."""
    import tempfile

    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    import stream_gmm as sg
    from stream_gmm import demo

    with tempfile.TemporaryDirectory() as folder:
        demo.write(Path(folder), rows=20_000, columns=3, files=5, components=3)
        model = sg.fit(folder, 3)
        last = sorted(Path(folder).rglob("*.parquet"))[-1]
        table = pq.read_table(last)
        moved = pc.add(table["x0"], 0.5)
        pq.write_table(table.set_column(table.schema.get_field_index("x0"), "x0", moved), last)
        return sg.monitor(model, folder)


def _save(axes: Any) -> bytes:
    """Return the figure of axes as PNG."""
    import io

    import matplotlib.pyplot as plt
    import numpy as np

    figure = np.ravel(np.asarray(axes, object))[0].figure
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=80, bbox_inches="tight")
    plt.close(figure)
    return picture.getvalue()
