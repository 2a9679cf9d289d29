"""Right responses pass the scorer and flawed ones fail it, at every depth, for every family."""

import random

import pytest

from frontload.corpus.example import split_reasoning
from frontload.tasks.dials import trace_lines, write_response
from frontload.tasks.draw import draw_problem
from frontload.tasks.registry import family_names, get_family
from frontload.tasks.verify import parse_answer

DEPTHS = ("direct", "short", "long")
FLAWS = ("wrong_step", "wrong_answer", "cut_short")


def problems_of(name):
    family = get_family(name)
    count = 60 if family.compact else 8
    return family, [draw_problem(family, seed=11, index=index) for index in range(count)]


@pytest.mark.parametrize("name", family_names())
def test_every_unflawed_response_passes_the_scorer(name):
    family, problems = problems_of(name)
    for problem in problems:
        for depth in DEPTHS:
            response = write_response(problem, depth, None, None, family)
            parsed = parse_answer(response, finished=True)
            assert parsed.outcome == "answered", response
            assert family.score(problem, parsed.answer) == 1.0, (problem, response)


@pytest.mark.parametrize("name", family_names())
def test_every_flawed_response_fails_the_scorer(name):
    family, problems = problems_of(name)
    rng = random.Random(5)
    for problem in problems:
        for depth in DEPTHS:
            for flaw in FLAWS:
                response = write_response(problem, depth, flaw, rng, family)
                answer = parse_answer(response, finished=True).answer
                assert family.score(problem, answer) < 1.0, (problem, flaw, response)


@pytest.mark.parametrize("name", family_names())
def test_a_wrong_step_differs_from_the_right_steps_and_a_wrong_answer_does_not(name):
    family, problems = problems_of(name)
    rng = random.Random(6)
    for problem in problems:
        right = split_reasoning(write_response(problem, "long", None, None, family)).reasoning
        altered = write_response(problem, "long", "wrong_step", rng, family)
        kept = write_response(problem, "long", "wrong_answer", rng, family)
        assert split_reasoning(altered).reasoning != right
        assert split_reasoning(kept).reasoning == right


@pytest.mark.parametrize("name", family_names())
def test_a_response_cut_short_is_a_true_beginning_without_an_answer(name):
    family, problems = problems_of(name)
    rng = random.Random(7)
    for problem in problems:
        whole = write_response(problem, "short", None, None, family)
        for depth in ("direct", "short"):
            response = write_response(problem, depth, "cut_short", rng, family)
            assert whole.startswith(response)
            assert parse_answer(response, finished=True).outcome == "unparsed"


@pytest.mark.parametrize("name", family_names())
def test_depth_only_adds_lines(name):
    _, problems = problems_of(name)
    for problem in problems:
        direct, short, long = (trace_lines(problem, depth) for depth in DEPTHS)
        assert direct == ()
        assert len(short) >= 1
        assert long[: len(short)] == short
        assert len(long) > len(short)
