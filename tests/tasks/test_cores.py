"""Put otherwise, a problem stays on its side of the split: nothing held out is trained on reworded.

What makes two problems the same is read from their text here, past `GymFamily.core`.
"""

from __future__ import annotations

import re

import pytest
from reasoning_gym.factory import create_dataset

from frontload.tasks.draw import draw_problem
from frontload.tasks.families import Problem
from frontload.tasks.registry import get_family


def the_equation(problem: Problem) -> str:
    """`3*x + 5 = 41`, its letter aside."""
    found = re.search(r"[^:]*[a-z0-9] = -?\d+", problem.question)
    assert found
    return re.sub(r"\b[a-z]\b", "x", found[0].strip())


def the_plaintext(problem: Problem) -> str:
    return problem.answer


def the_date_and_jump(problem: Problem) -> tuple[str, str, bool]:
    """`April 10, 2022`, 7 days, back."""
    day = re.search(r"\w+ \d+, \d{4}", problem.question)
    jump = re.search(r"(\d+)[- ]day", problem.question)
    assert day
    assert jump
    return day[0], jump[1], bool(re.search("ago|before|backward", problem.question))


SAME = {
    "simple_equations": the_equation,
    "caesar_cipher": the_plaintext,
    "calendar_arithmetic": the_date_and_jump,
}


@pytest.mark.parametrize("name", SAME)
def test_no_problem_is_on_both_sides_whatever_its_wording(name: str) -> None:
    family, same = get_family(name), SAME[name]

    def drawn(split: str, count: int) -> list[Problem]:
        return [
            draw_problem(family, seed=0, index=i, difficulty=(1, 1), split=split)
            for i in range(count)
        ]

    train, heldout = drawn("train", 800), drawn("heldout", 150)
    cores = [problem.core for problem in train]
    reworded = len({problem.question for problem in train}) - len(set(cores))
    assert reworded > 50, "there is something to keep apart"
    assert not {same(problem) for problem in train} & {same(problem) for problem in heldout}
    assert not set(cores) & {problem.core for problem in heldout}


@pytest.mark.parametrize(
    ("name", "wordings"),
    [
        ("simple_equations", "_prompt_templates"),
        ("calendar_arithmetic", "DAY_QUESTION_TEMPLATES"),
        ("time_intervals", "TEMPLATES"),
    ],
)
def test_reasoning_gyms_wordings_of_a_problem_share_one_core(name: str, wordings: str) -> None:
    family = get_family(name)
    dataset = create_dataset(name, seed=0, size=1, **family.levels[0])
    known, cores = getattr(dataset, wordings), set()
    for index in range(20):
        entries = []
        for wording in known:
            setattr(dataset, wordings, [wording])
            entries.append(family.read(dataset[index]))
        assert len({entry["question"] for entry in entries}) == len(known) > 1
        found = {family.core(entry) for entry in entries}
        assert len(found) == 1
        cores |= found
    assert len(cores) == 20, "different problems keep different cores"


def test_the_letter_of_an_equation_and_the_shift_of_a_text_are_wording() -> None:
    equations = [
        {"question": "", "metadata": {"equation": f"3*{v} + 5 = 41", "variable": v}} for v in "xy"
    ]
    assert {get_family("simple_equations").core(entry) for entry in equations} == {"3*x + 5 = 41"}
    dataset = create_dataset("caesar_cipher", seed=0, size=1, max_rotation=25)
    shifts: dict[str, set[int]] = {}
    for index in range(2000):
        entry = dataset[index]
        core = get_family("caesar_cipher").core(entry)
        shifts.setdefault(core, set()).add(entry["metadata"]["rotation"])
    assert max(map(len, shifts.values())) > 5


def test_clock_times_have_no_date_in_their_core() -> None:
    family = get_family("time_intervals")  # reasoning-gym stores them with the date of today
    for index in range(50):
        core = draw_problem(family, seed=0, index=index, difficulty=(1, 1)).core
        assert re.fullmatch(r"\d\d:\d\d:\d\d to \d\d:\d\d:\d\d", core), core
