"""The recurrent state of a hybrid model: what layers without attention carry along the tokens.

Guarantees: tensors are stored exactly, in order, with their names; reading checks every declared
size against the bytes at hand before memory is taken, and executes nothing. Gives up: compression
(a state has a fixed size, however long the context) and states of any point but the end of the
context: they say which by `tokens`.

Bytes, little-endian: tokens u64 | tensors u32 | for each tensor: name bytes u16, name (ASCII),
dtype u8 (0 bf16, 1 fp16, 2 fp32), dimensions u8, each u64 | the tensors' raw values, in this order.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.layout import DTYPES

_MOST_DIMENSIONS = 8
_NAME = re.compile(rb"[0-9]{1,6}\.(conv|recurrent)\.[0-9]{1,6}")


@dataclass(frozen=True, kw_only=True)
class RecurrentState:
    """States of all recurrent layers after `tokens` tokens of a context, by name, in order.

    Names are `layer.kind.index`: the layer's place in the model, `conv` or `recurrent`, and which
    of its states; each tensor has a leading dimension of 1 (the row).
    """

    tokens: int
    tensors: Mapping[str, Tensor]

    def check(self, tokens: int | None = None) -> None:
        """Refuse what cannot be continued from, or could not be read back.

        Args:
            tokens: after how many tokens of the context the state must be.

        Raises:
            ValueError: NaN or Inf, more than one row, no values, a dtype other than bf16, fp16 and
                fp32, a name that is none, or a state of another point.
        """
        if tokens is not None and self.tokens != tokens:
            raise ValueError(
                f"recurrent state: after {self.tokens} tokens, the cache ends at {tokens}; take "
                "both from the same prefill"
            )
        if not 0 <= self.tokens < 1 << 64:
            raise ValueError(f"recurrent state: tokens is {self.tokens}; give at least 0")
        for name, tensor in self.tensors.items():
            if not _NAME.fullmatch(name.encode()):
                raise ValueError(f"recurrent state: {name!r} is not layer.kind.index")
            if tensor.dtype not in DTYPES:
                raise ValueError(
                    f"recurrent state: {name} is {tensor.dtype}; convert to bf16, fp16 or fp32"
                )
            if tensor.numel() == 0 or tensor.dim() > _MOST_DIMENSIONS:
                raise ValueError(
                    f"recurrent state: {name} has shape {tuple(tensor.shape)}; it has no values, "
                    f"or more than {_MOST_DIMENSIONS} dimensions"
                )
            if not torch.isfinite(tensor).all():
                raise ValueError(f"recurrent state: NaN or Inf in {name}; the model overflowed")
            if tensor.shape[:1] != (1,):
                raise ValueError(
                    f"recurrent state: {name} has shape {tuple(tensor.shape)}, one row"
                )

    def to_bytes(self) -> bytes:
        """The state as in the module's docstring."""
        head = [struct.pack("<QI", self.tokens, len(self.tensors))]
        body = []
        for name, tensor in self.tensors.items():
            encoded = name.encode()
            head.append(struct.pack("<H", len(encoded)) + encoded)
            head.append(struct.pack("<BB", DTYPES.index(tensor.dtype), tensor.dim()))
            head.append(struct.pack(f"<{tensor.dim()}Q", *tensor.shape))
            flat = tensor.detach().cpu().reshape(-1)
            body.append(flat.view(torch.uint8).numpy().tobytes())
        return b"".join(head + body)

    @staticmethod
    def from_bytes(data: bytes | memoryview) -> RecurrentState:
        """The state written by `to_bytes`, on the CPU.

        Raises:
            ValueError: damaged, or sizes that do not add up to the bytes at hand.
        """
        reader = _Reader(memoryview(data).cast("B"))
        tokens, count = reader.take("<QI")
        entries = [_entry(reader) for _ in range(_bounded(count, reader.left // 4, "tensors"))]
        sizes = [math.prod(shape) * dtype.itemsize for _, dtype, shape in entries]
        if len({name for name, _, _ in entries}) != count:
            raise ValueError("recurrent state: a name occurs twice; the part is damaged")
        if sum(sizes) != reader.left:
            raise ValueError(
                f"recurrent state: tensors of {sum(sizes)} bytes are declared, "
                f"{reader.left} follow; the part is damaged"
            )
        return RecurrentState(
            tokens=tokens,
            tensors={
                name: reader.tensor(size, dtype, shape)
                for size, (name, dtype, shape) in zip(sizes, entries, strict=True)
            },
        )


class _Reader:
    """A position in bytes that never passes their end."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    @property
    def left(self) -> int:
        return len(self.data)

    def raw(self, size: int) -> memoryview:
        if size > self.left:
            raise ValueError("recurrent state: it ends too early; the part is truncated")
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def take(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.raw(struct.calcsize(form)))

    def tensor(self, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        values = np.frombuffer(self.raw(size), np.uint8).copy()
        return torch.from_numpy(values).view(dtype).reshape(shape)


def _entry(reader: _Reader) -> tuple[str, torch.dtype, tuple[int, ...]]:
    (length,) = reader.take("<H")
    encoded = bytes(reader.raw(length))
    if not _NAME.fullmatch(encoded):
        raise ValueError("recurrent state: a name is not layer.kind.index; the part is damaged")
    code, dimensions = reader.take("<BB")
    dtype = DTYPES[_bounded(code, len(DTYPES) - 1, "dtype")]
    shape = reader.take(f"<{_bounded(dimensions, _MOST_DIMENSIONS, 'dimensions')}Q")
    if 0 in shape:
        raise ValueError("recurrent state: a tensor has no values; the part is damaged")
    return encoded.decode("ascii"), dtype, shape


def _bounded(value: int, most: int, field: str) -> int:
    if value > most:
        raise ValueError(
            f"recurrent state: {field} is {value}, at most {most}; the part is damaged"
        )
    return value
