"""The learning rate over the share of the budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontload.train.config import ScheduleConfig
from frontload.train.schedule import learning_rate_factor, share_at_middle

SHARES = st.floats(0, 1)


@pytest.mark.parametrize(
    ("kind", "share", "factor"),
    [
        ("wsd", 0.05, 0.5),
        ("wsd", 0.1, 1.0),
        ("wsd", 0.6, 1.0),
        ("wsd", 0.8, 0.6),
        ("wsd", 1.0, 0.2),
        ("cosine", 0.05, 0.5),
        ("cosine", 0.1, 1.0),
        ("cosine", 0.55, 0.6),
        ("cosine", 1.0, 0.2),
        ("constant", 0.05, 0.5),
        ("constant", 1.0, 1.0),
    ],
)
def test_factors_by_hand(kind, share, factor):
    config = ScheduleConfig(kind=kind, warmup=0.1, decay=0.4, final=0.2)
    assert learning_rate_factor(config, share) == pytest.approx(factor)


@given(st.sampled_from(["wsd", "cosine", "constant"]), SHARES, st.floats(0, 0.5), st.floats(0, 0.5))
def test_factor_stays_within_zero_and_one(kind, share, warmup, decay):
    config = ScheduleConfig(kind=kind, warmup=warmup, decay=decay)
    assert 0 <= learning_rate_factor(config, share) <= 1


def test_no_step_of_a_warmup_or_decay_to_zero_has_rate_zero():
    config = ScheduleConfig(kind="wsd", warmup=0.5, decay=0.5)
    shares = [share_at_middle(consumed, 10, 100) for consumed in range(0, 100, 10)]
    assert min(learning_rate_factor(config, share) for share in shares) == pytest.approx(0.1)


@pytest.mark.parametrize("batch", [1, 7, 30])
def test_mean_rate_of_a_piecewise_linear_schedule_does_not_depend_on_the_batch(batch):
    config = ScheduleConfig(kind="wsd", warmup=0.1, decay=0.5, final=0.1)
    begins = range(0, 300, batch)
    sizes = [min(batch, 300 - begin) for begin in begins]
    rates = [
        learning_rate_factor(config, share_at_middle(begin, size, 300))
        for begin, size in zip(begins, sizes, strict=True)
    ]
    mean = sum(rate * size for rate, size in zip(rates, sizes, strict=True)) / 300
    assert mean == pytest.approx(0.1 / 2 + 0.4 + 0.5 * 1.1 / 2, abs=0.01)
