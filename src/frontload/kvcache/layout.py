"""What a KV cache is made of: the tensors of a run of tokens, and the shape they have in a model.

Guarantees: keys and values of every attention layer, in the model's order, as they lie in the
cache (keys after rotary embedding); slicing and joining lose nothing. Gives up: models whose
layers differ in heads or head size; `huggingface.layout_of` refuses them by name.

A *piece* is one head of one layer of K or of V: the unit that blocks of the codec are made of.
Piece `(kind * layers + layer) * heads + head` has kind 0 for K and 1 for V.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from frontload.kvcache.rotary import Rotary

DTYPES = (torch.bfloat16, torch.float16, torch.float32)  # index: the code in files
LARGEST_VALUE = 1e30  # of a cache: sums and differences of values below it stay finite in bf16


@dataclass(frozen=True, kw_only=True)
class CacheLayout:
    """The shape of a model's KV cache: what a profile is tied to beside the weights."""

    num_layers: int  # attention layers only
    num_heads: int  # KV heads of each
    head_dim: int
    rotary: Rotary | None  # None: keys are coded as they lie in the cache
    rotary_note: str = ""  # why there is none, or none for some layers
    max_tokens: int | None = None  # the longest context that the model's config allows

    def __post_init__(self) -> None:
        if min(self.num_layers, self.num_heads, self.head_dim) < 1:
            raise ValueError(f"layout: layers, heads and head size are at least 1, not {self}")
        if self.rotary is not None and len(self.rotary.layers) != self.num_layers:
            raise ValueError(
                f"layout: rotary.layers names {len(self.rotary.layers)} layers of {self.num_layers}"
            )
        if self.rotary is not None and 2 * len(self.rotary.inv_freq) > self.head_dim:
            raise ValueError(
                f"layout: rotary.inv_freq turns {2 * len(self.rotary.inv_freq)} channels of heads "
                f"of {self.head_dim}"
            )

    @property
    def num_pieces(self) -> int:
        """Heads of K and V of all layers: `2 * layers * heads`."""
        return 2 * self.num_layers * self.num_heads

    @property
    def values_per_token(self) -> int:
        """K and V values that one token adds to the cache."""
        return self.num_pieces * self.head_dim

    def piece(self, kind: int, layer: int, head: int) -> int:
        """Index of one head of K (kind 0) or V (kind 1)."""
        return (kind * self.num_layers + layer) * self.num_heads + head

    def to_json(self) -> dict[str, Any]:
        """The layout as JSON values."""
        return {
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "rotary": None if self.rotary is None else self.rotary.to_json(),
            "rotary_note": self.rotary_note,
            "max_tokens": self.max_tokens,
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> CacheLayout:
        """The layout written by `to_json`."""
        rotary = fields["rotary"]
        return CacheLayout(
            **{**fields, "rotary": None if rotary is None else Rotary.from_json(rotary)}
        )


@dataclass(frozen=True, kw_only=True)
class KVTensors:
    """Keys and values of a run of tokens, as they lie in the cache.

    `keys` and `values` have shape `[layers, heads, tokens, head_dim]` and one dtype (bf16, fp16
    or fp32); `start` is the position of the first token in its context.
    """

    keys: Tensor
    values: Tensor
    start: int = 0

    def __post_init__(self) -> None:
        assert self.keys.shape == self.values.shape
        assert self.keys.dim() == 4
        assert self.keys.dtype == self.values.dtype

    @property
    def num_tokens(self) -> int:
        """Tokens in the run."""
        return self.keys.shape[2]

    @property
    def num_values(self) -> int:
        """K and V values in all."""
        return 2 * self.keys.numel()

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors as they are."""
        return self.num_values * self.keys.element_size()

    def pieces(self) -> Tensor:
        """All heads in piece order: `[pieces, tokens, head_dim]` (a copy)."""
        layers, heads, tokens, head_dim = self.keys.shape
        return torch.stack((self.keys, self.values)).reshape(2 * layers * heads, tokens, head_dim)

    @staticmethod
    def from_pieces(pieces: Tensor, layout: CacheLayout, start: int) -> KVTensors:
        """Views of `pieces`, shape `[pieces, tokens, head_dim]`, as keys and values."""
        shape = (2, layout.num_layers, layout.num_heads, *pieces.shape[1:])
        keys, values = pieces.reshape(shape)
        return KVTensors(keys=keys, values=values, start=start)

    def to(self, *, dtype: torch.dtype | None = None, device: Any = None) -> KVTensors:
        """The same run in another dtype or on another device."""
        keys, values = (x.to(dtype=dtype, device=device) for x in (self.keys, self.values))
        return KVTensors(keys=keys, values=values, start=self.start)

    def tokens(self, first: int, last: int) -> KVTensors:
        """Views of tokens `first` to `last` (excluded), counted within the run."""
        return KVTensors(
            keys=self.keys[:, :, first:last],
            values=self.values[:, :, first:last],
            start=self.start + first,
        )

    def chunks(self, num_tokens: int) -> list[KVTensors]:
        """The run cut every `num_tokens` tokens; the last may be shorter."""
        if num_tokens < 1:
            raise ValueError(f"chunk tokens is {num_tokens}; give at least 1")
        return [
            self.tokens(first, min(first + num_tokens, self.num_tokens))
            for first in range(0, self.num_tokens, num_tokens)
        ]


def check(kv: KVTensors, layout: CacheLayout | None = None) -> None:
    """Refuse what no codec should see, before any work is done.

    Raises:
        ValueError: no token, a negative start, a dtype other than bf16, fp16 and fp32, NaN, Inf
            or values of 1e30 and more; or, against a layout, other layers, heads or sizes, or
            tokens past the longest context.
    """
    if kv.keys.dtype not in DTYPES:
        raise ValueError(f"kv: dtype {kv.keys.dtype}; convert to bf16, fp16 or fp32 (KVTensors.to)")
    if kv.num_tokens == 0:
        raise ValueError("kv: no tokens; give at least one")
    if kv.start < 0:
        raise ValueError(f"kv: start is {kv.start}; positions count from 0")
    if layout is not None:
        _check_fit(kv, layout)
    for kind, tensor in (("keys", kv.keys), ("values", kv.values)):
        for i, layer in enumerate(tensor):
            if not bool((layer.float().abs() < LARGEST_VALUE).all()):
                raise ValueError(
                    f"kv: NaN or Inf in the {kind} of attention layer {i}, or 1e30 and more; the "
                    "model overflowed, run it in bfloat16 or float32"
                )


def _check_fit(kv: KVTensors, layout: CacheLayout) -> None:
    layers, heads, _, head_dim = kv.keys.shape
    expected = (layout.num_layers, layout.num_heads, layout.head_dim)
    if (layers, heads, head_dim) != expected:
        raise ValueError(
            f"kv: layers, heads and head size are {(layers, heads, head_dim)}, the layout has "
            f"{expected}; it is the cache of another model"
        )
    end = kv.start + kv.num_tokens
    if layout.max_tokens is not None and end > layout.max_tokens:
        raise ValueError(
            f"kv: tokens {kv.start} to {end}, the model's contexts hold {layout.max_tokens}; "
            "give a shorter context"
        )


def join(chunks: Sequence[KVTensors]) -> KVTensors:
    """One run of consecutive chunks.

    Raises:
        ValueError: none was given, or one does not start where its predecessor ends.
    """
    if not chunks:
        raise ValueError("no chunk to join")
    position = chunks[0].start
    for chunk in chunks:
        if chunk.start != position:
            raise ValueError(f"a chunk starts at token {chunk.start}, expected {position}")
        position += chunk.num_tokens
    return KVTensors(
        keys=torch.cat([chunk.keys for chunk in chunks], dim=2),
        values=torch.cat([chunk.values for chunk in chunks], dim=2),
        start=chunks[0].start,
    )
