"""The codec's arithmetic."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from frontload.kvcache.codec import quantize
from frontload.kvcache.codec.chunk import decode_chunk, encode_chunk, encode_chunks
from frontload.kvcache.layout import join
from frontload.kvcache.profile import Profile
from tests.kvcache import synthetic
from tests.kvcache.elsewhere import elsewhere


def test_nesting_is_exact_at_every_depth() -> None:
    integer = np.arange(-400, 401)
    for depths in range(4):
        step = 3**depths
        assert (quantize.coarser(integer, depths) == np.rint(integer / step)).all()
    assert (3 * quantize.coarser(integer) + quantize.trits(integer) == integer).all()


def test_finer_depths_lose_less_and_the_finest_little() -> None:
    profile = synthetic.profile()
    chunk = synthetic.cache(64)
    integer, saturated = quantize.integers(profile, chunk)
    assert saturated == 0
    errors = []
    for depth in range(profile.finest + 1):
        decoded = quantize.reconstruct(
            profile, integer, np.full(profile.num_blocks, depth), chunk.start
        )
        errors.append(float((decoded.values.float() - chunk.values.float()).square().mean()))
    assert all(finer < 0.4 * coarse for coarse, finer in itertools.pairwise(errors))
    assert errors[-1] < 1e-3 * chunk.values.float().var()


def test_a_profile_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    profile = synthetic.profile()
    profile.save(tmp_path / "p.safetensors")
    again = Profile.load(tmp_path / "p.safetensors")
    assert again.id == profile.id
    assert again.levels == profile.levels
    assert again.layout == profile.layout


def test_a_changed_profile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    synthetic.profile().save(path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="does not match its id"):
        Profile.load(path)


def test_chunks_join_to_the_whole() -> None:
    whole = synthetic.cache(70)
    joined = join(whole.chunks(32))
    assert torch.equal(joined.keys, whole.keys)
    assert torch.equal(joined.values, whole.values)


def test_tensors_of_another_device_do_not_mix_by_themselves() -> None:
    """The law of `elsewhere`: without it, the tests that use it could not fail."""
    there = elsewhere(torch.ones(3))
    with pytest.raises(RuntimeError, match="same device"):
        there - torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3) @ (2 * there)
    with pytest.raises(TypeError, match="numpy"):
        there.float().numpy()
    assert (there.half().to(device="cpu").numpy() == 1).all()


def test_a_cache_on_any_device_gives_the_same_integers_and_bytes() -> None:
    profile, chunk = synthetic.profile(), synthetic.cache(40)
    integer, _ = quantize.integers(profile, elsewhere(chunk))
    assert (integer == quantize.integers(profile, chunk)[0]).all()
    for exact in (False, True):
        expected = encode_chunk(profile, chunk, exact=exact)
        assert encode_chunk(profile, elsewhere(chunk), exact=exact).data == expected.data
        [one] = encode_chunks(profile, [elsewhere(chunk)], exact=exact)
        assert one.data == expected.data


def test_room_on_another_device_is_refused_by_name() -> None:
    profile = synthetic.profile()
    data = encode_chunk(profile, synthetic.cache(3), exact=False).data
    layout = profile.layout
    room = torch.empty(layout.num_pieces, 3, layout.head_dim, dtype=torch.bfloat16, device="meta")
    with pytest.raises(ValueError, match="out is on meta"):
        decode_chunk(profile, data, out=room)
