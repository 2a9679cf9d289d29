"""Compact programs: pointers, brackets, branches, registers."""

from __future__ import annotations

import random

from frontload.tasks.compact.form import ANY, SMALL, CompactFamily, listed, run_chain
from frontload.tasks.families import Problem


class PointerChase(CompactFamily):
    """`K4>2,1>4,2>.:1`: follow 1 -> 4 -> 2 to the end. Checked by walking back."""

    name = "pointer_chase"
    domain = "code"
    tag = "K"
    chance = 0.25
    max_difficulty = 5

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        path = rng.sample(ANY, difficulty + 1)
        links = [f"{here}>{there}" for here, there in zip(path, [*path[1:], "."], strict=True)]
        shown = links.copy()
        rng.shuffle(shown)
        body = f"{listed(shown)}:{path[0]}"
        return self.problem(body, path[-1], links, listed(path[::-1], ""), difficulty)


class BracketDepth(CompactFamily):
    """`N([](`: how many brackets are open at the end? Checked by opened minus closed."""

    name = "bracket_depth"
    domain = "code"
    tag = "N"
    chance = 0.35

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        stack: list[str] = []
        shown, steps = [], []
        for _ in range(difficulty + 3):
            if stack and rng.random() < 0.45:
                shown.append(stack.pop())
            else:
                opening = rng.choice("([")
                stack.append(")" if opening == "(" else "]")
                shown.append(opening)
            steps.append(f"{shown[-1]}{len(stack)}")
        opened = (len(shown) + len(stack)) // 2
        check = f"{opened}-{len(shown) - opened}={len(stack)}"
        return self.problem("".join(shown), len(stack), steps, check, difficulty)


class Branches(CompactFamily):
    """`J3,2,5`: from 3 on, add the next number if the state is even, else take it away (mod 10)."""

    name = "branches"
    domain = "code"
    tag = "J"
    chance = 0.1

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        start = rng.choice(ANY)
        operands = rng.choices(SMALL, k=difficulty)
        state, operations = start, []
        for operand in operands:
            operations.append(("-" if state % 2 else "+", operand))
            state = (state - operand if state % 2 else state + operand) % 10
        states, steps = run_chain(start, operations)
        body = listed([start, *operands])
        return self.problem(body, states[-1], steps, listed(states[::-1]), difficulty)


class Registers(CompactFamily):
    """`Z2a,3b,1a`: two registers from 0; what do a and b hold? Checked by naming them.

    A line is both values, the operation written where it happens (`0+2=2,0;2,0+3=3;2+1=3,3`).
    """

    name = "registers"
    domain = "code"
    tag = "Z"
    min_difficulty = 3
    max_difficulty = 4

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        held, shown, steps = [0, 0], [], []
        places, operands = rng.choices((0, 1), k=difficulty), rng.choices(SMALL, k=difficulty)
        for place, operand in zip(places, operands, strict=True):
            written: list[object] = list(held)
            after = (held[place] + operand) % 10
            written[place] = f"{held[place]}+{operand}={after}"
            held[place] = after
            shown.append(f"{operand}{'ab'[place]}")
            steps.append(listed(written))
        check = f"a{held[0]},b{held[1]}"
        return self.problem(listed(shown), listed(held, ""), steps, check, difficulty)
