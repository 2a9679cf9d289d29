"""Knights and knaves, by cases: suppose who tells the truth, then look at what each one said.

Statements that only name one person (reasoning-gym's `depth_constraint` 1) never fix who is who:
exchanging all knights and knaves keeps them fulfilled. So every level nests statements.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

from frontload.tasks.families import Problem
from frontload.tasks.traces.gym import Entry, GymFamily, Work

Claim = Sequence[Any]
"""reasoning-gym's statement tree: (connective, parts...) or (telling-truth | lying, person)."""


class KnightsKnaves(GymFamily):
    """Every assignment but one contradicts a speaker; steps try them until one fits."""

    name = "knights_knaves"
    domain = "logic"
    levels = tuple(
        {"n_people": people, "depth_constraint": depth}
        for people, depth in ((2, 2), (3, 2), (3, 3))
    )
    chance = 0.2
    """Two of the three levels have 4 or 8 assignments, which are not equally frequent."""

    def work(self, entry: Entry) -> Work:
        known = entry["metadata"]
        names = [str(name) for name in known["names"]]
        roles = known["knight_knave_terms"]
        says = known["statements"]
        steps: list[str] = []
        checks: list[str] = []
        fits = []
        for truthful in itertools.product((True, False), repeat=len(names)):
            clash = _first_clash(truthful, says)
            case = ", ".join(
                f"{name} is {roles['a_knight' if honest else 'a_knave']}"
                for name, honest in zip(names, truthful, strict=True)
            )
            if clash is None:
                fits.append(truthful)
                steps.append(f"Suppose {case}: every statement fits")
            else:
                lines = checks if fits else steps
                lines.append(f"Suppose {case}: {_why(names[clash], truthful[clash], roles)}")
        assert fits == [tuple(map(bool, known["solution"]))]
        told = [_spoken(name, honest) for name, honest in zip(names, fits[0], strict=True)]
        return Work([*steps, entry["answer"]], [*checks, ", ".join(told)])

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        people = problem.answer.removesuffix(".").replace(", and ", ", ").split(", ")
        roles = {line.split(" is ")[1] for line in people}
        place = rng.randrange(len(people))
        name, _, role = people[place].partition(" is ")
        others = sorted(roles - {role}) or [_opposite(role)]
        people[place] = f"{name} is {others[0]}"
        return ", ".join(people[:-1]) + f", and {people[-1]}."


def is_true(claim: Claim, truthful: Sequence[bool]) -> bool:
    """Whether a claim holds when `truthful[i]` says who tells the truth."""
    kind, *parts = claim
    if kind in ("telling-truth", "lying"):
        return truthful[parts[0]] == (kind == "telling-truth")
    values = [is_true(part, truthful) for part in parts]
    if kind == "not":
        return not values[0]
    if kind in ("and", "or"):
        return all(values) if kind == "and" else any(values)
    if kind == "->":
        return values[1] or not values[0]
    assert kind == "<=>", kind
    return values[0] == values[1]


def _first_clash(truthful: Sequence[bool], says: Sequence[Claim]) -> int | None:
    """The first speaker whose statement is not as true as the speaker."""
    for speaker, claim in enumerate(says):
        if is_true(claim, truthful) != truthful[speaker]:
            return speaker
    return None


def _why(name: str, honest: bool, roles: dict[str, str]) -> str:
    if honest:
        return f"what {name} says is false, but {roles['a_knight']} tells the truth"
    return f"what {name} says is true, but {roles['a_knave']} lies"


def _spoken(name: str, honest: bool) -> str:
    return f"{name} says something {'true' if honest else 'false'}"


def _opposite(role: str) -> str:
    from reasoning_gym.logic.knights_knaves import KNIGHT_KNAVE_PAIRS

    for pair in KNIGHT_KNAVE_PAIRS:
        if role in pair:
            return str(pair[1 - pair.index(role)])
    raise AssertionError(role)
