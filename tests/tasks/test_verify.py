"""Answers are found where people put them, and no comparison can hang or flatter."""

import threading

import pytest

from frontload.tasks.verify import MathVerifier, parse_answer

POWER_TOWER = "5^{5^{5^{5^{5}}}}"


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("5", "5"),
        ("<think>2+3=5</think>5", "5"),
        ("2+3=5</think>5", "5"),
        ("<think>x</think>\nso it is\n#### 42\n", "42"),
        ("<think>\\boxed{3}</think>The answer is \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("first \\boxed{1}, no: \\boxed{2}", "2"),
        ("Work.\nAnswer: 7", "7"),
        ("The final answer is 12.", "12"),
        ("**Answer: 12**", "12"),
        ("<answer>yes</answer>", "yes"),
        ("c,e,b", "c,e,b"),
    ],
)
def test_the_answer_is_found_behind_its_mark(output, answer):
    parsed = parse_answer(output, finished=True)
    assert (parsed.outcome, parsed.answer) == ("answered", answer)


@pytest.mark.parametrize("output", ["", "  ", "<think>2+3=5", "<think>2+3=5</think>"])
def test_an_unfinished_thought_or_an_empty_answer_is_unparsed(output):
    assert parse_answer(output, finished=True).outcome == "unparsed"


@pytest.mark.parametrize("output", ["5", "<think>2+3=5</think>5", "<think>2"])
def test_an_output_stopped_by_the_limit_is_truncated_whatever_it_holds(output):
    parsed = parse_answer(output, finished=False)
    assert (parsed.outcome, parsed.answer) == ("truncated", "")


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(workers=1, limit_s=20) as pool:
        yield pool


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("1/2", "0.5"),
        ("\\frac{1}{2}", "$1/2$"),
        ("50%", "0.5"),
        ("3", "x=3"),
        ("$x=3$", "3"),
        ("1,000", "1000"),
        ("2\\sqrt{2}", "\\sqrt{8}"),
        ("y=2x+1", "y=1+2x"),
        ("yes", "yes"),
        ("(1, 2)", "(1,2)"),
    ],
)
def test_the_same_value_in_other_words_is_right(verifier, gold, answer):
    assert verifier.verify(gold, answer) == "right"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        # Math-Verify#60: bare equations parse to their last number, here 0 on both sides.
        ("3*x-1*y+13=0", "3x + 4y + 14=0"),
        ("$x+y=3$", "$x+y=5$"),
        ("y=2x+1", "y=2x+3"),
        ("x=3", "y=3"),
        ("x>3", "x>4"),
        ("x>3", "3"),
        ("3x+5", "5"),
        ("-3", "3"),
        ("yes", "no"),
        ("3", ""),
        ("", ""),
    ],
)
def test_different_equations_and_values_are_wrong(verifier, gold, answer):
    assert verifier.verify(gold, answer) == "wrong"


def test_a_power_tower_is_a_timeout_and_the_pool_goes_on():
    with MathVerifier(workers=2, limit_s=1.5) as pool:
        pairs = [("7", "7.0"), (POWER_TOWER, "3"), ("7", "8"), ("3", POWER_TOWER), ("1/4", "0.25")]
        assert pool.verify_many(pairs) == ["right", "timeout", "wrong", "timeout", "right"]
        assert pool.counts == {"right": 2, "wrong": 1, "timeout": 2}


def test_verdicts_keep_the_order_of_the_pairs(verifier):
    pairs = [(str(number), str(number % 3)) for number in range(12)]
    expected = ["right" if number < 3 else "wrong" for number in range(12)]
    assert verifier.verify_many(pairs) == expected
    assert verifier.verify_many([]) == []


def test_it_works_off_the_main_thread(verifier):
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(verifier.verify("1/2", "0.5")))
    thread.start()
    thread.join()
    assert verdicts == ["right"]


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="workers"):
        MathVerifier(workers=0)
