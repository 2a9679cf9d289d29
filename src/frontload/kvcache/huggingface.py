"""transformers models in and out: their cache as KV tensors, and KV tensors as a cache.

    layout = layout_of(model)
    kv, state = prefill(model, ids)                     # a context of any length, in pieces
    cache = to_cache(model, kv, state)                  # later, elsewhere
    model.generate(longer_ids, past_key_values=cache)   # computes only what `longer_ids` adds

Guarantees: what `to_cache` builds holds the tensors in the model's dtype and on its device (their
very bits, if they are of that dtype), in the layers that the model itself would have used (windows
included), and the recurrent state of hybrids, so that generation
goes on as from the cache they came from; the model is left as it was (weights, mode, gradients,
hooks, frequencies). Gives up: more than one row, models spread over several devices, and what
`cache_layers` refuses.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from frontload.kvcache.cache_layers import (
    REMEDY,
    attention_layers,
    empty_cache,
    recurrent_layers,
    states,
)
from frontload.kvcache.fingerprint import require
from frontload.kvcache.layout import CacheLayout, KVTensors, check
from frontload.kvcache.positions import at_rest, explain
from frontload.kvcache.profile import Profile
from frontload.kvcache.state import RecurrentState

PIECE_TOKENS = 1_024


def layout_of(model: PreTrainedModel) -> CacheLayout:
    """The shape of the model's cache, and the rotation of its keys as the model itself shows it.

    Forwards three tokens at a handful of positions, each alone (`positions.explain`).

    Raises:
        ValueError: the model keeps no cache that is keys and values of one shape in all layers.
    """
    if model.config.is_encoder_decoder or not _takes(model, "past_key_values"):
        raise ValueError(
            f"model: {type(model).__name__} is not a decoder that takes a cache "
            f"(past_key_values); give a causal language model or {REMEDY}"
        )
    max_tokens = _max_tokens(model)
    last = (max_tokens or 4_096) - 1
    positions = sorted({0, min(1, last), min(7, last), last // 50, last // 3, last})
    layers = attention_layers(_probe(model, positions))
    keys = torch.stack([layer.keys.detach().cpu() for layer in layers])
    num_layers, rows, num_heads, _, head_dim = keys.shape
    by_row = keys.reshape(num_layers, rows // len(positions), len(positions), num_heads, head_dim)
    rotary, note = explain(model, by_row.permute(0, 3, 1, 2, 4), positions)
    return CacheLayout(
        num_layers=num_layers,
        num_heads=num_heads,
        head_dim=head_dim,
        rotary=rotary,
        rotary_note=note,
        max_tokens=max_tokens,
    )


def prefill(
    model: PreTrainedModel, ids: Tensor | Sequence[int], *, piece_tokens: int = PIECE_TOKENS
) -> tuple[KVTensors, RecurrentState | None]:
    """Keys and values of a context, on the model's device, and the state of recurrent layers.

    ids: `[tokens]` or `[1, tokens]`. The context runs through the model `piece_tokens` at a time
    (at once, if the model's recurrent layers cannot go on from a state); nothing falls out of a
    window. Pieces of another size change results by rounding only.

    Raises:
        ValueError: no token, several rows, more tokens than the model allows, NaN or Inf.
    """
    row = torch.as_tensor(ids, device=model.device)
    if row.dim() == 2 and len(row) == 1:
        row = row[0]
    if row.dim() != 1:
        raise ValueError(f"ids: shape {tuple(row.shape)}; give one context at a time, [tokens]")
    if piece_tokens < 1:
        raise ValueError(f"piece_tokens is {piece_tokens}; give at least 1")
    most = _max_tokens(model)
    if not 1 <= len(row) <= (most or len(row)):
        raise ValueError(
            f"ids: {len(row)} tokens; the model takes 1 to {most or 'any number'}, cut the context"
        )
    if piece_tokens < len(row) and not _continues(model):
        piece_tokens = len(row)
    return from_cache(_run(model, row, piece_tokens))


def from_cache(cache: Cache) -> tuple[KVTensors, RecurrentState | None]:
    """The content of a cache of one row, at any point of a context (copied).

    Raises:
        ValueError: several rows, layers of unequal shape or dtype, tokens dropped by a sliding
            window, NaN or Inf.
    """
    layers = attention_layers(cache)
    for layer in layers:
        rows, _, kept, _ = layer.keys.shape
        if rows != 1:
            raise ValueError(f"cache: {rows} rows; give one context at a time")
        if layer.get_seq_length() != kept:
            raise ValueError(
                f"cache: a sliding window dropped {layer.get_seq_length() - kept} tokens; let "
                "`prefill` run the context, which keeps them"
            )
    kv = KVTensors(
        keys=torch.cat([layer.keys for layer in layers]),
        values=torch.cat([layer.values for layer in layers]),
    )
    check(kv)
    tensors = {name: x.clone() for name, x in states(cache) if x is not None}
    if not tensors:
        return kv, None
    state = RecurrentState(tokens=kv.num_tokens, tensors=tensors)
    state.check()
    return kv, state


def to_cache(
    model: PreTrainedModel,
    kv: KVTensors,
    state: RecurrentState | None = None,
    *,
    profile: Profile | None = None,
) -> DynamicCache:
    """A cache that holds `kv`, from which the model continues at token `kv.num_tokens`.

    Args:
        kv: of any dtype and device; attention refuses keys of another dtype than its queries, so
            they are rounded to the model's (decoded caches are bf16, models may be fp16 or fp32).
        state: what `prefill` or `decode` gave with `kv`; kept in its own dtype.
        profile: what `kv` was decoded with; refuse a model that it was not calibrated for, of which
            tensors that fit in shape tell nothing.

    Raises:
        ValueError: the tensors do not begin at position 0, do not fit the model, hold NaN or go
            beyond the model's dtype, the state of recurrent layers is missing, superfluous, or of
            another point of the context, or the profile is another model's.
    """
    if profile is not None:
        require(profile, model)
    check(kv)
    source, kv = kv.keys.dtype, kv.to(dtype=model.dtype, device=model.device)
    if source != model.dtype:
        check(kv)  # a bf16 value may be beyond fp16
    if kv.start != 0:
        raise ValueError(f"kv: its first token is at {kv.start}; join the chunks from 0 on first")
    cache = empty_cache(model, windows=True)
    layers = [layer for layer in cache.layers if isinstance(layer, CacheLayerMixin)]
    _require_fit(model, kv, len(layers))
    for layer, keys, values in zip(layers, kv.keys, kv.values, strict=True):
        layer.update(keys[None], values[None])
    _put_state(cache, state, kv.num_tokens, model.device)
    return cache


def _require_fit(model: PreTrainedModel, kv: KVTensors, num_layers: int) -> None:
    config = model.config.get_text_config(decoder=True)
    layers, heads, _, head_dim = kv.keys.shape
    for name, found, expected in (
        ("layers", layers, num_layers),
        ("KV heads", heads, getattr(config, "num_key_value_heads", None) or heads),
        ("head size", head_dim, getattr(config, "head_dim", None) or head_dim),
    ):
        if found != expected:
            raise ValueError(
                f"kv: {name} {found}, the model has {expected}; it is the cache of another model"
            )


def _put_state(
    cache: Cache, state: RecurrentState | None, tokens: int, device: torch.device
) -> None:
    layers = recurrent_layers(cache)
    tensors = {} if state is None else state.tensors
    misfits = set(tensors) - {name for name, _ in states(cache)}
    if misfits or {int(name.split(".")[0]) for name in tensors} != set(layers):
        raise ValueError(
            f"state: it holds {', '.join(tensors) or 'nothing'}, the model's recurrent layers are "
            f"{', '.join(map(str, layers)) or 'none'}; give what `prefill` returned with these "
            "tensors"
        )
    if state is not None:
        state.check()
        if state.tokens != tokens:
            raise ValueError(
                f"state: it is that after {state.tokens} tokens, kv holds {tokens}; give all "
                "chunks of the context that the state belongs to"
            )
    for name, tensor in tensors.items():
        layer, kind, index = name.split(".")
        update = getattr(layers[int(layer)], f"update_{kind}_state")
        update(tensor.to(device), state_idx=int(index))


def _run(model: PreTrainedModel, row: Tensor, piece_tokens: int) -> Cache:
    """The cache of one row that has run through the model in pieces."""
    cache = empty_cache(model, windows=False)
    last_logits = {"logits_to_keep": 1} if _takes(model, "logits_to_keep") else {}
    with at_rest(model):
        for piece in row.split(piece_tokens):
            model(input_ids=piece[None], past_key_values=cache, use_cache=True, **last_logits)
    return cache


def _continues(model: PreTrainedModel) -> bool:
    """Whether recurrent layers go on from their state over several tokens; some start anew."""
    if not recurrent_layers(empty_cache(model, windows=False)):
        return True
    words = model.get_input_embeddings().weight.shape[0]
    row = torch.arange(1, 9, device=model.device) * words // 10
    whole, halves = _run(model, row, 8), _run(model, row, 4)
    pairs = zip(states(whole), states(halves), strict=True)
    # Rounding to bf16 changes a state by under 1 %; a state that was lost is wrong by its size.
    return all(
        one is None or two is None or (one - two).norm() <= 2**-4 * one.norm()
        for (_, one), (_, two) in pairs
    )


def _probe(model: PreTrainedModel, positions: list[int]) -> Cache:
    """The cache after three tokens, each alone in a row at each position (the faster index)."""
    words = model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([words // 5, words // 2, 4 * words // 5], device=model.device)
    at = torch.tensor(positions, device=model.device).repeat(len(ids))[:, None]
    places = {"position_ids": at} if _takes(model, "position_ids") else {}
    cache = empty_cache(model, windows=False)
    rows = ids.repeat_interleave(len(positions))[:, None]
    with at_rest(model):
        model(input_ids=rows, past_key_values=cache, use_cache=True, **places)
    return cache


def _max_tokens(model: PreTrainedModel) -> int | None:
    config = model.config.get_text_config(decoder=True)
    most = getattr(config, "max_position_embeddings", None)
    return most if most and most > 0 else None


def _takes(model: PreTrainedModel, argument: str) -> bool:
    forward: Any = model.forward
    return argument in inspect.signature(forward).parameters
