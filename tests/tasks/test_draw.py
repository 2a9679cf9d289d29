"""A problem depends on its number, its seed and its side of the split; never on the others."""

import random

import pytest

from frontload.corpus.example import held_out
from frontload.tasks.draw import HELDOUT_SHARE, difficulty_range, draw_problem
from frontload.tasks.families import Family, Problem
from frontload.tasks.registry import family_names, get_family, resolve_families


class OneQuestion(Family):
    """A family whose space of prompts is a single one."""

    name = "one_question"
    domain = "logic"
    compact = True
    min_difficulty = 1
    max_difficulty = 1

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        return Problem(family=self.name, question="?", answer="1", steps=(), difficulty=1)

    def wrong_answer(self, rng: random.Random, problem: Problem) -> str:
        return "0"


@pytest.mark.parametrize("name", family_names())
def test_item_depends_only_on_seed_and_index(name):
    family = get_family(name)
    indices = list(range(6))
    forwards = {index: draw_problem(family, seed=3, index=index) for index in indices}
    backwards = {index: draw_problem(family, seed=3, index=index) for index in reversed(indices)}
    assert forwards == backwards
    other = [draw_problem(family, seed=4, index=index).question for index in indices]
    assert other != [forwards[index].question for index in indices]


@pytest.mark.parametrize("name", family_names())
def test_splits_are_disjoint_by_prompt(name):
    family = get_family(name)
    count = 200 if family.compact else 12
    train = [draw_problem(family, seed=0, index=i) for i in range(count)]
    heldout = [draw_problem(family, seed=0, index=i, split="heldout") for i in range(24)]
    assert not {p.question for p in train} & {p.question for p in heldout}
    cores = {problem.core or problem.question for problem in heldout}
    assert not {problem.core or problem.question for problem in train} & cores
    assert all(held_out(core, HELDOUT_SHARE) for core in cores)


@pytest.mark.parametrize("name", family_names())
def test_difficulty_is_cut_to_the_asked_range_and_recorded(name):
    family = get_family(name)
    level = family.min_difficulty
    drawn = [
        draw_problem(family, seed=1, index=i, difficulty=(level, level)).difficulty
        for i in range(4)
    ]
    assert drawn == [level] * 4


def test_every_difficulty_of_the_range_is_drawn():
    family = get_family("running_sum")
    drawn = {draw_problem(family, seed=0, index=i, difficulty=(3, 5)).difficulty for i in range(60)}
    assert drawn == {3, 4, 5}


def test_a_range_is_cut_to_the_familys_own_and_refused_outside_it():
    family = get_family("variable_chain")
    assert difficulty_range(family, (3, 9)) == (3, family.max_difficulty)
    assert difficulty_range(family, None) == (family.min_difficulty, family.max_difficulty)
    with pytest.raises(ValueError, match="difficulty"):
        difficulty_range(family, (7, 9))
    with pytest.raises(ValueError, match="difficulty"):
        difficulty_range(family, (4, 3))


@pytest.mark.parametrize("name", [n for n in family_names() if get_family(n).num_templates > 1])
def test_the_template_dial_limits_the_wordings(name):
    family = get_family(name)
    asked: set[int] = set()

    class Watched(type(family)):  # type: ignore[misc]
        def make(self, rng, difficulty, template):
            asked.add(template)
            return super().make(rng, difficulty, template)

    for index in range(12):
        draw_problem(Watched(), seed=0, index=index, templates=1)
    assert asked == {0}


def test_a_space_of_prompts_that_is_too_small_is_refused_by_name():
    side = "train" if held_out("?", HELDOUT_SHARE) else "heldout"
    with pytest.raises(ValueError, match=r"one_question.*too few prompts"):
        draw_problem(OneQuestion(), seed=0, index=0, split=side)


@pytest.mark.parametrize("name", resolve_families(["compact"]))
def test_the_easiest_compact_problems_still_number_a_hundred(name):
    family = get_family(name)
    low = (family.min_difficulty, family.min_difficulty)
    prompts = {draw_problem(family, seed=0, index=i, difficulty=low).question for i in range(2000)}
    assert len(prompts) >= 100
    # An evaluation item seldom comes twice when difficulty runs over its usual range.
    heldout = [
        draw_problem(family, seed=0, index=i, difficulty=(2, 5), split="heldout").question
        for i in range(64)
    ]
    assert len(set(heldout)) >= 50
