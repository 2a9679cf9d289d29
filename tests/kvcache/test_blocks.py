"""Groupings, moments, and bases in which errors weigh alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frontload.kvcache.calibration.blocks import Grouping, Moments, bases, groupings
from tests.kvcache.synthetic import LAYOUT


def spd(rng: np.random.Generator, blocks: int, size: int) -> np.ndarray:
    root = rng.standard_normal((blocks, size, size)) * np.geomspace(1, 0.01, size)
    return root @ root.transpose(0, 2, 1)


def test_every_grouping_holds_every_piece_once() -> None:
    shapes = groupings(LAYOUT, 64)
    assert Grouping(kinds=1, layers=1, heads=1) in shapes
    assert Grouping(kinds=2, layers=2, heads=2) in shapes
    for shape in shapes:
        pieces = shape.pieces(LAYOUT)
        assert sorted(pieces.ravel()) == list(range(LAYOUT.num_pieces))
        assert pieces.shape[1] * LAYOUT.head_dim <= 64


def test_a_block_joins_what_its_name_says() -> None:
    pieces = Grouping(kinds=2, layers=1, heads=2).pieces(LAYOUT)
    expected = [LAYOUT.piece(kind, 1, head) for kind in (0, 1) for head in (0, 1)]
    assert sorted(pieces[1]) == sorted(expected)


def test_a_head_that_is_larger_than_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match=r"block_channels is 4.*give at least 8"):
        groupings(LAYOUT, 4)


def test_moments_in_parts_are_those_of_the_whole() -> None:
    values = torch.randn(LAYOUT.num_pieces, 50, LAYOUT.head_dim) + 100
    index = Grouping(kinds=1, layers=1, heads=2).pieces(LAYOUT)
    moments = Moments(pieces=index)
    for part in values.split(20, dim=1):
        moments.add(part)
    flat = values.double()[torch.from_numpy(index).long()].transpose(1, 2).reshape(4, 50, 16)
    expected = np.stack([np.cov(block.T.numpy(), bias=True) for block in flat])
    assert np.allclose(moments.covariance, expected, atol=1e-4)
    assert np.allclose(moments.mean, flat.mean(1).numpy())


def test_errors_weigh_alike_and_coordinates_are_uncorrelated() -> None:
    rng = np.random.default_rng(0)
    covariance, metric = spd(rng, 3, 10), spd(rng, 3, 10)
    basis = bases(covariance, metric, ridge=0.0)
    for b in range(3):
        columns = basis.columns[b]
        assert np.allclose(columns @ metric[b] @ columns.T, np.eye(10), atol=1e-6)
        inverse = np.linalg.inv(columns.T)
        assert np.allclose(inverse @ covariance[b] @ inverse.T, np.diag(basis.variance[b]))
    assert (np.diff(basis.variance, axis=1) <= 1e-9).all()


def test_the_step_for_a_loss_loses_it() -> None:
    rng = np.random.default_rng(0)
    covariance, metric = spd(rng, 3, 10), spd(rng, 3, 10)
    basis = bases(covariance, metric, ridge=0.0)
    for share in (0.5, 0.01):
        loss = share * np.einsum("bij,bji->", covariance, metric) / 2
        assert basis.loss(basis.step_for(loss, metric), metric) == pytest.approx(loss)


def test_the_transform_saves_bits_and_the_metric_saves_loss() -> None:
    rng = np.random.default_rng(0)
    covariance, metric = spd(rng, 3, 10), spd(rng, 3, 10)
    loss = 0.01 * np.einsum("bij,bji->", covariance, metric) / 2

    def bits(ridge: float = 0.0, transform: bool = True, used: np.ndarray = metric) -> float:
        basis = bases(covariance, used, ridge=ridge, transform=transform)
        return basis.bits_per_value(basis.step_for(loss, metric))

    plain = np.broadcast_to(np.eye(10), metric.shape)
    assert bits() < bits(used=plain) < bits(used=plain, transform=False)
    assert bits() < bits(ridge=1.0) < bits(used=plain) * 1.001


def test_a_metric_without_rank_still_gives_a_basis() -> None:
    rng = np.random.default_rng(0)
    gradient = rng.standard_normal((2, 3, 10))
    metric = gradient.transpose(0, 2, 1) @ gradient
    metric[1] = 0
    basis = bases(spd(rng, 2, 10), metric, ridge=1e-3)
    assert np.isfinite(basis.columns).all()
    assert np.isfinite(basis.variance).all()
