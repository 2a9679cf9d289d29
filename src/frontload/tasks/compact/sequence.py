"""Compact work on lists of digits."""

from __future__ import annotations

import random

from frontload.tasks.compact.form import CompactFamily, draw
from frontload.tasks.families import Problem


class Sort(CompactFamily):
    """`S3152`: the digits in ascending order."""

    name = "sort"
    domain = "sequence"
    tag = "S"

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        digits = draw(rng, "0123456789", difficulty + 1)
        states = ["".join(sorted(digits[: end + 1])) for end in range(len(digits))]
        return Problem(
            family=self.name,
            question=self.tag + "".join(digits),
            answer=states[-1],
            steps=tuple(states),
            checks=(f"?{len(digits)}",),
            difficulty=difficulty,
        )


class Count(CompactFamily):
    """`C3:1323`: how often does the first digit occur in the list?"""

    name = "count"
    domain = "sequence"
    tag = "C"
    chance = 0.3

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        target, *digits = draw(rng, "123", difficulty + 2)
        counts = [digits[: end + 1].count(target) for end in range(len(digits))]
        steps = [f"{digit}:{count}" for digit, count in zip(digits, counts, strict=True)]
        return Problem(
            family=self.name,
            question=f"{self.tag}{target}:{''.join(digits)}",
            answer=str(counts[-1]),
            steps=tuple(steps),
            checks=(f"?{counts[-1]}",),
            difficulty=difficulty,
        )
