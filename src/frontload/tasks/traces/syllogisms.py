"""Syllogisms, judged by looking for a world in which the statements hold and the conclusion fails.

Worlds are Venn diagrams of three terms, each with at least one member (existential import, as in
Aristotle and in reasoning-gym). reasoning-gym's rules miss the undistributed middle: it calls
"All A are B; some B are C; so some A are C" valid. Problems whose label disagrees with the
worlds are drawn again.
"""

from __future__ import annotations

import itertools
import random
import re
from functools import cache

from frontload.tasks.families import Problem
from frontload.tasks.traces.gym import Entry, GymFamily, Work

Statement = tuple[str, int, int]
"""Quantifier (All, No, Some, Not for "some are not"), subject term, predicate term."""
World = tuple[int, ...]
"""Who is there: one bit mask of terms per individual."""

_SENTENCE = re.compile(r"(All|No|Some) (\w+) are (not )?(\w+)")
_DENIAL = {"All": "Not", "Not": "All", "No": "Some", "Some": "No"}


class Syllogism(GymFamily):
    """Two statements and a conclusion: Yes with a derivation, or No with a counterexample."""

    name = "syllogism"
    domain = "logic"
    levels = (
        {"inversion_probability": 1.0, "invalid_ratio": 0.5},
        {
            "inversion_probability": 0.0,
            "invalid_ratio": 0.5,
            "allow_some": False,
            "allow_some_not": False,
        },
        {"inversion_probability": 0.25, "invalid_ratio": 0.5},
    )
    chance = 0.52

    def work(self, entry: Entry) -> Work | None:
        known = entry["metadata"]
        texts = [known[part] for part in ("premise1", "premise2", "conclusion")]
        terms: list[str] = []
        first, second, conclusion = (_read(text, terms) for text in texts)
        world = counterexample(first, second, conclusion)
        if (entry["answer"] == "Yes") != (world is None):
            return None
        claim = _write(conclusion, terms)
        denial = _write((_DENIAL[conclusion[0]], *conclusion[1:]), terms)
        if world is None:
            steps = [*_derivation(first, second, conclusion, terms), f"So {claim}: Yes"]
            return Work(steps, [f"suppose instead {denial}; then the statements cannot both hold"])
        individuals = zip("xyz", world, strict=False)
        people = "; ".join(f"{name}: {_kinds(one, terms)}" for name, one in individuals)
        steps = [f"Imagine a world with only {people}"]
        steps += [
            f"There, statement {place} holds: {_write(statement, terms)}"
            for place, statement in enumerate((first, second), start=1)
        ]
        steps += [f"There, it fails that {claim}, so it does not follow: No"]
        return Work(steps, [f"in that world {denial}"])

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        return "No" if problem.answer == "Yes" else "Yes"


@cache
def counterexample(first: Statement, second: Statement, conclusion: Statement) -> World | None:
    """The smallest world where both statements hold and the conclusion does not."""
    for size in range(1, 4):
        for world in itertools.combinations(range(1, 8), size):
            populated = all(any(one >> term & 1 for one in world) for term in range(3))
            if (
                populated
                and holds(first, world)
                and holds(second, world)
                and not holds(conclusion, world)
            ):
                return world
    return None


def holds(statement: Statement, world: World) -> bool:
    """Whether a statement is true in a world."""
    quantifier, subject, predicate = statement
    inside = [bool(one >> predicate & 1) for one in world if one >> subject & 1]
    if quantifier == "All":
        return all(inside)
    if quantifier == "No":
        return not any(inside)
    return any(inside) if quantifier == "Some" else not all(inside)


def _read(text: str, terms: list[str]) -> Statement:
    """Parse a sentence; new terms are added to `terms`."""
    found = _SENTENCE.fullmatch(text)
    assert found, text
    quantifier, subject, negated, predicate = found.groups()
    for term in (subject, predicate):
        if term not in terms:
            terms.append(term)
    return "Not" if negated else quantifier, terms.index(subject), terms.index(predicate)


def _write(statement: Statement, terms: list[str]) -> str:
    quantifier, subject, predicate = statement
    if quantifier == "Not":
        return f"some {terms[subject]} are not {terms[predicate]}"
    return f"{quantifier.lower()} {terms[subject]} are {terms[predicate]}"


def _kinds(one: int, terms: list[str]) -> str:
    return " and ".join(term for place, term in enumerate(terms) if one >> place & 1)


def _derivation(
    first: Statement, second: Statement, conclusion: Statement, terms: list[str]
) -> list[str]:
    """Why a valid conclusion follows: by turning one statement round, or through the middle."""
    for place, (quantifier, subject, predicate) in enumerate((first, second), start=1):
        if (predicate, subject) == conclusion[1:]:
            return _turned(place, quantifier, terms[subject], terms[predicate])
    middle, last = terms[first[2]], terms[second[2]]
    taken = "any" if first[0] == "All" else "one"
    ending = "none" if second[0] == "No" else "also one"
    return [
        f"Take {taken} of the {terms[first[1]]} that statement 1 speaks of: "
        f"it is one of the {middle}",
        f"Statement 2 is about all {middle}: it is {ending} of the {last}",
    ]


def _turned(place: int, quantifier: str, subject: str, predicate: str) -> list[str]:
    if quantifier == "No":
        return [f"Statement {place}: nothing is both one of the {subject} and the {predicate}"]
    source = "all" if quantifier == "All" else "some"
    return [
        f"Statement {place}: {source} {subject} are {predicate}, and there are such {subject}",
        f"Any of these is one of the {predicate} that is one of the {subject}",
    ]
