"""How much the model minds an error in each cached value: gradients of its own log-probabilities.

Guarantees: with G the gradient, with respect to the cache, of the summed log-probabilities of
labels drawn from the model itself, E[G G^T] is the Fisher information of all scored predictions,
so that an error e costs a KL of e^T E[G G^T] e / 2 nats in all, to second order; nothing is assumed
about the architecture. Gives up: exactness at few draws; one draw of one context is unbiased.

Keys are differentiated before rotary embedding, where the codec's errors arise.

Source: the Hessian of the KL divergence at equality is the Fisher information (Amari 1998, section
2); labels are the model's, not the data's (Kunstner et al., arXiv 1905.12558).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from frontload.kvcache.layout import CacheLayout, KVTensors
from frontload.kvcache.quality import Context, suffix_logits
from frontload.kvcache.state import RecurrentState


def gradients(
    model: PreTrainedModel,
    context: Context,
    pieces: Tensor,
    layout: CacheLayout,
    state: RecurrentState | None = None,
    *,
    draws: int,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """One gradient a draw of labels: float32 `[pieces, tokens, head_dim]`.

    Args:
        model: in evaluation mode; its parameters get no gradient.
        context: whose scored predictions count.
        pieces: float32 cache of its prefix in piece order, keys without rotary embedding.
        layout: of that cache.
        state: of a hybrid's recurrent layers behind the prefix.
        draws: labels are drawn so many times; forward runs once.
        generator: of the labels.
    """
    leaf = pieces.to(model.device, torch.float32).clone().requires_grad_()
    with torch.enable_grad():
        logits = suffix_logits(model, context, rotated(leaf, layout), state)
        scored = logits.float().log_softmax(-1)
        for _ in range(draws):
            labels = torch.multinomial(scored.detach().cpu().exp(), 1, generator=generator)
            chosen = scored.gather(1, labels.to(scored.device)).sum()
            yield torch.autograd.grad(chosen, leaf, retain_graph=True)[0]


def rotated(pieces: Tensor, layout: CacheLayout) -> KVTensors:
    """float32 keys and values as they lie in the cache, from pieces; differentiable."""
    kv = KVTensors.from_pieces(pieces, layout, start=0)
    if layout.rotary is None:
        return kv
    return KVTensors(keys=layout.rotary.redo(kv.keys, 0), values=kv.values, start=0)


def unrotated(kv: KVTensors, layout: CacheLayout) -> Tensor:
    """The inverse: float32 `[pieces, tokens, head_dim]`."""
    keys, values = kv.keys.float(), kv.values.float()
    if layout.rotary is not None:
        keys = layout.rotary.undo(keys, kv.start)
    return KVTensors(keys=keys, values=values, start=kv.start).pieces()
