"""Bits at equal loss: exact on curves of a known form, and silent where a curve does not reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from frontload.kvcache.bench.rates import Point, bits_at, saving
from frontload.kvcache.quality import ContextLoss

VALUES = 1_000


def point(name: str, bits: Sequence[float], kl: Sequence[float]) -> Point:
    """One level of three contexts or so, given by bits per value and KL of each."""
    return Point(
        codec=name,
        level=f"{bits[0]:g}",
        domain="text",
        num_bytes=tuple(round(b * VALUES / 8) for b in bits),
        num_values=(VALUES,) * len(bits),
        losses=tuple(
            ContextLoss(
                domain="text", tokens=5, kl=k, nll=1.0, nll_change=0.0, flips=0.0, accuracy=1.0
            )
            for k in kl
        ),
    )


def curve(name: str, factor: float, noise: float = 0.0) -> list[Point]:
    """KL = exp(-bits) on average: `factor` times the bits give the same loss."""
    rng = np.random.default_rng(0)
    spread = 1 + noise * rng.standard_normal(40)
    return [
        point(name, [b * factor] * 40, np.exp(-b) * spread / spread.mean()) for b in (1, 2, 4, 8)
    ]


def test_bits_are_log_linear_between_levels_whatever_their_order() -> None:
    points = curve("a", 1.0)
    for kl in (np.exp(-1.5), np.exp(-3.0), np.exp(-7.7)):
        assert bits_at(points, kl) == pytest.approx(-np.log(kl), rel=1e-3)
        assert bits_at(points[::-1], kl) == bits_at(points, kl)


def test_nothing_is_extrapolated() -> None:
    assert bits_at(curve("a", 1.0), 0.9) is None
    assert bits_at(curve("a", 1.0), 1e-6) is None
    assert saving(curve("a", 1.0), curve("b", 2.0), 1e-6) is None


def test_a_lossless_level_says_nothing_about_a_loss_between() -> None:
    points = [*curve("a", 1.0), point("a", [16.0] * 40, [0.0] * 40)]
    assert bits_at(points, 1e-6) is None
    assert saving(points, points, 1e-6) is None
    assert bits_at(points[-1:], 1e-6) is None
    assert bits_at(points, 1e-2) == bits_at(points[:-1], 1e-2)


def test_half_the_bits_at_every_loss_save_half() -> None:
    found = saving(curve("ours", 1.0, noise=0.3), curve("rival", 2.0, noise=0.3), 0.05)
    assert found is not None
    assert found.share == pytest.approx(0.5, abs=1e-3)
    # the same contexts are drawn for both sides, so what they share cancels
    assert found.low == pytest.approx(0.5, abs=1e-2)
    assert found.high == pytest.approx(0.5, abs=1e-2)


def test_contexts_that_disagree_widen_the_interval() -> None:
    ours = curve("ours", 1.0)
    rival = [
        point(p.codec, np.linspace(1, 3, 40) * p.bits_per_value, [x.kl for x in p.losses])
        for p in curve("rival", 1.0)
    ]
    found = saving(ours, rival, 0.05)
    assert found is not None
    assert found.low < found.share - 0.02
    assert found.high > found.share + 0.02
