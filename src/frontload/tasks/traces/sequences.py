"""Lists: sort, filter, continue, reverse."""

from __future__ import annotations

import random
import re
from ast import literal_eval

from frontload.tasks.families import Problem
from frontload.tasks.traces.gym import Entry, GymFamily, Work, another_number, swapped
from frontload.tasks.traces.lines import equation


class NumberSorting(GymFamily):
    """Selection sort: take the next number, show what is left."""

    name = "number_sorting"
    domain = "sequence"
    levels = (
        {"min_numbers": 3, "max_numbers": 4, "max_decimals": 0},
        {"min_numbers": 4, "max_numbers": 6, "max_decimals": 0},
        {"min_numbers": 4, "max_numbers": 6, "max_decimals": 1},
        {"min_numbers": 6, "max_numbers": 8, "max_decimals": 2},
        {"min_numbers": 8, "max_numbers": 12, "max_decimals": 2},
    )
    scored_by = ("direction",)

    def work(self, entry: Entry) -> Work:
        known = entry["metadata"]
        left, upward = list(known["original_numbers"]), known["direction"] == "ascending"
        word, sign = ("smallest", "<=") if upward else ("largest", ">=")
        steps, taken = [], []
        while left:
            chosen = (min if upward else max)(left, key=float)
            left.remove(chosen)
            taken.append(chosen)
            steps.append(f"{word}: {chosen}" + (f", left: {', '.join(left)}" if left else ""))
        pairs = zip(taken, taken[1:], strict=False)
        return Work([*steps, f"{taken}"], [f"{a} {sign} {b}" for a, b in pairs])

    def score(self, problem: Problem, answer: str) -> float:
        """Exact numbers in the right order. reasoning-gym's scorer, which also decides, is lax:
        each place may be off by 1, so [1.0, 2.0] passes for [1.9, 2.9]."""
        if not super().score(problem, answer):
            return 0.0
        numbers = re.findall(r"-?\d+(?:\.\d+)?", answer)
        return float([*map(float, numbers)] == [*map(float, literal_eval(problem.answer))])

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        numbers = literal_eval(problem.answer)
        return str(swapped(rng, numbers) if rng.random() < 0.8 else numbers[:-1])


class NumberFiltering(GymFamily):
    """Compare each number with the limit, then keep or remove."""

    name = "number_filtering"
    domain = "sequence"
    levels = (
        {"min_numbers": 3, "max_numbers": 4, "max_decimals": 0},
        {"min_numbers": 4, "max_numbers": 6, "max_decimals": 0},
        {"min_numbers": 4, "max_numbers": 7, "max_decimals": 2},
        {"min_numbers": 6, "max_numbers": 10, "max_decimals": 3},
    )

    def work(self, entry: Entry) -> Work | None:
        known = entry["metadata"]
        limit, (action, _, side) = known["filter_value"], known["operation"].partition("_")
        steps, kept = [], []
        for number in known["original_numbers"]:
            sign = _compared(float(number), float(limit))
            stays = (sign == (">" if side == "larger" else "<")) == (action == "keep")
            steps.append(f"{number} {sign} {limit}: {'keep' if stays else 'remove'}")
            if stays:
                kept.append(number)
        if str(kept) != entry["answer"]:
            return None  # equal numbers written differently: reasoning-gym repeats the first
        removed = len(steps) - len(kept)
        return Work([*steps, str(kept)], [equation(len(kept), "+", removed)])

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        kept = literal_eval(problem.answer)
        if kept and rng.random() < 0.5:
            kept.pop(rng.randrange(len(kept)))
        else:
            kept.insert(rng.randint(0, len(kept)), str(rng.randint(-99, 99)))
        return str(kept)


class NumberSequence(GymFamily):
    """Name the rule, show that it makes the given terms, apply it once more.

    Only reasoning-gym's rule counts as right, though a few short sequences fit another one too.
    """

    name = "number_sequence"
    domain = "sequence"
    levels = (
        {"max_complexity": 1, "min_terms": 5, "max_terms": 6},
        {"max_complexity": 2, "min_terms": 5, "max_terms": 7},
        {"max_complexity": 3, "min_terms": 6, "max_terms": 8},
    )

    def work(self, entry: Entry) -> Work | None:
        known = entry["metadata"]
        terms, rule = known["sequence"], known["rule"]
        lines = []
        for place in range(len(terms) - 1):
            line, value = _applied(rule, terms, place)
            if value != terms[place + 1] or not line:
                return None
            lines.append(line)
        steps = [f"rule: {rule}", *lines[:2], lines[-1]]
        return Work(steps, lines[2:-1])

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        return another_number(rng, problem.answer)


class WordSequenceReversal(GymFamily):
    """Take words from the end, one a line."""

    name = "word_sequence_reversal"
    domain = "sequence"
    levels = tuple(
        {"min_words": low, "max_words": high} for low, high in ((3, 3), (4, 5), (5, 7), (7, 9))
    )

    def work(self, entry: Entry) -> Work:
        words = entry["metadata"]["words"]
        taken = words[::-1]
        steps = [f"word {len(words) - place}: {word}" for place, word in enumerate(taken)]
        checks = [f"{len(words)} words, first {taken[0]}, last {taken[-1]}"]
        return Work([*steps, ", ".join(taken)], checks)

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        return ", ".join(swapped(rng, problem.answer.split(", ")))


def _compared(number: float, limit: float) -> str:
    if number == limit:
        return "="
    return ">" if number > limit else "<"


def _applied(rule: str, terms: list[int], place: int) -> tuple[str, int]:
    """One term to the next by reasoning-gym's wording of a rule, as `a + 3 = b, b * 2 = c`."""
    value, lines = terms[place], []
    for part in rule.split(" then "):
        before = value
        if part == "double" or part.startswith("multiply by "):
            factor = 2 if part == "double" else int(part.removeprefix("multiply by "))
            lines.append(equation(before, "*", factor))
            value = before * factor
        elif part == "square":
            lines.append(equation(before, "*", before))
            value = before * before
        elif part == "halve":
            value = before // 2
            lines.append(f"{before} // 2 = {value}")
        elif part == "add previous":
            if place == 0:
                continue
            value = before + terms[place - 1]
            lines.append(equation(before, "+", terms[place - 1]))
        elif part.startswith("add "):
            value = before + int(part.removeprefix("add "))
            lines.append(equation(before, "+", int(part.removeprefix("add "))))
        else:
            return "", value
    return ", ".join(lines), value
