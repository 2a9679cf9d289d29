"""From measured stages to verdicts: one result per contrast of the spec.

Guaranteed: a contrast is decided only when its arms had the budgets it demands, at least two
seeds were measured for all of them, its benchmark can tell them apart, and its interval at the
level corrected for the number of contrasts lies where the claim says. Everything else is listed
with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from frontload.corpus.ledger import ArmLedger, require_equal
from frontload.study import effects
from frontload.study.effects import Effect, Multiplicity
from frontload.study.measurements import Cell, Stage
from frontload.study.results import ContrastResult, Measured, Verdict
from frontload.study.spec import Contrast, Metric

UNITS: dict[Metric, str] = {
    "accuracy": "points",
    "gold_nll": "nats per token",
    "bits_per_byte": "bits per byte",
}
ONE_SEED = "one seed: no claim beyond this run"
Limit = Literal["", "floor", "ceiling"]
_GUESSER = 1.96


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the run knows of one arm and seed: its last stage and what all of them consumed."""

    stage: Stage
    consumed: ArmLedger


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A contrast before the correction for multiplicity."""

    contrast: Contrast
    verdict: Verdict | None = None
    """Set when there is nothing to judge."""
    reason: str = ""
    effect: Effect | None = None
    seeds: tuple[int, ...] = ()
    num_families: int = 0
    at_limit: Limit = ""
    arm_scores: Mapping[str, float] | None = None
    p_value: float = 1.0

    @property
    def testable(self) -> bool:
        """Counts as a test: measured, budgets as demanded, more than one seed."""
        return self.effect is not None and self.effect.num_seeds > 1 and self.verdict is None


def judge(
    contrasts: Sequence[Contrast],
    arms: Mapping[str, Mapping[int, Evidence]],
    *,
    missing: Mapping[str, str],
    tolerance: int,
    confidence: float,
) -> tuple[tuple[ContrastResult, ...], Multiplicity]:
    """All contrasts, judged together.

    Args:
        arms: arm -> seed -> evidence, finished arms only.
        missing: arm -> why it, or a seed of it, was not measured.
        tolerance: tokens by which budgets may differ (one packed row).
    """
    readings = [_read(contrast, arms, missing, tolerance) for contrast in contrasts]
    tests = [reading for reading in readings if reading.testable]
    corrected = effects.correct_for_multiplicity([test.p_value for test in tests], confidence)
    q_values = iter(corrected.q_values)
    return tuple(
        _result(
            reading,
            corrected.confidence if reading.testable else confidence,
            confidence,
            next(q_values) if reading.testable else None,
        )
        for reading in readings
    ), corrected


def _read(
    contrast: Contrast,
    arms: Mapping[str, Mapping[int, Evidence]],
    missing: Mapping[str, str],
    tolerance: int,
) -> Reading:
    weights = contrast.weights()
    involved = {arm: arms.get(arm, {}) for arm in weights}
    seeds = tuple(sorted(set.intersection(*(set(found) for found in involved.values()))))
    if not seeds:
        lost = [f"{arm}: {missing.get(arm, 'no seed in common')}" for arm in weights]
        told = [line for arm, line in zip(weights, lost, strict=True) if arm in missing] or lost
        return Reading(contrast=contrast, verdict="not_measured", reason="; ".join(told))
    refusal = _unequal_budgets(contrast, arms, seeds, tolerance)
    if refusal:
        return Reading(contrast=contrast, verdict="refused", reason=refusal)
    stages = {arm: [found[seed].stage for seed in seeds] for arm, found in involved.items()}
    tables = _paired_tables(contrast, stages)
    if isinstance(tables, str):
        return Reading(contrast=contrast, verdict="not_measured", reason=tables)
    step = _smallest_step(contrast)
    effect = effects.paired_effect(list(tables.values()), smallest_step=step)
    limit = _limit(contrast, stages)
    same = effect.standard_error == 0
    return Reading(
        contrast=contrast,
        effect=effect,
        seeds=seeds,
        num_families=len(tables),
        at_limit=limit,
        arm_scores={arm: _mean(contrast, found) for arm, found in stages.items()},
        p_value=(
            1.0 if limit or same else effects.p_value(effect, contrast.expect, contrast.margin)
        ),
    )


def _unequal_budgets(
    contrast: Contrast,
    arms: Mapping[str, Mapping[int, Evidence]],
    seeds: Sequence[int],
    tolerance: int,
) -> str:
    """The ledgers' refusal to compare two sides, for the first seed that has one; else empty."""
    sides = [contrast.treatment + contrast.control]
    sides += [contrast.minus[0] + contrast.minus[1]] if contrast.minus else []
    for seed in seeds:
        for names in sides:
            consumed = {arm: arms[arm][seed].consumed for arm in names}
            try:
                require_equal(consumed, contrast.equal, tolerance_tokens=tolerance)
            except ValueError as refusal:
                return str(refusal)
    return ""


def _paired_tables(
    contrast: Contrast, stages: Mapping[str, Sequence[Stage]]
) -> dict[Cell, np.ndarray] | str:
    """Cell -> [seeds, items] of weighted sums over arms, or why there is none."""
    weights = contrast.weights()
    first = next(iter(stages.values()))[0]
    tables = {}
    for benchmark in contrast.on:
        cells = first.cells(contrast.metric, benchmark)
        if not cells:
            return f"{benchmark} has no {contrast.metric} in {first.directory.name}"
        for cell in cells:
            require_same_items(
                contrast.metric, cell, [s for found in stages.values() for s in found]
            )
            tables[cell] = np.sum(
                [
                    weight
                    * np.stack([stage.values[contrast.metric][cell] for stage in stages[arm]])
                    for arm, weight in weights.items()
                ],
                axis=0,
            )
            if tables[cell].shape[1] < 2:
                return f"{benchmark} has a single item, which has no interval"
    return tables


def require_same_items(metric: Metric, cell: Cell, stages: Sequence[Stage]) -> None:
    """Stages can be paired only on the same items.

    Raises:
        ValueError: two stages were evaluated on different items; the message names both.
    """
    expected = stages[0].items[metric].get(cell)
    for stage in stages:
        if stage.items[metric].get(cell) != expected:
            raise ValueError(
                f"{stage.directory} and {stages[0].directory} were evaluated on different items of "
                f"{' / '.join(filter(None, cell))}; delete the older one and run the study again"
            )


def _smallest_step(contrast: Contrast) -> float:
    """One item of one arm more or less, arms independent; only accuracy moves in steps."""
    if contrast.metric != "accuracy":
        return 0.0
    return 100 * float(np.sqrt(sum(weight**2 for weight in contrast.weights().values())))


def _mean(contrast: Contrast, stages: Sequence[Stage]) -> float:
    """The arm's metric: mean over seeds, families and items."""
    cells = [cell for name in contrast.on for cell in stages[0].cells(contrast.metric, name)]
    means = [stage.values[contrast.metric][cell].mean() for stage in stages for cell in cells]
    return float(np.mean(means))


def _limit(contrast: Contrast, stages: Mapping[str, Sequence[Stage]]) -> Limit:
    """Whether every arm scores as a blind guesser would, or every arm scores everything."""
    if contrast.metric != "accuracy":
        return ""
    first = next(iter(stages.values()))[0]
    cells = [cell for name in contrast.on for cell in first.cells("accuracy", name)]
    chance, error = guesser(first, cells)
    scores = [_mean(contrast, found) for found in stages.values()]
    if max(scores) <= chance + error:
        return "floor"
    return "ceiling" if min(scores) >= 100 - guesser(first, cells, certain=True)[1] else ""


def guesser(stage: Stage, cells: Sequence[Cell], *, certain: bool = False) -> tuple[float, float]:
    """(accuracy of the best blind guess, 1.96 standard errors of it), in points.

    The error of a family of n items is at least 1 / (n + 2), as in `effects.paired_effect`;
    `certain` leaves the guesser aside and gives that smallest error alone.
    """
    chances = np.array([stage.generations[cell].chance / 100 for cell in cells])
    counts = np.array([stage.generations[cell].num_items for cell in cells])
    smallest = 1 / (counts + 2) ** 2
    variance = smallest if certain else np.maximum(chances * (1 - chances) / counts, smallest)
    error = _GUESSER * float(np.sqrt(variance.sum())) / len(cells)
    return 100 * float(chances.mean()), 100 * error


def _result(
    reading: Reading, confidence: float, alone: float, q_value: float | None
) -> ContrastResult:
    contrast, verdict, reason = reading.contrast, reading.verdict, reading.reason
    if verdict is None:
        verdict, reason = _verdict(reading, confidence)
    return ContrastResult(
        **contrast.model_dump(),
        verdict=verdict,
        reason=reason,
        measured=_measured(reading, confidence, alone, q_value),
    )


def _verdict(reading: Reading, confidence: float) -> tuple[Verdict, str]:
    """The verdict with its reason, for a contrast whose budgets agree."""
    contrast, effect = reading.contrast, reading.effect
    assert effect is not None
    if effect.num_seeds == 1:
        return "undecided", ONE_SEED
    if reading.at_limit:
        where = "at chance" if reading.at_limit == "floor" else "at 100"
        return "undecided", f"all arms are {where}: this benchmark cannot tell them apart"
    if effect.standard_error == 0:
        return "undecided", "all arms agree on every item and seed: nothing to tell apart"
    decision = effects.decide(effect, confidence, contrast.expect, contrast.margin)
    return decision, _why(reading, decision, effects.half_width(effect, confidence))


def _why(reading: Reading, decision: str, width: float) -> str:
    contrast, effect = reading.contrast, reading.effect
    assert effect is not None
    low, high = effect.value - width, effect.value + width
    margin = f"{contrast.margin:g} {UNITS[contrast.metric]}"
    beyond = f" by more than {margin}" if contrast.margin else ""
    if contrast.expect == "same":
        where = {"supported": "within", "contradicted": "outside"}.get(decision, "across")
        return f"the interval lies {where} ±{margin}"
    if contrast.expect == "unknown":
        found = f"found {decision}{beyond}" if decision != "undecided" else "direction not known"
        return f"no direction was predicted; {found}"
    if decision == "supported":
        return f"{contrast.expect}{beyond} as expected, over the whole interval"
    if decision == "contradicted":
        opposite = high < 0 if contrast.expect == "higher" else low > 0
        turned = "lower" if contrast.expect == "higher" else "higher"
        return f"found {turned} instead" if opposite else f"not {contrast.expect}{beyond}"
    sign = "−" if contrast.expect == "lower" else ""
    return f"the interval contains {sign}{margin}" if contrast.margin else "the interval contains 0"


def _measured(
    reading: Reading, confidence: float, alone: float, q_value: float | None
) -> Measured | None:
    contrast, effect = reading.contrast, reading.effect
    if effect is None or reading.arm_scores is None:
        return None
    several = effect.num_seeds > 1
    least, most = _possible(contrast)
    low, high = _interval(effect, confidence, least, most)
    low_alone, high_alone = _interval(effect, alone, least, most)
    detectable = effects.smallest_detectable(effect, contrast.expect, contrast.margin, confidence)
    return Measured(
        effect=effect.value,
        low=low,
        high=high,
        low_alone=low_alone,
        high_alone=high_alone,
        per_seed=dict(zip(reading.seeds, effect.per_seed, strict=True)),
        standard_error=effect.standard_error,
        seed_share=_seed_share(effect) if several else None,
        num_items=effect.num_items,
        num_families=reading.num_families,
        p_value=reading.p_value if several else None,
        q_value=q_value,
        smallest_detectable=detectable if several and detectable <= max(-least, most) else None,
        at_limit=reading.at_limit,
        arm_scores=dict(reading.arm_scores),
    )


def _interval(effect: Effect, confidence: float, least: float, most: float) -> tuple[float, float]:
    width = effects.half_width(effect, confidence)
    return max(effect.value - width, least), min(effect.value + width, most)


def _possible(contrast: Contrast) -> tuple[float, float]:
    """(smallest, largest) effect there can be: accuracies lie between 0 and 100."""
    if contrast.metric != "accuracy":
        return -np.inf, np.inf
    weights = contrast.weights().values()
    return 100 * sum(w for w in weights if w < 0), 100 * sum(w for w in weights if w > 0)


def _seed_share(effect: Effect) -> float:
    total = effect.standard_error**2
    return min(effect.variance_seeds / total, 1.0) if total else 0.0
