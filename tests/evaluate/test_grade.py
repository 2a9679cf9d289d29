import dataclasses

import pytest

from frontload.evaluate.config import BenchmarkConfig
from frontload.evaluate.grade import grade
from frontload.evaluate.items import ProblemItem
from frontload.evaluate.questions import draw_problems
from frontload.tasks.draw import draw_problem, item_rng
from frontload.tasks.registry import get_family
from tests.evaluate.made_models import CONTEXT, tokenizer


def asked(gold: str) -> ProblemItem:
    return ProblemItem(
        benchmark="real",
        family="real",
        id="0",
        prompt="?",
        gold=gold,
        gold_response=gold,
        chance=0.0,
        prompt_ids=(1,),
        response_ids=None,
        generate=True,
    )


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("Paris", " paris. ", True),
        ("Paris", "Rome", False),
        ("1000", "1,000", True),
        ("1000", "$1000.00", True),
        ("12", "1,2", False),
        ("1/2", "0.5", True),
        ("1/0", "0", False),
        ("50", "50%", True),
        ("-3", "3", False),
        ("grandparent", "great-grandparent", False),
    ],
)
def test_text_and_numbers(gold, answer, right):
    assert grade([asked(gold)], [answer]) == [float(right)]


@pytest.mark.parametrize("gold", ["7", "x+1", "Paris", "9" * 5000])
@pytest.mark.parametrize("start", ["", "-", "1/", "."])
def test_a_number_too_long_to_be_read_is_wrong(gold, start):
    assert grade([asked(gold)], [start + "8" * 5000]) == [0.0]


def test_mathematics_is_compared_as_such():
    pairs = [(r"\frac{1}{2}", r"\frac{2}{4}"), ("x+1", "1+x"), ("2x", "3x")]
    items, answers = [asked(gold) for gold, _ in pairs], [answer for _, answer in pairs]
    assert grade(items, answers) == [1.0, 1.0, 0.0]


def test_a_comparison_without_end_has_no_grade():
    power_tower = "5^{5^{5^{5^{5}}}}"
    items = [asked(power_tower), asked("x+1")]
    assert grade(items, ["3-x", "1+x"], limit_s=1.5) == [None, 1.0]


@pytest.mark.parametrize("groups", [("compact",), ("english",)])
def test_families_grade_their_own_problems(groups):
    config = BenchmarkConfig(families=groups, items=2)
    items = draw_problems("held-out", config, tokenizer(), seed=3, context=CONTEXT, notes=[])
    assert grade(items, [f" {item.gold} " for item in items]) == [1.0] * len(items)
    assert grade(items, [_wrong(item) for item in items]) == [0.0] * len(items)


def _wrong(item: ProblemItem) -> str:
    family = get_family(item.family)
    arguments = dataclasses.asdict(item.draw)
    problem = draw_problem(family, **arguments, split="heldout")
    assert problem.question == item.prompt
    return family.wrong_answer(item_rng("wrong", 0, 0), problem)
