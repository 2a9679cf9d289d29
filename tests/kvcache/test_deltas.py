"""The test that decides about token deltas, on data where the answer is known."""

from __future__ import annotations

import pytest
import torch

from frontload.kvcache.deltas import delta_gain
from frontload.kvcache.layout import KVTensors
from tests.kvcache import synthetic


def test_deltas_cost_where_tokens_are_independent() -> None:
    profile = synthetic.profile()
    found = delta_gain(profile, [synthetic.cache(600, seed=seed) for seed in (5, 6)])
    assert found.direct > 1
    assert found.previous > 1.05 * found.direct
    assert found.anchor > 1.05 * found.direct
    assert found.gain < -0.05


def test_deltas_pay_where_tokens_are_alike() -> None:
    profile = synthetic.profile()
    chunk = synthetic.cache(600, seed=5)
    still = KVTensors(  # runs of ten equal tokens, keys rotated as the model would
        keys=profile.layout.rotary.redo(
            profile.layout.rotary.undo(chunk.keys.float(), 0)[:, :, torch.arange(600) // 10 * 10],
            0,
        ).bfloat16(),
        values=chunk.values[:, :, torch.arange(600) // 10 * 10],
    )
    assert delta_gain(profile, [still]).gain > 0.5


def test_a_single_token_has_no_delta() -> None:
    with pytest.raises(ValueError, match="at least two tokens"):
        delta_gain(synthetic.profile(), [synthetic.cache(1)])
