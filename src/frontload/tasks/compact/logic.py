"""Compact logic: truth is 1, falsehood 0."""

from __future__ import annotations

import random

from frontload.tasks.compact.form import SMALL, CompactFamily, listed
from frontload.tasks.families import Problem


class Parity(CompactFamily):
    """`P3152`: is the number of odd digits odd? Checked by their number."""

    name = "parity"
    domain = "logic"
    tag = "P"
    chance = 0.5
    answer_symbols = "01"

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        digits = rng.choices(SMALL, k=difficulty + 1)
        odd, steps = 0, []
        for digit in digits:
            odd += digit % 2
            steps.append(f"{digit}:{odd % 2}")
        return self.problem(listed(digits, ""), odd % 2, steps, str(odd), difficulty)


class BooleanChain(CompactFamily):
    """`B1&0|1^1`: and, or, exclusive or, from left to right. Checked by the last operation."""

    name = "boolean_chain"
    domain = "logic"
    tag = "B"
    chance = 0.5
    min_difficulty = 3
    answer_symbols = "01"

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        first, *bits = rng.choices((0, 1), k=difficulty + 1)
        operators = rng.choices("&|^", k=difficulty)
        states, steps, body = [first], [], str(first)
        for operator, bit in zip(operators, bits, strict=True):
            states.append(_apply(operator, states[-1], bit))
            steps.append(f"{states[-2]}{operator}{bit}={states[-1]}")
            body += f"{operator}{bit}"
        return self.problem(body, states[-1], steps, steps[-1], difficulty)


class Comparisons(CompactFamily):
    """`Q3<5,4<2`: the truth of each comparison. Checked by the number of true ones."""

    name = "comparisons"
    domain = "logic"
    tag = "Q"
    chance = 0.15
    answer_symbols = "01"

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        claims, truths = [], []
        for _ in range(difficulty):
            left, right = rng.sample(range(1, 7), 2)
            claims.append(f"{left}<{right}")
            truths.append(int(left < right))
        steps = [f"{claim}={truth}" for claim, truth in zip(claims, truths, strict=True)]
        return self.problem(listed(claims), listed(truths, ""), steps, str(sum(truths)), difficulty)


def _apply(operator: str, left: int, right: int) -> int:
    if operator == "&":
        return left & right
    return left | right if operator == "|" else left ^ right
