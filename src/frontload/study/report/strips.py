"""A contrast at a glance: its interval as a bar, the effect as a tick, each seed as a dot.

Written by hand rather than plotted: forty of them cost nothing, and their colors are those of the
page. All strips of one question and metric share a scale, so they can be compared by eye.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from frontload.study.report.numbers import number
from frontload.study.results import ContrastResult

WIDTH, HEIGHT = 300, 40
_LEFT, _RIGHT, _BASE = 10, 10, 18
_STEPS = (1, 2, 2.5, 5, 10, 20)


def scale_of(contrasts: Sequence[ContrastResult]) -> tuple[float, float]:
    """(lowest, highest) value shown for contrasts of one metric; 0 is always inside.

    Effects, seeds and margins always fit. Intervals are followed to twice the span of those: with
    two seeds they may be a hundred times wider, and an arrow says so without hiding the rest.
    """
    marks, ends = [0.0], [0.0]
    for contrast in contrasts:
        if contrast.measured:
            marks += [contrast.measured.effect, *contrast.measured.per_seed.values()]
            ends += [contrast.measured.low, contrast.measured.high]
            marks += _margins(contrast)
    low, high = min(marks), max(marks)
    span = high - low or max(ends) - min(ends)
    low, high = max(min(*ends, low), low - span), min(max(*ends, high), high + span)
    if low == high:
        return -1.0, 1.0
    step = _step(high - low)
    return step * math.floor(low / step), step * math.ceil(high / step)


def _margins(contrast: ContrastResult) -> list[float]:
    if not contrast.margin:
        return []
    both = contrast.expect in ("same", "unknown")
    sign = -1 if contrast.expect == "lower" else 1
    return [-contrast.margin, contrast.margin] if both else [sign * contrast.margin]


def _step(span: float) -> float:
    """A round number that goes into the span at most six times."""
    magnitude = 10.0 ** math.floor(math.log10(span) - 1)
    return next(magnitude * m for m in _STEPS if span / (magnitude * m) <= 6)


def strip(contrast: ContrastResult, scale: tuple[float, float]) -> str:
    """The SVG of one contrast; empty when it was not measured."""
    measured = contrast.measured
    if measured is None:
        return ""
    low, high = scale

    def x(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    parts = [_axis(contrast, scale, x)]
    parts.append(
        f'<line class="bar" x1="{x(measured.low)}" x2="{x(measured.high)}" y1="{_BASE}" '
        f'y2="{_BASE}"/>'
    )
    if measured.low < low:
        parts.append(_arrow(x(low), -1))
    if measured.high > high:
        parts.append(_arrow(x(high), 1))
    parts += [
        f'<circle class="seed" cx="{x(value)}" cy="{_BASE - 9}" r="2.5"/>'
        for value in measured.per_seed.values()
    ]
    parts.append(
        f'<rect class="effect" x="{x(measured.effect) - 2}" y="{_BASE - 5}" width="4" height="10"/>'
    )
    return (
        f'<svg class="strip" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="effect, interval and seeds">{"".join(parts)}</svg>'
    )


def _axis(contrast: ContrastResult, scale: tuple[float, float], x: Callable[[float], float]) -> str:
    parts = [
        f'<line class="base" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{_BASE}" y2="{_BASE}"/>',
        f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="2" y2="{_BASE + 8}"/>',
    ]
    parts += [
        f'<line class="margin" x1="{x(m)}" x2="{x(m)}" y1="2" y2="{_BASE + 8}"/>'
        for m in _margins(contrast)
    ]
    labels = {0.0: "middle"} | {
        end: anchor
        for end, anchor in zip(scale, ("start", "end"), strict=True)
        if abs(x(end) - x(0)) > 40
    }
    at = {"start": -_LEFT, "end": _RIGHT, "middle": 0}
    parts += [
        f'<text x="{x(value) + at[anchor]}" y="{HEIGHT - 3}" text-anchor="{anchor}">'
        f"{_label(value, contrast)}</text>"
        for value, anchor in labels.items()
    ]
    return "".join(parts)


def _label(value: float, contrast: ContrastResult) -> str:
    text = f"{value:g}" if contrast.metric == "accuracy" else number(value, contrast.metric)
    return "0" if value == 0 else text.replace("-", "−")


def _arrow(x: float, sign: int) -> str:
    tip, back = x + 8 * sign, x
    return f'<path class="arrow" d="M{tip} {_BASE}L{back} {_BASE - 4}L{back} {_BASE + 4}Z"/>'
