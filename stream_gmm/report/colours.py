"""The colours of the report, light and dark, as variables of its style sheet.

Pictures are drawn in black and grey on white, and in the colours of :mod:`stream_gmm.plot.style`. Black, white and
the greys between become variables here, so that one drawing serves both schemes.
"""

from __future__ import annotations

from collections.abc import Mapping

STEPS = 16
"""Greys between ink and paper."""
SCHEMES: Mapping[str, Mapping[str, str]] = {
    "light": {
        "paper": "#ffffff", "card": "#f6f8fa", "ink": "#1b2330", "soft": "#4f5a69", "line": "#d3d9e1",
        "link": "#00598c", "chosen": "#dfeefa", "good": "#0a6b3d", "warn": "#8a3800", "warn-paper": "#fff4ea",
    },
    "dark": {
        "paper": "#10151b", "card": "#1a212a", "ink": "#e8ecf1", "soft": "#aab4c1", "line": "#3a4552",
        "link": "#7cc4f5", "chosen": "#17364c", "good": "#6fd6a2", "warn": "#ffb98a", "warn-paper": "#35241a",
    },
}  # fmt: skip
_GREYS = ("ink", "paper", *(f"grey-{i}" for i in range(1, STEPS)))
TEXTS = ("ink", "soft", "link", "good", "warn")
PAPERS = ("paper", "card", "chosen", "warn-paper")


def make_colour_rules() -> str:
    """Return the style rules that define every colour: light, dark where the reader prefers that, light in print."""
    light, dark = (_define(name) for name in ("light", "dark"))
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        f"@media print{{:root{{{light}}}}}\n"
        + "".join(f".cell-{name}{{fill:var(--{name});stroke:var(--{name});stroke-width:.1}}\n" for name in _GREYS)
    )


def _define(scheme: str) -> str:
    colours = SCHEMES[scheme]
    greys = {f"grey-{i}": mix_colours(colours["ink"], colours["paper"], i / STEPS) for i in range(1, STEPS)}
    return "".join(f"--{name}:{value};" for name, value in {**colours, **greys}.items())


def mix_colours(one: str, other: str, share: float) -> str:
    """Return a colour with so much of the other one in it."""
    pairs = zip(_split(one), _split(other), strict=True)
    return "#" + "".join(f"{round((1.0 - share) * a + share * b):02x}" for a, b in pairs)


def _split(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def name_grey(colour: str) -> str:
    """Return a colour of a drawing as the report shows it: a grey as a variable, every other one as it is."""
    red, green, blue = _split(colour)
    if not red == green == blue:
        return colour
    step = round(red / 255.0 * STEPS)
    return "var(--ink)" if step == 0 else "var(--paper)" if step == STEPS else f"var(--grey-{step})"


def measure_contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it, from 1 to 21."""
    low, high = sorted(_measure_luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def _measure_luminance(colour: str) -> float:
    parts = [c / 255.0 for c in _split(colour)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
