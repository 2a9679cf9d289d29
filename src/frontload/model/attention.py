"""Attention for packed rows, and fast on a CPU where contexts are short.

Packed rows: position ids that restart at 0 tell one document from the next, and no token attends
across. transformers derives this block-diagonal causal mask from `position_ids` when neither an
attention mask nor a cache is given, so training passes `position_ids` (`corpus.batches`) and
nothing else. Generation passes a (left-padded) attention mask and a cache as usual.

On a CPU, up to 512 keys, scores are computed as plain matmul and softmax: on `tiny` a training
step is 1.4 to 1.7 times as fast as with the built-in kernel (docs/LOG.md). Everywhere else
this is transformers' own `sdpa`. Registered by name through transformers' AttentionInterface; the
name is not written to `config.json`, so saved models load without this package.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from frontload.model.hybrid import separate_documents

NAME = "frontload"
_LONGEST_EXPLICIT = 512  # keys; beyond it the (queries x keys) scores no longer fit the cache


def prepare_for_packing(model: PreTrainedModel) -> None:
    """Make packed documents invisible to each other in every layer of `model`, and attention fast.

    Takes over where transformers would have used `sdpa`; models with attention of their own kind
    (sinks, soft caps) keep it. Neither weights nor the saved form change.
    """
    separate_documents(model)
    if model.config._attn_implementation == "sdpa" and model.is_backend_compatible():
        model.set_attn_implementation(NAME)


def _explicit(device: torch.device | str, num_keys: int) -> bool:
    return torch.device(device).type == "cpu" and num_keys <= _LONGEST_EXPLICIT


def _mask(*, kv_length: int, device: torch.device | str = "cpu", **arguments: Any) -> Tensor | None:
    build = eager_mask if _explicit(device, kv_length) else sdpa_mask
    return build(kv_length=kv_length, device=device, **arguments)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """(rows, heads, queries, width), keys and values with fewer heads -> (rows, queries, heads, …).

    `attention_mask` adds to the scores: 0 where a key is seen, the lowest float where it is not.
    """
    additive = attention_mask is not None and attention_mask.is_floating_point()
    if dropout or not additive or not _explicit(query.device, key.shape[2]):
        sdpa = {"dropout": dropout, "scaling": scaling, **arguments}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **sdpa)
    rows, heads, queries, width = query.shape
    grouped = (rows, key.shape[1], -1)  # heads sharing a key are stacked along the queries
    scale = width**-0.5 if scaling is None else scaling
    scores = (query * scale).reshape(*grouped, width) @ key.transpose(2, 3)
    scores = scores.view(rows, heads, queries, -1) + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    output = weights.view(*grouped, key.shape[2]) @ value
    return output.view(rows, heads, queries, width).transpose(1, 2), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)
