"""The figures: scores by arm and stage, what more SFT buys, and training curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from frontload.study.report import panels
from frontload.study.report.numbers import NAMES, count
from frontload.study.results import Results, Score, StageResult
from frontload.study.spec import Metric

_ROW_POINTS, _SERIES_POINTS = 10, 7
_LONGEST_LABEL = 24


Key = tuple[str, str, float]
"""(lineage, recipe, multiple); recipe "" and multiple 0 before SFT."""


@dataclass(frozen=True, kw_only=True)
class Arms:
    """Measured arms, grouped as every figure groups them; models before SFT count as arms."""

    lineages: tuple[str, ...]
    recipes: tuple[str, ...]
    of: dict[Key, tuple[StageResult, ...]]
    """Stages of an arm, in order."""

    @property
    def rows(self) -> list[tuple[str, float]]:
        """(lineage, SFT multiple), in the order of the spec."""
        found = {(lineage, multiple) for lineage, _, multiple in self.of}
        return sorted(found, key=lambda row: (self.lineages.index(row[0]), row[1]))

    @classmethod
    def in_results(cls, results: Results) -> Arms:
        """Group the measured arms of a study."""
        stages = {stage.id: stage for stage in results.stages}
        of: dict[Key, tuple[StageResult, ...]] = {}
        for arm in (arm for arm in results.arms if arm.seeds):
            path, placed = tuple(stages[name] for name in arm.stages), arm.placement
            before = tuple(stage for stage in path if stage.kind != "sft")
            if before:
                of.setdefault((placed.lineage, "", 0.0), before)
            of[placed.lineage, placed.recipe, placed.multiple] = path
        return cls(
            lineages=tuple(dict.fromkeys(lineage for lineage, _, _ in of)),
            recipes=tuple(dict.fromkeys(recipe for _, recipe, _ in of if recipe)),
            of=of,
        )


def times(multiple: float) -> str:
    """2x as it is printed; 0 is the model before SFT."""
    return "no SFT" if multiple == 0 else f"SFT {multiple:.3g}×"


def score_panels(results: Results, metrics: Sequence[Metric]) -> Iterator[str]:
    """One panel per benchmark and metric: a row per lineage and SFT budget."""
    arms = Arms.in_results(results)
    for metric, benchmark in _measured(results, metrics):
        yield _score_panel(arms, metric, benchmark, results)


def _measured(results: Results, metrics: Sequence[Metric]) -> list[tuple[Metric, str]]:
    found = {(s.metric, s.benchmark): 0 for stage in results.stages for s in stage.scores}
    return [key for metric in metrics for key in found if key[0] == metric]


def _score(stage: StageResult, metric: Metric, benchmark: str) -> Score | None:
    matching = (s for s in stage.scores if (s.metric, s.benchmark) == (metric, benchmark))
    return next(matching, None)


def _score_panel(arms: Arms, metric: Metric, benchmark: str, results: Results) -> str:
    rows, num_series = arms.rows, max(len(arms.recipes), 1)
    height = 70 + len(rows) * (_ROW_POINTS + _SERIES_POINTS * num_series)
    with panels.style():
        figure = panels.new_figure(height + 14 * ((num_series + 1) // 2))
        axes = figure.subplots()
        drawn: list[Score] = []
        for place, (lineage, multiple) in enumerate(rows):
            recipes = [r for r in ("", *arms.recipes) if (lineage, r, multiple) in arms.of]
            for recipe in recipes:
                score = _score(arms.of[lineage, recipe, multiple][-1], metric, benchmark)
                if score is not None:
                    drawn.append(score)
                    _dot(axes, score, place + _offset(arms, recipe), _look(arms, lineage, recipe))
        _score_axes(axes, arms, rows, metric, benchmark, results, drawn)
        return panels.as_svg(figure, f"{NAMES[metric]} on {benchmark} by arm")


def _offset(arms: Arms, recipe: str) -> float:
    if not recipe or len(arms.recipes) < 2:
        return 0.0
    return 0.5 * (arms.recipes.index(recipe) / (len(arms.recipes) - 1) - 0.5)


def _look(arms: Arms, lineage: str, recipe: str) -> dict[str, Any]:
    """Color by lineage, marker by recipe; hollow before SFT."""
    shade = panels.color(arms.lineages.index(lineage))
    place = arms.recipes.index(recipe) if recipe else 0
    return {
        "color": shade,
        "marker": panels.MARKERS[place % len(panels.MARKERS)] if recipe else "o",
        "markerfacecolor": shade if recipe else panels.PAPER,
    }


def _dot(axes: Any, score: Score, height: float, look: dict[str, Any]) -> None:
    axes.plot([score.low, score.high], [height, height], color=look["color"], linewidth=1.2)
    seeds = list(score.per_seed.values())
    axes.plot(seeds, [height] * len(seeds), "|", color=look["color"], markersize=5, alpha=0.6)
    axes.plot([score.mean], [height], markersize=5, linestyle="none", **look)


def _score_axes(
    axes: Any,
    arms: Arms,
    rows: Sequence[tuple[str, float]],
    metric: Metric,
    benchmark: str,
    results: Results,
    drawn: Sequence[Score],
) -> None:
    axes.set_title(f"{benchmark}: {NAMES[metric]}")
    axes.set_yticks(range(len(rows)), [_row_label(*row) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    if metric == "accuracy":
        axes.set_xlim(-2, 102)
        chance = _chance(results, benchmark)
        if chance:
            axes.axvline(chance, color=panels.INK, linewidth=0.8, linestyle=":")
            axes.set_xlabel(f"points of 100; dotted: blind guessing ({chance:.0f})")
        else:
            axes.set_xlabel("points of 100")
    elif drawn:
        _follow_seeds(axes, drawn)
        axes.set_xlabel(f"{NAMES[metric]}, lower is better")
    for before, row in enumerate(rows[1:]):
        if row[0] != rows[before][0]:
            axes.axhline(before + 0.5, color=panels.FAINT, linewidth=0.6)
    if arms.recipes:
        _recipe_legend(axes, arms)


def _follow_seeds(axes: Any, drawn: Sequence[Score]) -> None:
    """Limits that show all seeds; an interval much wider than their spread runs off the panel."""
    values = [value for score in drawn for value in score.per_seed.values()]
    low, high = min(values), max(values)
    room = max(0.5 * (high - low), 1e-3)
    ends = [end for score in drawn for end in (score.low, score.high)]
    axes.set_xlim(
        max(min(ends), low - room) - 0.04 * room, min(max(ends), high + room) + 0.04 * room
    )


def _row_label(lineage: str, multiple: float) -> str:
    short = lineage if len(lineage) <= _LONGEST_LABEL else lineage[: _LONGEST_LABEL - 1] + "…"
    return f"{short}, {times(multiple)}"


def _chance(results: Results, benchmark: str) -> float:
    found = (o.chance for s in results.stages for o in s.outcomes if o.benchmark == benchmark)
    return next(found, 0.0)


def _recipe_legend(axes: Any, arms: Arms) -> None:
    entries = [
        Line2D([], [], color=panels.INK, marker="o", linestyle="none", markersize=5,
               markerfacecolor=panels.PAPER, label="before SFT"),
        *(
            Line2D([], [], color=panels.INK, marker=panels.MARKERS[i % len(panels.MARKERS)],
                   linestyle="none", markersize=5, label=recipe)
            for i, recipe in enumerate(arms.recipes)
        ),
    ]  # fmt: skip
    axes.figure.legend(
        handles=entries,
        loc="outside lower left",
        ncols=_columns(("before SFT", *arms.recipes)),
        handletextpad=0.2,
    )


def _token_axis(axes: Any, label: str) -> None:
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda tokens, _: count(tokens))


def _columns(labels: Sequence[str]) -> int:
    """As many legend columns as the longest label leaves room for."""
    return max(1, min(4, 56 // (max(map(len, labels), default=1) + 7)))


def catch_up_panels(results: Results) -> Iterator[str]:
    """What more SFT buys: score against all reasoning tokens, a line per lineage.

    Only where some lineage was fine-tuned at two budgets; one panel per benchmark and recipe.
    """
    arms = Arms.in_results(results)
    if not any(multiple not in (0.0, 1.0) for _, multiple in arms.rows):
        return
    metrics: list[Metric] = ["accuracy"]
    for metric, benchmark in _measured(results, metrics) or _measured(results, ["gold_nll"]):
        for recipe in arms.recipes:
            yield _catch_up_panel(arms, metric, benchmark, recipe)


def _catch_up_panel(arms: Arms, metric: Metric, benchmark: str, recipe: str) -> str:
    with panels.style():
        figure = panels.new_figure(265)
        axes = figure.subplots()
        for number, lineage in enumerate(arms.lineages):
            points = [
                (_reasoning_tokens(path), score, multiple)
                for (of, by, multiple), path in sorted(arms.of.items(), key=lambda at: at[0][2])
                if of == lineage and by in ("", recipe)
                if (score := _score(path[-1], metric, benchmark)) is not None
            ]
            if points:
                _catch_up_line(axes, points, lineage, panels.color(number), number)
        axes.set_title(f"{benchmark}, {recipe}")
        _token_axis(axes, "reasoning tokens over all stages")
        axes.set_ylabel("points of 100" if metric == "accuracy" else NAMES[metric])
        if metric == "accuracy":
            axes.set_ylim(-3, 103)
        axes.grid()
        figure.legend(loc="outside lower left", ncols=_columns(arms.lineages), handlelength=1.8,
                      columnspacing=1)  # fmt: skip
        return panels.as_svg(figure, f"{NAMES[metric]} on {benchmark} against reasoning tokens")


def _reasoning_tokens(path: Sequence[StageResult]) -> float:
    return sum(row.tokens for stage in path for row in stage.ledger if row.reasoning)


def _catch_up_line(
    axes: Any, points: Sequence[tuple[float, Score, float]], lineage: str, shade: str, number: int
) -> None:
    xs, scores, multiples = zip(*points, strict=True)
    ys = [score.mean for score in scores]
    for x, score in zip(xs, scores, strict=True):
        axes.plot([x, x], [score.low, score.high], color=shade, linewidth=1, alpha=0.6)
    dashes = panels.DASHES[number % len(panels.DASHES)]
    axes.plot(xs, ys, color=shade, linestyle=dashes, linewidth=1.4, label=lineage)
    axes.plot(xs, ys, color=shade, marker="o", markersize=10, linestyle="none")
    for x, y, multiple in zip(xs, ys, multiples, strict=True):
        axes.annotate(f"{multiple:.2g}", (x, y), color=panels.PAPER, fontsize=8, ha="center",
                      va="center_baseline")  # fmt: skip


def loss_panels(results: Results) -> Iterator[str]:
    """Training loss: what comes before SFT in one panel, each SFT recipe in its own."""
    arms = Arms.in_results(results)
    for recipe in ("", *arms.recipes):
        chosen = [key for key in arms.of if key[1] == recipe and arms.of[key][-1].loss]
        if chosen:
            yield _loss_panel(arms, sorted(chosen, key=lambda key: arms.rows.index(key[::2])))


def _loss_panel(arms: Arms, chosen: Sequence[Key]) -> str:
    recipe = chosen[0][1]
    multiples = sorted({multiple for _, _, multiple in chosen})
    with panels.style():
        figure = panels.new_figure(250)
        axes = figure.subplots()
        for lineage, _, multiple in chosen:
            path = arms.of[lineage, recipe, multiple]
            xs, ys = _joined([stage for stage in path if (stage.kind == "sft") == bool(recipe)])
            axes.plot(
                xs,
                ys,
                color=panels.color(arms.lineages.index(lineage)),
                linestyle=panels.DASHES[multiples.index(multiple) % len(panels.DASHES)],
                linewidth=1.2,
                label=lineage if multiple == multiples[0] else None,
            )
        axes.set_title(recipe or "before SFT")
        _token_axis(axes, "tokens in these stages")
        axes.set_ylabel("training loss, nats")
        axes.grid()
        if len(multiples) > 1:
            for place, multiple in enumerate(multiples):
                dashes = panels.DASHES[place % len(panels.DASHES)]
                axes.plot([], [], color=panels.INK, linestyle=dashes, label=times(multiple))
        figure.legend(loc="outside lower left", ncols=_columns(arms.lineages), handlelength=1.8,
                      columnspacing=1)  # fmt: skip
        return panels.as_svg(figure, f"training loss {recipe or 'before SFT'}")


def _joined(path: Sequence[StageResult]) -> tuple[list[float], list[float]]:
    """The curves of stages one after another, over cumulative tokens."""
    xs: list[float] = []
    ys: list[float] = []
    before = 0.0
    for stage in path:
        xs += [before + point.tokens for point in stage.loss]
        ys += [point.loss for point in stage.loss]
        before += stage.cost.tokens if stage.cost else 0.0
    return xs, ys
