"""The codec's arithmetic."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from frontload.kvcache.codec import quantize
from frontload.kvcache.layout import join
from frontload.kvcache.profile import Profile
from tests.kvcache import synthetic


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
