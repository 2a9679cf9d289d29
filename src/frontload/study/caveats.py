"""What a reader must know before believing the verdicts, written from the results themselves."""

from __future__ import annotations

from collections.abc import Iterator

from frontload.study.results import Results

_MANY_UNFINISHED = 0.05
_FEW_SEEDS = 5


def caveats(results: Results) -> tuple[str, ...]:
    """One statement each, most general first; those that do not apply are left out."""
    return (*_what_intervals_cover(results), *_what_was_measured(results))


def _what_intervals_cover(results: Results) -> Iterator[str]:
    size = f"{results.num_parameters:,} parameters" if results.num_parameters else "one size"
    yield (
        f"One recipe, one scale: models of {size}. Signs may turn with the size of the model, the "
        "budgets, the learning rates and the task set; nothing here measures that unless an arm "
        "varies it."
    )
    num_seeds = len(results.seeds)
    if num_seeds == 1:
        yield (
            "One seed: intervals cover other items of the same families, not other training "
            "runs. No verdict is given."
        )
    else:
        yield (
            f"Intervals cover other seeds (initialization and data order, {num_seeds} measured) "
            "and other items of the same families. They do not cover other families, other "
            "corpora or other settings. Families are weighted equally; other weights can turn "
            "an average."
        )
    if 1 < num_seeds < _FEW_SEEDS:
        yield (
            f"With {num_seeds} seeds the intervals are wide on purpose: undecided means that this "
            "design could not tell, not that there is no effect. Compare the smallest detectable "
            "effect."
        )
    if results.num_tests > 1:
        yield (
            f"{results.num_tests} contrasts were tested, {results.num_decided} decided. Intervals "
            f"are at {results.adjusted_confidence:.2%} so that of the decided ones no more than "
            f"{1 - results.confidence:.0%} are expected to miss their true effect "
            "(Benjamini-Yekutieli 2005, for independent or positively dependent tests; contrasts "
            "that share arms are dependent)."
        )
    yield (
        "Intervals of single scores are wider than those of differences between arms, which are "
        "paired on seeds and items: compare arms by the contrasts, not by overlapping bars."
    )


def _what_was_measured(results: Results) -> Iterator[str]:
    limits = [c.name for c in results.contrasts if c.measured and c.measured.at_limit]
    if limits:
        yield (
            f"{len(limits)} contrasts were measured where all arms are at chance or at 100, so "
            f"nothing could be told apart: {_listed(limits, limit=4)}."
        )
    below = sorted(
        {
            f"{stage.id} on {o.benchmark}"
            for stage in results.stages
            for o in stage.outcomes
            if o.under_chance
        }
    )
    if below:
        yield (
            "Families under chance (a sign of answers in the wrong form rather than of wrong "
            f"reasoning): {_listed(below)}."
        )
    unfinished = sorted(
        {
            (-round(o.truncated + o.unparsed, 2), f"{stage.id} on {o.benchmark}")
            for stage in results.stages
            for o in stage.outcomes
            if o.truncated + o.unparsed > _MANY_UNFINISHED
        }
    )
    if unfinished:
        listed = [f"{name} ({-share:.0%})" for share, name in unfinished]
        yield (
            "Truncated and unparsed answers count as wrong. They are more than "
            f"{_MANY_UNFINISHED:.0%} in: {_listed(listed, limit=4)}."
        )
    partial = [arm.name for arm in results.arms if arm.missing]
    if partial:
        yield (
            f"Not measured in full: {_listed(partial)}. Contrasts use the seeds that all of their "
            "arms have."
        )
    unequal = [c for c in results.contrasts if c.unequal]
    if unequal:
        yield (
            f"{len(unequal)} contrasts compare arms of unequal budgets on purpose; the reason "
            "stands with each."
        )


def _listed(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
