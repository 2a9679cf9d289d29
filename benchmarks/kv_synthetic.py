"""A synthetic KV cache the size of a 7-8 B model's layers, and a profile that fits it.

8 layers of 8 KV heads of 128, 32 KB a token: correlated channels whose principal variances fall as
1 / k^1.2, a coding gain of 4.6 dB, with heavier tails than normal and a spread of 12 dB between
heads. For measuring speed and overhead; says nothing about loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from frontload.kvcache.codec import tables
from frontload.kvcache.layout import CacheLayout, KVTensors
from frontload.kvcache.profile import SUBSTEPS, Level, Part, Profile, Transform
from frontload.kvcache.rotary import Rotary

FINEST, STEP = 3, 0.07  # of the synthetic profile; the strongest component's deviation is 1
STRENGTHS = (2.0, 1.0, 0.7, 0.5)  # of heads, in turn
UNITS = 2047  # of an inverse's entry


def synthetic_layout(layers: int = 8, heads: int = 8, head_dim: int = 128) -> CacheLayout:
    """Llama-like, rotary base 500,000."""
    frequencies = np.float32(5e5) ** -(np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    rotary = Rotary(
        inv_freq=tuple(float(x) for x in frequencies),
        scaling=1.0,
        pairing="halves",
        layers=(True,) * layers,
    )
    return CacheLayout(
        num_layers=layers, num_heads=heads, head_dim=head_dim, rotary=rotary, max_tokens=1 << 17
    )


def deviations(head_dim: int) -> np.ndarray:
    """float64 `[strengths, k]`: standard deviations of components."""
    return np.array(STRENGTHS)[:, None] * np.arange(1, head_dim + 1) ** -0.6


def coefficients(generator: np.random.Generator, tokens: int, spread: np.ndarray) -> np.ndarray:
    """float64 `[heads, tokens, k]` with tails heavier than a normal distribution's."""
    shape = (len(spread), tokens, spread.shape[1])
    loud = np.exp(0.35 * generator.standard_normal((*shape[:2], 1)))
    return generator.standard_normal(shape) * loud * spread[:, None]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A synthetic cache's distribution: `basis [pieces, k, j]`, `mean [pieces, j]`."""

    layout: CacheLayout
    basis: np.ndarray
    mean: np.ndarray

    @staticmethod
    def draw(layout: CacheLayout) -> Model:
        """The one that every run of this benchmark has."""
        generator = np.random.default_rng(0)
        shape = (layout.num_pieces, layout.head_dim, layout.head_dim)
        basis = np.linalg.qr(generator.standard_normal(shape))[0]
        return Model(
            layout=layout, basis=basis, mean=generator.standard_normal(shape[:2]).astype(np.float32)
        )

    def cache(self, tokens: int, seed: int) -> KVTensors:
        """A context, bf16."""
        spread = deviations(self.layout.head_dim)[np.arange(len(self.basis)) % len(STRENGTHS)]
        found = coefficients(np.random.default_rng([1, seed]), tokens, spread)
        pieces = torch.from_numpy((found @ self.basis + self.mean[:, None]).astype(np.float32))
        kv = KVTensors.from_pieces(pieces, self.layout, 0)
        assert self.layout.rotary is not None
        keys = self.layout.rotary.redo(kv.keys, 0)
        return KVTensors(keys=keys.bfloat16(), values=kv.values.bfloat16())

    def profile(self) -> Profile:
        """Exact basis, tables from samples; a block is a head."""
        blocks, size = self.mean.shape
        found = coefficients(np.random.default_rng(2), 4096, deviations(size)) / STEP
        birth = np.stack([tables.births(each.astype(np.float32), FINEST) for each in found])
        order = np.argsort(birth, axis=1, kind="stable")
        found = np.take_along_axis(found, order[:, None], axis=2)
        few = tables.fit(found.astype(np.float32), np.sort(birth, axis=1), FINEST)
        kind = np.arange(blocks) % len(STRENGTHS)
        whole = np.take_along_axis(self.basis, order[kind][..., None], axis=1) * STEP
        unit = abs(whole).max(axis=(1, 2)) / UNITS
        inverse = np.rint(whole / unit[:, None, None])
        return Profile(
            model_fingerprint="00" * 32,
            model_name="synthetic",
            layout=self.layout,
            chunk_tokens=256,
            calibrated_tokens=self.layout.max_tokens or 1,
            group=np.zeros(blocks, np.uint8),
            parts=tuple(Part(depth=depth, group=0) for depth in range(FINEST + 1)),
            head_tokens=4,
            head_depth=1,
            levels=tuple(
                Level(parts=n + 1, bits_per_value=0.0, kl=0.0, flips=0.0) for n in range(FINEST + 1)
            ),
            code_length=(0.25,) * (FINEST + 1),
            transform=Transform(
                pieces=np.arange(blocks, dtype=np.int32)[:, None],
                mean=self.mean,
                first_mean=self.mean,
                forward=np.linalg.inv(inverse.transpose(0, 2, 1) * unit[:, None, None]).astype(
                    np.float32
                ),
                inverse=inverse.astype(np.int16),
                scale=unit.astype(np.float32),
                limit=np.full((blocks, size), (2**31 - 1) // (SUBSTEPS * UNITS * size), np.int32),
            ),
            tables=tables.Tables(
                live=few.live[kind],
                largest=few.largest[kind],
                start=few.start[kind],
                base=few.base,
                trits=few.trits[:, kind],
                offset=few.offset[kind],
            ),
        )
