"""Rounded bases: exact inverses, safe sums, and noise that stays what the step says."""

from __future__ import annotations

import numpy as np
import pytest

from frontload.kvcache.calibration.blocks import Bases, bases
from frontload.kvcache.calibration.transform import UNITS, Built, Sample, _limits, build
from frontload.kvcache.codec.quantize import coarser
from frontload.kvcache.profile import ESCAPE_LIMIT, LARGEST_INTEGER, SUBSTEPS

FINEST = 3
STEP = 0.05


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((2, 16, 16)) * np.geomspace(3, 0.003, 16)[:, None]
    return (rng.standard_normal((2, 3000, 16)) @ mixing + 5).astype(np.float32)


@pytest.fixture(scope="module")
def metric() -> np.ndarray:
    rng = np.random.default_rng(1)
    root = rng.standard_normal((2, 16, 16)) * np.geomspace(1, 0.03, 16)
    return root @ root.transpose(0, 2, 1)


@pytest.fixture(scope="module")
def basis(values: np.ndarray, metric: np.ndarray) -> Bases:
    covariance = np.stack([np.cov(block.T, bias=True) for block in values])
    return bases(covariance, metric, ridge=1e-3)


@pytest.fixture(scope="module")
def built(values: np.ndarray, basis: Bases) -> Built:
    return build(
        np.arange(4, dtype=np.int32).reshape(2, 2),
        basis,
        values.astype(np.float64).mean(axis=1),
        Sample(values=values, first=values[:, :5] * 3),
        step=STEP,
        finest=FINEST,
    )


def test_forward_is_the_exact_inverse_of_the_rounded_inverse(built: Built) -> None:
    transform = built.transform
    assert abs(transform.inverse).max() == UNITS
    whole = transform.inverse * transform.scale[:, None, None].astype(np.float64)
    product = transform.forward.astype(np.float64) @ whole.transpose(0, 2, 1)
    assert np.allclose(product, np.eye(16), atol=1e-4)


def test_unrounded_coefficients_give_the_values_back(built: Built, values: np.ndarray) -> None:
    transform = built.transform
    whole = transform.inverse * transform.scale[:, None, None].astype(np.float64)
    again = built.coefficients @ whole + transform.mean[:, None]
    assert np.allclose(again, values, atol=1e-3)


def test_the_finest_step_is_the_one_asked_for(
    built: Built, values: np.ndarray, metric: np.ndarray
) -> None:
    """Quantization noise, weighed by the metric, is step^2 / 12 for each component that is coded.

    Components are uncorrelated for the metric but for rounding, which may add a few percent.
    """
    transform, live = built.transform, built.tables.live[:, FINEST]
    error = built.coefficients - np.rint(built.coefficients)
    error = np.where(np.arange(16) < live[:, None, None], error, 0)
    whole = transform.inverse * transform.scale[:, None, None].astype(np.float64)
    lost = error @ whole
    cost = np.einsum("bti,bij,btj->b", lost, metric, lost) / values.shape[1]
    assert (cost < 1.05 * live * STEP**2 / 12).all()
    assert (cost > 0.7 * live * STEP**2 / 12).all()  # narrow components fill less than a step


def test_sums_of_the_decoder_stay_below_two_to_the_31(built: Built) -> None:
    coded = np.arange(16) < built.tables.live[:, FINEST, None]
    limit = np.where(coded, built.transform.limit, 0).astype(np.int64)
    sums = (limit[:, :, None] * SUBSTEPS * abs(built.transform.inverse.astype(np.int64))).sum(1)
    assert (sums < 2**31).all()


def test_limits_leave_room_beyond_what_calibration_saw(built: Built) -> None:
    most = abs(built.coefficients).max(axis=1)
    coded = np.arange(16) < built.tables.live[:, FINEST, None]
    assert (built.transform.limit > 2 * most)[coded].all()
    birth = (np.arange(16) >= built.tables.live[:, :, None]).sum(axis=1)
    for depth in range(FINEST + 1):
        at_birth = coarser(built.transform.limit, FINEST - depth)
        assert (at_birth[coded & (birth == depth)] <= ESCAPE_LIMIT).all()


def test_deep_pyramids_leave_outliers_room_at_every_depth() -> None:
    """What must fit an escape is the integer at its birth, not the finest."""
    inverse, most = np.full((3, 3), 1, np.int16), np.full(3, 1e5)
    limit = _limits(most, inverse, np.array([2, 0, -1]))
    assert limit[0] == 9 * ESCAPE_LIMIT + 4
    assert coarser(limit[:1], 2) == ESCAPE_LIMIT
    assert coarser(limit[:1] + 1, 2) == ESCAPE_LIMIT + 1
    assert limit[1] == limit[2] == ESCAPE_LIMIT
    assert _limits(most * 1e3, inverse, np.array([9, 9, 9])).max() == LARGEST_INTEGER


def test_components_are_sorted_by_birth_and_then_by_size(built: Built) -> None:
    live = built.tables.live
    assert (np.diff(live, axis=1) >= 0).all()
    assert (live[:, 0] > 0).all()
    assert (live[:, FINEST] < 16).any()  # the narrowest are never coded
    spread = built.coefficients.std(axis=1)
    for b in range(2):
        for depth in range(FINEST + 1):
            first = live[b, depth - 1] if depth else 0
            assert (np.diff(spread[b, first : live[b, depth]]) <= 0.05).all()


def test_wide_outliers_shrink_the_headroom_not_the_safety() -> None:
    """A rank-one block with a huge outlier: every row points the same way."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1, 500, 4)).astype(np.float32)
    values[0, 0] = 3e4
    covariance = np.cov(values[0, 1:].T, bias=True)[None]
    basis = bases(covariance, np.eye(4)[None], ridge=0.0)
    built = build(
        np.zeros((1, 1), np.int32),
        basis,
        np.zeros((1, 4)),
        Sample(values=values, first=values[:, :1]),
        step=0.5,
        finest=0,
    )
    rows = abs(built.transform.inverse.astype(np.int64))
    assert (built.transform.limit[0].astype(np.int64) @ (rows[0] * SUBSTEPS)).max() < 2**31
