"""Mamba-2 layers that forget at the border of a packed document.

A Mamba layer carries a state from token to token, so in a packed row each document would read the
one before it. The fused kernels can reset by `seq_idx`; the PyTorch form in transformers ignores
it. Here a Mamba block takes every document of a packed row as a row of its own, and its output is
put back in place: exact, with or without kernels. Gives up: shapes that depend on the data, so such
a model is not compiled as one graph, and time when documents differ much in length (padding).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHBlock


class DocumentwiseBlock(NemotronHBlock):
    """A Nemotron-H block whose Mamba state starts anew where `position_ids` restart."""

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **arguments: Any,
    ) -> Tensor:
        """(rows, context, width) -> the same; a cache or a padding mask means: not packed."""
        rest = {"past_key_values": past_key_values, "attention_mask": attention_mask, **arguments}
        if past_key_values is not None or attention_mask is not None or position_ids is None:
            return super().forward(hidden_states, **rest)
        document, place = _places(position_ids.expand(hidden_states.shape[:2]))
        num_documents, longest = int(document[-1, -1]) + 1, int(place.max()) + 1
        if num_documents == len(hidden_states):
            return super().forward(hidden_states, **rest)
        shape = (num_documents, longest, hidden_states.shape[2])
        unpacked = hidden_states.new_zeros(shape).index_put((document, place), hidden_states)
        return super().forward(unpacked, **rest)[document, place]


def separate_documents(model: PreTrainedModel) -> None:
    """Let the Mamba blocks of `model` start anew at each packed document."""
    for module in model.modules():
        if type(module) is NemotronHBlock and module.block_type == "linear_attention":
            module.__class__ = DocumentwiseBlock  # weights, names and saved form stay


def _places(position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Number of its document (over all rows) and place within it, for every token."""
    steps = torch.arange(position_ids.shape[1], device=position_ids.device).expand_as(position_ids)
    starts = (position_ids == 0) | (steps == 0)
    document = starts.flatten().cumsum(0).view_as(position_ids) - 1
    place = steps - torch.where(starts, steps, 0).cummax(dim=1).values
    return document, place
