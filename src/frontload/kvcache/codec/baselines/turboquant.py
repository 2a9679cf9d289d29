"""TurboQuant-like: every head's vector is rotated at random, then quantized at a fixed rate.

Guarantees: `bits` + 16 / head size bits a value (one bf16 norm a vector); the squared error is that
of the Lloyd-Max quantizer: 0.117, 0.0345 and 0.0095 of a vector's energy at 2, 3 and 4 bits. Gives
up: entropy coding (the rotation makes all coordinates alike), and the second stage of the paper,
a 1-bit sketch of the residual that unbiases dot products at one bit a value.

Left open by the record, or chosen: one rotation, from a fixed seed, for all heads; the codebook is
that of one coordinate of a random direction in `head_dim` dimensions, as in the paper's algorithm
1, which for 64 and more is a Gaussian; in place of the norm we send the factor that minimises the
squared error of the decoded vector, which loses a little less; keys as cached, rotated by their
positions; levels are bits of K and V (K suffers more), where the paper mixes bits over channels.

Source: TurboQuant (arXiv 2504.19874), algorithm 1; Lloyd (1982) and Max (1960).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from frontload.kvcache.codec.baselines.envelope import (
    checked,
    codec_id,
    from_rows,
    level_index,
    rows,
    seal,
    unseal,
)
from frontload.kvcache.codec.baselines.packing import (
    bf16_bits,
    from_bf16_bits,
    pack,
    packed_bytes,
    unpack,
)
from frontload.kvcache.layout import CacheLayout, KVTensors

LEVELS = {f"{k}-{v}": (k, v) for k, v in ((2, 2), (3, 2), (3, 3), (4, 3), (4, 4))}
SEED = 20250419
GRID = 1 << 15  # cells on which the density is integrated


class TurboQuant:
    """A `Codec`; a level is bits of K - bits of V.

    Body, K then V: factors bf16 `[layers, tokens, heads]` | indices `[layers, tokens, heads,
    head_dim]`, packed.
    """

    name = "turboquant"
    levels = tuple(LEVELS)

    def __init__(self, layout: CacheLayout) -> None:
        self.layout = layout
        self._id = codec_id(self.name, str(layout))
        self._rotation = rotation(layout.head_dim)

    def encode(self, kv: KVTensors, level: str) -> bytes:
        """See `Codec`."""
        index = level_index(level, self.levels)
        vectors = rows(checked(kv, self.layout), self.layout, undo_rotary=False)
        heads = vectors.reshape(*vectors.shape[:3], self.layout.num_heads, self.layout.head_dim)
        body = b"".join(
            self._encode(array, bits) for array, bits in zip(heads, LEVELS[level], strict=True)
        )
        return seal(kv, level=index, codec=self._id, body=body)

    def decode(self, data: bytes) -> KVTensors:
        """See `Codec`."""
        envelope, body = unseal(data, levels=len(LEVELS), codec=self._id)
        shape = (self.layout.num_layers, envelope.tokens, self.layout.num_heads)
        count = int(np.prod(shape)) * self.layout.head_dim
        decoded = []
        for bits in list(LEVELS.values())[envelope.level]:
            factor = from_bf16_bits(body.array("<u2", *shape))
            indices = unpack(body.take(packed_bytes(count, bits)), count, bits)
            points = codebook(bits, self.layout.head_dim)[indices].reshape(*shape, -1)
            decoded.append((points * factor[..., None]) @ self._rotation)
        body.end()
        vectors = np.stack(decoded)
        return from_rows(
            vectors.reshape(*vectors.shape[:3], -1),
            self.layout,
            start=envelope.start,
            dtype=envelope.dtype,
            undo_rotary=False,
        )

    def _encode(self, vectors: np.ndarray, bits: int) -> bytes:
        """One of K and V, float32 `[layers, tokens, heads, head_dim]`."""
        rms = np.sqrt((vectors**2).mean(axis=-1, keepdims=True))
        turned = vectors / np.where(rms > 0, rms, 1) @ self._rotation.T
        points = codebook(bits, self.layout.head_dim)
        indices = np.searchsorted((points[1:] + points[:-1]) / 2, turned).astype(np.uint8)
        decoded = points[indices]
        fit = (turned * decoded).sum(axis=-1) / (decoded**2).sum(axis=-1)
        return bf16_bits(fit * rms[..., 0]).astype("<u2").tobytes() + pack(indices, bits)


@cache
def rotation(size: int) -> np.ndarray:
    """float32 orthogonal `[size, size]`, uniformly distributed, the same everywhere."""
    gaussian = np.random.default_rng([SEED, size]).standard_normal((size, size))
    q, r = np.linalg.qr(gaussian)
    return (q * np.sign(np.diag(r))).astype(np.float32)


@cache
def codebook(bits: int, size: int | None = None) -> np.ndarray:
    """float32 `[2^bits]`, ascending: Lloyd-Max points of unit variance.

    size: of the random directions whose coordinate is quantized; None: a Gaussian.
    """
    reach = 8.0 if size is None else min(8.0, float(np.sqrt(size)))
    x = (np.arange(GRID) + 0.5) / GRID * 2 * reach - reach
    mass = density(x, size)
    sums = (np.concatenate(([0], np.cumsum(mass))), np.concatenate(([0], np.cumsum(mass * x))))
    share = (np.arange(1 << bits) + 0.5) / (1 << bits)
    points = np.interp(share, sums[0][1:] / sums[0][-1], x)
    for _ in range(2000):
        edges = np.searchsorted(x, (points[1:] + points[:-1]) / 2)
        cuts = np.concatenate(([0], edges, [GRID]))
        moved = np.diff(sums[1][cuts]) / np.diff(sums[0][cuts])
        if np.allclose(moved, points, rtol=0, atol=1e-9):
            break
        points = moved
    return ((points - points[::-1]) / 2).astype(np.float32)


def density(x: np.ndarray, size: int | None) -> np.ndarray:
    """Of one coordinate of a random vector of length sqrt(size), up to a factor."""
    if size is None:
        return np.exp(-(x**2) / 2)
    if size == 1:
        return np.where(abs(abs(x) - 1) < 1e-3, 1.0, 1e-12)
    return np.maximum(1 - x**2 / size, 1e-12) ** ((size - 3) / 2)
