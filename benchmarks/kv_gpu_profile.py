"""A profile and caches with the shape of an 8B model's, for `kv_gpu.py`, made on the GPU.

32 layers of 8 KV heads of 128 channels: 65,536 values a token, in 256 blocks of 256 (two heads of a
layer). Components are Gaussian with standard deviations that fall geometrically, which gives levels
from about 0.2 to 2 bits a value, as calibrated profiles of small models do. Tables are fitted for
a few blocks and laid out for all of them, so that kernels read as much memory as for a real one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.codec import tables
from frontload.kvcache.layout import CacheLayout, KVTensors
from frontload.kvcache.profile import Level, Part, Profile, Tables, Transform
from frontload.kvcache.rotary import Rotary

LARGEST, DECAY = 27.0, 0.97  # standard deviations in finest steps: LARGEST * DECAY ** k
FINEST, GROUPS, FITTED, SAMPLES = 3, 2, 4, 4096
UNITS = 2047  # the largest entry of the inverse


def layout(num_layers: int = 32, num_heads: int = 8, head_dim: int = 128) -> CacheLayout:
    """Of Llama 3 8B unless told."""
    half = np.arange(head_dim // 2, dtype=np.float32) / np.float32(head_dim // 2)
    return CacheLayout(
        num_layers=num_layers,
        num_heads=num_heads,
        head_dim=head_dim,
        rotary=Rotary(
            inv_freq=tuple(float(x) for x in np.float32(500_000.0) ** -half),
            scaling=1.0,
            pairing="halves",
            layers=(True,) * num_layers,
        ),
    )


def profile(shape: CacheLayout) -> Profile:
    """Random bases, tables fitted to samples of the distribution that `cache` draws from."""
    rng = np.random.default_rng(0)
    pieces = np.arange(shape.num_pieces, dtype=np.int32).reshape(-1, 2)
    blocks, size = len(pieces), 2 * shape.head_dim
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    unit = abs(basis).max() / UNITS
    rounded = np.rint(basis / unit)
    exact = np.linalg.inv(rounded.T * unit)
    turned = np.stack([np.roll(np.arange(size), b) for b in range(blocks)])  # another one a block
    mean = rng.standard_normal((blocks, size)).astype(np.float32)
    samples = rng.standard_normal((FITTED, SAMPLES, size)) * _deviations(size)
    births = np.stack([tables.births(sample, FINEST) for sample in samples])
    births = np.maximum.accumulate(births, axis=1)  # noise apart they are sorted already
    parts = tuple(Part(depth=d, group=g) for d in range(FINEST + 1) for g in range(GROUPS))
    return Profile(
        model_fingerprint="00" * 32,
        model_name="synthetic 8B",
        layout=shape,
        chunk_tokens=256,
        calibrated_tokens=1 << 17,
        group=(np.arange(blocks) % GROUPS).astype(np.uint8),
        parts=parts,
        head_tokens=4,
        head_depth=1,
        levels=tuple(
            Level(parts=n, bits_per_value=0.0, kl=0.0, flips=0.0)
            for n in range(GROUPS, len(parts) + 1, GROUPS)
        ),
        code_length=(0.1,) * len(parts),
        transform=Transform(
            pieces=pieces,
            mean=mean,
            first_mean=3 * mean,
            forward=exact.astype(np.float32)[:, turned].transpose(1, 0, 2).copy(),
            inverse=rounded.astype(np.int16)[:, turned].transpose(1, 0, 2).copy(),
            scale=np.full(blocks, unit, np.float32),
            limit=np.full((blocks, size), 220, np.int32),
        ),
        tables=_spread(tables.fit(samples, births, FINEST), blocks),
    )


def cache(made: Profile, tokens: int, *, start: int, device: str) -> KVTensors:
    """A run of tokens drawn from the profile's own distribution, on the device."""
    transform, shape = made.transform, made.layout
    generator = torch.Generator(device).manual_seed(start)
    deviations = torch.from_numpy(_deviations(made.block_size)).float().to(device)
    pieces = torch.empty(shape.num_pieces, tokens, shape.head_dim, device=device)
    for b, own in enumerate(transform.pieces):
        drawn = torch.randn(tokens, made.block_size, device=device, generator=generator)
        inverse = torch.from_numpy(transform.inverse[b]).float().to(device)
        values = drawn * deviations @ inverse * float(transform.scale[b])
        values += torch.from_numpy(transform.mean[b]).to(device)
        pieces[torch.from_numpy(own).long().to(device)] = _heads(values, len(own))
    found = KVTensors.from_pieces(pieces, shape, start)
    assert shape.rotary is not None
    keys = shape.rotary.redo(found.keys, start)
    return KVTensors(keys=keys.bfloat16(), values=found.values.bfloat16(), start=start)


def _heads(values: Tensor, heads: int) -> Tensor:
    return values.reshape(len(values), heads, -1).transpose(0, 1)


def _deviations(size: int) -> np.ndarray:
    return LARGEST * DECAY ** (np.arange(size) * 256 / size)


def _spread(fitted: Tables, blocks: int) -> Tables:
    """The fitted blocks' tables, over and over, each with memory of its own."""
    times = -(-blocks // FITTED)
    shift = np.arange(times).repeat(FITTED)[:blocks, None] * fitted.base.shape[1]

    def again(array: np.ndarray, axis: int) -> np.ndarray:
        return np.take(array, np.arange(blocks) % FITTED, axis)

    start = again(fitted.start, 0)
    return replace(
        fitted,
        live=again(fitted.live, 0),
        largest=again(fitted.largest, 0),
        start=np.where(start < 0, -1, start + shift).astype(np.int32),
        base=np.tile(fitted.base, (1, times)),
        trits=again(fitted.trits, 1),
        offset=again(fitted.offset, 0),
    )
