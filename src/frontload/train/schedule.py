"""The learning rate as a function of the share of the budget consumed.

A stage's length is a budget in tokens, not a number of steps, so its schedule is too: two stages
with the same budget follow the same curve whatever their batch size, packing or accumulation. A
step uses the curve's value at the middle of its batch, `share_at_middle`, so a warm-up does not
begin with a step of rate 0 and a decay to 0 does not end with one.
"""

from __future__ import annotations

import math

from frontload.train.config import ScheduleConfig


def learning_rate_factor(config: ScheduleConfig, share: float) -> float:
    """Learning rate over its peak, in [0, 1], at `share` of the budget, in [0, 1].

    Every kind first rises linearly from 0 over `warmup`. Then `constant` stays at 1; `wsd`
    (warm-up, stable, decay: MiniCPM, arXiv 2404.06395) stays at 1 and falls linearly to `final`
    over the last `decay`; `cosine` (SGDR, arXiv 1608.03983, one cycle) falls to `final`.
    """
    assert 0 <= share <= 1, share
    if share < config.warmup:
        return share / config.warmup
    if config.kind == "constant":
        return 1.0
    if config.kind == "cosine":
        progress = (share - config.warmup) / (1 - config.warmup)
        return config.final + (1 - config.final) * (1 + math.cos(math.pi * progress)) / 2
    if config.decay == 0 or share <= 1 - config.decay:
        return 1.0
    return config.final + (1 - config.final) * (1 - share) / config.decay


def share_at_middle(consumed: int, batch: int, budget: int) -> float:
    """Share of the budget consumed in the middle of a batch; all three in the budget's unit."""
    assert 0 <= consumed <= consumed + batch <= budget, (consumed, batch, budget)
    return (consumed + batch / 2) / budget
