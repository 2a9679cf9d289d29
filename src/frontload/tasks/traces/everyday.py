"""Legs of animals and relatives in a family."""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from frontload.tasks.families import Problem
from frontload.tasks.traces.gym import Entry, GymFamily, Work
from frontload.tasks.traces.lines import equation, running

_MEN = (
    "James", "John", "Robert", "Michael", "William", "David", "Richard", "Joseph", "Thomas",
    "Charles", "Peter", "Daniel", "Matthew", "Christopher", "Andrew", "George", "Edward",
    "Benjamin", "Henry", "Samuel", "Alexander", "Oliver", "Jack", "Harry", "Jacob",
)  # fmt: skip
_WOMEN = (
    "Mary", "Patricia", "Jennifer", "Linda", "Elizabeth", "Barbara", "Susan", "Jessica", "Sarah",
    "Karen", "Emma", "Lisa", "Anna", "Margaret", "Victoria", "Charlotte", "Sophia", "Isabella",
    "Olivia", "Emily", "Abigail", "Amelia", "Eleanor", "Alice", "Lucy",
)  # fmt: skip
_RELATIONS = {
    "parent": ("father", "mother"),
    "child": ("son", "daughter"),
    "spouse": ("husband", "wife"),
    "sibling": ("brother", "sister"),
    "grandparent": ("grandfather", "grandmother"),
    "parent's sibling": ("uncle", "aunt"),
    "sibling's child": ("nephew", "niece"),
}
"""Relation -> the word for a man and for a woman."""
_INVERSE = {
    "parent": "child",
    "child": "parent",
    "grandparent": "grandchild",
    "parent's sibling": "sibling's child",
    "sibling's child": "parent's sibling",
}


class LegCounting(GymFamily):
    """Legs of each kind, then their sum; the check adds from the other end."""

    name = "leg_counting"
    domain = "language"
    levels = tuple(
        {"min_animals": kinds, "max_animals": kinds + 1, "max_instances": instances}
        for kinds, instances in ((1, 9), (2, 9), (3, 12), (5, 15), (8, 20))
    )

    def work(self, entry: Entry) -> Work:
        from reasoning_gym.arithmetic.leg_counting import ANIMALS

        animals = entry["metadata"]["animals"]
        steps = [
            f"{name}: {equation(count, '*', ANIMALS[name])}" for name, count in animals.items()
        ]
        legs = [count * ANIMALS[name] for name, count in animals.items()]
        if len(legs) == 1:
            return Work(steps, [" + ".join([str(legs[0] // n)] * n) + f" = {legs[0]}"
                                for n in animals.values()])  # fmt: skip
        return Work(steps + running("+", legs), running("+", legs[::-1]))


class Kin(NamedTuple):
    """What a story tells: who is married to whom, whose children are whose."""

    spouse: dict[str, str]
    parents: dict[str, tuple[str, str]]


class FamilyRelationships(GymFamily):
    """Follow parents through the story, then pick the word by the person's name.

    The relation is derived from the story alone and must agree with reasoning-gym, whose niece and
    nephew take the other person's gender and whose in-laws are turned round; those problems are
    drawn again. Names are limited to ones that tell a man from a woman.
    """

    name = "family_relationships"
    domain = "language"
    levels = tuple(
        {
            "min_family_size": low,
            "max_family_size": high,
            "male_names": list(_MEN),
            "female_names": list(_WOMEN),
        }
        for low, high in ((4, 5), (6, 6), (7, 9), (10, 12))
    )
    chance = 0.15

    def work(self, entry: Entry) -> Work | None:
        story = entry["question"].split("\n\n")[0]
        one, other = entry["metadata"]["person1"], entry["metadata"]["person2"]
        kin = read_story(story)
        found = relation(kin, one, other)
        if found is None:
            return None
        links, kind = found
        word = _RELATIONS[kind][one in _WOMEN]
        if word != entry["answer"]:
            return None
        sex = "woman" if one in _WOMEN else "man"
        steps = [*links, f"so {one} is the {kind} of {other}", f"{one} is a {sex}: {word}"]
        return Work(
            steps, [f"the other way round, {other} is the {_INVERSE.get(kind, kind)} of {one}"]
        )

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        return rng.choice([word for words in _RELATIONS.values() for word in words])


def read_story(story: str) -> Kin:
    """Marriages and parents from `A is married to B. They have children called C and D.`"""
    kin = Kin({}, {})
    for sentence in story.split("."):
        if married := re.search(r"(\w+) is married to (\w+)", sentence):
            couple = (married[1], married[2])
            kin.spouse.update({couple[0]: couple[1], couple[1]: couple[0]})
        elif called := re.search(r"called (.+)", sentence):
            for child in re.split(r", | and ", called[1]):
                kin.parents[child] = couple
    return kin


def relation(kin: Kin, one: str, other: str) -> tuple[list[str], str] | None:
    """(the facts that lead there, what `one` is to `other`), None where there is no word."""
    if kin.spouse.get(one) == other:
        return [f"{one} is married to {other}"], "spouse"
    if one in kin.parents.get(other, ()):
        return [_child_of(kin, other)], "parent"
    if other in kin.parents.get(one, ()):
        return [_child_of(kin, one)], "child"
    mine, theirs = kin.parents.get(one), kin.parents.get(other)
    if mine is not None and mine == theirs:
        return [_child_of(kin, one), _child_of(kin, other)], "sibling"
    for parent in theirs or ():
        if one in kin.parents.get(parent, ()):
            return [_child_of(kin, other), _child_of(kin, parent)], "grandparent"
        if mine is not None and mine == kin.parents.get(parent):
            links = [_child_of(kin, other), _child_of(kin, parent), _child_of(kin, one)]
            return links, "parent's sibling"
    for parent in mine or ():
        if theirs is not None and theirs == kin.parents.get(parent):
            links = [_child_of(kin, one), _child_of(kin, parent), _child_of(kin, other)]
            return links, "sibling's child"
    return None


def _child_of(kin: Kin, child: str) -> str:
    first, second = kin.parents[child]
    return f"{child} is a child of {first} and {second}"
