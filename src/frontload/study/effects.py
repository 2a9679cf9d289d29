"""Effects of arms with intervals that hold with few seeds: the statistics, and nothing else.

An effect is measured on a seeds x items table per family: the same items for every seed and arm,
each cell already the weighted sum over arms (treatment - control), so all comparisons are paired.
Families count equally and are fixed; seeds and items are crossed random effects, so the result
speaks of other seeds and other items of the same families. `docs/results.md` derives the formulas.

Guaranteed: intervals cover at least at their level for 2 or more seeds, whatever the share of
seed variance (simulated in the tests); a table without any variance never gives a zero-width
interval. Given up: width, most of all with 2 seeds (t with one degree of freedom is 12.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special, stats

Expect = Literal["higher", "lower", "same", "unknown"]
Decision = Literal["supported", "contradicted", "undecided", "higher", "lower"]
Floats = np.ndarray

SMALLEST_P = 1e-15


@dataclass(frozen=True, kw_only=True)
class Effect:
    """An effect and what is known of its variance; all in the metric's unit (variances squared).

    With S seeds and mean squares of the crossed layout, `variance_seeds` is that of the mean of S
    seed means, `variance_items` that of the mean over items of item means, and
    `variance_residual` the part that both contain.
    """

    value: float
    per_seed: tuple[float, ...]
    variance_seeds: float
    """NaN with one seed: nothing is known of other seeds then."""
    variance_items: float
    variance_residual: float
    item_degrees: float
    """Welch-Satterthwaite degrees of freedom of `variance_items` over families."""
    num_items: int
    floored: bool
    """The item variance of some family was raised to its smallest credible value."""

    @property
    def num_seeds(self) -> int:
        """Seeds measured."""
        return len(self.per_seed)

    @property
    def variance_only_items(self) -> float:
        """Item variance without the residual, which `variance_seeds` already holds."""
        if self.num_seeds == 1:
            return self.variance_items
        return max(self.variance_items - self.variance_residual, 0.0)

    @property
    def standard_error(self) -> float:
        """Root of (MS_seeds + MS_items - MS_residual) / cells, never under either of the two."""
        if self.num_seeds == 1:
            return float(np.sqrt(self.variance_items))
        both = self.variance_seeds + self.variance_only_items
        return float(np.sqrt(max(both, self.variance_items)))


def paired_effect(families: Sequence[Floats], *, smallest_step: float = 0.0) -> Effect:
    """The effect over families, each an array [seeds, items] of paired differences.

    Args:
        families: at least one; all with the same seeds in the same order; items may differ.
        smallest_step: size of one item's change in one family, in the metric's unit, for metrics
            that can only take steps (accuracy: 100 * sqrt(sum of squared weights)); 0 for others.
            A family of n items gets at least the variance (smallest_step / (n + 2))^2, and the
            mean of S seeds at least that over S^2: the pseudo observations of Bonett & Price
            (2012), "Adjusted Wald confidence interval for a difference of binomial proportions
            based on paired data". Without them a family in which no item ever differs would count
            as known without error.
    """
    assert len({len(family) for family in families}) == 1, "families differ in seeds"
    seed_means = np.mean([family.mean(axis=1) for family in families], axis=0)
    num_families = len(families)
    items, degrees, residual, floors, floored = 0.0, 0.0, 0.0, 0.0, False
    for family in families:
        num_items = family.shape[1]
        item_means = family.mean(axis=0)
        variance = item_means.var(ddof=1) / num_items if num_items > 1 else np.inf
        floor = (smallest_step / (num_items + 2)) ** 2
        floored |= bool(variance < floor)
        floors += floor / num_families**2
        part = max(variance, floor) / num_families**2
        items += part
        degrees += part**2 / max(num_items - 1, 1)
        residual += _residual(family, item_means) / num_families**2
    return Effect(
        value=float(seed_means.mean()),
        per_seed=tuple(seed_means.tolist()),
        variance_seeds=_seed_variance(seed_means, floors),
        variance_items=float(items),
        variance_residual=float(residual),
        item_degrees=float(items**2 / degrees) if 0 < degrees < np.inf else 1.0,
        num_items=sum(family.shape[1] for family in families),
        floored=floored,
    )


def _seed_variance(seed_means: Floats, floors: float) -> float:
    """MS_seeds / seeds of the seed means, at least what one item more in one seed would make."""
    num_seeds = len(seed_means)
    if num_seeds == 1:
        return np.nan
    return float(max(seed_means.var(ddof=1) / num_seeds, floors / num_seeds**2))


def _residual(family: Floats, item_means: Floats) -> float:
    """MS_residual / (seeds * items) of one family; 0 when it cannot be told from the rest."""
    num_seeds, num_items = family.shape
    if num_seeds == 1 or num_items == 1:
        return 0.0
    rest = family - family.mean(axis=1, keepdims=True) - item_means + family.mean()
    mean_square = (rest**2).sum() / ((num_seeds - 1) * (num_items - 1))
    return float(mean_square / (num_seeds * num_items))


def half_width(effect: Effect, confidence: float) -> float:
    """Half the interval: sqrt(t_seeds^2 V_seeds + t_items^2 (V_items - V_residual)).

    Each component carries the t quantile of its own degrees of freedom (Howe 1974; Burdick &
    Graybill 1992, ch. 3). One Satterthwaite number of degrees for the sum is shorter but covers
    only 87-92 % at a nominal 95 % with 2 or 3 seeds, where a seed variance that came out small by
    chance also buys degrees of freedom. Never under the interval over items alone.
    """
    return float(_half_width(effect, (1 - confidence) / 2))


def _half_width(effect: Effect, tail: float) -> float:
    alone = _quantile(effect.item_degrees, tail) ** 2 * effect.variance_items
    if effect.num_seeds == 1:
        return float(np.sqrt(alone))
    seeds = _quantile(effect.num_seeds - 1, tail) ** 2 * effect.variance_seeds
    items = _quantile(effect.item_degrees, tail) ** 2 * effect.variance_only_items
    return float(np.sqrt(max(seeds + items, alone)))


def _quantile(degrees: float, tail: float) -> float:
    """Upper quantile of Student's t, exact far out too."""
    return float(-special.stdtrit(degrees, tail))


def decide(effect: Effect, confidence: float, expect: Expect, margin: float) -> Decision:
    """What the interval at this confidence says about the claim.

    higher: supported when the interval lies above +margin, contradicted when below it.
    lower: the mirror image. same: supported when the interval lies within +-margin, contradicted
    when outside. unknown: "higher" or "lower" when the interval lies beyond the margin.
    """
    width = half_width(effect, confidence)
    low, high = effect.value - width, effect.value + width
    if expect == "same":
        if -margin < low and high < margin:
            return "supported"
        return "contradicted" if low > margin or high < -margin else "undecided"
    if expect == "unknown":
        return "higher" if low > margin else "lower" if high < -margin else "undecided"
    if expect == "lower":
        low, high = -high, -low
    return "supported" if low > margin else "contradicted" if high < margin else "undecided"


def p_value(effect: Effect, expect: Expect, margin: float) -> float:
    """The smallest alpha at which the interval of confidence 1 - alpha decides the claim.

    With margin 0 that is the usual two-sided p-value of "no difference"; for `same` it is twice
    that of two one-sided tests. One definition makes verdicts, intervals and the multiplicity
    correction agree with each other. At least 1e-15.
    """
    distance = _distance(effect.value, expect, margin)
    if distance <= 0:
        return 1.0
    low, high = np.log(SMALLEST_P / 2), np.log(0.5)
    if _half_width(effect, SMALLEST_P / 2) < distance:
        return SMALLEST_P
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if _half_width(effect, np.exp(middle)) < distance else (middle, high)
        )
    return float(2 * np.exp(high))


def _distance(value: float, expect: Expect, margin: float) -> float:
    """Half-width under which the interval decides; at or under 0 it never does."""
    if expect == "same":
        return abs(abs(value) - margin)
    if expect == "unknown":
        return abs(value) - margin
    return abs(value - margin) if expect == "higher" else abs(value + margin)


def smallest_detectable(
    effect: Effect, expect: Expect, margin: float, confidence: float, power: float = 0.8
) -> float:
    """The smallest true effect that this design would have decided with probability `power`.

    For higher, lower and unknown: its distance from 0, margin included. For same: the smallest
    margin within which arms that are truly equal would be found so. The variances are taken at
    their estimates; the half-width varies with the seeds drawn (chi-squared, S - 1 degrees).
    """
    tail = (1 - confidence) / 2
    spread = effect.standard_error
    if spread == 0:
        return margin if expect != "same" else 0.0
    widths = _widths_over_seeds(effect, tail) / spread

    def achieved(distance: float) -> float:
        if expect == "same":
            return float(np.mean(np.maximum(2 * special.ndtr(distance - widths) - 1, 0)))
        return float(np.mean(special.ndtr(distance - widths)))

    low, high = 0.0, float(widths.max()) + 10
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if achieved(middle) >= power else (middle, high)
    return high * spread + (0.0 if expect == "same" else margin)


def _widths_over_seeds(effect: Effect, tail: float, num_points: int = 400) -> Floats:
    """Half-widths at evenly spaced quantiles of the seed variance."""
    degrees = max(effect.num_seeds - 1, 1)
    chances = (np.arange(num_points) + 0.5) / num_points
    ratios = stats.chi2.ppf(chances, degrees) / degrees
    alone = _quantile(effect.item_degrees, tail) ** 2 * effect.variance_items
    if effect.num_seeds == 1:
        return np.full(num_points, np.sqrt(alone))
    seeds = _quantile(degrees, tail) ** 2 * effect.variance_seeds * ratios
    items = _quantile(effect.item_degrees, tail) ** 2 * effect.variance_only_items
    return np.sqrt(np.maximum(seeds + items, alone))


@dataclass(frozen=True, kw_only=True)
class Multiplicity:
    """Which of the tests are decided when all are looked at together."""

    num_tests: int
    num_decided: int
    confidence: float
    """Level of every interval shown with the verdicts."""
    q_values: tuple[float, ...]


def correct_for_multiplicity(p_values: Sequence[float], confidence: float) -> Multiplicity:
    """Benjamini-Hochberg (1995) and the intervals that go with it.

    With m tests of which R are decided at false discovery rate 1 - confidence, intervals of level
    1 - R (1 - confidence) / m keep the false coverage rate of those R (Benjamini & Yekutieli
    2005, JASA 100:71-81). A p-value is the alpha at which an interval decides, so exactly those R
    intervals decide their claims. Nothing decided: R = 1, the first hurdle.
    """
    if not p_values:
        return Multiplicity(num_tests=0, num_decided=0, confidence=confidence, q_values=())
    q_values = stats.false_discovery_control(p_values, method="bh")
    num_decided = int((q_values <= 1 - confidence).sum())
    share = max(num_decided, 1) / len(p_values)
    return Multiplicity(
        num_tests=len(p_values),
        num_decided=num_decided,
        confidence=1 - share * (1 - confidence),
        q_values=tuple(q_values.tolist()),
    )
