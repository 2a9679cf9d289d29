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
    """`C3:1323`: how often does 3 occur? Checked by adding the others.

    A line is the target, a digit, whether they are the same, and the count so far (`31-0;33+1`).
    """

    name = "count"
    domain = "sequence"
    tag = "C"
    chance = 0.35

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        target, *digits = rng.choices("123", k=difficulty + 3)
        count, steps = 0, []
        for digit in digits:
            count += digit == target
            steps.append(f"{target}{digit}{'+' if digit == target else '-'}{count}")
        check = f"{count}+{len(digits) - count}={len(digits)}"
        return self.problem(f"{target}:{''.join(digits)}", count, steps, check, difficulty)


class Reverse(CompactFamily):
    """`R4132`: backwards. Digits differ, so each one's neighbour is a look-up. Checked by undoing."""

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


class Distinct(CompactFamily):
    """`O3113`: each digit once, in order of first appearance. Checked by their number.

    A line is a digit and what is kept after it (`3:3;1:31;1:31`).
    """

    name = "distinct"
    domain = "sequence"
    tag = "O"
    answer_symbols = "123456"

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        digits = rng.choices("123456", k=difficulty + 1)
        kept, steps = "", []
        for digit in digits:
            kept += "" if digit in kept else digit
            steps.append(f"{digit}:{kept}")
        return self.problem("".join(digits), kept, steps, str(len(kept)), difficulty)


class Filter(CompactFamily):
    """`G3:1524`: the digits above 3, in order. Digits differ. Checked by their number."""

    name = "filter"
    domain = "sequence"
    tag = "G"
    answer_symbols = "3456789"

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        bound = int(rng.choice("2345"))
        digits = rng.sample(range(1, 10), difficulty + 1)
        if max(digits) <= bound:
            digits[-1] = 9
        kept = [digit for digit in digits if digit > bound]
        steps = [f"{bound}<{digit}={int(digit > bound)}" for digit in digits]
        body = f"{bound}:{listed(digits, '')}"
        return self.problem(body, listed(kept, ""), steps, str(len(kept)), difficulty)
