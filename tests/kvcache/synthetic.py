"""A profile and caches that need no model: random, correlated, with a sink at position 0."""

from __future__ import annotations

import numpy as np
import torch

from frontload.kvcache.codec import tables
from frontload.kvcache.layout import CacheLayout, KVTensors
from frontload.kvcache.profile import Level, Part, Profile, Transform
from frontload.kvcache.rotary import Rotary

LAYOUT = CacheLayout(
    num_layers=2,
    num_heads=2,
    head_dim=8,
    rotary=Rotary(
        inv_freq=tuple(
            float(x) for x in np.float32(100.0) ** -(np.arange(4, dtype=np.float32) / 4)
        ),
        scaling=1.0,
        pairing="halves",
        layers=(True, True),
    ),
    max_tokens=4096,
)


def cache(tokens: int, *, seed: int = 0, start: int = 0, layout: CacheLayout = LAYOUT) -> KVTensors:
    """A bf16 run of tokens whose channels are correlated, with offsets and a large first token."""
    shape = np.random.default_rng(7)  # of the distribution: the same for every seed
    width = layout.values_per_token
    basis = shape.standard_normal((width, width)) * 0.75 ** np.arange(width)
    mean = shape.standard_normal(width)
    values = np.random.default_rng([seed, start]).standard_normal((tokens, width)) @ basis.T + mean
    if start == 0 and tokens:
        values[0] = 3 * mean
    pieces = torch.from_numpy(values.astype(np.float32)).reshape(tokens, layout.num_pieces, -1)
    chunk = KVTensors.from_pieces(pieces.transpose(0, 1).contiguous(), layout, start)
    keys = chunk.keys if layout.rotary is None else layout.rotary.redo(chunk.keys, start)
    return KVTensors(keys=keys.bfloat16(), values=chunk.values.bfloat16(), start=start)


def profile(
    *, layout: CacheLayout = LAYOUT, pieces_a_block: int = 2, finest: int = 3, step: float = 0.02
) -> Profile:
    """A PCA profile of `cache`, two groups of blocks, one head token two depths finer."""
    sample = cache(512, seed=1, start=64, layout=layout)
    keys = sample.keys.float()
    if layout.rotary is not None:
        keys = layout.rotary.undo(keys, sample.start)
    flat = KVTensors(keys=keys, values=sample.values.float()).pieces().numpy()
    pieces = np.arange(layout.num_pieces, dtype=np.int32).reshape(-1, pieces_a_block)
    data = flat[pieces].transpose(0, 2, 1, 3).reshape(len(pieces), sample.num_tokens, -1)
    mean = data.mean(axis=1)
    forward, inverse, scale, births, coefficients = [], [], [], [], []
    for block in data - mean[:, None]:
        _, vectors = np.linalg.eigh(block.T @ block)
        whole = vectors.T[::-1] * step
        unit = abs(whole).max() / 2047
        rounded = np.rint(whole / unit)
        exact = np.linalg.inv(rounded.T * unit)
        found = block @ exact.T
        birth = tables.births(found, finest)
        order = np.argsort(birth, kind="stable")
        forward.append(exact[order])
        inverse.append(rounded[order])
        scale.append(unit)
        births.append(birth[order])
        coefficients.append(found[:, order])
    limit = np.full(mean.shape, (2**31 - 1) // (16 * 2047 * mean.shape[1]), np.int32)
    return Profile(
        model_fingerprint="00" * 32,
        model_name="synthetic",
        layout=layout,
        chunk_tokens=256,
        calibrated_tokens=4096,
        group=(np.arange(len(pieces)) % 2).astype(np.uint8),
        parts=tuple(Part(depth=d, group=g) for d in range(finest + 1) for g in range(2)),
        head_tokens=1,
        head_depth=2,
        levels=tuple(
            Level(parts=n, bits_per_value=float(n), kl=0.1**n, flips=0.1**n)
            for n in range(2, 2 * finest + 3)
        ),
        code_length=(0.5,) * (2 * finest + 2),
        transform=Transform(
            pieces=pieces,
            mean=mean.astype(np.float32),
            first_mean=(3 * mean).astype(np.float32),
            forward=np.stack(forward).astype(np.float32),
            inverse=np.stack(inverse).astype(np.int16),
            scale=np.array(scale, np.float32),
            limit=limit,
        ),
        tables=tables.fit(np.stack(coefficients), np.stack(births), finest),
    )
