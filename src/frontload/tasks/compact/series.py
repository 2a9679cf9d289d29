"""Compact number series (mod 10)."""

from __future__ import annotations

import random
from itertools import accumulate

from frontload.tasks.compact.form import ANY, SMALL, CompactFamily, listed
from frontload.tasks.families import Problem


class Differences(CompactFamily):
    """`F1469`: from each digit to the next. Checked by adding them up again."""

    name = "differences"
    domain = "sequence"
    tag = "F"
    answer_symbols = "12345"

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        gaps = rng.choices(SMALL, k=difficulty)
        terms = _series(rng.choice(ANY), gaps)
        steps = [f"{b}-{a}={gap}" for a, gap, b in zip(terms, gaps, terms[1:], strict=False)]
        body = listed(terms, "")
        return self.problem(body, listed(gaps, ""), steps, body, difficulty)


class NextTerm(CompactFamily):
    """`T13467`: two gaps alternate; the next term. Checked by naming the gaps."""

    name = "next_term"
    domain = "sequence"
    tag = "T"
    chance = 0.1

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        pair = rng.choices(SMALL, k=2)
        gaps = [pair[place % 2] for place in range(difficulty + 1)]
        terms = _series(rng.choice(ANY), gaps)
        steps = [f"{b}-{a}={gap}" for a, gap, b in zip(terms, gaps, terms[1:-1], strict=False)]
        steps.append(f"{terms[-2]}+{gaps[-1]}={terms[-1]}")
        return self.problem(listed(terms[:-1], ""), terms[-1], steps, listed(pair), difficulty)


def _series(first: int, gaps: list[int]) -> list[int]:
    return [total % 10 for total in accumulate([first, *gaps])]
