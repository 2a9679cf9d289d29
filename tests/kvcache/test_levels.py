"""Head, groups and the order of parts."""

from __future__ import annotations

import numpy as np
import pytest

from frontload.kvcache.calibration import levels
from frontload.kvcache.profile import Part

ONES = np.ones(16)


@pytest.mark.parametrize(
    ("first", "constant_first", "expected"),
    [
        ([], False, (0, 0)),
        ([2.4], False, (0, 0)),
        ([3.0], False, (1, 1)),
        ([30.0, 3.0], False, (2, 2)),
        ([1000.0, 3.0, 1.0, 50.0], False, (2, 3)),
        ([1.0, 50.0], False, (0, 0)),  # the head begins at position 0
        ([1000.0], True, (0, 0)),  # which costs and loses nothing where it never changes
        ([1.0, 50.0], True, (2, 2)),
        ([500.0] * 16, False, (8, 3)),
    ],
)
def test_the_head_is_the_leading_run_of_sensitive_positions(
    first: list[float], constant_first: bool, expected: tuple[int, int]
) -> None:
    weights = np.concatenate((first, ONES))[:16]
    assert levels.head(weights, constant_first=constant_first) == expected


def test_groups_have_about_equal_bits_and_the_first_gains_most() -> None:
    rng = np.random.default_rng(0)
    gain, bits = rng.random(40), rng.random(40) + 0.5
    group = levels.split(gain, bits, 4)
    assert sorted(set(group.tolist())) == [0, 1, 2, 3]
    share = np.bincount(group, bits) / bits.sum()
    assert (abs(share - 0.25) < 0.06).all()
    worth = [gain[group == g].sum() / bits[group == g].sum() for g in range(4)]
    assert worth == sorted(worth, reverse=True)


def test_there_is_no_group_without_a_block() -> None:
    assert levels.split(np.ones(1), np.ones(1), 4).tolist() == [0]
    assert set(levels.split(np.zeros(3), np.zeros(3), 2).tolist()) == {0, 1}


def test_parts_come_coarse_first_then_by_worth() -> None:
    """Group 1 saves more than group 0 a bit, at every depth."""
    left = np.array([[100.0, 50, 30, 20], [100, 40, 10, 1]])
    bits = np.ones((2, 3))
    parts = levels.ordered(left, bits, np.array([0, 1], np.uint8))
    assert parts == tuple(
        Part(depth=depth, group=group)
        for depth, group in [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]
    )
