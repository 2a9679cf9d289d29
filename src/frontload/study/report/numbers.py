"""How numbers are printed: the same decimals for the same metric everywhere."""

from __future__ import annotations

from frontload.study.spec import Metric

DECIMALS: dict[Metric, int] = {"accuracy": 1, "gold_nll": 3, "bits_per_byte": 3}
NAMES: dict[Metric, str] = {
    "accuracy": "accuracy",
    "gold_nll": "nats per gold token",
    "bits_per_byte": "bits per byte",
}
_STEPS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def number(value: float, metric: Metric) -> str:
    """A score: 69.1 or 2.513."""
    return f"{value:.{DECIMALS[metric]}f}".replace("-", "−")


def signed(value: float, metric: Metric) -> str:
    """A difference with its sign: +60.7; what rounds to 0 has none."""
    text = f"{value:+.{DECIMALS[metric]}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def count(value: float) -> str:
    """Tokens: 3.07M."""
    for size, letter in _STEPS:
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def exact(value: float) -> str:
    """Tokens to the last one: 3,072,000."""
    return f"{value:,.0f}"


def share(value: float) -> str:
    """A share of 1 as a percentage; what is not 0 does not print as 0."""
    return "0" if value == 0 else f"{value:.0%}" if value >= 0.01 else "<1%"


def seconds(value: float) -> str:
    """7 s, 3 min, 2.5 h."""
    if value < 99.5:
        return f"{value:.0f} s" if value >= 9.95 else f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 5940 else f"{value / 3600:.1f} h"


def scientific(value: float) -> str:
    """7.2 × 10¹⁵."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def probability(value: float) -> str:
    """0.031; under one in a thousand only that."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"
