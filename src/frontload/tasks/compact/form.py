"""What all compact families share: one tag, few symbols, and a state written after every step.

The form follows from what a model of two layers and width 128 learns in about a million tokens.
Every character is one token (letters stand alone, since runs of letters would merge), operands are
1 to 5, arithmetic is mod 10, and a step repeats its operands before it states the result
(`7+3=0;0+5=5`), so that each token needs one look-up and one small table. A question begins with
the family's own tag. Lines are separated by `;`, and the checks of a long trace begin with `?`.
At difficulty 5 or less, question, long trace, answer and five special tokens stay below 64.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from frontload.tasks.families import Family, Problem

SMALL = (1, 2, 3, 4, 5)
"""Operands: all ten digits are learned an order slower at this size."""
ANY = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)


class CompactFamily(Family):
    """A family of digits and symbols; subclasses set `tag` and write `make`.

    Difficulty is the number of operations.
    """

    compact = True
    min_difficulty = 2
    max_difficulty = 6
    separator = ";"
    tag: ClassVar[str]
    """First character of every question: an upper-case letter, or a symbol before a letter."""
    answer_symbols: ClassVar[str] = "0123456789"

    def problem(
        self, body: str, answer: object, steps: Sequence[str], check: str, difficulty: int
    ) -> Problem:
        """The problem whose question is the tag and `body`, with one line of checks."""
        return Problem(
            family=self.name,
            question=self.tag + body,
            answer=str(answer),
            steps=tuple(steps),
            checks=("?" + check,),
            difficulty=difficulty,
        )

    def wrong_answer(self, rng: random.Random, problem: Problem) -> str:
        """The answer with one symbol replaced by another that answers may contain."""
        answer = problem.answer
        places = [at for at, symbol in enumerate(answer) if symbol in self.answer_symbols]
        place = rng.choice(places)
        others = self.answer_symbols.replace(answer[place], "")
        return answer[:place] + rng.choice(others) + answer[place + 1 :]


def run_chain(start: int, operations: Sequence[tuple[str, int]]) -> tuple[list[int], list[str]]:
    """Apply signed operands mod 10: the states from `start` on, and one line per operation."""
    states, lines = [start], []
    for sign, operand in operations:
        state = states[-1]
        states.append((state + operand if sign == "+" else state - operand) % 10)
        lines.append(f"{state}{sign}{operand}={states[-1]}")
    return states, lines


def listed(values: Sequence[object], separator: str = ",") -> str:
    """Values in a row."""
    return separator.join(map(str, values))
