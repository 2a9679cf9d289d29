"""Small integers as bits, and numbers as bf16 bytes, the way the rivals store them.

Guarantees: `bits` bits a value and no more than 7 in all lost; unpacking inverts packing. Gives
up: speed; rivals are compared by bytes and loss, and theirs are the fast formats of other systems.

Value i takes bits i * bits to (i + 1) * bits of the bytes, lowest bit first.
"""

from __future__ import annotations

import numpy as np
import torch


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` values."""
    return (count * bits + 7) // 8


def pack(values: np.ndarray, bits: int) -> bytes:
    """Values below 2^bits, in memory order; `bits` is 1 to 8."""
    assert 1 <= bits <= 8
    assert values.size == 0 or int(values.max()) < 1 << bits
    flat = np.ascontiguousarray(values, np.uint8).reshape(-1, 1)
    return np.packbits(
        np.unpackbits(flat, axis=1, count=bits, bitorder="little"), bitorder="little"
    ).tobytes()


def unpack(data: bytes, count: int, bits: int) -> np.ndarray:
    """uint8 `[count]`, the inverse of `pack`."""
    assert len(data) == packed_bytes(count, bits)
    flat = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little")
    return np.packbits(flat.reshape(count, bits), axis=1, bitorder="little")[:, 0]


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """uint16: float32 values rounded to the nearest bf16."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    return tensor.bfloat16().view(torch.uint16).numpy()


def from_bf16_bits(bits: np.ndarray) -> np.ndarray:
    """float32 values of bf16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def bf16_not_below(values: np.ndarray) -> np.ndarray:
    """uint16: the smallest bf16 that is at least each non-negative float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0xFFFF) >> 16).astype(np.uint16)
