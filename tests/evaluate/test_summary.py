import math

import pyarrow as pa
import pytest
from scipy.stats import binom

from frontload.evaluate.harness import SCHEMA
from frontload.evaluate.summary import is_under_chance, summarize


def row(family, item, outcome, sample=0, **changes):
    made = {
        "kind": "problem",
        "benchmark": "some",
        "family": family,
        "item": item,
        "sample": sample,
        "outcome": outcome,
        "correct": None if outcome == "not_generated" else float(outcome == "correct"),
        "num_generated": 4,
        "chance": 0.0,
    }
    return made | changes


def lines(rows):
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return {line.family: line for line in summarize(table)}


def test_outcomes_are_shares_that_sum_to_one():
    found = lines(
        [row("a", str(n), outcome) for n, outcome in enumerate(["correct", "wrong", "wrong"])]
        + [row("a", "3", "truncated"), row("a", "4", "unparsed")]
    )["a"]
    shares = (found.accuracy, found.wrong, found.truncated, found.unparsed)
    assert shares == pytest.approx((0.2, 0.4, 0.2, 0.2))
    assert found.answered_accuracy == pytest.approx(1 / 3)


def test_accuracy_averages_samples_then_items():
    samples = [row("a", "0", "correct", s) for s in range(4)]
    samples += [row("a", "1", "wrong", s) for s in range(2)]
    assert lines(samples)["a"].accuracy == 0.5


def test_a_benchmark_weighs_its_families_equally():
    rows = [row("a", str(n), "correct") for n in range(9)] + [row("b", "0", "wrong")]
    assert lines(rows)[""].accuracy == 0.5


def test_likelihood_is_per_token_and_per_byte():
    scored = {"gold_nll": 6.0, "gold_tokens": 3, "gold_bytes": 4}
    found = lines([row("a", "0", "not_generated", **scored)])["a"]
    assert found.gold_nll == 2.0
    assert found.bits_per_byte == pytest.approx(6 / math.log(2) / 4)
    assert math.isnan(found.accuracy)


def test_under_chance_is_flagged_only_beyond_doubt():
    for num_items, chance in [(20, 0.5), (64, 0.25), (64, 0.1), (500, 0.02)]:
        for right in range(num_items + 1):
            surely = binom.cdf(right, num_items, chance) < 0.01
            assert is_under_chance(right, num_items, chance) == surely


def test_a_score_under_chance_raises_the_flag():
    guessing = [row("a", str(n), "correct" if n % 2 else "wrong", chance=0.5) for n in range(64)]
    inverted = [row("b", str(n), "correct" if n < 3 else "wrong", chance=0.5) for n in range(64)]
    found = lines(guessing + inverted)
    assert not found["a"].under_chance
    assert found["b"].under_chance
    assert found[""].under_chance
