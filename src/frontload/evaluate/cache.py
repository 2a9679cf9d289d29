"""A key-value cache that does not copy itself at every step.

transformers' `DynamicCache` concatenates: each new token copies all keys and values before it. Here
attention layers keep spare room and write in place; they grow by a quarter when it is used up, so
memory follows what the batch really needs. On `tiny` this makes generation 1.0 to 2.2 times as
fast, depending on attention and batch size. Recurrent and sliding-window layers stay as they are.
"""

from __future__ import annotations

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

_LEAST_ROOM = 64  # positions; a short answer then never needs a second allocation


def roomy_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache of the model's own structure, its full attention layers with spare room."""
    cache = DynamicCache(config=model.config)
    cache.layers = [
        _RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


class _RoomyLayer(DynamicLayer):
    """Keys and values (rows, heads, positions, size) of one layer, in blocks with spare room."""

    def __init__(self) -> None:
        super().__init__()
        self.filled = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (rows, heads, new, size) states and return all of them."""
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.key_block, self.value_block = key_states[:, :, :0], value_states[:, :, :0]
        if self.filled > self.key_block.shape[2]:
            capacity = self.filled + max(_LEAST_ROOM, self.filled // 4)
            self.key_block = _enlarged(self.key_block, start, capacity)
            self.value_block = _enlarged(self.value_block, start, capacity)
        self.key_block[:, :, start : self.filled] = key_states
        self.value_block[:, :, start : self.filled] = value_states
        self._show()
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep, or repeat, the rows listed."""
        self.key_block = self.key_block.index_select(0, beam_idx)
        self.value_block = self.value_block.index_select(0, beam_idx)
        self._show()

    def _show(self) -> None:
        self.keys = self.key_block[:, :, : self.filled]
        self.values = self.value_block[:, :, : self.filled]


def _enlarged(block: torch.Tensor, filled: int, capacity: int) -> torch.Tensor:
    rows, heads, _, size = block.shape
    larger = block.new_empty(rows, heads, capacity, size)
    larger[:, :, :filled] = block[:, :, :filled]
    return larger
