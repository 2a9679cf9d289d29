"""Compact families keep the form that a 0.4M-parameter model learns."""

import re
from itertools import pairwise

import pytest

from frontload.tasks.compact import FAMILIES
from frontload.tasks.dials import write_response
from frontload.tasks.draw import draw_problem
from frontload.tasks.registry import get_family, resolve_families

NAMES = resolve_families(["compact"])
SPECIAL_TOKENS = 5
CONTEXT = 64


def drawn(name, count=300, difficulty=(2, 5)):
    family = get_family(name)
    return family, [
        draw_problem(family, seed=1, index=index, difficulty=difficulty) for index in range(count)
    ]


def length(text):
    """Tokens of compact text: one a character, and one for each think tag."""
    return len(re.sub(r"</?think>", "#", text))


@pytest.mark.parametrize("name", NAMES)
def test_a_question_opens_with_the_familys_own_tag(name):
    family, problems = drawn(name, 20)
    assert all(problem.question.startswith(family.tag) for problem in problems)
    assert [other.tag for other in FAMILIES].count(family.tag) == 1


@pytest.mark.parametrize("name", NAMES)
def test_no_two_letters_touch_so_every_character_is_a_token(name):
    family, problems = drawn(name)
    for problem in problems:
        response = write_response(problem, "long", None, None, family)
        written = problem.question + " " + re.sub(r"</?think>", " ", response)
        assert not re.search(r"[A-Za-z]{2}", written), written
        assert " " not in problem.question + response


@pytest.mark.parametrize("name", NAMES)
def test_question_long_trace_and_answer_fit_a_context_of_64(name):
    family, problems = drawn(name)
    longest = max(
        length(problem.question) + length(write_response(problem, "long", None, None, family))
        for problem in problems
    )
    # Think tags are counted in the response; user, assistant and end are not.
    assert longest + SPECIAL_TOKENS - 2 < CONTEXT


@pytest.mark.parametrize("name", NAMES)
def test_a_short_trace_grows_with_difficulty(name):
    family = get_family(name)

    def mean_length(level):
        _, problems = drawn(name, 40, (level, level))
        traces = [write_response(problem, "short", None, None, family) for problem in problems]
        return sum(map(len, traces)) / len(traces)

    assert mean_length(family.max_difficulty) > mean_length(family.min_difficulty)


@pytest.mark.parametrize("name", NAMES)
def test_no_blind_guess_beats_the_stated_chance_by_much(name):
    family, problems = drawn(name, 1500)
    answers = [problem.answer for problem in problems]
    best = max(answers.count(answer) for answer in set(answers)) / len(answers)
    assert best <= family.chance + 0.06


SOLVED = {
    "running_sum": ("A7+3+5", "5"),
    "signed_sum": ("D7-3+5", "9"),
    "pairwise_sum": ("X1+2,3+4", "37"),
    "variable_chain": ("$a3,2a:b,5a:c", "8"),
    "solve": ("U_+3-2=6", "5"),
    "evaluate": ("H3:_+2+_", "8"),
    "parity": ("P3152", "1"),
    "boolean_chain": ("B1&0|1^1", "0"),
    "comparisons": ("Q3<5,4<2", "10"),
    "pointer_chase": ("K4>2,1>4,2>.:1", "2"),
    "bracket_depth": ("N([]([", "3"),
    "branches": ("J3,2,5", "6"),
    "registers": ("Z2a,3b,1a", "33"),
    "sort": ("S3152", "1235"),
    "count": ("C3:1524", "2"),
    "reverse": ("R4132", "2314"),
    "running_max": ("M3152", "5"),
    "filter": ("G3:15", "5"),
    "differences": ("F1469", "323"),
    "next_term": ("T1346", "7"),
    "letter_after": ("@b,d,a", "c,e,b"),
    "dictionary": ("Y1a,2c,3b:312", "b,a,c"),
    "vowels": ("%a,d,e,b", "2"),
    "alphabet_first": ("~d,b,c", "b"),
}


def test_every_compact_family_is_solved_again_by_hand_below():
    assert set(SOLVED) == set(NAMES) == set(SOLVERS)


@pytest.mark.parametrize("name", NAMES)
def test_answers_agree_with_an_independent_solver(name):
    question, answer = SOLVED[name]
    assert SOLVERS[name](question[1:]) == answer
    for problem in drawn(name, 200)[1]:
        assert SOLVERS[name](problem.question[1:]) == problem.answer, problem


def sums(body):
    return str(eval(body) % 10)


def chain(body):
    first, *rules = body.split(",")
    values = {first[0]: int(first[1])}
    for rule in rules:
        values[rule[3]] = (int(rule[0]) + values[rule[1]]) % 10
    return str(values[rule[3]])


def solved(body):
    left, right = body.split("=")
    return next(str(x) for x in range(10) if eval(left.replace("_", str(x))) % 10 == int(right))


def evaluated(body):
    given, terms = body.split(":")
    return sums(terms.replace("_", given))


def boolean(body):
    value = int(body[0])
    for place in range(1, len(body), 2):
        value = eval(f"{value}{body[place]}{body[place + 1]}")
    return str(value)


def chased(body):
    links, here = body.split(":")
    following = dict(link.split(">") for link in links.split(","))
    while following[here] != ".":
        here = following[here]
    return here


def branched(body):
    state, *operands = map(int, body.split(","))
    for operand in operands:
        state = (state - operand if state % 2 else state + operand) % 10
    return str(state)


def held(body):
    return "".join(
        str(sum(int(op[0]) for op in body.split(",") if op[1] == name) % 10) for name in "ab"
    )


def above(body):
    bound, digits = body.split(":")
    return "".join(digit for digit in digits if digit > bound)


def gaps(body):
    pairs = pairwise(body)
    return "".join(str((int(right) - int(left)) % 10) for left, right in pairs)


def continued(body):
    found = gaps(body)
    return str((int(body[-1]) + int(found[len(found) % 2])) % 10)


def translated(body):
    entries, text = body.split(":")
    words = {entry[0]: entry[1] for entry in entries.split(",")}
    return ",".join(words[key] for key in text)


SOLVERS = {
    "running_sum": sums,
    "signed_sum": sums,
    "pairwise_sum": lambda body: "".join(sums(pair) for pair in body.split(",")),
    "variable_chain": chain,
    "solve": solved,
    "evaluate": evaluated,
    "parity": lambda body: str(sum(int(digit) for digit in body) % 2),
    "boolean_chain": boolean,
    "comparisons": lambda body: "".join(str(int(eval(claim))) for claim in body.split(",")),
    "pointer_chase": chased,
    "bracket_depth": lambda body: str(sum(1 if mark in "([" else -1 for mark in body)),
    "branches": branched,
    "registers": held,
    "sort": lambda body: "".join(sorted(body)),
    "count": lambda body: str(len(above(body))),
    "reverse": lambda body: body[::-1],
    "running_max": max,
    "filter": above,
    "differences": gaps,
    "next_term": continued,
    "letter_after": lambda body: ",".join(chr(ord(letter) + 1) for letter in body.split(",")),
    "dictionary": translated,
    "vowels": lambda body: str(sum(letter in "aei" for letter in body)),
    "alphabet_first": lambda body: min(body.split(",")),
}
