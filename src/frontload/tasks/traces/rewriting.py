"""Rewriting systems run by hand: one rewritten state a line."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

from frontload.tasks.families import Problem
from frontload.tasks.traces.gym import Entry, GymFamily, Work, open_dataset, swapped

_MAX_REWRITES = 30


class TokenRewriting(GymFamily):
    """The A::B system: `A# #A` vanishes, `A# #B` becomes `#B A#`, leftmost pair first."""

    name = "ab"
    domain = "code"
    levels = tuple({"length": length} for length in (5, 6, 8, 10, 12))

    def work(self, entry: Entry) -> Work | None:
        program = entry["question"].split("program:\n\n")[1].split("\n\nReturn")[0].split()
        steps: list[str] = []
        while (place := _facing(program)) is not None and len(steps) < _MAX_REWRITES:
            left, right = program[place : place + 2]
            put = [] if left[0] == right[1] else [right, left]
            program = [*program[:place], *put, *program[place + 2 :]]
            state = " ".join(program)
            steps.append(f"{left} {right} becomes {' '.join(put) or 'nothing'}: {state}")
        if " ".join(program) != entry["answer"] or not program or not steps:
            return None  # too long to write out, nothing left to answer with, or nothing to do
        inward = sum(token[0] == "#" for token in program)
        checks = [f"{inward} with # in front, then {len(program) - inward} with # behind"]
        return Work(steps, checks)

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        tokens = problem.answer.split()
        place = rng.randrange(len(tokens))
        changed = tokens[place].translate(str.maketrans("AB", "BA"))
        if rng.random() < 0.5:
            return " ".join([*tokens[:place], changed, *tokens[place + 1 :]])
        return " ".join([*tokens[:place], changed, *tokens[place:]])


class StringManipulation(GymFamily):
    """Apply the first rule that fits until none does or a string comes back."""

    name = "string_manipulation"
    domain = "code"
    levels = tuple(
        {
            "min_string_length": 5,
            "max_string_length": length,
            "min_num_rules": 3,
            "max_num_rules": rules,
        }
        for length, rules in ((6, 3), (8, 4), (10, 5), (14, 6), (20, 8))
    )

    def work(self, entry: Entry) -> Work | None:
        known = entry["metadata"]
        rules, states = _rules(known["selected_rules"]), list(known["states"])
        if not states[-1] or not 1 < len(states) <= _MAX_REWRITES:
            return None  # nothing to answer with, nothing to do, or too long to write out
        if "cb" in states:
            return None  # on "cb" alone reasoning-gym forgets to delete the last character
        steps = []
        for before, after in pairwise(states):
            number, result = _first_rule(rules, before)
            assert result == after
            steps.append(f"rule {number}: {after}")
        number, result = _first_rule(rules, states[-1])
        if number:
            steps.append(f"rule {number} would give {result}, seen before, so stop: {states[-1]}")
        else:
            steps.append(f"no rule applies: {states[-1]}")
        return Work(steps, [f"{len(states)} different strings, last {states[-1]}"])

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        letters = swapped(rng, list(problem.answer))
        place = rng.randrange(len(letters) + 1)
        return "".join(letters[:place]) + rng.choice("abc") + "".join(letters[place:])


def _facing(program: list[str]) -> int | None:
    """Place of the leftmost pair whose # signs face each other."""
    for place, (left, right) in enumerate(pairwise(program)):
        if left[1] == "#" and right[0] == "#":
            return place
    return None


Rule = Callable[[str], tuple[str, int]]


def _rules(selected: list[str]) -> list[Rule]:
    """The functions of the selected rules; reasoning-gym keeps them beside their sentences."""
    by_sentence = dict(open_dataset(StringManipulation, 1).rules)
    return [by_sentence[sentence] for sentence in selected]


def _first_rule(rules: list[Rule], text: str) -> tuple[int, str]:
    """(number of the first rule that applies, its result); number 0 when none does."""
    for number, rule in enumerate(rules, start=1):
        result, applied = rule(text)
        if applied:
            return number, result
    return 0, text
