"""Our codec behind the interface of all codecs."""

from __future__ import annotations

import pytest
import torch

from frontload.kvcache.codec.layered import EXACT, Layered
from frontload.kvcache.layout import KVTensors
from tests.kvcache import synthetic


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_whatever_was_encoded_comes_back_as_bf16_rounded_once(dtype: torch.dtype) -> None:
    codec = Layered(profile=synthetic.profile(), chunk_tokens=8)
    kv = synthetic.cache(10, start=3)
    kv = KVTensors(keys=(1.001 * kv.keys.float()).to(dtype), values=kv.values.to(dtype), start=3)
    for level in (codec.levels[0], EXACT):
        decoded = codec.decode(codec.encode(kv, level))
        assert (decoded.keys.dtype, decoded.start) == (torch.bfloat16, 3)
        assert decoded.keys.shape == kv.keys.shape
    assert torch.equal(decoded.keys, kv.keys.bfloat16())
    assert torch.equal(decoded.values, kv.values.bfloat16())
