"""Laws over every English family: right answers pass, wrong ones fail, every line is true."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from datetime import date
from functools import cache
from typing import get_args

import pytest

from frontload.corpus.example import join_reasoning
from frontload.tasks import traces
from frontload.tasks.families import Domain, Problem
from frontload.tasks.registry import get_family, resolve_families
from frontload.tasks.traces.everyday import _MEN, _WOMEN
from frontload.tasks.traces.gym import GymFamily, open_dataset
from frontload.tasks.verify import parse_answer

FAMILIES = {family.name: family() for family in traces.FAMILIES}
PER_LEVEL = 40
every_family = pytest.mark.parametrize("name", FAMILIES)


@cache
def sample(name: str) -> tuple[Problem, ...]:
    """Problems of a family at all difficulties and wordings."""
    family = FAMILIES[name]
    rng = random.Random(name)
    return tuple(
        family.make(rng, level, item % family.num_templates)
        for level in range(family.min_difficulty, family.max_difficulty + 1)
        for item in range(PER_LEVEL)
    )


def lines(problem: Problem) -> tuple[str, ...]:
    return problem.steps + problem.checks


# --- the table -------------------------------------------------------------------------------


def test_the_table_names_every_class_with_its_domain() -> None:
    listed = {name: (domain, cls) for name, (domain, _, cls) in traces.NAMES.items()}
    assert listed == {
        name: (family.domain, type(family).__name__) for name, family in FAMILIES.items()
    }
    assert {domain for domain, _ in listed.values()} == set(get_args(Domain))
    assert len(listed) >= 14


def test_the_registry_calls_them_english() -> None:
    assert resolve_families(["english"]) == tuple(traces.NAMES)
    assert all(isinstance(get_family(name), GymFamily) for name in traces.NAMES)


def test_names_are_known_without_importing_reasoning_gym() -> None:
    program = "import sys, frontload.tasks.traces; print('reasoning_gym' in sys.modules)"
    assert _python(program).strip() == "False"


# --- a problem -------------------------------------------------------------------------------


@every_family
def test_right_answers_pass_and_wrong_answers_fail(name: str) -> None:
    family, rng = FAMILIES[name], random.Random(1)
    for problem in sample(name):
        wrong = family.wrong_answer(rng, problem)
        assert family.score(problem, problem.answer) == 1.0
        assert family.score(problem, f" {problem.answer}\n") == 1.0
        assert family.score(problem, wrong) == 0.0
        assert wrong.strip()


@every_family
def test_a_response_is_read_back_as_its_answer(name: str) -> None:
    for problem in sample(name):
        output = join_reasoning("\n".join(lines(problem)), problem.answer)
        assert parse_answer(output, finished=True).answer == problem.answer


@every_family
def test_the_same_generator_gives_the_same_problem(name: str) -> None:
    family = FAMILIES[name]
    for level in range(1, family.max_difficulty + 1):
        assert family.make(random.Random(level), level, 0) == family.make(
            random.Random(level), level, 0
        )


_DIGEST = """
import hashlib, random
from frontload.tasks.traces import FAMILIES
for family in FAMILIES:
    rng = random.Random(family.name)
    drawn = [family().make(rng, level, 0) for level in range(1, family.max_difficulty + 1)
             for _ in range(5)]
    wrong = [family().wrong_answer(rng, problem) for problem in drawn]
    print(family.name, hashlib.sha256(repr((drawn, wrong)).encode()).hexdigest())
"""


def test_problems_do_not_depend_on_the_hash_seed_of_the_process() -> None:
    assert _python(_DIGEST, hash_seed="1") == _python(_DIGEST, hash_seed="2")


@every_family
def test_problems_do_not_carry_todays_date(name: str) -> None:
    today = date.today().isoformat()
    assert not any(today in json.dumps(dict(problem.payload)) for problem in sample(name))


@every_family
def test_steps_and_checks_are_lines_and_steps_end_in_the_answer(name: str) -> None:
    for problem in sample(name):
        assert problem.steps
        assert problem.checks
        assert problem.steps[-1].endswith(problem.answer)
        assert all(line.strip() == line and line and "\n" not in line for line in lines(problem))
        assert all(line.startswith("Check: ") for line in problem.checks)
        assert problem.question == problem.question.strip()


@every_family
def test_a_template_changes_the_wording_only(name: str) -> None:
    family = FAMILIES[name]
    drawn = [family.make(random.Random(3), 2, place) for place in range(family.num_templates)]
    assert len({problem.question for problem in drawn}) == family.num_templates
    assert len({(problem.answer, problem.steps, problem.checks) for problem in drawn}) == 1


@every_family
def test_a_difficulty_beyond_the_levels_names_the_field(name: str) -> None:
    family = FAMILIES[name]
    with pytest.raises(ValueError, match=r"difficulty: .* levels 1 to"):
        family.make(random.Random(0), family.max_difficulty + 1, 0)


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"syllogism"}))
def test_the_hardest_level_takes_more_to_write_than_the_easiest(name: str) -> None:
    """Syllogism's levels differ in kind, not in length."""

    def written(level: int) -> int:
        return sum(
            len(problem.question) + sum(map(len, problem.steps))
            for problem in sample(name)
            if problem.difficulty == level
        )

    assert written(FAMILIES[name].max_difficulty) > written(1)


@every_family
def test_no_answer_is_much_more_frequent_than_chance(name: str) -> None:
    answers = Counter(problem.answer for problem in sample(name))
    share = answers.most_common(1)[0][1] / answers.total()
    assert share <= FAMILIES[name].chance + 0.15


# --- scoring ---------------------------------------------------------------------------------

_JUNK = (
    *("", " ", "?", "no idea", "×", "2 × x", "[", "['1'", "None", "1/0", "٣", "{}"),
    *("nan", "nan+nani", "1e999", "9" * 5000, "-" + "9" * 400, "(" * 5000),
    *("9" * 400 + ":00:00", "9" * 30 + " days, 01:00:00"),
)


@every_family
def test_any_text_is_scored_right_or_wrong(name: str) -> None:
    family, rng = FAMILIES[name], random.Random(2)
    for problem in sample(name)[:: PER_LEVEL // 4]:
        cut = problem.answer[: rng.randrange(len(problem.answer))]
        for text in (*_JUNK, cut, problem.answer * 2, problem.question):
            assert family.score(problem, text) in (0.0, 1.0)
        for text in _JUNK:
            assert family.score(problem, text) == 0.0 or text == problem.answer


def test_partial_credit_counts_as_nothing() -> None:
    family = FAMILIES["time_intervals"]
    problem = next(problem for problem in sample("time_intervals") if ":" in problem.answer)
    hours, minutes = problem.answer.split(":")[:2]
    near = ":".join([hours, f"{(int(minutes) + 1) % 60:02d}", *problem.answer.split(":")[2:]])
    marked = open_dataset(type(family), problem.difficulty).score_answer(near, problem.payload)
    assert 0.5 < marked < 1
    assert family.score(problem, near) == 0.0


def test_a_sorted_list_of_other_numbers_is_wrong_though_reasoning_gym_accepts_it() -> None:
    family = FAMILIES["number_sorting"]
    for problem in sample("number_sorting"):
        numbers = [float(text) + 0.5 for text in json.loads(problem.answer.replace("'", '"'))]
        other = str([str(number) for number in numbers])
        dataset = open_dataset(type(family), problem.difficulty)
        assert dataset.score_answer(other, problem.payload) == 1.0
        assert family.score(problem, other) == 0.0


# --- every line, verified by other means -------------------------------------------------------

_OPERAND = r"(?:\(-?\d+\)|-?\d+)"
_SIDE = rf"{_OPERAND}(?: (?:\+|-|\*|//|/) {_OPERAND})*"
_EQUATION = re.compile(rf"(?<![\w./*-])({_SIDE}) = ({_SIDE})(?![\w./]| ×| [*+/-] )")
_GCD = re.compile(r"gcd\(([\d, ]+)\) = (\d+)")
_HEX = re.compile(r"^(-?0x\w+ (?:\+|-|\*|<<|>>) \(?-?0x\w+\)?) = (-?0x\w+)$")
_PRODUCT = re.compile(r"^(\d+) = (\d+(?: × \d+)*)$")
_ORDER = re.compile(r"(?<![\w.])((?:\d+ \* )?-?[\d.]+) (<=|>=|<|>) (-?[\d.]+)")
_ARITHMETIC = {
    "chain_sum", "basic_arithmetic", "products", "gcd", "lcm", "prime_factorization",
    "fraction_simplification", "simple_equations", "complex_arithmetic", "base_conversion",
    "count_bits", "bitwise_arithmetic", "leg_counting", "number_sequence", "time_intervals",
}  # fmt: skip


def claims(line: str) -> list[bool]:
    """The truth of every claim about numbers in a line."""
    text = line.removeprefix("Check: ")
    found = [_value(left) == _value(right) for left, right in _EQUATION.findall(text)]
    found += [math.gcd(*map(int, a.split(", "))) == int(b) for a, b in _GCD.findall(text)]
    found += [eval(left) == int(right, 16) for left, right in _HEX.findall(text)]
    found += [
        int(a) == math.prod(map(int, factors.split(" × "))) for a, factors in _PRODUCT.findall(text)
    ]
    found += [bool(eval(f"{a} {sign} {b}")) for a, sign, b in _ORDER.findall(text)]
    return found


def _value(side: str) -> int:
    """A side of an equation; `/` must come out even."""
    for left, right in re.findall(rf"({_OPERAND}) / ({_OPERAND})", side):
        assert eval(left) % eval(right) == 0, side
    value = eval(side)
    assert value == int(value)
    return int(value)


@pytest.mark.parametrize(
    ("line", "truth"),
    [
        ("7 - (-4) = 11", [True]),
        ("Check: 45 = 3 * 12 + 9", [True]),
        ("45 = 3 * 12 + 8", [False]),
        ("4 * 2 = 8, 8 + (-9) = -2", [True, False]),
        ("gcd(84, 36) = 6", [False]),
        ("40 = 2 × 2 × 5", [False]),
        ("35/63 = 5/9", []),
        ("0x10 << 0x2 = 0x41", [False]),
        ("-16 < -19", [False]),
        ("11 * 11 > 120", [True]),
    ],
)
def test_the_verifier_of_lines_tells_true_from_false(line: str, truth: list[bool]) -> None:
    assert claims(line) == truth


@every_family
def test_every_claim_about_numbers_is_true(name: str) -> None:
    for problem in sample(name):
        for line in lines(problem):
            assert all(claims(line)), (line, problem.question)
        if name in _ARITHMETIC and problem.answer.split()[-1] != "days":
            assert any(map(claims, problem.steps)), problem.steps


def test_every_span_between_dates_is_right() -> None:
    spans = [
        (date.fromisoformat(a), date.fromisoformat(b), int(days))
        for problem in sample("time_intervals")
        for line in problem.steps
        for a, b, days in re.findall(r"^(\S+) to (\S+): (\d+)$", line)
    ]
    assert len(spans) > PER_LEVEL
    assert all((b - a).days == days for a, b, days in spans)


def test_steps_solve_what_the_question_asks() -> None:
    """Answers recomputed from the question's text, past reasoning-gym and past `work`."""
    for problem in sample("chain_sum"):
        expression = problem.question.partition("problem: ")[2].partition(" =")[0]
        assert eval(expression) == int(problem.answer)
    for problem in sample("simple_equations"):
        found = re.search(r"([^:]*[a-z0-9]) = (-?\d+)", problem.question)
        assert found
        left = re.sub(r"\b[a-z]\b", f"({problem.answer})", found[1])
        assert eval(left) == int(found[2])
    for problem in sample("spell_backward"):
        word = problem.question.partition("nus): ")[2].split()[0]
        assert problem.answer == word[::-1]
    for problem in sample("letter_counting"):
        letter, text = re.findall(r'"(.*?)"', problem.question)
        assert int(problem.answer) == text.lower().count(letter)


# --- where reasoning-gym is wrong ----------------------------------------------------------------

_SENTENCE = re.compile(r"(All|No|Some) (\w+) are (not )?(\w+)")


def _holds(sentence: tuple[str, str, str, str], members: dict[str, set[int]]) -> bool:
    quantifier, subject, negated, predicate = sentence
    inside, outside = members[subject] & members[predicate], members[subject] - members[predicate]
    if quantifier == "All":
        return not outside
    if quantifier == "No":
        return not inside
    return bool(outside if negated else inside)


def test_syllogisms_are_valid_in_every_world_or_fail_in_one() -> None:
    """Brute force over sets: three individuals suffice for sentences of these forms."""
    subsets = [set(s) for size in (1, 2, 3) for s in itertools.combinations(range(3), size)]
    for problem in sample("syllogism"):
        first, second, conclusion = _SENTENCE.findall(problem.question)
        terms = sorted({first[1], first[3], second[1], second[3]})
        worlds = [
            dict(zip(terms, chosen, strict=True))
            for chosen in itertools.product(subsets, repeat=len(terms))
        ]
        follows = all(
            _holds(conclusion, world)
            for world in worlds
            if _holds(first, world) and _holds(second, world)
        )
        assert problem.answer == ("Yes" if follows else "No")


def test_relatives_are_called_by_their_own_gender() -> None:
    women = {"mother", "daughter", "wife", "sister", "grandmother", "aunt", "niece"}
    seen = Counter()
    for problem in sample("family_relationships"):
        asked = re.search(r"(?:What is|How is|What relation is) (\w+)", problem.question)
        assert asked
        assert asked[1] in _MEN + _WOMEN
        assert (problem.answer in women) == (asked[1] in _WOMEN)
        seen[problem.answer] += 1
    assert "in-law" not in " ".join(seen)
    assert len(seen) >= 10


def test_divisions_in_expressions_come_out_even() -> None:
    for problem in sample("basic_arithmetic"):
        expression = problem.question.partition("Calculate ")[2].split("\n")[0].removesuffix(".")
        assert eval(expression) == int(problem.answer), expression


def _python(program: str, hash_seed: str = "0") -> str:
    """The output of a fresh interpreter."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return ran.stdout
