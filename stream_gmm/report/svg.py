"""Figures as vector graphics inside a page: labelled for screen readers, and in the page's own colours."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from stream_gmm.report.colours import name_grey

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "stream-gmm",
}
_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_CIRCLE = re.compile(r'<path d="M ((?:-?[\d.]+ ){2}(?:C (?:-?[\d.]+ ){6}){8})z " (clip-path="[^"]*") ')
_CIRCLES = re.compile(r'<circle (clip-path="[^"]*") [^>]*/>(?:<circle \1 [^>]*/>)*')
_TAG = re.compile(r"<[^>]+>")
_COLOUR = re.compile(r"(?<=[: \"])#[0-9a-fA-F]{6}(?=[;\"])")


@dataclass(frozen=True)
class Chart:
    """A picture with its words.

    Attributes
    ----------
    name
        Unique in the page; part of its address.
    title, description
        What it is and what it shows, for those who do not see it.
    caption
        How to read it.
    svg
        The drawing.
    wide
        True if it takes the whole width of the page.
    """

    name: str
    title: str
    description: str
    caption: str
    svg: str
    wide: bool = False


def make_axes(width: float = 4.6, height: float = 3.4) -> Axes:
    """Return axes of a figure that no window shows."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        return figure.subplots()


def encode_png(ax: Axes, dpi: int = 90) -> str:
    """Return the figure of these axes as a picture on white, as a ``data:`` URL, for where no page is."""
    buffer = io.BytesIO()
    ax.figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")  # type: ignore[union-attr]
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def make_chart(ax: Axes, name: str, title: str, description: str, caption: str, wide: bool = False) -> Chart:
    """Return the figure of these axes as a chart."""
    figure = ax.figure
    assert isinstance(figure, Figure)
    return Chart(name, title, description, caption, encode_svg(figure, name, title, description), wide)


def encode_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """Return a figure as an ``svg`` element with a title and a description.

    Its ids begin with ``name``, its greys are variables of the page, and nothing in it refers to another place.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0]
    body = text[text.index("<defs>") : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = _simplify(body, name)
    return (
        f'<svg class="chart" role="img" aria-labelledby="{name}-title {name}-text" viewBox="0 0 {width} {height}" '
        f'style="max-width:{float(width) * 1.6:.0f}px">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-text">{escape(description)}</desc>'
        f"{body}</svg>"
    )


def _simplify(body: str, name: str) -> str:
    """Return the elements of a drawing in fewer characters: a few thousand marks are a few thousand elements."""
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL).replace("xlink:href", "href")
    pictures: list[str] = []

    def put_aside(match: re.Match[str]) -> str:
        pictures.append(match[0])
        return f"\0{len(pictures) - 1}\0"

    body = re.sub(r'"data:image/png;base64,[^"]*"', put_aside, body)
    body = re.sub(r"\s*\n\s*", " ", body).replace("> <", "><")
    body = _CIRCLE.sub(_write_circle, body)
    body = _TAG.sub(_shorten_tag, body)
    body = _rename(_share_paths(body), name)
    body = re.sub(
        r'style="fill: var\(--([\w-]+)\); stroke: var\(--\1\); stroke-width: 0.1"', r'class="cell-\1"', body
    )
    body = re.sub(r'(<g clip-path="[^"]*">)(?:<use [^>]*/></g>\1)+', lambda m: m[0].replace(f"</g>{m[1]}", ""), body)
    body = _CIRCLES.sub(lambda m: f"<g {m[1]}>{m[0].replace(m[1] + ' ', '')}</g>", body)
    return re.sub(r"\0(\d+)\0", lambda m: pictures[int(m[1])], body)


def _write_circle(match: re.Match[str]) -> str:
    """Return a path of eight curves as the circle that it draws; another path as it is."""
    numbers = [float(text) for text in match[1].replace("C", " ").split()]
    on_curve = [(numbers[i], numbers[i + 1]) for i in range(6, len(numbers), 6)]
    x, y = (sum(values) / len(on_curve) for values in zip(*on_curve, strict=True))
    radii = [math.hypot(a - x, b - y) for a, b in on_curve]
    if max(radii) - min(radii) > 0.01 * max(radii):
        return match[0]
    return f'<circle {match[2]} cx="{x:.1f}" cy="{y:.1f}" r="{max(radii):.2g}" '


def _shorten_tag(match: re.Match[str]) -> str:
    tag = _NUMBER.sub(lambda m: _shorten_number(float(m[0])), match[0])
    return _COLOUR.sub(lambda m: name_grey(m[0].lower()), tag)


def _share_paths(body: str) -> str:
    """Keep one of several equal paths that are defined, and let all marks refer to it."""
    first: dict[str, str] = {}
    renamed: dict[str, str] = {}

    def keep_first(match: re.Match[str]) -> str:
        own, path = match[1], match[2]
        renamed[own] = first.setdefault(path, own)
        return match[0] if renamed[own] == own else ""

    body = re.sub(r'<path id="([^"]+)" (d="[^"]*"[^>]*)/>', keep_first, body)
    return re.sub(r'href="#([^"]+)"', lambda m: f'href="#{renamed.get(m[1], m[1])}"', body)


def _rename(body: str, name: str) -> str:
    """Give ids that something refers to short names that begin with ``name``, and remove the others."""
    used = dict.fromkeys(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    short = {old: f"{name}-{number}" for number, old in enumerate(used)}
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{short[m[1]]}"' if m[1] in short else "", body)
    return re.sub(r'(href="#|url\(#)([^")]+)', lambda m: m[1] + short[m[2]], body)


def _shorten_number(value: float) -> str:
    """Return a coordinate to a tenth of a point; small numbers are scales, and keep three digits."""
    return f"{value:.3g}" if abs(value) < 10.0 else f"{value:.1f}".removesuffix(".0")
