"""Lists: sort, filter, continue, reverse."""

from __future__ import annotations

import random
import re
from ast import literal_eval
from itertools import pairwise

from frontload.tasks.families import Problem
from frontload.tasks.traces.gym import Entry, GymFamily, Work, another_number, swapped
from frontload.tasks.traces.lines import calculate, equation


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
        return Work([*steps, f"{taken}"], [f"{a} {sign} {b}" for a, b in pairwise(taken)])

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
    """Differences, the rule, that it makes the given terms, and the rule once more.

    Only reasoning-gym's rule counts as right, though a few short sequences fit another one too.
    Sequences that end in a standstill are drawn again: most of them run into 0.
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
        terms, rule = known["sequence"], simplified(known["rule"])
        if not rule or terms[-1] == terms[-2]:
            return None
        lines = []
        for place in range(len(terms) - 1):
            line, value = _applied(rule, terms, place)
            assert value == terms[place + 1], (known["rule"], terms)
            lines.append(line)
        differences = ", ".join(str(b - a) for a, b in pairwise(terms[:-1]))
        steps = [f"differences: {differences}", f"rule: {_spoken(rule)}", *lines[:2], lines[-1]]
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

    def work(self, entry: Entry) -> Work | None:
        words = entry["metadata"]["words"]
        if len(set(words)) < 2:
            return None  # the same either way
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


def simplified(rule: str) -> list[tuple[str, int]]:
    """reasoning-gym's wording of a rule as (operation, number), neighbours of a kind joined.

    `double then multiply by 3` is (*, 6), `add 4 then add -4` nothing at all.
    """
    parts: list[tuple[str, int]] = []
    for text in rule.split(" then "):
        sign, number = _operation(text)
        if parts and parts[-1][0] == sign and sign in "+*":
            before = parts.pop()[1]
            number = before + number if sign == "+" else before * number
        if sign and (sign, number) not in (("+", 0), ("*", 1)):
            parts.append((sign, number))
    return parts


def _operation(text: str) -> tuple[str, int]:
    fixed = {"double": ("*", 2), "square": ("^", 2), "halve": ("//", 2), "add previous": ("p", 0)}
    if text in fixed:
        return fixed[text]
    if text.startswith("multiply by "):
        return "*", int(text.removeprefix("multiply by "))
    return ("+", int(text.removeprefix("add "))) if text else ("", 0)


def _spoken(rule: list[tuple[str, int]]) -> str:
    words = {"+": "add {}", "*": "multiply by {}", "^": "square", "//": "halve, rounding down"}
    return ", then ".join(
        words.get(sign, "add the term before").format(number) for sign, number in rule
    )


def _applied(rule: list[tuple[str, int]], terms: list[int], place: int) -> tuple[str, int]:
    """(lines such as `a + 3 = b, b * 2 = c`, the term after the one at `place`)."""
    value, lines = terms[place], []
    for sign, number in rule:
        if sign == "//":
            lines.append(f"{value} // 2 = {value // 2}")
            value //= 2
            continue
        if sign == "p":
            sign, number = "+", terms[place - 1] if place else 0
        if sign == "^":
            sign, number = "*", value
        lines.append(equation(value, sign, number))
        value = calculate(value, sign, number)
    return ", ".join(lines), value
