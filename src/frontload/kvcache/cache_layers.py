"""The layers of transformers' caches: which hold keys and values, which a state, which neither.

Guarantees: a kind of layer that is not plain keys and values, or a fixed recurrent state, is
refused by name instead of being stored in part. Gives up: latent attention (unequal keys and
values), layers with heads of their own number or size, and indexes beside the keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import (
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from frontload.kvcache.layout import DTYPES

REMEDY = "keep this model's cache uncompressed"

_KNOWN = (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    DummyLayer,  # layers without a cache of their own
)


def empty_cache(model: PreTrainedModel, *, windows: bool) -> DynamicCache:
    """A cache of the model's structure; without windows it keeps every token."""
    cache = DynamicCache(config=model.config)
    if not windows:
        cache.layers = [_keeping(layer) for layer in cache.layers]
    return cache


def _keeping(layer: Any) -> Any:
    if type(layer) is DynamicSlidingWindowLayer:
        return DynamicLayer()
    if type(layer) is LinearAttentionAndSlidingWindowAttentionLayer:
        return LinearAttentionAndFullAttentionLayer(number_of_states=layer.number_of_states)
    return layer


def attention_layers(cache: Cache) -> list[Any]:
    """The layers that hold keys and values, known to be of one shape and dtype.

    Raises:
        ValueError: a layer keeps something else, none keeps any, or they differ.
    """
    for i, layer in enumerate(cache.layers):
        if type(layer) not in _KNOWN:
            raise ValueError(
                f"model: layer {i} keeps its context in a {type(layer).__name__}, which is not "
                f"plain keys and values; {REMEDY}"
            )
    layers = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
    if not layers:
        raise ValueError(f"model: no layer keeps keys and values; {REMEDY}")
    for i, layer in enumerate(layers):
        _require_same(i, layer, layers[0])
    return layers


def _require_same(i: int, layer: Any, first: Any) -> None:
    if first.keys.dtype not in DTYPES:
        raise ValueError(f"model: keys are {first.keys.dtype}; load it in bf16, fp16 or fp32")
    for kind, tensor in (("keys", layer.keys), ("values", layer.values)):
        if tensor.dtype != first.keys.dtype:
            raise ValueError(
                f"model: {kind} of attention layer {i} are {tensor.dtype}, keys of layer 0 "
                f"{first.keys.dtype}; load the model in one dtype"
            )
        if tensor.shape[1::2] != first.keys.shape[1::2]:
            raise ValueError(
                f"model: {kind} of attention layer {i} have (heads, size) "
                f"{tuple(tensor.shape[1::2])}, keys of layer 0 {tuple(first.keys.shape[1::2])}; "
                f"the codec needs one shape (no latent attention, no mixed heads): {REMEDY}"
            )


def recurrent_layers(cache: Cache) -> dict[int, Any]:
    """The layers that keep a state, by their place in the model."""
    return {
        i: layer
        for i, layer in enumerate(cache.layers)
        if isinstance(layer, LinearAttentionCacheLayerMixin)
    }


def states(cache: Cache) -> Iterator[tuple[str, Tensor | None]]:
    """Name and tensor (None: not yet written) of every recurrent state; see `RecurrentState`."""
    for i, layer in recurrent_layers(cache).items():
        for kind in ("conv", "recurrent"):
            for index, tensor in getattr(layer, f"{kind}_states").items():
                yield f"{i}.{kind}.{index}", tensor
