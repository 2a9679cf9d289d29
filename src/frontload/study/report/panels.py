"""A matplotlib figure as an SVG that belongs to the page: its text is text, its colors the page's.

Panels are drawn at phone width and set side by side where there is room, so that print never gets
smaller than it was drawn. Colors are drawn as stand-ins and replaced by CSS variables; lineages
take the Okabe-Ito colors in order, which color-blind readers can tell apart.
"""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

WIDTH_POINTS = 350
INK, FAINT, PAPER = "#a000f0", "#a000f1", "#a000f2"
_VARIABLES = {INK: "var(--ink)", FAINT: "var(--line)", PAPER: "var(--paper)"}
NUM_COLORS = 7
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "frontload",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "ytick.left": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


def style() -> Any:
    """The context in which a panel is drawn."""
    return mpl.rc_context(_STYLE)


def color(index: int) -> str:
    """The stand-in for the page's color number `index`."""
    return f"#a000{index % NUM_COLORS:02x}"


def new_figure(height_points: float) -> Figure:
    """An empty panel of the page's width."""
    return Figure(figsize=(WIDTH_POINTS / 72, height_points / 72), layout="constrained")


def as_svg(figure: Figure, label: str) -> str:
    """The figure as an inline SVG element; `label` is what a screen reader says."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[a-zA-Z_]+\d+(?:_\d+)?">', "<g>", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', _opening(label), svg, count=1)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--sans)", svg)
    svg = re.sub(r"#a000([0-9a-f]{2})", _variable, svg)
    return re.sub(r"\s*\n\s*", "\n", svg)


def _opening(label: str) -> str:
    described = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return (
        r'<svg class="panel" viewBox="\1" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-label="{described}">'
    )


def _variable(found: re.Match[str]) -> str:
    return _VARIABLES.get(found[0]) or f"var(--c{int(found[1], 16)})"
