"""Compact arithmetic: sums mod 10."""

from __future__ import annotations

import random

from frontload.tasks.compact.form import ANY, SMALL, CompactFamily, listed, run_chain
from frontload.tasks.families import Problem


class RunningSum(CompactFamily):
    """`A7+3+5`: add up, keeping the last digit. Checked by going back to the start."""

    name = "running_sum"
    domain = "arithmetic"
    tag = "A"
    chance = 0.1

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        start = rng.choice(ANY)
        operands = rng.choices(SMALL, k=difficulty)
        states, steps = run_chain(start, [("+", operand) for operand in operands])
        body = f"{start}+{listed(operands, '+')}"
        return self.problem(body, states[-1], steps, listed(states[::-1]), difficulty)


class SignedSum(CompactFamily):
    """`D7-3+5`: add and subtract, keeping the last digit. Checked by going back to the start."""

    name = "signed_sum"
    domain = "arithmetic"
    tag = "D"
    chance = 0.1

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        start = rng.choice(ANY)
        signs, operands = rng.choices("+-", k=difficulty), rng.choices(SMALL, k=difficulty)
        operations = list(zip(signs, operands, strict=True))
        states, steps = run_chain(start, operations)
        body = str(start) + "".join(f"{sign}{operand}" for sign, operand in operations)
        return self.problem(body, states[-1], steps, listed(states[::-1]), difficulty)


class PairwiseSum(CompactFamily):
    """`X1+2,3+4`: the sum of each pair. Checked by taking the second operands away again."""

    name = "pairwise_sum"
    domain = "arithmetic"
    tag = "X"
    max_difficulty = 4

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        left, right = rng.choices(SMALL, k=difficulty), rng.choices(SMALL, k=difficulty)
        pairs = [f"{a}+{b}" for a, b in zip(left, right, strict=True)]
        sums = [(a + b) % 10 for a, b in zip(left, right, strict=True)]
        steps = [f"{pair}={total}" for pair, total in zip(pairs, sums, strict=True)]
        return self.problem(listed(pairs), listed(sums, ""), steps, listed(left, ""), difficulty)
