"""Intervals cover, known answers come out, and nothing is known without error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from frontload.study.effects import (
    Effect,
    correct_for_multiplicity,
    decide,
    half_width,
    p_value,
    paired_effect,
    smallest_detectable,
)


def crossed(rng, seeds, families, items, seed_sd, item_sd, noise_sd, truth=0.0):
    """Families of [seeds, items] differences with crossed seed and item effects."""
    of_seed = rng.normal(0, seed_sd, (seeds, 1))
    return [
        truth
        + of_seed
        + rng.normal(0, item_sd, (1, items))
        + rng.normal(0, noise_sd, (seeds, items))
        for _ in range(families)
    ]


def made_effect(value=1.0, seeds=4, variance_seeds=0.2, variance_items=0.1, residual=0.02):
    return Effect(
        value=value,
        per_seed=(value,) * seeds,
        variance_seeds=variance_seeds,
        variance_items=variance_items,
        variance_residual=residual,
        item_degrees=100.0,
        num_items=101,
        floored=False,
    )


def test_without_item_variance_it_is_the_t_test_over_seeds():
    per_seed = np.array([1.0, 2.0, 4.0])
    effect = paired_effect([np.repeat(per_seed[:, None], 10, axis=1)])
    expected = stats.ttest_1samp(per_seed, 0)
    low, high = expected.confidence_interval(0.95)
    assert half_width(effect, 0.95) == pytest.approx((high - low) / 2)
    assert p_value(effect, "higher", 0.0) == pytest.approx(expected.pvalue, rel=1e-6)


def test_one_seed_is_the_t_test_over_items():
    items = np.random.default_rng(0).normal(1, 2, 30)
    effect = paired_effect([items[None]])
    low, high = stats.ttest_1samp(items, 0).confidence_interval(0.9)
    assert half_width(effect, 0.9) == pytest.approx((high - low) / 2)
    assert np.isnan(effect.variance_seeds)


def test_variances_are_the_mean_squares_of_a_crossed_anova():
    table = np.random.default_rng(1).normal(0, 1, (3, 7))
    seeds, items = table.shape
    effect = paired_effect([table])
    row, column = table.mean(1, keepdims=True), table.mean(0, keepdims=True)
    ms_seeds = items * ((row - table.mean()) ** 2).sum() / (seeds - 1)
    ms_items = seeds * ((column - table.mean()) ** 2).sum() / (items - 1)
    ms_rest = ((table - row - column + table.mean()) ** 2).sum() / ((seeds - 1) * (items - 1))
    assert effect.variance_seeds == pytest.approx(ms_seeds / table.size)
    assert effect.variance_items == pytest.approx(ms_items / table.size)
    assert effect.variance_residual == pytest.approx(ms_rest / table.size)


def test_families_count_equally_however_many_items_they_have():
    small, large = np.full((2, 3), 10.0), np.full((2, 300), 0.0)
    assert paired_effect([small, large]).value == pytest.approx(5.0)


def test_standard_error_is_unbiased_for_the_spread_of_effects():
    rng = np.random.default_rng(2)
    effects = [paired_effect(crossed(rng, 4, 3, 16, 0.5, 1.0, 1.0)) for _ in range(1500)]
    estimated = np.mean([effect.standard_error**2 for effect in effects])
    assert estimated == pytest.approx(np.var([e.value for e in effects]), rel=0.12)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    "spread", [(0.0, 1.0, 0.5), (0.02, 1.0, 0.5), (0.1, 1.0, 0.5), (0.3, 1.0, 0.5), (1, 0.1, 1)]
)
def test_intervals_cover_at_their_level(seeds, spread):
    rng = np.random.default_rng([seeds, int(100 * spread[0])])
    runs = 800
    hits = 0
    for _ in range(runs):
        effect = paired_effect(crossed(rng, seeds, 4, 24, *spread, truth=3.0))
        hits += abs(effect.value - 3.0) <= half_width(effect, 0.95)
    assert hits / runs >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)


def test_intervals_of_rare_answers_cover():
    """Accuracies of 1 % in 64 items: often no item differs at all."""
    rng = np.random.default_rng(3)
    runs, hits = 600, 0
    for _ in range(runs):
        right = rng.random((2, 3, 64)) < np.array([0.02, 0.01])[:, None, None]
        effect = paired_effect([100.0 * (right[0] - 1.0 * right[1])], smallest_step=100 * 2**0.5)
        hits += abs(effect.value - 1.0) <= half_width(effect, 0.95)
    assert hits / runs >= 0.94


def test_no_variance_is_not_certainty():
    effect = paired_effect([np.zeros((3, 64))] * 4, smallest_step=100 * 2**0.5)
    assert effect.floored
    assert 1.0 < half_width(effect, 0.95) < 5.0
    assert p_value(effect, "higher", 0.0) == 1.0


def test_more_seeds_and_more_items_narrow_the_interval():
    rng = np.random.default_rng(4)

    def width(seeds, items):
        made = [paired_effect(crossed(rng, seeds, 2, items, 0.3, 1, 0.5)) for _ in range(200)]
        return np.median([half_width(effect, 0.95) for effect in made])

    assert width(2, 20) > width(4, 20) > width(8, 20) > width(8, 200)


claims = st.sampled_from(["higher", "lower", "same", "unknown"])


@settings(max_examples=150, deadline=None)
@given(
    value=st.floats(-5, 5),
    seeds=st.integers(1, 6),
    variance=st.floats(0, 3),
    expect=claims,
    margin=st.floats(0.01, 2),
)
def test_p_value_is_the_level_at_which_the_interval_decides(value, seeds, variance, expect, margin):
    effect = made_effect(value, seeds, variance if seeds > 1 else np.nan)
    p = p_value(effect, expect, margin)
    if p < 0.98:
        assert decide(effect, 1 - 1.01 * p, expect, margin) != "undecided"
    if 1e-12 < p < 1:
        assert decide(effect, 1 - 0.99 * p, expect, margin) == "undecided"


@pytest.mark.parametrize(
    ("value", "expect", "margin", "decision"),
    [
        (10, "higher", 0, "supported"),
        (-10, "higher", 0, "contradicted"),
        (0.1, "higher", 0, "undecided"),
        (10, "higher", 20, "contradicted"),
        (-10, "lower", 5, "supported"),
        (10, "lower", 5, "contradicted"),
        (0.1, "same", 5, "supported"),
        (10, "same", 5, "contradicted"),
        (5, "same", 5, "undecided"),
        (10, "unknown", 0, "higher"),
        (-10, "unknown", 0, "lower"),
        (0.1, "unknown", 0, "undecided"),
    ],
)
def test_decisions(value, expect, margin, decision):
    assert decide(made_effect(value), 0.95, expect, margin) == decision


@pytest.mark.parametrize("expect", ["higher", "same"])
@pytest.mark.parametrize("seeds", [2, 4])
def test_smallest_detectable_effect_is_detected_four_times_in_five(expect, seeds):
    truth = made_effect(0.0, seeds)
    margin = smallest_detectable(truth, "same", 0.0, 0.95) if expect == "same" else 0.5
    value = 0.0 if expect == "same" else smallest_detectable(truth, "higher", 0.5, 0.95)
    rng = np.random.default_rng(5)
    drawn = [
        decide(
            made_effect(
                rng.normal(value, truth.standard_error),
                seeds,
                truth.variance_seeds * rng.chisquare(seeds - 1) / (seeds - 1),
            ),
            0.95,
            expect,
            margin,
        )
        for _ in range(3000)
    ]
    assert np.mean(np.array(drawn) == "supported") == pytest.approx(0.8, abs=0.03)


def test_benjamini_hochberg_agrees_with_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p_values = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216]
    corrected = correct_for_multiplicity(p_values, 0.95)
    rejected, q_values, *_ = multipletests(p_values, alpha=0.05, method="fdr_bh")
    assert corrected.q_values == pytest.approx(q_values)
    assert corrected.num_decided == rejected.sum() == 2
    assert corrected.confidence == pytest.approx(1 - 2 * 0.05 / 10)


def test_exactly_the_selected_claims_are_decided_at_the_corrected_level():
    rng = np.random.default_rng(6)
    effects = [made_effect(value) for value in rng.normal(1, 4, 40)]
    p_values = [p_value(effect, "higher", 0.5) for effect in effects]
    corrected = correct_for_multiplicity(p_values, 0.95)
    decided = [decide(e, corrected.confidence, "higher", 0.5) != "undecided" for e in effects]
    assert decided == [q <= 0.05 for q in corrected.q_values]
    assert 0 < sum(decided) < 40


def test_decided_intervals_miss_no_more_often_than_promised():
    rng = np.random.default_rng(7)
    missed = shown = 0
    for _ in range(60):
        truths = rng.choice([0.0, 1.0, 3.0], 15)
        effects = [paired_effect(crossed(rng, 4, 2, 20, 0.4, 1, 0.5, truth)) for truth in truths]
        corrected = correct_for_multiplicity([p_value(e, "higher", 0.0) for e in effects], 0.9)
        for truth, effect, q in zip(truths, effects, corrected.q_values, strict=True):
            if q <= 0.1:
                shown += 1
                missed += abs(effect.value - truth) > half_width(effect, corrected.confidence)
    assert shown > 200
    assert missed / shown <= 0.1 + 2 * np.sqrt(0.1 * 0.9 / shown)


def test_no_claims_need_no_correction():
    assert correct_for_multiplicity([], 0.95).confidence == 0.95
