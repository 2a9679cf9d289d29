"""Compact algebra: named values, equations, expressions (mod 10)."""

from __future__ import annotations

import random

from frontload.tasks.compact.form import ANY, SMALL, CompactFamily, listed, run_chain
from frontload.tasks.families import Problem

_FLIPPED = {"+": "-", "-": "+"}


class VariableChain(CompactFamily):
    """`$a3,2a:b,5a:c`: a is 3, b is 2+a, c is 5+a; the value of the last.

    In a trace a value follows its name (`2a3:b5`), so finding one is a single look-up.
    """

    name = "variable_chain"
    domain = "algebra"
    tag = "$"
    chance = 0.1
    max_difficulty = 4

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        start, *operands = rng.choices(SMALL, k=difficulty + 1)
        values, given, steps = [start], [f"a{start}"], []
        for operand in operands:
            source = int(rng.random() * len(values))
            known, new = "abcde"[source], "abcde"[len(values)]
            given.append(f"{operand}{known}:{new}")
            values.append((values[source] + operand) % 10)
            steps.append(f"{operand}{known}{values[source]}:{new}{values[-1]}")
        return self.problem(listed(given), values[-1], steps, str(values[-1]), difficulty)


class Solve(CompactFamily):
    """`U_+3-2=6`: the unknown, by undoing from the right. Checked by running it forwards."""

    name = "solve"
    domain = "algebra"
    tag = "U"
    chance = 0.1

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        unknown = rng.choice(ANY)
        signs, operands = rng.choices("+-", k=difficulty), rng.choices(SMALL, k=difficulty)
        operations = list(zip(signs, operands, strict=True))
        states, _ = run_chain(unknown, operations)
        undone = [(_FLIPPED[sign], operand) for sign, operand in reversed(operations)]
        _, steps = run_chain(states[-1], undone)
        left = "_" + "".join(f"{sign}{operand}" for sign, operand in operations)
        return self.problem(f"{left}={states[-1]}", unknown, steps, listed(states), difficulty)


class Evaluate(CompactFamily):
    """`H3:_+2+_`: the expression where `_` is 3. Checked by going back to the first term."""

    name = "evaluate"
    domain = "algebra"
    tag = "H"
    chance = 0.1

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        given = rng.choice(SMALL)
        terms = ["_" if rng.random() < 0.4 else rng.choice(SMALL) for _ in range(difficulty + 1)]
        terms[int(rng.random() * len(terms))] = "_"
        first, *others = [given if term == "_" else int(term) for term in terms]
        states, steps = run_chain(first, [("+", term) for term in others])
        body = f"{given}:{listed(terms, '+')}"
        return self.problem(body, states[-1], steps, listed(states[::-1]), difficulty)
