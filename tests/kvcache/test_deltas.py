"""The test that decides about token deltas, on data where the answer is known."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from frontload.kvcache.calibration.deltas import delta_gain
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.rotary import rotated, unrotated
from tests.kvcache import synthetic


def test_deltas_cost_where_tokens_are_independent() -> None:
    profile = synthetic.profile()
    found = delta_gain(profile, [synthetic.cache(600, seed=seed) for seed in (5, 6)])
    assert found.direct > 1
    assert found.previous > 1.05 * found.direct
    assert found.anchor > 1.05 * found.direct
    assert found.gain < -0.05
    assert re.fullmatch(
        r"token deltas: \+\d+ % bits \(anchors\), \+\d+ % \(previous token\): not used", str(found)
    )


def test_only_the_previous_token_helps_where_values_walk() -> None:
    profile = synthetic.profile()
    found = delta_gain(profile, [_walk(synthetic.cache(400, seed=2, start=64))], depth=3)
    assert found.previous < found.direct
    assert found.previous < found.anchor


def test_deltas_pay_where_tokens_are_alike() -> None:
    profile = synthetic.profile()
    chunk = synthetic.cache(600, seed=5)
    plain = unrotated(chunk, profile.layout.rotary)
    of_ten = torch.arange(600) // 10 * 10
    still = replace(plain, keys=plain.keys[:, :, of_ten], values=plain.values[:, :, of_ten])
    still = rotated(still, profile.layout.rotary).to(dtype=torch.bfloat16)
    found = delta_gain(profile, [still])
    assert found.gain > 0.5
    assert str(found).endswith("would save bits, but the format has none")


def test_a_single_token_has_no_delta() -> None:
    with pytest.raises(ValueError, match="at least two tokens"):
        delta_gain(synthetic.profile(), [synthetic.cache(1)])


def _walk(kv: KVTensors) -> KVTensors:
    """The same tokens, each the mean of many: neighbours differ by little. Keys do not turn."""
    plain = unrotated(kv, synthetic.LAYOUT.rotary)
    smooth = [x.cumsum(2) / 20 for x in (plain.keys, plain.values)]
    keys, values = [x - x.mean(2, keepdim=True) for x in smooth]
    turned = rotated(KVTensors(keys=keys, values=values, start=kv.start), synthetic.LAYOUT.rotary)
    return turned.to(dtype=torch.bfloat16)
