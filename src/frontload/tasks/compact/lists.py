"""Compact work on lists of digits: order, count, select."""

from __future__ import annotations

import random

from frontload.tasks.compact.form import ANY, CompactFamily, listed
from frontload.tasks.families import Problem


class Sort(CompactFamily):
    """`S3152`: ascending order, by insertion. Digits differ. Checked by their number."""

    name = "sort"
    domain = "sequence"
    tag = "S"

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        digits = rng.sample("0123456789", difficulty + 1)
        states = ["".join(sorted(digits[: end + 1])) for end in range(len(digits))]
        return self.problem("".join(digits), states[-1], states, str(len(digits)), difficulty)


class Count(CompactFamily):
    """`C3:1524`: how many are above 3? Checked by adding the others.

    A line compares and then counts so far (`3<1:0;3<5:1`). Counting digits equal to the target
    was not learned in 0.7M tokens: equality of two tokens is no sum of what each of them says,
    order is.
    """

    name = "count"
    domain = "sequence"
    tag = "C"
    chance = 0.3

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        bound, digits = _bounded(rng, difficulty + 1)
        count, steps = 0, []
        for digit in digits:
            count += digit > bound
            steps.append(f"{bound}<{digit}:{count}")
        check = f"{count}+{len(digits) - count}={len(digits)}"
        return self.problem(f"{bound}:{listed(digits, '')}", count, steps, check, difficulty)


class Reverse(CompactFamily):
    """`R4132`: backwards. Digits differ, so a neighbour is one look-up. Checked by undoing."""

    name = "reverse"
    domain = "sequence"
    tag = "R"

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        digits = rng.sample("0123456789", difficulty + 1)
        backwards = digits[::-1]
        body = "".join(digits)
        return self.problem(body, "".join(backwards), backwards, body, difficulty)


class RunningMax(CompactFamily):
    """`M3152`: the largest. Checked by the place at which it first stands."""

    name = "running_max"
    domain = "sequence"
    tag = "M"
    chance = 0.4

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        digits = rng.choices(ANY, k=difficulty + 1)
        steps = [f"{digit}:{max(digits[: end + 1])}" for end, digit in enumerate(digits)]
        largest = max(digits)
        place = digits.index(largest) + 1
        return self.problem(listed(digits, ""), largest, steps, str(place), difficulty)


class Filter(CompactFamily):
    """`G3:1524`: the digits above 3, in order. Checked by their number.

    A line compares and then shows what is kept so far (`3<1:;3<5:5`).
    """

    name = "filter"
    domain = "sequence"
    tag = "G"
    chance = 0.1
    answer_symbols = "3456789"

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        bound, digits = _bounded(rng, difficulty)
        kept, steps = "", []
        for digit in digits:
            kept += str(digit) if digit > bound else ""
            steps.append(f"{bound}<{digit}:{kept}")
        body = f"{bound}:{listed(digits, '')}"
        return self.problem(body, kept, steps, str(len(kept)), difficulty)


def _bounded(rng: random.Random, count: int) -> tuple[int, list[int]]:
    """A bound and different digits, at least one of them above it."""
    bound = 2 + int(rng.random() * 4)
    digits = rng.sample(range(1, 10), count)
    if max(digits) <= bound:
        digits[-1] = 9
    return bound, digits
